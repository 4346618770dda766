//! Connections: how many, from where, for how long, with or without TLS. What is said on them is [`Door`]'s.

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::limits::source_of;
use super::service::Door;

/// Time for the TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest life of a connection, however busy.
const LIFE: Duration = Duration::from_mins(10);
/// Largest head of a request, in bytes.
const LARGEST_HEAD: usize = 64 * 1024;
/// What is still read, and for how long, from a client that was answered before it had sent all: one that is cut off while it sends may not see
/// the answer.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(3);

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or is not PEM.
    #[error("failed to read {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Certificate and key do not go together.
    #[error("failed to use the certificate: {0}")]
    Use(#[source] rustls::Error),
}

/// The door's own certificate, from two files that may be replaced while it runs.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    acceptor: Mutex<TlsAcceptor>,
}

impl Certificate {
    /// Reads the files: a chain and its key, both PEM.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn read(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let acceptor = Mutex::new(acceptor(&certificate, &key)?);
        Ok(Self { chain: certificate, key, acceptor })
    }

    /// Reads them again. The old ones stay in use if that fails.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn reload(&self) -> Result<(), CertificateError> {
        let fresh = acceptor(&self.chain, &self.key)?;
        *self.acceptor.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> TlsAcceptor {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn acceptor(certificate: &PathBuf, key: &PathBuf) -> Result<TlsAcceptor, CertificateError> {
    let failed =
        |path: &PathBuf, error: rustls::pki_types::pem::Error| CertificateError::File { path: path.clone(), why: error.to_string() };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| failed(certificate, error))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let configuration = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(CertificateError::Use)?;
    Ok(TlsAcceptor::from(Arc::new(configuration)))
}

/// How many connections each source has.
#[derive(Default)]
struct Sources(Mutex<HashMap<IpAddr, u32>>);

/// A source's place, given back when dropped.
struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    fn enter(self: &Arc<Self>, source: IpAddr, most: u32) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { sources: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Serves until `stop`, then lets the requests under way end.
pub async fn serve(listener: TcpListener, certificate: Option<Arc<Certificate>>, door: Arc<Door>, stop: CancellationToken) {
    let limits = &door.provisioning().limits;
    let room = Arc::new(Semaphore::new(limits.connections as usize));
    let sources = Arc::new(Sources::default());
    let tasks = TaskTracker::new();
    loop {
        let accept = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! { () = stop.cancelled() => break, accepted = accept => accepted };
        let (Ok(permit), Ok((stream, peer))) = (permit, accepted) else {
            // Out of file descriptors, most likely: some will be free again.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let peer = peer.ip().to_canonical();
        let proxied = door.provisioning().proxies.iter().any(|network| network.contains(&peer));
        let most = if proxied { u32::MAX } else { limits.connections_per_address };
        let Some(place) = sources.enter(source_of(peer), most) else {
            tracing::debug!(%peer, "a connection was closed: its source has too many");
            continue;
        };
        let (acceptor, door, stop) = (certificate.as_ref().map(|certificate| certificate.current()), Arc::clone(&door), stop.clone());
        tasks.spawn(async move {
            door.metrics().connections.inc();
            if tokio::time::timeout(LIFE, connection(stream, acceptor, peer, &door, stop)).await.is_err() {
                tracing::debug!(%peer, "a connection was closed: it was open for too long");
            }
            door.metrics().connections.dec();
            drop((permit, place));
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, peer: IpAddr, door: &Arc<Door>, stop: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a socket's delay stays on");
    }
    let Some(acceptor) = acceptor else { return exchange(stream, peer, door, stop).await };
    match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => exchange(stream, peer, door, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: S, peer: IpAddr, door: &Arc<Door>, stop: CancellationToken) {
    let service = service_fn(|request| {
        let door = Arc::clone(door);
        Box::pin(async move { Ok::<_, Infallible>(door.answer(request, peer).await) })
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LARGEST_HEAD).half_close(false);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut stopped = std::pin::pin!(stop.cancelled());
    let mut stopping = false;
    let ended = std::future::poll_fn(|context| {
        if !stopping && stopped.as_mut().poll(context).is_ready() {
            stopping = true;
            std::pin::Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(context)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended badly");
    }
    linger(connection.into_parts().io.into_inner()).await;
}

/// Says that nothing more comes, and reads what still does.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let rest = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, rest).await {
        tracing::debug!(%error, "a connection was closed by its client");
    }
}
