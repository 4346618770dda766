//! The keyholder of a recovery pod: a process that has the private keys and gives signatures, so that the process with the network
//! connections has none. PID 1 uses [`Keyholder`]; the process itself is [`serve`].
//!
//! Processes: `recovery-keyholder` moves key bytes between pipes and locked memory and does nothing else with them; `recovery-fetch`
//! ([`super::fetch`]) gets and parses them; `recovery-sign` ([`serve_signer`]) makes and uses them. The last two live for one task, since
//! what TLS, JSON, parsers and big numbers leave on heap and stack can only be wiped by ending.
//!
//! Out of reach: root of the node, the kernel's own pipe buffers, and the first instants of a process, in which it holds nothing.

mod agent;
mod certificate;
mod child;
pub(super) mod frame;
mod handle;
mod holder;
mod memory;
mod messages;
pub(super) mod parse;
pub(super) mod process;
mod protocol;
mod signer;

pub use handle::{Identity, Keyholder};
pub use messages::{KeyError, KeyRequest, Which};
pub use signer::serve as serve_signer;

use holder::Holder;
use messages::{Answer, Ask};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tracing::error;

/// Runs the keyholder until its standard input ends; returns the process's exit code. Started by [`Keyholder::start`], never by hand.
#[must_use]
pub fn serve() -> i32 {
    process::run("recovery-keyholder", process::Life::Session, |input, output| async move {
        match hold(input, output).await {
            Ok(()) => 0,
            Err(failure) => {
                error!(%failure, "the keyholder ends");
                process::EXIT_REFUSED
            }
        }
    })
}

async fn hold(input: pipe::Receiver, mut output: pipe::Sender) -> std::io::Result<()> {
    let mut lines = BufReader::new(input).lines();
    let Some(first) = lines.next_line().await? else { return Ok(()) };
    let mut holder = Holder::new(serde_json::from_str(&first)?);
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str(&line)? {
            Ask::Load => holder.load().await.map(Answer::Loaded),
            Ask::Identity(which) => holder.identity(which).await,
            Ask::Close => {
                holder.close().await;
                Ok(Answer::Closed)
            }
        };
        let line = serde_json::to_string(&answer.unwrap_or_else(Answer::Failed))? + "\n";
        output.write_all(line.as_bytes()).await?;
    }
    holder.close().await;
    Ok(())
}
