//! The sessions as this replica sees them: fed from a watch, read by logins and live connections. No client in it.

use crate::api::DebugSession;
use crate::domain::names::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// All sessions by name, and by the UID of their pod.
pub struct Directory {
    sessions: RwLock<HashMap<ObjectName, Arc<DebugSession>>>,
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

impl Directory {
    /// The session of that name.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<Arc<DebugSession>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<DebugSession>> {
        self.sessions.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The session whose status names this pod.
    #[must_use]
    pub fn of_pod(&self, pod_uid: &str) -> Option<Arc<DebugSession>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.values().find(|session| pod_uid_of(session) == Some(pod_uid)).cloned()
    }

    /// Takes in a new state of one session.
    pub fn put(&self, object: DebugSession) {
        if let Some(name) = name_of(&object.metadata) {
            self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(object));
            self.changed.send_replace(());
        }
    }

    /// Forgets the session of that name.
    pub fn remove(&self, metadata: &ObjectMeta) {
        if let Some(name) = name_of(metadata) {
            self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
            self.changed.send_replace(());
        }
    }

    /// Takes in a whole list: what is not in it is gone.
    pub fn replace(&self, objects: Vec<DebugSession>) {
        let sessions = objects.into_iter().filter_map(|object| Some((name_of(&object.metadata)?, Arc::new(object)))).collect();
        *self.sessions.write().unwrap_or_else(PoisonError::into_inner) = sessions;
        self.changed.send_replace(());
    }

    /// Wakes at every change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// UID of the pod that the status names.
#[must_use]
pub fn pod_uid_of(session: &DebugSession) -> Option<&str> {
    Some(session.status.as_ref()?.pod.as_ref()?.uid.as_str())
}
