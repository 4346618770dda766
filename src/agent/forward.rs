//! `ssh -A`: a private socket for the process; each connection to it becomes a channel back to the user's own ssh-agent.

use crate::link::frame;
use crate::link::socket::Sender;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// How long a connection waits for its channel.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections at once that wait for the gateway; more are closed.
const MOST_WAITING: usize = 16;

/// Connections that wait for their channel.
#[derive(Clone, Default)]
pub struct Pending {
    waiting: Rc<RefCell<HashMap<u64, UnixStream>>>,
    next: Rc<Cell<u64>>,
}

impl Pending {
    /// The connection of that number, once.
    pub fn take(&self, connection: u64) -> Option<UnixStream> {
        self.waiting.borrow_mut().remove(&connection)
    }

    fn put(&self, stream: UnixStream) -> Option<u64> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= MOST_WAITING {
            return None;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        waiting.insert(number, stream);
        Some(number)
    }
}

/// The socket of one process; removed when dropped.
pub struct Listener {
    socket: UnixListener,
    folder: PathBuf,
    pending: Pending,
}

impl Listener {
    /// Makes the socket: mode 0600 in a folder of mode 0700.
    ///
    /// # Errors
    /// When the run folder cannot be written.
    pub fn new(pending: &Pending, run_folder: &Path) -> io::Result<Self> {
        let number = pending.next.get();
        pending.next.set(number + 1);
        let folder = run_folder.join(format!("ssh-agent-{}-{number}", std::process::id()));
        match std::fs::remove_dir_all(&folder) {
            Err(failure) if failure.kind() != io::ErrorKind::NotFound => return Err(failure),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket: listener, folder, pending: pending.clone() })
    }

    /// Path of the socket, for `SSH_AUTH_SOCK`.
    pub fn path(&self) -> String {
        self.folder.join("socket").display().to_string()
    }

    /// Tells the gateway of each connection, for ever; returns when the channel is gone.
    pub async fn announce(&self, sender: &tokio::sync::Mutex<Sender>) {
        while let Ok((stream, _)) = self.socket.accept().await {
            let Some(number) = self.pending.put(stream) else { continue };
            let pending = self.pending.clone();
            // Not asked for in time: the user's client refused, and the program must hear of it.
            tokio::task::spawn_local(async move {
                tokio::time::sleep(PATIENCE).await;
                pending.take(number);
            });
            let frame = frame::encode(frame::AGENT_CONNECTION, &number.to_be_bytes());
            if sender.lock().await.send(frame).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
