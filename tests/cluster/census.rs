//! Counting the pods that sessions ever had.

use super::harness::{DEBUG, Lab};
use super::reading::uid;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher;
use sandglass::api::DebugSession;
use sandglass::api::names::OWNER_UID;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Every session pod there ever was since the census began: owner's UID -> UIDs of pods.
pub struct Census {
    seen: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Census {
    /// Begins to count; returns once everything that is there is counted.
    pub async fn begin(lab: &Lab) -> Self {
        let seen = Arc::<Mutex<BTreeMap<String, BTreeSet<String>>>>::default();
        let (ready, is_ready) = tokio::sync::watch::channel(false);
        let counted = Arc::clone(&seen);
        let pods = lab.api_in::<Pod>(DEBUG);
        let task = tokio::spawn(async move {
            let events = watcher(pods, watcher::Config::default()).try_for_each(|event| {
                if let watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) | watcher::Event::Delete(pod) = &event
                    && let (Some(owner), Some(uid)) = (pod.labels().get(OWNER_UID), pod.uid())
                {
                    counted.lock().expect("not poisoned").entry(owner.clone()).or_default().insert(uid);
                }
                if matches!(event, watcher::Event::InitDone) {
                    ready.send_replace(true);
                }
                std::future::ready(Ok(()))
            });
            events.await.expect("watched");
        });
        let mut is_ready = is_ready;
        tokio::time::timeout(Duration::from_secs(20), is_ready.wait_for(|ready| *ready)).await.expect("in time").expect("watched");
        Self { seen, task }
    }

    /// The number of pods of a session so far.
    pub fn pods_of(&self, session: &DebugSession) -> usize {
        assert!(!self.task.is_finished(), "the watch of the pods broke");
        self.seen.lock().expect("not poisoned").get(&uid(session)).map_or(0, BTreeSet::len)
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.task.abort();
    }
}
