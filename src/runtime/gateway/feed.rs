//! From the API server's watch to the gateway's directory of sessions.

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::watcher;
use kube::{Api, Client};
use std::sync::Arc;
use tracing::warn;

use super::watched;
use crate::api::session::{AnySession, Session};
use crate::gateway::directory::Directory;
use crate::runtime::Gate;

/// Follows all objects of a kind for ever; opens `listed` after the first list.
pub async fn sessions<S: Session + Into<AnySession>>(client: Client, directory: Arc<Directory>, listed: Gate) {
    let api: Api<DeserializeGuard<S>> = Api::all(client);
    let mut stream = std::pin::pin!(watched(api, watcher::Config::default()));
    let mut list = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => {}
            Ok(watcher::Event::InitApply(object)) => list.extend(readable(object)),
            Ok(watcher::Event::InitDone) => {
                directory.replace(S::KIND, std::mem::take(&mut list));
                listed.open();
            }
            Ok(watcher::Event::Apply(object)) => {
                let metadata = metadata(&object).clone();
                match readable(object) {
                    Some(object) => directory.put(object),
                    // What cannot be read any more must not go on by its old state.
                    None => directory.remove(S::KIND, &metadata),
                }
            }
            Ok(watcher::Event::Delete(object)) => directory.remove(S::KIND, metadata(&object)),
            Err(failure) => {
                list.clear();
                directory.watch_failed();
                warn!(%failure, "the watch of sessions broke; begun anew");
            }
        }
    }
}

fn metadata<S: Session>(object: &DeserializeGuard<S>) -> &ObjectMeta {
    match &object.0 {
        Ok(object) => object.meta(),
        Err(invalid) => &invalid.metadata,
    }
}

/// One malformed object never stops the stream.
fn readable<S: Session + Into<AnySession>>(object: DeserializeGuard<S>) -> Option<AnySession> {
    match object.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            Some(object.into())
        }
        Err(failure) => {
            warn!(%failure, "a session cannot be read and is skipped");
            None
        }
    }
}
