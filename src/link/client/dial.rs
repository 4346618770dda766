//! Dialling a gateway: TCP, TLS 1.3 against the link CA, WebSocket. No names are looked up.

use crate::link::SERVER_NAME;
use crate::link::read_ahead::ReadAhead;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// A WebSocket to a gateway. It is handed from one future to the next: its state, over a kilobyte, stays where it is.
pub type Socket = Pin<Box<WebSocketStream<TlsStream<ReadAhead>>>>;

/// Limit for the whole of dialling.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Why a gateway could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP or TLS.
    #[error("failed to connect to {address}: {source}")]
    Connect {
        /// The gateway.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It answered, with a refusal or with something that is no WebSocket.
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
        Ok(Self { connector: TlsConnector::from(Arc::new(configuration)) })
    }

    /// Opens a WebSocket at `path` of `address`, presenting `bearer`.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, address: SocketAddr, path: &str, bearer: &str) -> Result<Socket, DialError> {
        match tokio::time::timeout(DIAL_LIMIT, self.attempt(address, path, bearer)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError::Silent { address }),
        }
    }

    async fn attempt(&self, address: SocketAddr, path: &str, bearer: &str) -> Result<Socket, DialError> {
        let connect = |source| DialError::Connect { address, source };
        let refused = |reason: String| DialError::Refused { address, reason };
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        crate::link::keep_alive(&stream);
        let name = ServerName::try_from(SERVER_NAME).map_err(|failure| refused(failure.to_string()))?;
        let mut stream = self.connector.connect(name, ReadAhead::new(stream)).await.map_err(connect)?;
        stream.get_mut().1.set_buffer_limit(Some(crate::link::WRITE_BUFFER));
        let mut request = format!("wss://{SERVER_NAME}{path}").into_client_request().map_err(|failure| refused(failure.to_string()))?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", bearer.trim())).map_err(|failure| refused(failure.to_string()))?;
        request.headers_mut().insert("authorization", bearer);
        let configuration = WebSocketConfig::default().read_buffer_size(4 * 1024).write_buffer_size(0).max_message_size(Some(1 << 20));
        let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(configuration))
            .await
            .map_err(|failure| refused(reason(failure)))?;
        Ok(Box::pin(socket))
    }
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
