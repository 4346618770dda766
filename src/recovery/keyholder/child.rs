//! The keyholder's helpers: processes of this program that live for one fetch or one signature, so that whatever a library leaves behind in
//! its memory is gone with them. This file starts them, feeds them and takes what they give; it must not read what goes through.

use super::frame::{self, Frame, Kind};
use super::messages::KeyError;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{ChildStdout, Command};

/// This program, whatever its name is by now.
const PROGRAM: &str = "/proc/self/exe";
/// More frames than any helper gives.
const MOST: usize = 8;

/// A helper: its subcommand, and how long it may take.
#[derive(Clone, Copy)]
pub struct Helper {
    /// The subcommand.
    pub subcommand: &'static str,
    /// It is killed after this.
    pub limit: Duration,
}

/// Talks to Vault. Its limit is what [`crate::vault::fetch`] may take: killed half-way it could not revoke its token.
pub const FETCH: Helper = Helper { subcommand: "recovery-fetch", limit: Duration::from_secs(80) };
/// Makes keys and signs.
pub const SIGN: Helper = Helper { subcommand: "recovery-sign", limit: Duration::from_secs(10) };

impl Helper {
    /// Has `frames` worked on. Gives the helper's frames; its failure frame is the error.
    pub async fn run(self, frames: &[(Kind, &[u8])]) -> Result<Vec<Frame>, KeyError> {
        tokio::time::timeout(self.limit, self.run_unlimited(frames)).await.unwrap_or_else(|_| {
            let (name, seconds) = (self.subcommand, self.limit.as_secs());
            Err(KeyError { transient: true, ..KeyError::failed(format!("{name} took longer than {seconds} s and was ended")) })
        })
    }

    async fn run_unlimited(self, frames: &[(Kind, &[u8])]) -> Result<Vec<Frame>, KeyError> {
        let failed = |what: &str, error: std::io::Error| KeyError::failed(format!("failed to {what} {}: {error}", self.subcommand));
        let mut child = Command::new(PROGRAM)
            .arg0("sandglass")
            .arg(self.subcommand)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start", error))?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(KeyError::failed(format!("failed to talk to {}", self.subcommand)));
        };
        // A helper that fails early closes its input: what it says is of more use than the error of writing.
        for (kind, bytes) in frames {
            if frame::write(&mut input, *kind, bytes).await.is_err() {
                break;
            }
        }
        drop(input);
        let given = receive(output).await.map_err(|error| failed("read from", error))?;
        let status = child.wait().await.map_err(|error| failed("wait for", error))?;
        for frame in &given {
            if let Frame::Open(Kind::Failure, text) = frame {
                return Err(serde_json::from_slice(text).unwrap_or_else(|_| KeyError::failed(format!("{} failed", self.subcommand))));
            }
        }
        if !status.success() {
            return Err(KeyError::failed(format!("{} ended with {status}: see the pod's log", self.subcommand)));
        }
        Ok(given)
    }
}

async fn receive(mut output: ChildStdout) -> std::io::Result<Vec<Frame>> {
    let mut given = Vec::new();
    while let Some(frame) = frame::read(&mut output).await? {
        given.push(frame);
        if given.len() > MOST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    Ok(given)
}
