//! Which agents may link: the API server vouches for the token, the session's own status for the pod.

use super::Gateway;
use super::report::{Event, Report};
use crate::api::AnySession;
use crate::api::session::LinkState;
use crate::domain::access::deadline;
use crate::domain::names::ObjectName;
use crate::link::message::ToGateway;
use crate::link::server::{Admitted, Authority, Refusal};
use std::sync::Arc;
use std::time::Duration;

/// Reviews tokens. The one piece that asks the API server, so that tests can stand in for it.
pub trait TokenReviewer: Send + Sync + 'static {
    /// UID of the pod a token was issued to.
    fn review(&self, token: &str) -> impl Future<Output = Result<String, Refusal>> + Send;
}

/// How long news of a session may be behind its pod.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// Admits the pods that sessions name in their status.
pub struct Admission<R> {
    gateway: Arc<Gateway>,
    reviewer: R,
}

impl<R> Admission<R> {
    /// Admission to `gateway`, by `reviewer`.
    #[must_use]
    pub const fn new(gateway: Arc<Gateway>, reviewer: R) -> Self {
        Self { gateway, reviewer }
    }
}

impl<R: TokenReviewer> Admission<R> {
    /// The session that names this pod. A new pod's agent may be faster than the news of its name in status: it is waited for.
    async fn session_of(&self, pod_uid: &str) -> Option<Arc<AnySession>> {
        let directory = &self.gateway.directory;
        let mut changes = directory.subscribe();
        let known = async {
            loop {
                if let Some(session) = directory.of_pod(pod_uid) {
                    return session;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(NEWS_PATIENCE, known).await.ok()
    }
}

fn denied(reason: &str) -> Refusal {
    Refusal::Denied(reason.to_owned())
}

impl<R: TokenReviewer> Authority for Admission<R> {
    async fn admit(&self, token: &str) -> Result<Admitted, Refusal> {
        let pod_uid = self.reviewer.review(token).await?;
        // The API server answers from a cache: a deleted pod's token passes for a while. The session decides.
        let session = self.session_of(&pod_uid).await.ok_or_else(|| denied("no session has this pod"))?;
        let end = deadline(&session, self.gateway.configuration.ttl_cap()).ok_or_else(|| denied("the session has no deadline"))?;
        let ended = session.state().is_some_and(|state| state.ended_at.is_some());
        if (self.gateway.now)() >= end || session.terms().end || ended {
            return Err(denied("the session is over"));
        }
        if session.metadata().deletion_timestamp.is_some() {
            return Err(denied("the session is being deleted"));
        }
        let metadata = session.metadata();
        Ok(Admitted {
            pod_uid,
            kind: session.kind(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        })
    }

    async fn report(&self, pod: &Admitted, message: &ToGateway) {
        let (state, reason, message) = match message {
            ToGateway::Ready => (LinkState::Ready, None, None),
            ToGateway::NotIsolated { address } => {
                let text = format!(
                    "the pod could reach {address}, which must be closed: the network plugin does not enforce the namespace's NetworkPolicy"
                );
                (LinkState::NotIsolated, None, Some(text))
            }
            ToGateway::Held { last, reason, message } => {
                let state = if *last { LinkState::Refused } else { LinkState::Waiting };
                (state, Some(reason.clone()), Some(message.clone()))
            }
            ToGateway::Refused { .. } => return,
        };
        let session = ObjectName { namespace: pod.namespace.clone(), name: pod.name.clone() };
        let event = Event::Link { pod_uid: pod.pod_uid.clone(), state, reason, message };
        self.gateway.reports.send(Report { kind: pod.kind, session, event });
    }
}
