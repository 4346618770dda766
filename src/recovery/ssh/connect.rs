//! From an address to a logged-in connection, within limits of our own at every step, and what watches over it afterwards.

use super::error::{BANNER_LIMIT, TCP_LIMIT, WHOLE_LIMIT};
use super::handler::{Arrival, Told, Translator};
use super::identity::{Holder, SignError, hash};
use super::line::{self, Cut, Line, SILENCE_LIMIT, WINDOW};
use super::pump::Reader;
use super::{ConnectError, Identity, Place};
use russh::client::{AuthResult, Config, Handle, Msg};
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey};
use russh::{Channel, ChannelWriteHalf, Preferred, cipher};
use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

/// After so much silence the machine is asked for a sign of life, and again.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// How long the words may come after a refusal.
const WORDS_LIMIT: Duration = Duration::from_secs(1);
/// Connections to a forwarded ssh-agent that come at once.
const ARRIVALS: usize = 16;

/// A login at a machine. One channel each: consumed by what is done with it. Dropping it, or the future that has it, ends the connection at once.
pub struct Connection {
    pub(super) what: &'static str,
    pub(super) told: Arc<Told>,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    handle: Handle<Translator>,
    _cut: Cut,
}

/// Connects and logs in: TCP, the SSH server's first word, key exchange, host key, login.
///
/// # Errors
/// See [`ConnectError`]; the texts are for the user.
pub async fn connect(place: &Place, identity: &Identity, agent_socket: &Path) -> Result<Connection, ConnectError> {
    let (what, address) = (place.what, place.address);
    let end = Instant::now() + WHOLE_LIMIT;
    let stream = match timeout(TCP_LIMIT, TcpStream::connect(address)).await {
        Ok(outcome) => outcome.map_err(|failure| ConnectError::tcp(place, &failure))?,
        Err(_) => return Err(ConnectError::Silent { what, address }),
    };
    line::keep_alive(&stream);
    let (line, gate, cut) = Line::new(stream).map_err(|failure| ConnectError::tcp(place, &failure))?;
    let told = Arc::new(Told {
        gate,
        stranger: OnceLock::new(),
        refusal: watch::Sender::new(None),
        lost: OnceLock::new(),
        agent_asked: AtomicBool::new(false),
    });
    let (arrivals_end, arrivals) = mpsc::channel(ARRIVALS);
    let translator = Translator { host_keys: place.host_keys.clone(), told: Arc::clone(&told), arrivals: arrivals_end };
    let mute = async {
        tokio::time::sleep(BANNER_LIMIT).await;
        if told.gate.was_heard() {
            std::future::pending::<()>().await;
        }
    };
    let handle = tokio::select! {
        outcome = russh::client::connect_stream(Arc::new(configuration(&place.host_keys)), line, translator) => {
            outcome.map_err(|failure| handshake(place, &told, &failure))?
        }
        () = mute => return Err(ConnectError::NoBanner { what, address }),
        () = tokio::time::sleep_until(end) => return Err(ConnectError::Slow { what, address }),
    };
    let mut connection = Connection { what, told, arrivals, handle, _cut: cut };
    match timeout_at(end, connection.log_in(place, identity, agent_socket)).await {
        Ok(outcome) => outcome.map(|()| connection),
        Err(_) => Err(ConnectError::Slow { what, address }),
    }
}

/// Keep-alives are ours, not the library's: it would count while a user who does not read keeps us from reading.
fn configuration(host_keys: &[PublicKey]) -> Config {
    Config {
        window_size: WINDOW,
        channel_buffer_size: line::MESSAGES,
        preferred: Preferred {
            key: Cow::Owned(host_key_algorithms(host_keys)),
            // AES is in the hardware; the library's default order begins with what is not.
            cipher: Cow::Borrowed(&[
                cipher::AES_256_GCM,
                cipher::AES_128_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_192_CTR,
                cipher::AES_128_CTR,
            ]),
            ..Preferred::DEFAULT
        },
        inactivity_timeout: None,
        keepalive_interval: None,
        nodelay: true,
        ..Config::default()
    }
}

/// The kinds of the pinned keys first; then the others, so that a machine with new keys shows one to be refused by its fingerprint. Never SHA-1.
fn host_key_algorithms(host_keys: &[PublicKey]) -> Vec<Algorithm> {
    let rsa = [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) });
    let curves = [EcdsaCurve::NistP256, EcdsaCurve::NistP384, EcdsaCurve::NistP521].map(|curve| Algorithm::Ecdsa { curve });
    let pinned = host_keys.iter().flat_map(|key| if key.algorithm().is_rsa() { rsa.to_vec() } else { vec![key.algorithm()] });
    let others = std::iter::once(Algorithm::Ed25519).chain(curves).chain(rsa.clone());
    let mut algorithms = Vec::new();
    for algorithm in pinned.chain(others) {
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    algorithms
}

fn handshake(place: &Place, told: &Told, failure: &russh::Error) -> ConnectError {
    let (what, address) = (place.what, place.address);
    if let Some(got) = told.stranger.get() {
        let expected = place.host_keys.iter().map(|key| key.fingerprint(HashAlg::Sha256).to_string()).collect();
        return ConnectError::HostKey { what, address, expected, got: got.clone() };
    }
    match failure {
        russh::Error::IO(_) | russh::Error::HUP | russh::Error::Disconnect => ConnectError::Lost {
            what,
            reason: "it closed the connection before the login; it may have too many at once (MaxStartups) or refuse this address".into(),
        },
        other => ConnectError::Handshake { what, address, reason: other.to_string() },
    }
}

impl Connection {
    async fn log_in(&mut self, place: &Place, identity: &Identity, agent_socket: &Path) -> Result<(), ConnectError> {
        let what = self.what;
        let not_signed = |reason: String| ConnectError::NotSigned { what, reason };
        let holder = UnixStream::connect(agent_socket).await.map_err(|failure| not_signed(failure.to_string()))?;
        let (mut holder, user, hash) = (Holder(AgentClient::connect(holder)), place.user.as_str(), hash(identity));
        let outcome = match identity {
            Identity::Key(key) => self.handle.authenticate_publickey_with(user, key.clone(), hash, &mut holder).await,
            Identity::Certificate(certificate) => {
                self.handle.authenticate_certificate_with(user, certificate.as_ref().clone(), hash, &mut holder).await
            }
        };
        match outcome {
            Ok(AuthResult::Success) => Ok(()),
            Ok(AuthResult::Failure { partial_success, remaining_methods }) => {
                // The library tells a broken connection as a refusal that leaves no method.
                if remaining_methods.is_empty() && self.told.gate.has_ended() {
                    return Err(self.lost());
                }
                Err(ConnectError::Denied { what, user: place.user.clone(), more: partial_success })
            }
            Err(SignError::Gone(_)) => Err(self.lost()),
            Err(SignError::Holder(failure)) => Err(not_signed(failure.to_string())),
        }
    }

    /// Opens the session's channel.
    pub(super) async fn session(&self) -> Result<(Reader, ChannelWriteHalf<Msg>), ConnectError> {
        match self.handle.channel_open_session().await {
            Ok(channel) => Ok(self.halves(channel)),
            Err(russh::Error::ChannelOpenFailure(_)) => {
                Err(ConnectError::NotStarted { what: self.what, request: format!("a session: {}", self.refusal().await) })
            }
            Err(_) => Err(self.lost()),
        }
    }

    /// Opens a TCP connection from the machine.
    pub(super) async fn direct_tcpip(&self, host: &str, port: u16) -> Result<(Reader, ChannelWriteHalf<Msg>), russh::Error> {
        let channel = self.handle.channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0).await?;
        Ok(self.halves(channel))
    }

    fn halves(&self, channel: Channel<Msg>) -> (Reader, ChannelWriteHalf<Msg>) {
        let (read, write) = channel.split();
        (Reader::new(read, write.id(), Arc::clone(&self.told.gate)), write)
    }

    /// Why the machine did not open a channel.
    pub(super) async fn refusal(&self) -> String {
        // The library tells the words after the fact.
        let mut refusal = self.told.refusal.subscribe();
        let words = timeout(WORDS_LIMIT, refusal.wait_for(Option::is_some)).await;
        words.ok().and_then(Result::ok).and_then(|words| words.clone()).unwrap_or_else(|| "no reason given".into())
    }

    /// How the connection ended.
    pub(super) fn lost(&self) -> ConnectError {
        let reason = self.told.lost.get().cloned().unwrap_or_else(|| "it was closed from the other side".into());
        ConnectError::Lost { what: self.what, reason }
    }

    /// Returns when the machine gave no sign of life for [`SILENCE_LIMIT`]. Asks for one after each [`ASK_AFTER`]. While our own user keeps us from
    /// reading, that is no silence of the machine's.
    pub(super) async fn silence(&self) -> ConnectError {
        loop {
            let silent = self.told.gate.silent_for();
            if silent >= SILENCE_LIMIT {
                let reason = format!("no sign of life for {} s", SILENCE_LIMIT.as_secs());
                return ConnectError::Lost { what: self.what, reason };
            }
            if silent >= ASK_AFTER {
                // The library's loop may be stuck in a write to a machine that takes nothing.
                let _ = timeout(ASK_AFTER, self.handle.send_keepalive(true)).await;
            }
            let waited = Duration::from_millis(u64::try_from(silent.as_millis()).unwrap_or(0) % 15_000);
            tokio::time::sleep(ASK_AFTER.saturating_sub(waited)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDNfVCcnI02G93sNFlj7WxIOJS43Jd4QNyw6Th3cLXfA+0SPNtz48euipTchWB4w5UFGUTO4i\
        IhndY0+fVZUt89U5BZd5uPn9n1lHBgBMM1ucvX4l2kSz49ooVCvTQIDDh1wKznsmExQWfjECyyQVgHgtDn+QXj+rxpeCyeUyyLV7NETVSZIwn5\
        vaxkXu5Dcuvlx6QTOsfXZy2S6TDl2piOj2GoV/Ad7d9slQcaNL35t38qib41sSGuIstrdOwyDkRjgv88Yuy2QCo1J6ZjiL51oHhgS/V66p3HRB\
        qOiKfaOc52j2avO8dBfNypHEdo6svJDICc6i93QFSaN/OvZAip";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJkibNXaRrf0ibMjdhtccdYOuFRBLixTyYT3Q6d4DacK4CsXS+v7XaRGiYnVIdjkNuktvZWURbLpNQrNbpZX9S8=";

    #[test]
    fn pinned_kinds_come_first_and_sha1_never() {
        let keys = [RSA, ECDSA].map(|text| PublicKey::from_openssh(text).expect("a key"));
        let all = host_key_algorithms(&keys);
        assert_eq!(
            all.get(..3),
            Some(
                [
                    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
                    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
                    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }
                ]
                .as_slice()
            )
        );
        assert_eq!(all.len(), 6);
        assert!(!all.contains(&Algorithm::Rsa { hash: None }));
        assert_eq!(hash(&Identity::Key(keys[0].clone())), Some(HashAlg::Sha512));
        assert_eq!(hash(&Identity::Key(keys[1].clone())), None);
    }
}
