//! The keyholder's socket: who may connect, how many, how long a message may take. It must not know what a message means.

use super::child;
use super::frame::{Frame, Kind};
use super::holder::Keys;
use super::protocol::{self, Asked};
use super::signer::Task;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{info, warn};

/// Longest message; russh and OpenSSH have the same limit.
const LONGEST: usize = 256 * 1024;
/// Connections at once.
const CONNECTIONS: usize = 16;
/// From a message's first byte to its last, in either direction.
const MESSAGE: Duration = Duration::from_secs(10);
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_mins(5);

/// The open socket.
pub struct Server {
    path: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    /// Opens the socket at `path`, in the place of one that nobody listens on any more.
    pub fn start(path: &Path, keys: Keys) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        // The process's umask lets nobody else in before the mode is set.
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let (stop, stopped) = oneshot::channel();
        Ok(Self { path: path.to_owned(), stop, task: tokio::spawn(accept(listener, keys, stopped)) })
    }

    /// Closes the socket and every connection; signatures under way are given up, their keys with them.
    pub async fn stop(self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn accept(listener: UnixListener, keys: Keys, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS && is_ours(&stream) => {
                    connections.spawn(serve(stream, keys.clone()));
                }
                // Dropped, and so closed.
                Ok(_) => warn!("a connection to the agent was refused: another user's, or one too many"),
                Err(failure) => {
                    warn!(%failure, "failed to accept a connection to the agent");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// The peer runs as the same user.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// One message after the other, until the client goes, falls silent, or sends what is no message.
async fn serve(mut stream: UnixStream, keys: Keys) {
    while let Some(message) = receive(&mut stream).await {
        let answer = answer(&message, &keys).await;
        if !matches!(timeout(MESSAGE, stream.write_all(&answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let first = timeout(IDLE, stream.read_u8()).await.ok()?.ok()?;
    let rest = async {
        let mut length = [first, 0, 0, 0];
        let (_, rest) = length.split_at_mut(1);
        stream.read_exact(rest).await.ok()?;
        let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| (1..=LONGEST).contains(length))?;
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    timeout(MESSAGE, rest).await.ok()?
}

async fn answer(message: &[u8], keys: &Keys) -> Vec<u8> {
    match protocol::parse(message) {
        Asked::Identities => protocol::identities(&keys.identities()),
        Asked::Sign { blob, data, flags } => {
            let signed = sign(keys, blob, data, flags).await;
            signed.map_or_else(protocol::failure, |signature| protocol::signature(&signature))
        }
        Asked::Other => protocol::failure(),
    }
}

async fn sign(keys: &Keys, blob: &[u8], data: &[u8], flags: u32) -> Option<Vec<u8>> {
    let Some((key, is_rsa)) = keys.find(blob) else {
        info!("a signature was asked for with a key that is not held");
        return None;
    };
    let Some(hash) = protocol::hash(flags, is_rsa) else {
        info!("a signature with SHA-1 was asked for and refused");
        return None;
    };
    let task = serde_json::to_vec(&Task::Sign(hash)).ok()?;
    match child::SIGN.run(&[(Kind::Request, &task), (Kind::Key, &key), (Kind::Data, data)]).await {
        Ok(given) => given.into_iter().find_map(|frame| match frame {
            Frame::Open(Kind::Signature, signature) => Some(signature),
            _ => None,
        }),
        Err(error) => {
            warn!(%error, "failed to sign");
            None
        }
    }
}
