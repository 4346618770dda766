//! Events on custom resources, through one recorder that folds repeats.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Reporter};

use super::call;

/// Publishes events. An event that cannot be published is logged and forgotten: nothing depends on it.
#[derive(Clone)]
pub struct Recorder(kube::runtime::events::Recorder);

impl Recorder {
    /// A recorder that folds repeats of what it published itself; `instance` tells replicas apart.
    #[must_use]
    pub fn new(client: Client, controller: &str, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: controller.into(), instance };
        Self(kube::runtime::events::Recorder::new(client, reporter))
    }

    /// Publishes one event about an object.
    pub async fn publish(&self, about: &ObjectReference, reason: &str, note: &str, warning: bool) {
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            // The API server refuses notes of more than 1024 bytes.
            note: note.get(..note.floor_char_boundary(1024)).map(str::to_owned),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = call("publish an event", self.0.publish(&event, about)).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "an event was not published");
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Recorder")
    }
}
