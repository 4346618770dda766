//! What the steps of both controllers are given: the client, the cache, the settings, and the one memory that a pass may have
//! (backoff of failing objects).

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Api, Client};
use std::net::SocketAddr;

use super::backoff::Backoff;
use super::metrics::Metrics;
use crate::api::session::Session;
use crate::domain::configuration::Configuration;
use crate::kubernetes::Recorder;
use crate::kubernetes::time::Clock;

/// An object as the watch delivers it: one that cannot be read does not stop the others.
pub type Guarded<S> = DeserializeGuard<S>;

/// What does not change while the process runs. Pure steps take this and nothing else of [`Base`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration file.
    pub configuration: Configuration,
    /// Addresses of the gateway's link port as pods see them.
    pub links: Vec<SocketAddr>,
    /// Certificate of the link CA, PEM.
    pub link_certificate_authority: String,
    /// The gateway's host keys, OpenSSH public key format, one each.
    pub host_keys: Vec<String>,
    /// Addresses that a pod must not reach: the API server's, and the configured ones.
    pub must_be_closed: Vec<SocketAddr>,
}

/// Everything a pass needs.
pub struct Base<S: Session> {
    /// The API server.
    pub client: Client,
    /// The watch's cache of all objects.
    pub sessions: Store<Guarded<S>>,
    /// Namespace of their pods.
    pub pods_namespace: String,
    /// What does not change.
    pub settings: Settings,
    /// The time.
    pub clock: Clock,
    /// Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Metrics,
    /// How often each object failed.
    pub backoff: Backoff,
}

impl<S: Session> Base<S> {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        client: Client,
        sessions: Store<Guarded<S>>,
        pods_namespace: String,
        settings: Settings,
        clock: Clock,
        recorder: Recorder,
        metrics: Metrics,
    ) -> Self {
        Self { client, sessions, pods_namespace, settings, clock, recorder, metrics, backoff: Backoff::default() }
    }

    /// What lies in the namespace of the pods.
    #[must_use]
    pub fn beside_pods<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.pods_namespace)
    }

    /// The objects of a namespace.
    #[must_use]
    pub fn sessions_of(&self, namespace: &str) -> Api<S> {
        Api::namespaced(self.client.clone(), namespace)
    }
}
