//! What the steps are given: the client, the cache, the settings, and the two small memories that a pass may have
//! (backoff of failing objects, and claims that are held only while a pod is being created).

use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use kube::{Api, Client};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::Metrics;
use crate::api::DebugSession;
use crate::domain::configuration::Configuration;
use crate::kubernetes::Recorder;
use crate::kubernetes::time::Clock;

/// A session as the watch delivers it: one that cannot be read does not stop the others.
pub type Guarded = DeserializeGuard<DebugSession>;

/// What does not change while the process runs. Pure steps take this and nothing else of [`Context`].
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
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The watch's cache of all sessions.
    pub sessions: Store<Guarded>,
    /// What does not change.
    pub settings: Settings,
    /// The time.
    pub clock: Clock,
    /// Events.
    pub recorder: Recorder,
    /// Metrics.
    pub metrics: Metrics,
    pub(super) claims: Claims,
    pub(super) backoff: Backoff,
}

impl Context {
    /// Puts the parts together.
    #[must_use]
    pub fn new(client: Client, sessions: Store<Guarded>, settings: Settings, clock: Clock, recorder: Recorder, metrics: Metrics) -> Self {
        Self { client, sessions, settings, clock, recorder, metrics, claims: Claims::default(), backoff: Backoff::default() }
    }

    pub(super) fn in_debug_namespace<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.settings.configuration.debug_namespace)
    }

    pub(super) fn sessions_of(&self, namespace: &str) -> Api<DebugSession> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// A panic in another task must not spread through a lock.
fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Projects for which a pod is being created right now. Passes run side by side; without this, two sessions of one project
/// could each find the project free and both create their pod.
#[derive(Default)]
pub(super) struct Claims(Mutex<HashSet<String>>);

/// Held while a pod is being created; given back when dropped.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    project: String,
}

impl Claims {
    pub(super) fn take(&self, project: &str) -> Option<Claim<'_>> {
        open(&self.0).insert(project.to_owned()).then(|| Claim { claims: self, project: project.to_owned() })
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        open(&self.claims.0).remove(&self.project);
    }
}

/// How often each object failed in a row.
#[derive(Default)]
pub(super) struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    jitter: RandomState,
}

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_mins(1);

impl Backoff {
    /// Another failure: how long to wait. Doubles each time, up to a minute; between half and all of it, at random.
    pub(super) fn failed(&self, uid: &str) -> Duration {
        let count = {
            let mut failures = open(&self.failures);
            let count = failures.entry(uid.to_owned()).or_default();
            *count = count.saturating_add(1);
            *count
        };
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(count.min(16) - 1)).min(LONGEST_DELAY);
        let random = u32::try_from(self.jitter.hash_one((uid, count)) % 1000).unwrap_or_default();
        delay / 2 + delay * random / 2000
    }

    /// It worked, or the object is gone.
    pub(super) fn forget(&self, uid: &str) {
        open(&self.failures).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_a_limit_and_is_forgotten() {
        let backoff = Backoff::default();
        let mut last = Duration::ZERO;
        for step in 0..40_u32 {
            last = backoff.failed("a");
            let full = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(step)).min(LONGEST_DELAY);
            assert!(last >= full / 2 && last <= full, "{step}: {last:?}");
        }
        assert!(last >= LONGEST_DELAY / 2);
        backoff.forget("a");
        assert!(backoff.failed("a") <= FIRST_DELAY);
    }

    #[test]
    fn a_claim_is_given_back() {
        let claims = Claims::default();
        let held = claims.take("ci/").expect("free");
        assert!(claims.take("ci/").is_none());
        assert!(claims.take("ci/x").is_some());
        drop(held);
        assert!(claims.take("ci/").is_some());
    }
}
