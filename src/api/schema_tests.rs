//! Every rule of the schemas, refused and passed. The evaluator here is kube's; `e2e/schema/run` gives the same cases to the
//! real API server.

use serde_json::{Value, json};

use super::session::{AnySession, Capability};
use super::{BreakglassVM, DebugSession};

fn merge(object: &mut Value, changes: &Value) {
    match (object, changes) {
        (Value::Object(object), Value::Object(changes)) => {
            for (key, value) in changes {
                if value.is_null() {
                    object.remove(key);
                } else {
                    merge(object.entry(key.clone()).or_insert(json!({})), value);
                }
            }
        }
        (object, changes) => *object = changes.clone(),
    }
}

/// The same tests for each kind: its cases, and everything that makes an object of them.
macro_rules! kinds {
    ($($module:ident, $kind:ident, $cases:literal;)*) => { $(
        mod $module {
            use super::*;

            fn cases() -> Value {
                serde_json::from_str(include_str!($cases)).expect("JSON")
            }

            /// The base with these changes; `null` takes a field away.
            fn object(changes: &Value) -> $kind {
                let mut object = cases()["base"].take();
                merge(&mut object, changes);
                serde_json::from_value(object).expect("an object")
            }

            #[test]
            fn what_is_right_passes() {
                for changes in cases()["passes"].as_array().expect("a list") {
                    object(changes).validate_cel().unwrap_or_else(|errors| panic!("{changes}: {errors}"));
                }
            }

            #[test]
            fn each_rule_refuses_in_its_own_words() {
                for case in cases()["refused"].as_array().expect("a list") {
                    let message = object(&case["changes"]).validate_cel().expect_err("must be refused").to_string();
                    assert!(message.contains(case["words"].as_str().expect("words")), "{case}: {message}");
                }
            }

            #[test]
            fn every_field_but_end_is_immutable_also_from_and_to_unset() {
                let (full, others, optional) = (cases()["full"].take(), cases()["others"].take(), cases()["optional"].take());
                let old = object(&full);
                old.validate_cel_update(&old).expect("nothing changed");
                let fields = serde_json::to_value(&old.spec).expect("JSON");
                for field in fields.as_object().expect("an object").keys().filter(|field| *field != "end") {
                    assert!(!others[field].is_null(), "a new field needs a case: {field}");
                    let mut changed = full.clone();
                    changed["spec"][field] = others[field].clone();
                    let message = object(&changed).validate_cel_update(&old).expect_err("must be refused").to_string();
                    assert!(message.contains(&format!("spec.{field} is immutable")), "{field}: {message}");
                }
                for field in optional.as_array().expect("a list").iter().filter_map(Value::as_str) {
                    let mut without = full.clone();
                    without["spec"][field] = Value::Null;
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
        }
    )* };
}

kinds! {
    debug_session, DebugSession, "../../e2e/schema/cases.json";
    breakglass_vm, BreakglassVM, "../../e2e/schema/cases-breakglassvm.json";
}

#[test]
fn what_is_allowed_by_default_depends_on_the_kind() {
    let base = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["base"].take();
    let session: DebugSession = serde_json::from_value(base(include_str!("../../e2e/schema/cases.json"))).expect("a session");
    assert_eq!((session.spec.ttl.as_str(), session.spec.end), ("30m", false));
    assert_eq!(AnySession::from(session).allowed(), [Capability::Sftp]);
    let recovery: BreakglassVM =
        serde_json::from_value(base(include_str!("../../e2e/schema/cases-breakglassvm.json"))).expect("a recovery");
    assert_eq!((recovery.spec.ttl.as_str(), recovery.spec.target.port), ("30m", 22));
    assert_eq!(AnySession::from(recovery).allowed(), []);
}
