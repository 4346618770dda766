//! What the door does in the cluster: read one `DebugSession`, create one. Nothing else, as its rights.

use async_trait::async_trait;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::api::DebugSession;
use crate::kubernetes::{CallError, call, call_or_absent};

/// Field manager of what the door creates.
const MANAGER: &str = "sandglass-provision";

/// The API server, as far as the door needs it.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// An object; `None` where there is none.
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<DebugSession>, CallError>;
    /// Creates an object, whose metadata name it.
    async fn create(&self, session: &DebugSession) -> Result<DebugSession, CallError>;
}

/// A real one.
pub struct Cluster(pub Client);

#[async_trait]
impl Sessions for Cluster {
    async fn get(&self, namespace: &str, name: &str) -> Result<Option<DebugSession>, CallError> {
        call_or_absent("read a DebugSession", Api::<DebugSession>::namespaced(self.0.clone(), namespace).get(name)).await
    }

    async fn create(&self, session: &DebugSession) -> Result<DebugSession, CallError> {
        let namespace = session.metadata.namespace.as_deref().unwrap_or_default();
        let api = Api::<DebugSession>::namespaced(self.0.clone(), namespace);
        let parameters = PostParams { dry_run: false, field_manager: Some(MANAGER.into()) };
        call("create a DebugSession", api.create(&parameters, session)).await
    }
}
