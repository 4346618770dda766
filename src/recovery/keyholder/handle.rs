//! PID 1's end of the keyholder: starts it, asks it, notices when it is gone. No private key passes through here, and none may.

use super::messages::{Answer, Ask, KeyError, KeyRequest, Which};
use russh::keys::{Certificate, PublicKey};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::info;

/// This program, whatever its name is by now.
const PROGRAM: &str = "/proc/self/exe";
/// A fetch with what is around it; the keyholder's own limits are tighter.
const FETCH: Duration = Duration::from_secs(110);
/// Wiping, and the process's end.
const CLOSE: Duration = Duration::from_secs(5);

/// A running keyholder. Dropping it kills the process.
///
/// The keyholder also dies with the thread that started it: start it from one that lasts as long as this process.
pub struct Keyholder {
    socket: PathBuf,
    /// None after an answer that did not come: the next one might be to that call.
    pipes: Arc<Mutex<Option<Pipes>>>,
    ended: watch::Receiver<bool>,
    waiter: JoinHandle<()>,
}

struct Pipes {
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// As what to log in; the signature is had from the agent at [`Keyholder::socket`].
#[derive(Clone, Debug)]
pub enum Identity {
    /// A key by itself.
    Key(PublicKey),
    /// A key with a certificate that has life left for a login.
    Certificate(Box<Certificate>),
}

impl Keyholder {
    /// Starts the process, which holds nothing yet.
    ///
    /// # Errors
    /// When it cannot be started or does not take the request.
    pub async fn start(request: &KeyRequest) -> std::io::Result<Self> {
        Self::start_program(Path::new(PROGRAM), request).await
    }

    /// As [`Self::start`], from a program that is not this one: for tests.
    #[doc(hidden)]
    pub async fn start_program(program: &Path, request: &KeyRequest) -> std::io::Result<Self> {
        let mut child = Command::new(program)
            .arg0("sandglass")
            .arg("recovery-keyholder")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(mut asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        };
        let line = serde_json::to_string(request)? + "\n";
        asks.write_all(line.as_bytes()).await?;
        let (gone, ended) = watch::channel(false);
        let pipes = Arc::new(Mutex::new(Some(Pipes { asks, answers: BufReader::new(answers).lines() })));
        Ok(Self { socket: request.socket.clone(), pipes, ended, waiter: tokio::spawn(wait(child, gone)) })
    }

    /// Has everything fetched. After an error that is transient it may be asked again.
    ///
    /// One call at a time; others wait. A call that is dropped goes on by itself.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn load(&self) -> Result<(), KeyError> {
        match self.ask(Ask::Load, FETCH).await? {
            Answer::Loaded(_) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// As what to log in now. For a key that is signed this may take another fetch.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn identity(&self, which: Which) -> Result<Identity, KeyError> {
        match self.ask(Ask::Identity(which), FETCH).await? {
            Answer::Key(line) => PublicKey::from_openssh(&line).map(Identity::Key).map_err(|_| unexpected()),
            Answer::Certificate(line) => {
                Certificate::from_openssh(&line).map(Box::new).map(Identity::Certificate).map_err(|_| unexpected())
            }
            _ => Err(unexpected()),
        }
    }

    /// Where the agent listens once the keys are loaded. It closes connections that are silent for five minutes: connect for each login.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns when the process is gone.
    pub async fn ended(&self) {
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Has everything wiped and the process ended, by force after a few seconds.
    pub async fn close(&self) {
        let close = async {
            let _ = self.ask(Ask::Close, CLOSE).await;
            // The end of its standard input is its end.
            drop(self.pipes.lock().await.take());
            self.ended().await;
        };
        if timeout(CLOSE, close).await.is_err() {
            // With the task goes the process.
            self.waiter.abort();
        }
    }

    /// In a task of its own: whoever asks may be gone before the answer, and the next one must not get it.
    async fn ask(&self, ask: Ask, limit: Duration) -> Result<Answer, KeyError> {
        let pipes = Arc::clone(&self.pipes);
        let asked = tokio::spawn(async move {
            let mut place = pipes.lock().await;
            // Put back only after an answer.
            let mut pipes = place.take().ok_or_else(gone)?;
            let answer = timeout(limit, pipes.ask(ask)).await;
            let answer = answer.map_err(|_| KeyError::failed("the keyholder does not answer: it was ended"))?.ok_or_else(gone)?;
            *place = Some(pipes);
            Ok(answer)
        });
        match asked.await {
            Ok(Ok(Answer::Failed(error)) | Err(error)) => Err(error),
            Ok(answer) => answer,
            Err(_) => Err(gone()),
        }
    }
}

impl Drop for Keyholder {
    fn drop(&mut self) {
        // With the task goes the process.
        self.waiter.abort();
    }
}

impl Pipes {
    async fn ask(&mut self, ask: Ask) -> Option<Answer> {
        let line = serde_json::to_string(&ask).ok()? + "\n";
        self.asks.write_all(line.as_bytes()).await.ok()?;
        serde_json::from_str(&self.answers.next_line().await.ok()??).ok()
    }
}

async fn wait(mut child: Child, gone: watch::Sender<bool>) {
    let status = child.wait().await;
    info!(status = ?status.ok().map(|status| status.to_string()), "the keyholder ended");
    let _ = gone.send(true);
}

fn gone() -> KeyError {
    KeyError::failed("the keyholder is gone: see the pod's log")
}

fn unexpected() -> KeyError {
    KeyError::failed("the keyholder gave an answer that makes no sense")
}
