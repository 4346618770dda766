//! The SSH port: accepting connections, and everything that is limited before a login.

use super::connection::Connection;
use super::handler::{Client, WINDOW};
use super::limits::{Limits, Offence};
use super::metrics::Login;
use super::watch::watch_over;
use super::{Gateway, socket};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, cipher, kex, mac};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// The library's settings: only what OpenSSH of today would choose itself.
#[must_use]
pub fn configuration(host_key: PrivateKey) -> Config {
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    Config {
        server_id: russh::SshId::Standard(Cow::Borrowed("SSH-2.0-Sandglass")),
        methods,
        keys: vec![host_key],
        window_size: WINDOW,
        event_buffer_size: 32,
        preferred: preferred(),
        nodelay: true,
        max_auth_attempts: 10,
        auth_rejection_time: Duration::from_millis(200),
        auth_rejection_time_initial: Some(Duration::ZERO),
        // Fires also while blocked writing to a client that stopped reading; the listener's own limits replace it.
        inactivity_timeout: None,
        keepalive_interval: Some(Duration::from_secs(30)),
        keepalive_max: 4,
        ..Config::default()
    }
}

fn preferred() -> Preferred {
    let sha512 = Some(HashAlg::Sha512);
    let sha256 = Some(HashAlg::Sha256);
    Preferred {
        kex: Cow::Borrowed(&[
            kex::MLKEM768X25519_SHA256,
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::EXTENSION_SUPPORT_AS_SERVER,
            kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
        ]),
        key: Cow::Owned(vec![
            Algorithm::Ed25519,
            Algorithm::SkEd25519,
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
            Algorithm::SkEcdsaSha2NistP256,
            Algorithm::Rsa { hash: sha512 },
            Algorithm::Rsa { hash: sha256 },
        ]),
        cipher: Cow::Borrowed(&[cipher::AES_256_GCM, cipher::AES_128_GCM, cipher::CHACHA20_POLY1305]),
        mac: Cow::Borrowed(&[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM]),
        ..Preferred::default()
    }
}

/// Accepts connections until `stop`; those that are open go on.
pub async fn serve(listener: TcpListener, configuration: Arc<Config>, gateway: Arc<Gateway>, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &configuration, &gateway),
            Err(failure) => {
                // Out of descriptors: wait for others to close.
                warn!(%failure, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn admit(stream: TcpStream, peer: SocketAddr, configuration: &Arc<Config>, gateway: &Arc<Gateway>) {
    let Some(place) = gateway.limits.enter(peer.ip(), Instant::now()) else {
        gateway.metrics.login(Login::Penalised);
        return;
    };
    let (configuration, gateway) = (Arc::clone(configuration), Arc::clone(gateway));
    tokio::spawn(async move { serve_connection(stream, peer, configuration, gateway, place).await });
}

/// Sixteen random hex digits.
#[must_use]
pub fn identifier() -> String {
    let mut bytes = [0; 8];
    let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    format!("{:016x}", u64::from_be_bytes(bytes))
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    configuration: Arc<Config>,
    gateway: Arc<Gateway>,
    place: super::limits::Place,
) {
    let _ = stream.set_nodelay(true);
    let (stream, cut) = socket::share(stream);
    let connection = Arc::new(Connection::new(Arc::clone(&gateway), identifier(), peer));
    let (logged_in, login) = oneshot::channel();
    let tried = Arc::new(AtomicBool::new(false));
    let client = Client::new(Arc::clone(&connection), logged_in, Arc::clone(&tried));
    let began = Instant::now();
    let handshake = russh::server::run_stream(configuration, stream, client);
    let session = async {
        let mut session = handshake.await.ok()?;
        let handle = session.handle();
        tokio::select! {
            entered = login => entered.ok().map(|()| (session, handle)),
            _ = &mut session => None,
        }
    };
    let outcome = tokio::select! {
        session = session => session.ok_or(Login::Abandoned),
        () = place.evicted.notified() => Err(Login::Evicted),
        () = tokio::time::sleep(gateway.limits.login_time()) => Err(Login::Abandoned),
    };
    drop(place);
    match outcome {
        Ok((session, handle)) => {
            gateway.limits.forgive(peer.ip());
            gateway.metrics.login(Login::Accepted);
            let closed = async {
                if let Err(failure) = session.await {
                    debug!(%failure, "connection ended");
                }
            };
            watch_over(connection, handle, cut, closed).await;
        }
        Err(outcome) => {
            cut.now();
            let denied = tried.load(Ordering::Relaxed);
            gateway.metrics.login(if denied { Login::Denied } else { outcome });
            // Who proved a key and came too late is no attacker.
            if outcome != Login::Evicted && connection.farewell().is_none() {
                penalise(&gateway.limits, peer, began.elapsed() >= gateway.limits.login_time(), denied);
            }
        }
    }
}

fn penalise(limits: &Limits, peer: SocketAddr, too_slow: bool, denied: bool) {
    let offence = match (too_slow, denied) {
        (true, _) => Offence::TooSlow,
        (false, true) => Offence::LoginFailed,
        (false, false) => Offence::NoLogin,
    };
    limits.penalise(peer.ip(), offence, Instant::now());
}
