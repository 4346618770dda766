//! The doctor's own SSH client: sees the gateway's host key, and logs in to the canary to try what a session must and must not do.

use russh::client::{Config, Handle, Handler};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect};
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the TCP connection may take.
const TCP_LIMIT: Duration = Duration::from_secs(5);
/// How long each step after it may take.
const STEP_LIMIT: Duration = Duration::from_secs(8);
/// How long a connection from the pod may take; one that does not answer by then is closed to it.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// `SSH_FXP_INIT` of version 3 (draft-ietf-secsh-filexfer-02, section 4).
const SFTP_HELLO: [u8; 9] = [0, 0, 0, 5, 1, 0, 0, 0, 3];
/// Type of the answer, `SSH_FXP_VERSION`.
const SFTP_VERSION: u8 = 2;

/// What went wrong on the way in.
#[derive(Debug, thiserror::Error)]
pub(super) enum SshError {
    /// No TCP connection.
    #[error("failed to connect to {address}: {source}")]
    Tcp {
        /// Where to.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("failed to {what}: no answer within {seconds} s")]
    Silent {
        /// What was being done.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// What answers is no SSH server, or agrees to nothing.
    #[error("failed to agree with what answers at {address}: {source}")]
    Handshake {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: Box<russh::Error>,
    },
    /// Another host key than the session's status says.
    #[error("the gateway shows the host key {shown}, which the session's status does not list")]
    HostKey {
        /// Its fingerprint.
        shown: String,
    },
    /// The key was not accepted.
    #[error("the gateway does not let the canary's own key in")]
    Denied,
    /// Something else, after the host key.
    #[error("failed to {what}: {reason}")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// Why, in the gateway's words where it has some.
        reason: String,
    },
}

/// Takes any of the expected host keys, or any at all where nothing is expected, and remembers it.
struct Host {
    expected: Option<Vec<PublicKey>>,
    shown: Arc<OnceLock<PublicKey>>,
}

impl Handler for Host {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let _ = self.shown.set(key.clone());
        Ok(self.expected.as_ref().is_none_or(|expected| expected.iter().any(|known| known.key_data() == key.key_data())))
    }
}

async fn connect(host: &str, port: u16, expected: Option<Vec<PublicKey>>) -> Result<(Handle<Host>, PublicKey), SshError> {
    let address = format!("{host}:{port}");
    let silent = |what: String, limit: Duration| SshError::Silent { what, seconds: limit.as_secs() };
    let stream = match timeout(TCP_LIMIT, TcpStream::connect((host, port))).await {
        Ok(outcome) => outcome.map_err(|source| SshError::Tcp { address: address.clone(), source })?,
        Err(_) => return Err(silent(format!("connect to {address}"), TCP_LIMIT)),
    };
    let shown = Arc::new(OnceLock::new());
    let handler = Host { expected, shown: Arc::clone(&shown) };
    let configuration = Arc::new(Config { nodelay: true, ..Config::default() });
    let outcome = timeout(STEP_LIMIT, russh::client::connect_stream(configuration, stream, handler)).await;
    match (outcome, shown.get()) {
        (Ok(Ok(handle)), Some(key)) => Ok((handle, key.clone())),
        (Ok(Err(russh::Error::UnknownKey)), Some(key)) => Err(SshError::HostKey { shown: fingerprint(key) }),
        (Ok(Err(source)), _) => Err(SshError::Handshake { address, source: Box::new(source) }),
        (Ok(Ok(_)), None) => Err(SshError::Failed { what: "see the host key", reason: "the gateway showed none".into() }),
        (Err(_), _) => Err(silent(format!("get the first word of the SSH server at {address}"), STEP_LIMIT)),
    }
}

/// SHA-256 fingerprint, as `ssh-keygen -l` shows it.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// The host key that an SSH server shows. Does not try to log in.
pub(super) async fn host_key(host: &str, port: u16) -> Result<PublicKey, SshError> {
    let (handle, key) = connect(host, port, None).await?;
    leave(&handle).await;
    Ok(key)
}

async fn leave(handle: &Handle<Host>) {
    let _ = timeout(Duration::from_secs(1), handle.disconnect(Disconnect::ByApplication, "", "")).await;
}

/// A login at the canary.
pub(super) struct Login(Handle<Host>);

impl Login {
    /// Logs in; only to a gateway that shows one of these host keys.
    pub(super) async fn new(host: &str, port: u16, host_keys: Vec<PublicKey>, user: &str, key: PrivateKey) -> Result<Self, SshError> {
        let (mut handle, _) = connect(host, port, Some(host_keys)).await?;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
        match timeout(STEP_LIMIT, handle.authenticate_publickey(user, key)).await {
            Ok(Ok(outcome)) if outcome.success() => Ok(Self(handle)),
            Ok(Ok(_)) => Err(SshError::Denied),
            Ok(Err(error)) => Err(SshError::Failed { what: "log in to the canary", reason: error.to_string() }),
            Err(_) => Err(SshError::Silent { what: "log in to the canary".into(), seconds: STEP_LIMIT.as_secs() }),
        }
    }

    /// Starts file transfer and waits for the pod's own answer. It needs no program in the image, and like all there is it is recorded.
    pub(super) async fn transfer_files(&self) -> Result<(), SshError> {
        const WHAT: &str = "start file transfer in the canary";
        match timeout(STEP_LIMIT, self.greet_files()).await {
            Ok(outcome) => outcome.map_err(|reason| SshError::Failed { what: WHAT, reason }),
            Err(_) => Err(SshError::Silent { what: WHAT.into(), seconds: STEP_LIMIT.as_secs() }),
        }
    }

    async fn greet_files(&self) -> Result<(), String> {
        let mut channel = self.0.channel_open_session().await.map_err(|error| error.to_string())?;
        channel.request_subsystem(true, "sftp").await.map_err(|error| error.to_string())?;
        let (mut answer, mut words) = (Vec::new(), Vec::new());
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Success => channel.data_bytes(SFTP_HELLO.to_vec()).await.map_err(|error| error.to_string())?,
                ChannelMsg::Data { data } => answer.extend_from_slice(&data),
                ChannelMsg::ExtendedData { data, .. } => words.extend_from_slice(&data),
                // The gateway says why before it closes.
                ChannelMsg::Close => break,
                _ => {}
            }
            if let Some(kind) = answer.get(4) {
                return if *kind == SFTP_VERSION { Ok(()) } else { Err("what answers does not speak sftp".into()) };
            }
        }
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        Err(if words.is_empty() { "the gateway refused without a word".into() } else { words })
    }

    /// Whether the pod can open a TCP connection to this address.
    pub(super) async fn reaches(&self, host: &str, port: u16) -> bool {
        let opening = self.0.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0);
        match timeout(REACH_LIMIT, opening).await {
            Ok(Ok(channel)) => {
                let _ = channel.close().await;
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Ends the connection.
    pub(super) async fn leave(self) {
        leave(&self.0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_is_no_ssh_server_is_told_apart_from_what_is_not_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
        });
        assert!(matches!(host_key("127.0.0.1", port).await, Err(SshError::Handshake { .. })));
        serving.await.expect("served");
        // Its listener is gone now.
        assert!(matches!(host_key("127.0.0.1", port).await, Err(SshError::Tcp { .. })));
    }
}
