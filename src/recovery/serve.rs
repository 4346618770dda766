//! What users ask for, done on the machine and on its hypervisor.

use super::keyholder::{Keyholder, Which};
use super::ssh::{Connection, Forwards, HYPERVISOR, Piece, Place, connect};
use crate::link::client::{Serve, Socket};
use crate::link::frame;
use crate::link::message::{Exit, Start};
use crate::link::socket::{Receiver, Sender};
use std::rc::Rc;
use std::time::Instant;

/// The machine, as the link serves it.
pub struct Machine {
    /// Its sshd.
    pub place: Place,
    /// Its hypervisor.
    pub hypervisor: Option<Hypervisor>,
    /// Signs.
    pub keyholder: Rc<Keyholder>,
    /// Connections to users' ssh-agents.
    pub forwards: Forwards,
}

/// A hypervisor, and what may be asked of it.
pub struct Hypervisor {
    /// Its sshd.
    pub place: Place,
    /// What it calls the machine.
    pub vm: String,
    /// Words of the verbs.
    pub verbs: Vec<String>,
}

impl Serve for Machine {
    async fn serve(&self, dial: impl Future<Output = Result<Socket, String>>, start: Start) -> Result<(), String> {
        match start {
            Start::Process(process) => {
                // First the gateway: a wedged machine may take longer to refuse than the gateway waits for a channel.
                let socket = dial.await?;
                match self.connect(&self.place, Which::Target).await {
                    Ok(connection) => connection.process(&process, socket, &self.forwards).await,
                    Err(message) => {
                        let (sender, mut receiver) = socket.split();
                        finish(sender, Exit::Failed(message)).await;
                        receiver.drain().await;
                    }
                }
            }
            Start::Connect { host, port } => {
                // First the target: the user's client is told whether it could be reached.
                let tunnel = self.connect(&self.place, Which::Target).await?.connect_to(&host, port).await?;
                tunnel.bridge(dial.await?).await;
            }
            Start::AgentConnection { connection } => {
                self.forwards.take(connection).ok_or("that connection is gone")?.bridge(dial.await?).await;
            }
            Start::Power { verb } => {
                let hypervisor = self.hypervisor.as_ref().ok_or("this recovery has no hypervisor")?;
                self.power(hypervisor, &verb, dial).await?;
            }
        }
        Ok(())
    }
}

impl Machine {
    async fn connect(&self, place: &Place, which: Which) -> Result<Connection, String> {
        let began = Instant::now();
        let identity = self.keyholder.identity(which).await.map_err(|error| error.to_string())?;
        let connected = connect(place, &identity, self.keyholder.socket()).await;
        let milliseconds = began.elapsed().as_millis();
        match &connected {
            Ok(_) => tracing::info!(milliseconds, "connected to {}", place.what),
            Err(error) => tracing::warn!(milliseconds, %error, "no connection to {}", place.what),
        }
        connected.map_err(|error| error.to_string())
    }

    /// Runs a verb, and passes on what the hypervisor says as it comes.
    async fn power(&self, hypervisor: &Hypervisor, verb: &str, dial: impl Future<Output = Result<Socket, String>>) -> Result<(), String> {
        // The gateway decided; the pod was told the same by the controller.
        if !hypervisor.verbs.iter().any(|allowed| allowed == verb) {
            return Err(format!("{verb} is not in spec.hypervisor.verbs"));
        }
        let (mut sender, mut receiver) = dial.await?.split();
        let connected = tokio::select! {
            connected = self.connect(&hypervisor.place, Which::Hypervisor) => connected,
            // Nobody is there to record it: it is not begun.
            () = gone(&mut receiver) => return Ok(()),
        };
        let begun = async {
            let connection = connected?;
            // From here on it may take effect.
            sender.send(frame::encode(frame::POWER, &[])).await.map_err(|_| "the gateway is gone".to_owned())?;
            connection.command(&format!("{verb} {}", hypervisor.vm)).await.map_err(|error| error.to_string())
        };
        let mut command = match begun.await {
            Ok(command) => command,
            Err(message) => {
                finish(sender, Exit::Failed(message)).await;
                return Ok(());
            }
        };
        tracing::info!(verb, "power verb");
        loop {
            let piece = tokio::select! {
                piece = command.next() => piece,
                // Nobody listens any more. The verb goes on without: what was begun is carried through over there.
                () = gone(&mut receiver) => return Ok(()),
            };
            let (stream, bytes) = match piece {
                Some(Piece::Stdout(bytes)) => (frame::POWER, bytes),
                Some(Piece::Stderr(bytes)) => (frame::STDERR, bytes),
                Some(Piece::Ended(exit)) => {
                    finish(sender, exit).await;
                    return Ok(());
                }
                None => return Err(format!("{HYPERVISOR} said nothing more")),
            };
            if sender.send(frame::encode(stream, &bytes)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Returns when the other end is gone.
async fn gone(receiver: &mut Receiver) {
    while receiver.next().await.is_some() {}
}

async fn finish(mut sender: Sender, exit: Exit) {
    let status = serde_json::to_vec(&exit).unwrap_or_default();
    let _ = sender.send(frame::encode(frame::STATUS, &status)).await;
    sender.close().await;
}
