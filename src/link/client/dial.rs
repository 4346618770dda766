//! Dialling a gateway: TCP, TLS 1.3 against the link CA, and an upgrade. No names are looked up.

use crate::link::read_ahead::ReadAhead;
use crate::link::socket::{self, Socket};
use crate::link::{CHANNEL_PATH, CHANNEL_PROTOCOL, CONTROL_PATH, SERVER_NAME};
use bytes::{Buf, BytesMut};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// The control link's WebSocket. Handed from one future to the next: its state, over a kilobyte, stays where it is.
pub type Control = Pin<Box<WebSocketStream<TlsStream<ReadAhead>>>>;

/// A new pod's network opens a moment after its start. What it drops until then the kernel sends again after a second; this is sooner.
const FIRST_ATTEMPTS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];
/// Limit for the whole of dialling.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Why a gateway could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP.
    #[error("failed to connect to {address}: {source}")]
    Unreachable {
        /// The gateway.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS, or what came behind it broke.
    #[error("failed to connect to {address}: {source}")]
    Connect {
        /// The gateway.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It answered, with a refusal or with something that is no upgrade.
    #[error("refused by {address}: {reason}")]
    Refused {
        /// The gateway.
        address: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} s", DIAL_LIMIT.as_secs())]
    Silent {
        /// The gateway.
        address: SocketAddr,
    },
}

/// The link CA's certificate does not parse.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the link CA's certificate: {0}")]
pub struct BadCertificate(String);

/// Dials gateways that the link CA vouches for.
pub struct Dialer {
    connector: TlsConnector,
    reached: watch::Sender<Option<Duration>>,
}

impl Dialer {
    /// A dialer that trusts `certificate_authority` (PEM) and nothing else.
    ///
    /// # Errors
    /// See [`BadCertificate`].
    pub fn new(certificate_authority: &str) -> Result<Self, BadCertificate> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(certificate_authority.as_bytes()) {
            let certificate = certificate.map_err(|failure| BadCertificate(failure.to_string()))?;
            roots.add(certificate).map_err(|failure| BadCertificate(failure.to_string()))?;
        }
        let configuration = rustls::ClientConfig::builder_with_provider(crate::link::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|failure| BadCertificate(failure.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(configuration)), reached: watch::Sender::new(None) })
    }

    /// How long the last connection to a gateway took. With the first one there is a network, and what is closed is closed by it.
    #[must_use]
    pub fn reached(&self) -> watch::Receiver<Option<Duration>> {
        self.reached.subscribe()
    }

    /// Opens a control link, presenting the pod's token.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn control(&self, address: SocketAddr, token: &str) -> Result<Control, DialError> {
        within_limit(
            address,
            Box::pin(async {
                let stream = self.connect(address).await?;
                let refused = |reason: String| DialError::Refused { address, reason };
                let url = format!("wss://{SERVER_NAME}{CONTROL_PATH}");
                let mut request = url.into_client_request().map_err(|failure| refused(failure.to_string()))?;
                request.headers_mut().insert("authorization", bearer(token).map_err(refused)?);
                let configuration =
                    WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(0).max_message_size(Some(1 << 20));
                let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(configuration))
                    .await
                    .map_err(|failure| refused(reason(failure)))?;
                Ok(Box::pin(socket))
            }),
        )
        .await
    }

    /// Opens the channel that `ticket` was given for.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn channel(&self, address: SocketAddr, ticket: &str) -> Result<Socket, DialError> {
        within_limit(
            address,
            Box::pin(async {
                let stream = self.connect(address).await?;
                let bearer = bearer(ticket).map_err(|reason| DialError::Refused { address, reason })?;
                upgrade(stream.into(), &bearer).await.map_err(|failure| match failure {
                    Upgrade::Broken(source) => DialError::Connect { address, source },
                    Upgrade::Refused(reason) => DialError::Refused { address, reason },
                })
            }),
        )
        .await
    }

    async fn connect(&self, address: SocketAddr) -> Result<TlsStream<ReadAhead>, DialError> {
        let connect = |source| DialError::Connect { address, source };
        let (stream, took) = reach(address).await.map_err(|source| DialError::Unreachable { address, source })?;
        self.reached.send_replace(Some(took));
        crate::link::keep_alive(&stream);
        let name = ServerName::try_from(SERVER_NAME).map_err(|failure| connect(io::Error::other(failure)))?;
        let mut stream = self.connector.connect(name, ReadAhead::new(stream)).await.map_err(connect)?;
        stream.get_mut().1.set_buffer_limit(Some(crate::link::WRITE_BUFFER));
        Ok(stream)
    }
}

/// A connection, and how long it took.
async fn reach(address: SocketAddr) -> io::Result<(TcpStream, Duration)> {
    let attempt = async || {
        let began = Instant::now();
        Ok((TcpStream::connect(address).await?, began.elapsed()))
    };
    for limit in FIRST_ATTEMPTS {
        if let Ok(outcome) = tokio::time::timeout(limit, attempt()).await {
            return outcome;
        }
    }
    attempt().await
}

/// Dials from the heap: the state of a TLS handshake is larger than that of the whole channel behind it.
async fn within_limit<T>(address: SocketAddr, dial: Pin<Box<impl Future<Output = Result<T, DialError>>>>) -> Result<T, DialError> {
    match tokio::time::timeout(DIAL_LIMIT, dial).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DialError::Silent { address }),
    }
}

fn bearer(secret: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(format!("Bearer {}", secret.trim())).map_err(|failure| failure.to_string())
}

/// Why a channel's stream was not upgraded.
enum Upgrade {
    Broken(io::Error),
    Refused(String),
}

/// The longest answer to an upgrade that is read.
const LONGEST_ANSWER: usize = 8 * 1024;

/// Asks for a channel (RFC 9110, 7.8), and reads the answer.
async fn upgrade(mut stream: socket::Stream, bearer: &HeaderValue) -> Result<Socket, Upgrade> {
    let mut request = format!(
        "GET {CHANNEL_PATH} HTTP/1.1\r\nhost: {SERVER_NAME}\r\nconnection: upgrade\r\nupgrade: {CHANNEL_PROTOCOL}\r\nauthorization: "
    )
    .into_bytes();
    request.extend_from_slice(bearer.as_bytes());
    request.extend_from_slice(b"\r\n\r\n");
    stream.write_all(&request).await.map_err(Upgrade::Broken)?;
    stream.flush().await.map_err(Upgrade::Broken)?;
    let mut answer = BytesMut::with_capacity(256);
    while answer.len() < LONGEST_ANSWER {
        if stream.read_buf(&mut answer).await.map_err(Upgrade::Broken)? == 0 {
            return Err(Upgrade::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some((status, length)) = parse(&answer).map_err(|failure| Upgrade::Refused(failure.to_string()))? {
            answer.advance(length);
            return match status {
                101 => Ok(Socket::new(stream, answer)),
                _ => Err(Upgrade::Refused(format!("{status} {}", String::from_utf8_lossy(&answer).trim()))),
            };
        }
    }
    Err(Upgrade::Refused("its answer is too long".into()))
}

/// Status and length of an answer's head, once it is whole.
fn parse(answer: &[u8]) -> Result<Option<(u16, usize)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    Ok(match response.parse(answer)? {
        httparse::Status::Complete(length) => response.code.map(|code| (code, length)),
        httparse::Status::Partial => None,
    })
}

/// The gateway's own words where it answered with some.
fn reason(failure: tokio_tungstenite::tungstenite::Error) -> String {
    match failure {
        tokio_tungstenite::tungstenite::Error::Http(response) => {
            let said = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            format!("{} {}", response.status(), said.trim())
        }
        other => other.to_string(),
    }
}
