//! Everything that is built, whole; and the fields that keep it from harm, by name.

use chrono::TimeDelta;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

use super::world::{recovery, settings, start};
use crate::api::BreakglassVM;
use crate::breakglass_vm::build::{self, Recovery};
use crate::breakglass_vm::validate;
use crate::lifecycle::Identity;

fn built() -> Recovery {
    let mut object = recovery("devvm");
    object["metadata"]["uid"] = json!("0f1e2d3c-1111-4222-8333-444455556666");
    object["metadata"]["creationTimestamp"] = json!("2027-01-15T08:00:00Z");
    let object: BreakglassVM = serde_json::from_value(object).expect("a recovery");
    let settings = settings();
    let identity = Identity::of(&object, Duration::from_hours(1)).expect("complete");
    let plan = validate::plan(&object, &settings).expect("valid");
    build::recovery(&object, &identity, &plan, &settings, start() + TimeDelta::seconds(10))
}

#[test]
fn a_recovery_is_built_as_it_was_reviewed() {
    let Recovery { account, policy, pod } = built();
    let documents = [serde_json::to_value(account), serde_json::to_value(policy), serde_json::to_value(pod)];
    let documents = documents.map(|document| serde_saphyr::to_string(&document.expect("JSON")).expect("YAML"));
    let text = documents.join("---\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recovery.yaml");
    if std::env::var_os("SANDGLASS_REGENERATE").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "if the change is wanted, run with SANDGLASS_REGENERATE=1 and read the difference");
}

#[test]
fn the_pod_is_nobody_and_reaches_only_what_the_object_names() {
    let Recovery { account, policy, pod } = built();
    let spec = serde_json::to_value(pod.spec.expect("a spec")).expect("JSON");
    let container = &spec["containers"][0];
    assert_eq!(spec["containers"].as_array().map(Vec::len), Some(1));
    assert!(spec["initContainers"].is_null() && spec["hostNetwork"].is_null() && spec["hostPID"].is_null());
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["restartPolicy"], "Never");
    assert_eq!(spec["activeDeadlineSeconds"], 30 * 60 - 10 + 60);
    assert_eq!(spec["serviceAccountName"], "infra.devvm");
    assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
    assert_eq!(spec["dnsPolicy"], "None");
    assert_eq!(spec["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(spec["priorityClassName"], "sandglass-breakglass");
    assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    for volume in spec["volumes"].as_array().expect("volumes") {
        assert!(volume["emptyDir"].is_object() || volume["projected"].is_object(), "{volume}");
    }
    assert!(!container["env"].to_string().contains('$'), "the kubelet must find nothing to expand");
    let holes = serde_json::to_value(policy.spec.expect("a spec")).expect("JSON");
    let addresses: Vec<&Value> = holes["egress"].as_array().expect("holes").iter().map(|hole| &hole["to"][0]["ipBlock"]["cidr"]).collect();
    assert_eq!(addresses, ["10.0.20.50/32", "10.0.20.102/32", "10.0.20.2/32"]);
    assert_eq!(account.automount_service_account_token, Some(false));
    assert!(!account.metadata.labels.expect("labels").contains_key("sandglass.dev/owner-uid"), "it is shared");
}
