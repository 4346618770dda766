//! Supervised tasks. Every task has a name and is critical: one that ends before it was asked to ends the process, with an
//! error, so that Kubernetes starts it anew. The first signal drains with a deadline, the second aborts.

use std::collections::HashMap;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};

use super::shutdown::{self, Shutdown, Trigger};

/// The set of a process's tasks.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
    trigger: Trigger,
    shutdown: Shutdown,
}

/// Why a process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum SupervisionError {
    /// A task returned before it was asked to.
    #[error("the task {name} ended by itself")]
    Ended {
        /// Which.
        name: &'static str,
    },
    /// A task failed.
    #[error("the task {name} failed")]
    Failed {
        /// Which.
        name: &'static str,
        /// How.
        #[source]
        source: anyhow::Error,
    },
    /// A task panicked.
    #[error("the task {name} panicked")]
    Panicked {
        /// Which.
        name: &'static str,
        /// How.
        #[source]
        source: JoinError,
    },
    /// Some tasks did not finish in time after a signal.
    #[error("not finished in time: {}", names.join(", "))]
    Late {
        /// Which.
        names: Vec<&'static str>,
    },
    /// A second signal came.
    #[error("aborted by a second signal")]
    Aborted,
    /// The process cannot receive signals.
    #[error("failed to listen for signals")]
    Signals(#[source] std::io::Error),
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// Without any task yet.
    #[must_use]
    pub fn new() -> Self {
        let (trigger, shutdown) = shutdown::channel();
        Self { tasks: JoinSet::new(), names: HashMap::new(), trigger, shutdown }
    }

    /// The wish to stop, for tasks.
    #[must_use]
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Starts a task. It should return `Ok` soon after [`Shutdown::requested`], and never before.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Runs until a signal, and then until every task has finished, at most for `drain`.
    ///
    /// # Errors
    /// A task that ended by itself, failed, panicked or is late; a second signal.
    pub async fn run(mut self, drain: Duration) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).map_err(SupervisionError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(SupervisionError::Signals)?;
        let first = tokio::select! {
            _ = terminate.recv() => Ok("SIGTERM"),
            _ = interrupt.recv() => Ok("SIGINT"),
            Some(ended) = self.tasks.join_next_with_id() => Err(self.explain(ended, false)),
        };
        self.trigger.request();
        match first {
            Ok(name) => tracing::info!(signal = name, "stopping"),
            Err(cause) => {
                // The others get their chance to release what they hold, but what is told is the first cause.
                let _ = tokio::time::timeout(drain, self.finish()).await;
                return Err(cause.map_or_else(|| anyhow::anyhow!("a task ended by itself"), anyhow::Error::from));
            }
        }
        tokio::select! {
            finished = tokio::time::timeout(drain, self.finish()) => match finished {
                Ok(result) => Ok(result?),
                Err(_) => Err(SupervisionError::Late { names: self.names.into_values().collect() }.into()),
            },
            _ = terminate.recv() => Err(SupervisionError::Aborted.into()),
            _ = interrupt.recv() => Err(SupervisionError::Aborted.into()),
        }
    }

    async fn finish(&mut self) -> Result<(), SupervisionError> {
        let mut first = None;
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let problem = self.explain(ended, true);
            first = first.or(problem);
        }
        first.map_or(Ok(()), Err)
    }

    fn explain(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>, asked: bool) -> Option<SupervisionError> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        match ended {
            Ok((_, Ok(()))) if asked => None,
            Ok((_, Ok(()))) => Some(SupervisionError::Ended { name }),
            Ok((_, Err(source))) => Some(SupervisionError::Failed { name, source }),
            Err(source) => Some(SupervisionError::Panicked { name, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_the_process_and_the_others_are_asked_to_stop() {
        let mut supervisor = Supervisor::new();
        let shutdown = supervisor.shutdown();
        let (sender, stopped) = tokio::sync::oneshot::channel();
        supervisor.spawn("patient", async move {
            shutdown.requested().await;
            let _ = sender.send(());
            Ok(())
        });
        supervisor.spawn("hasty", async { Ok(()) });
        let error = supervisor.run(Duration::from_secs(5)).await.expect_err("must end with an error");
        assert!(error.to_string().contains("hasty"), "{error}");
        stopped.await.expect("the other was asked to stop");
    }

    #[tokio::test]
    async fn failures_and_panics_name_the_task() {
        for (task, word) in [(true, "broken failed"), (false, "broken panicked")] {
            let mut supervisor = Supervisor::new();
            supervisor.spawn("broken", async move {
                assert!(task, "on purpose");
                anyhow::bail!("on purpose")
            });
            let error = supervisor.run(Duration::from_secs(5)).await.expect_err("must end with an error");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
