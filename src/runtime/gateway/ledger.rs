//! `status.power`, as gateways write it: begun on the version of the object that was read, so that one of several replicas wins.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::api::breakglass_vm::{PowerState, PowerStatus};
use crate::api::{BreakglassVM, names};
use crate::domain::names::ObjectName;
use crate::gateway::power_once::Ledger;
use crate::kubernetes::{call, call_or_absent};

const ATTEMPTS: u32 = 8;

/// In the API server.
pub struct Status(pub Client);

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(names::GATEWAY_MANAGER.into()), ..PatchParams::default() }
}

/// On this very version. A merge keeps what is not named: fields that are gone are named as null.
fn patch(metadata: &ObjectMeta, power: &PowerStatus) -> Value {
    let power = json!({
        "verb": power.verb, "state": power.state, "before": power.before, "after": power.after, "startedAt": power.started_at,
        "finishedAt": power.finished_at, "evidence": power.evidence, "message": power.message,
    });
    json!({ "metadata": { "resourceVersion": metadata.resource_version, "uid": metadata.uid }, "status": { "power": power } })
}

impl Status {
    /// Writes where the object, read live, passes; others that write status come between, and it is read again. False: it does not pass.
    async fn write(
        &self,
        name: &ObjectName,
        uid: &str,
        power: &PowerStatus,
        passes: impl Fn(&BreakglassVM) -> bool + Send + Sync,
    ) -> Result<bool, String> {
        let api: Api<BreakglassVM> = Api::namespaced(self.0.clone(), &name.namespace);
        for _ in 0..ATTEMPTS {
            let live = call_or_absent("read the recovery", api.get(&name.name)).await.map_err(|failure| failure.to_string())?;
            let live = live.filter(|live| live.metadata.uid.as_deref() == Some(uid) && passes(live));
            let Some(live) = live else { return Ok(false) };
            let patch = Patch::Merge(patch(&live.metadata, power));
            match call("write status.power", api.patch_status(&name.name, &parameters(), &patch)).await {
                Ok(_) => return Ok(true),
                Err(failure) if failure.code() == 409 => {}
                Err(failure) if failure.code() == 404 => return Ok(false),
                Err(failure) => return Err(format!("{failure}: {}", failure.message())),
            }
        }
        Err("the recovery's status changes faster than it can be written".into())
    }
}

impl Ledger for Status {
    async fn begin(&self, session: &BreakglassVM, power: &PowerStatus) -> Result<bool, String> {
        let metadata = &session.metadata;
        let name =
            ObjectName { namespace: metadata.namespace.clone().unwrap_or_default(), name: metadata.name.clone().unwrap_or_default() };
        let nobody_has = |live: &BreakglassVM| {
            let state = live.status.as_ref();
            !live.spec.end && state.is_none_or(|state| state.power.is_none() && state.session.ended_at.is_none())
        };
        self.write(&name, metadata.uid.as_deref().unwrap_or_default(), power, nobody_has).await
    }

    async fn end(&self, name: &ObjectName, uid: &str, power: &PowerStatus) -> Result<(), String> {
        let is_it = |live: &BreakglassVM| {
            let known = live.status.as_ref().and_then(|status| status.power.as_ref());
            known.is_some_and(|known| known.state == PowerState::Running && known.started_at == power.started_at)
        };
        // Where it is not that run any more, or the object is gone, nobody is left to tell.
        self.write(name, uid, power, is_it).await.map(drop)
    }
}
