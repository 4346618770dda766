//! Reads that both controllers need.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

use crate::kubernetes::{CallError, call};

/// A failed read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server did not answer, or refused.
    #[error(transparent)]
    Call(CallError),
    /// An object without what the API server puts on every object.
    #[error("failed to read metadata.{field}")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
}

/// What a pod's events say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// In one word.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// The events of a pod, oldest first.
///
/// # Errors
/// What the API server says.
pub async fn events(client: &Client, namespace: &str, pod: &Pod) -> Result<Vec<PodEvent>, ObserveError> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let of_pod = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let mut items = call("list the pod's events", events.list(&of_pod)).await.map_err(ObserveError::Call)?.items;
    items.sort_by_key(|event| event.last_timestamp.as_ref().or(event.first_timestamp.as_ref()).map(|time| time.0));
    Ok(items
        .into_iter()
        .map(|event| PodEvent { reason: event.reason.unwrap_or_default(), message: event.message.unwrap_or_default() })
        .collect())
}
