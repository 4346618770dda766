//! `status.power`, as gateways write it: begun on the version of the object that was read, so that one of several replicas wins.

use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::api::breakglass_vm::PowerStatus;
use crate::api::{BreakglassVM, names};
use crate::domain::names::ObjectName;
use crate::gateway::power_once::Ledger;
use crate::kubernetes::{call, call_or_absent};

const ATTEMPTS: u32 = 8;

/// In the API server.
pub struct Status(pub Client);

impl Status {
    fn api(&self, namespace: &str) -> Api<BreakglassVM> {
        Api::namespaced(self.0.clone(), namespace)
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(names::GATEWAY_MANAGER.into()), ..PatchParams::default() }
}

/// A merge keeps what is not named: fields that are gone are named as null.
fn patch(version: Option<&str>, uid: &str, power: Option<&PowerStatus>) -> Value {
    let power = power.map(|power| {
        json!({
            "verb": power.verb, "state": power.state, "before": power.before, "after": power.after, "startedAt": power.started_at,
            "finishedAt": power.finished_at, "evidence": power.evidence, "message": power.message,
        })
    });
    let mut metadata = json!({ "uid": uid });
    if let Some(version) = version {
        metadata["resourceVersion"] = json!(version);
    }
    json!({ "metadata": metadata, "status": { "power": power } })
}

impl Ledger for Status {
    async fn begin(&self, session: &BreakglassVM, status: &PowerStatus) -> Result<bool, String> {
        let metadata = &session.metadata;
        let (name, namespace) = (metadata.name.as_deref().unwrap_or_default(), metadata.namespace.as_deref().unwrap_or_default());
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let api = self.api(namespace);
        // Other writers of status come between: what counts is that nobody has begun.
        for _ in 0..ATTEMPTS {
            let live = call_or_absent("read the recovery", api.get(name)).await.map_err(|failure| failure.to_string())?;
            let Some(live) = live.filter(|live| live.metadata.uid.as_deref() == Some(uid)) else { return Ok(false) };
            let state = live.status.as_ref();
            if live.spec.end || state.is_some_and(|state| state.power.is_some() || state.session.ended_at.is_some()) {
                return Ok(false);
            }
            let patch = patch(live.metadata.resource_version.as_deref(), uid, Some(status));
            match call("begin the power verb", api.patch_status(name, &parameters(), &Patch::Merge(&patch))).await {
                Ok(_) => return Ok(true),
                Err(failure) if failure.code() == 409 => {}
                Err(failure) => return Err(format!("{failure}: {}", failure.message())),
            }
        }
        Err("the recovery's status changes faster than it can be written".into())
    }

    async fn end(&self, name: &ObjectName, uid: &str, status: Option<&PowerStatus>) -> Result<(), String> {
        let patch = patch(None, uid, status);
        let api = self.api(&name.namespace);
        match call("report the power verb", api.patch_status(&name.name, &parameters(), &Patch::Merge(&patch))).await {
            Ok(_) => Ok(()),
            // The object is gone, or another one of that name is there: nobody is left to tell.
            Err(failure) if failure.code() == 404 || failure.code() == 409 => Ok(()),
            Err(failure) => Err(format!("{failure}: {}", failure.message())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_only_where_it_counts() {
        // The API server refuses a version that is null.
        assert_eq!(patch(None, "u", None), json!({ "metadata": { "uid": "u" }, "status": { "power": null } }));
        assert_eq!(patch(Some("7"), "u", None)["metadata"], json!({ "uid": "u", "resourceVersion": "7" }));
    }
}
