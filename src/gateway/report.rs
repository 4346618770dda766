//! What a gateway has to say about sessions. Whoever writes it into the objects' status listens at the other end.

use crate::api::session::{ConnectionRecord, LinkState};
use crate::domain::names::ObjectName;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Kind of the object.
    pub kind: &'static str,
    /// Its name.
    pub session: ObjectName,
    /// What happened to it.
    pub event: Event,
}

/// See [`Report`].
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A pod's agent is ready, or refuses to serve.
    Link {
        /// The pod.
        pod_uid: String,
        /// Its state.
        state: LinkState,
        /// What is wrong, or waited for: a reason of the `Open` condition.
        reason: Option<String>,
        /// The same in words.
        message: Option<String>,
    },
    /// Somebody logged in.
    Connected(ConnectionRecord),
    /// They left, or were cut.
    Disconnected {
        /// Identifier of the connection.
        id: String,
        /// When.
        at: DateTime<Utc>,
    },
}

/// Where reports go: a bounded queue; what does not fit is dropped with a log line, since status is only a report.
#[derive(Clone)]
pub struct Reports(mpsc::Sender<Report>);

impl Reports {
    /// A queue and its other end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    /// Puts a report into the queue.
    pub fn send(&self, report: Report) {
        if let Err(failure) = self.0.try_send(report) {
            tracing::warn!(%failure, "a status report is dropped");
        }
    }
}
