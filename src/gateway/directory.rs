//! The objects of both kinds as this replica sees them: fed from watches, read by logins and live connections. No client in it.

use crate::api::session::{AnySession, Session};
use crate::api::{BreakglassVM, DebugSession};
use crate::domain::names::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

type Key = (&'static str, ObjectName);

/// All objects by kind and name, and by the UID of their pod.
pub struct Directory {
    sessions: RwLock<HashMap<Key, Arc<AnySession>>>,
    changed: watch::Sender<()>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { sessions: RwLock::default(), changed: watch::Sender::new(()) }
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
