//! The objects of both kinds as this replica sees them: fed from watches, read by logins and live connections. No client in it.

use crate::api::session::{AnySession, Session};
use crate::api::{BreakglassVM, DebugSession};
use crate::domain::names::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long after a watch failed an object may be missing here that others see already.
pub const BEHIND: Duration = Duration::from_secs(5);

type Key = (&'static str, ObjectName);

/// All objects by kind and name, and by the UID of their pod.
pub struct Directory {
    sessions: RwLock<HashMap<Key, Arc<AnySession>>>,
    changed: watch::Sender<()>,
    /// When a watch failed last.
    failed: Mutex<Option<Instant>>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { sessions: RwLock::default(), changed: watch::Sender::new(()), failed: Mutex::default() }
    }
}

fn name_of(metadata: &ObjectMeta) -> Option<ObjectName> {
    Some(ObjectName { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? })
}

fn key_of(session: &AnySession) -> Option<Key> {
    Some((session.kind(), name_of(session.metadata())?))
}

impl Directory {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Key, Arc<AnySession>>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The objects of that name, at most one of each kind. A recovery comes first: who may create one has more rights than who
    /// may create a session, so that nobody lands in a session that took the name of a machine.
    #[must_use]
    pub fn named(&self, name: &ObjectName) -> Vec<Arc<AnySession>> {
        let sessions = self.read();
        let of_kind = |kind| sessions.get(&(kind, name.clone())).cloned();
        [BreakglassVM::KIND, DebugSession::KIND].into_iter().filter_map(of_kind).collect()
    }

    /// The object of that UID.
    #[must_use]
    pub fn of_uid(&self, name: &ObjectName, uid: &str) -> Option<Arc<AnySession>> {
        self.named(name).into_iter().find(|session| session.metadata().uid.as_deref() == Some(uid))
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<AnySession>> {
        self.read().values().cloned().collect()
    }

    /// The object whose status names this pod.
    #[must_use]
    pub fn of_pod(&self, pod_uid: &str) -> Option<Arc<AnySession>> {
        self.read().values().find(|session| pod_uid_of(session) == Some(pod_uid)).cloned()
    }

    /// Takes in a new state of one object.
    pub fn put(&self, session: AnySession) {
        if let Some(key) = key_of(&session) {
            self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(session));
            self.changed.send_replace(());
        }
    }

    /// Forgets the object of that kind and name.
    pub fn remove(&self, kind: &'static str, metadata: &ObjectMeta) {
        if let Some(name) = name_of(metadata) {
            self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&(kind, name));
            self.changed.send_replace(());
        }
    }

    /// Takes in a whole list of one kind: what is not in it is gone.
    pub fn replace(&self, kind: &'static str, objects: Vec<AnySession>) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|(of, _), _| *of != kind);
        sessions.extend(objects.into_iter().filter_map(|object| Some((key_of(&object)?, Arc::new(object)))));
        drop(sessions);
        self.changed.send_replace(());
    }

    /// A watch failed: what is here may be old until it is begun anew.
    pub fn watch_failed(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Decides again with each change while it is refused and a watch failed moments ago: until [`BEHIND`] after that.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn catch_up<T, E>(&self, decide: impl Fn() -> Result<T, E>) -> Result<T, E> {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = self.subscribe();
        loop {
            let decision = decide();
            let Some(limit) = failed.map(|failed| failed + BEHIND).filter(|_| decision.is_err()) else { return decision };
            if timeout_at(limit, changes.changed()).await.is_err() {
                return decision;
            }
        }
    }

    /// Wakes at every change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// UID of the pod that the status names.
#[must_use]
pub fn pod_uid_of(session: &AnySession) -> Option<&str> {
    Some(session.state()?.pod.as_ref()?.uid.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> AnySession {
        let session: DebugSession = serde_json::from_value(serde_json::json!({
            "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession",
            "metadata": { "name": "x", "namespace": "ci", "uid": "u" },
            "spec": { "source": { "image": "i" }, "requester": "r", "access": { "authorizedKeys": [] } }
        }))
        .expect("an object");
        session.into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_waits_only_while_a_watch_may_be_behind() {
        let name = ObjectName { namespace: "ci".into(), name: "x".into() };
        let directory = Directory::default();
        let decide = || directory.named(&name).pop().ok_or("unknown");
        let began = Instant::now();
        assert_eq!(directory.catch_up(decide).await.err(), Some("unknown"));
        assert_eq!(began.elapsed(), Duration::ZERO, "nothing failed");

        directory.watch_failed();
        assert_eq!(directory.catch_up(decide).await.err(), Some("unknown"));
        assert_eq!(began.elapsed(), BEHIND, "the name is wrong");
        assert_eq!(directory.catch_up(decide).await.err(), Some("unknown"));
        assert_eq!(began.elapsed(), BEHIND, "the failure is long ago");

        directory.watch_failed();
        let news = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            directory.put(session());
        };
        let (decision, ()) = tokio::join!(directory.catch_up(decide), news);
        assert!(decision.is_ok());
        assert_eq!(began.elapsed(), BEHIND + Duration::from_secs(1), "the news came");
        directory.watch_failed();
        assert!(directory.catch_up(decide).await.is_ok());
        assert_eq!(began.elapsed(), BEHIND + Duration::from_secs(1), "who gets in does not wait");
    }
}
