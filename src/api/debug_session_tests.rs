//! Every rule of the schema, refused and passed. The evaluator is kube's; the real API server gets the same cases on the test
//! cluster.

use serde_json::{Value, json};

use super::{DebugSession, DebugSessionSpec};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake octocat";

fn object(changes: &Value) -> DebugSession {
    let mut object = json!({
        "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession", "metadata": { "name": "s", "namespace": "ci" },
        "spec": { "source": { "image": "registry.example.com/x:1" }, "requester": "octocat", "access": { "authorizedKeys": [KEY] } },
    });
    merge(&mut object, changes);
    serde_json::from_value(object).expect("a session")
}

fn merge(object: &mut Value, changes: &Value) {
    match (object, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(object.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (object, changes) => *object = changes.clone(),
    }
}

fn refusal(changes: &Value) -> String {
    object(changes).validate_cel().expect_err("must be refused").to_string()
}

#[test]
fn what_is_right_passes() {
    for changes in [
        json!({}),
        json!({ "spec": { "ttl": "1h15m", "retention": "Delete", "deleteAfter": "5m", "access": { "idleTimeout": "15m" } } }),
        json!({ "spec": { "access": { "authorizedKeys": [], "principals": ["octocat"] } } }),
        json!({ "spec": { "source": { "image": null, "job": { "name": "nightly" } } } }),
    ] {
        object(&changes).validate_cel().unwrap_or_else(|errors| panic!("{changes}: {errors}"));
    }
}

#[test]
fn each_rule_refuses_in_its_own_words() {
    for (changes, words) in [
        (json!({ "metadata": { "name": "n".repeat(64) } }), "at most 63"),
        (json!({ "spec": { "source": { "image": null } } }), "exactly one of image, pod and job"),
        (json!({ "spec": { "source": { "pod": { "name": "p" } } } }), "exactly one of image, pod and job"),
        (
            json!({ "spec": { "source": { "image": null, "pod": { "name": "p" }, "job": { "name": "j" } } } }),
            "exactly one of image, pod and job",
        ),
        (json!({ "spec": { "access": { "authorizedKeys": [] } } }), "at least one of authorizedKeys and principals"),
        (json!({ "spec": { "ttl": "59s" } }), "spec.ttl must be between"),
        (json!({ "spec": { "ttl": "25h" } }), "spec.ttl must be between"),
        (json!({ "spec": { "access": { "idleTimeout": "119s" } } }), "idleTimeout must be between"),
        (json!({ "spec": { "access": { "idleTimeout": "25h" } } }), "idleTimeout must be between"),
        (json!({ "spec": { "retention": "Delete", "deleteAfter": "59s" } }), "deleteAfter must be between"),
        (json!({ "spec": { "retention": "Delete", "deleteAfter": "721h" } }), "deleteAfter must be between"),
        (json!({ "spec": { "deleteAfter": "5m" } }), "needs spec.retention: Delete"),
    ] {
        let message = refusal(&changes);
        assert!(message.contains(words), "{changes}: {message}");
    }
}

#[test]
fn every_field_but_end_is_immutable_also_from_and_to_unset() {
    let full = json!({ "spec": {
        "env": [{ "name": "A", "value": "1" }], "workingDir": "/a", "ttl": "10m", "notAfter": "2027-01-01T00:00:00Z", "project": "a",
        "reason": "a", "build": { "commit": "a" }, "network": "Egress", "isolation": "Restricted", "resources": { "limits": { "cpu": "1" } },
        "tools": { "image": "registry.example.com/t:1" }, "retention": "Delete", "deleteAfter": "5m", "requester": "octocat",
        "source": { "image": "registry.example.com/x:1" }, "access": { "authorizedKeys": [KEY] },
    } });
    let others = json!({
        "env": [{ "name": "A", "value": "2" }], "workingDir": "/b", "ttl": "11m", "notAfter": "2027-01-02T00:00:00Z", "project": "b",
        "reason": "b", "build": { "commit": "b" }, "network": "Isolated", "isolation": "UserNamespace", "resources": { "limits": { "cpu": "2" } },
        "tools": { "image": "registry.example.com/t:2" }, "retention": "Retain", "deleteAfter": "6m", "requester": "mona",
        "source": { "image": "registry.example.com/x:2" }, "access": { "authorizedKeys": [KEY], "principals": ["mona"] },
    });
    let old = object(&full);
    old.validate_cel_update(&old).expect("nothing changed");
    let fields = serde_json::to_value(&old.spec).expect("JSON");
    for field in fields.as_object().expect("an object").keys().filter(|field| *field != "end") {
        let mut changed = full.clone();
        changed["spec"][field] = others[field].clone();
        assert!(!others[field].is_null(), "a new field needs a case here: {field}");
        let message = object(&changed).validate_cel_update(&old).expect_err("must be refused").to_string();
        assert!(message.contains(&format!("spec.{field} is immutable")), "{field}: {message}");
    }
    for field in ["workingDir", "notAfter", "project", "reason", "build", "isolation", "resources", "tools"] {
        let mut without = full.clone();
        without["spec"].as_object_mut().expect("an object").remove(field);
        let without = object(&without);
        let words = format!("spec.{field} is immutable");
        assert!(without.validate_cel_update(&old).is_err_and(|errors| errors.to_string().contains(&words)), "{field} unset");
        assert!(old.validate_cel_update(&without).is_err_and(|errors| errors.to_string().contains(&words)), "{field} set");
    }
}

#[test]
fn an_end_cannot_be_taken_back() {
    let (open, ended) = (object(&json!({})), object(&json!({ "spec": { "end": true } })));
    ended.validate_cel_update(&open).expect("it may be ended");
    ended.validate_cel_update(&ended).expect("nothing changed");
    let message = open.validate_cel_update(&ended).expect_err("must be refused").to_string();
    assert!(message.contains("only go from false to true"), "{message}");
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let spec: DebugSessionSpec = object(&json!({})).spec;
    assert_eq!((spec.ttl.as_str(), spec.end), ("30m", false));
    assert_eq!(spec.access.allow, [super::debug_session::Capability::Sftp]);
}
