//! Whether the custom resource definitions are there, served, and of this program's version.

use super::finding::Finding;
use super::known::{Known, read};
use crate::cli::crds;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client};

const CHECK: &str = "definitions";

/// The plurals of both kinds.
const PLURALS: [&str; 2] = ["debugsessions", "breakglassvms"];

/// What was read, by plural.
pub(super) type Facts = Vec<(&'static str, Known<CustomResourceDefinition>)>;

/// Reads both definitions.
pub(super) async fn facts(client: &Client) -> Facts {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut facts = Vec::new();
    for plural in PLURALS {
        let name = format!("{plural}.{}", crate::api::names::GROUP);
        facts.push((plural, read("read a custom resource definition", "get customresourcedefinitions", api.get(&name)).await));
    }
    facts
}

/// The verdict on both.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    facts.iter().map(|(plural, known)| verdict(plural, known)).collect()
}

fn verdict(plural: &'static str, known: &Known<CustomResourceDefinition>) -> Finding {
    let cure = format!("kubectl apply --server-side -f crds/{plural}.yaml, of the version that the installation runs");
    let definition = match known {
        Known::There(definition) => definition,
        Known::Absent => return Finding::fail(CHECK, format!("the cluster has no definition of {plural}"), cure),
        Known::Unknown(unknown) => return unknown.finding(CHECK),
    };
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if !conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
        let cure = format!("kubectl describe crd {plural}.sandglass.dev says why");
        return Finding::fail(CHECK, format!("the definition of {plural} is not established: the API server does not serve it"), cure);
    }
    let own = crds(Some(plural)).ok().and_then(|text| serde_saphyr::from_str::<CustomResourceDefinition>(&text).ok());
    let Some(own) = own else {
        return Finding::fail(
            CHECK,
            format!("this program's own definition of {plural} cannot be read"),
            "report this as a fault of Sandglass",
        );
    };
    if schemas(definition) == schemas(&own) {
        Finding::ok(CHECK, format!("{plural} is established, with the schema of this version"))
    } else {
        let cure = format!("{cure}; or use the program of the installation's version");
        Finding::warn(CHECK, format!("the schema of {plural} is not that of this program ({})", env!("CARGO_PKG_VERSION")), cure)
    }
}

/// Name and schema of each version.
fn schemas(definition: &CustomResourceDefinition) -> Vec<(String, Option<serde_json::Value>)> {
    let versions = definition.spec.versions.iter();
    versions.map(|version| (version.name.clone(), version.schema.as_ref().and_then(|schema| serde_json::to_value(schema).ok()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::known::Unknown;
    use serde_json::json;

    fn served(change: impl FnOnce(&mut serde_json::Value)) -> Known<CustomResourceDefinition> {
        let mut definition: serde_json::Value = serde_saphyr::from_str(&crds(Some("debugsessions")).expect("YAML")).expect("YAML");
        definition["status"] = json!({
            "acceptedNames": { "kind": "DebugSession", "plural": "debugsessions" }, "storedVersions": ["v1alpha1"],
            "conditions": [{ "type": "Established", "status": "True" }],
        });
        change(&mut definition);
        Known::There(serde_json::from_value(definition).expect("a definition"))
    }

    #[test]
    fn a_definition_is_compared_with_the_programs_own() {
        let level = |known: &Known<CustomResourceDefinition>| verdict("debugsessions", known).level;
        assert_eq!(level(&served(|_| ())), Level::Ok);
        assert_eq!(level(&served(|definition| definition["status"]["conditions"][0]["status"] = json!("False"))), Level::Fail);
        let other = served(|definition| {
            let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            schema["properties"]["spec"]["properties"]["ttl"]["maxLength"] = json!(13);
        });
        assert_eq!(level(&other), Level::Warn);
        assert_eq!(level(&Known::Absent), Level::Fail);
        assert_eq!(level(&Known::Unknown(Unknown::Right("get customresourcedefinitions".into()))), Level::Skip);
    }
}
