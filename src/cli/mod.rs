//! What `sandglass` does instead of running for ever: printing the custom resource definitions and their documentation,
//! making the installation's keys, reading recordings, the last step of a pipeline; and the kubectl plugin.

mod api_docs;
pub mod ci;
mod crds;
mod install_keys;
pub mod kubectl;
pub mod recordings;
pub mod refusal;
pub mod replay;

pub use api_docs::api_docs;
pub use crds::crds;
pub use install_keys::{Installed, install_keys};

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Generated files are generated: whoever changes the schema writes them anew.
    fn compare(file: &str, generated: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("SANDGLASS_REGENERATE").is_some() {
            std::fs::write(&path, generated).expect("written");
        }
        let published = std::fs::read_to_string(&path).expect("the published file");
        assert!(
            published == generated,
            "{file} is not what the code says: run `SANDGLASS_REGENERATE=1 cargo test --lib cli::` and commit it"
        );
    }

    #[test]
    fn the_published_definitions_are_the_codes() {
        for kind in ["debugsessions", "breakglassvms"] {
            compare(&format!("crds/{kind}.yaml"), &super::crds(Some(kind)).expect("YAML"));
        }
    }

    /// Fields of a schema, by path, that have no description.
    fn undescribed(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(|text| text.trim().is_empty()) {
                found.push(path.clone());
            }
            undescribed(field, &path, found);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                undescribed(&schema[inner], path, found);
            }
        }
    }

    /// `kubectl explain` says something of everything.
    #[test]
    fn every_field_of_both_kinds_is_described() {
        for kind in ["debugsessions", "breakglassvms"] {
            let yaml = super::crds(Some(kind)).expect("YAML");
            let definition: serde_json::Value = serde_saphyr::from_str(&yaml).expect("a definition");
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            let fields = |name: &str| schema["properties"][name]["properties"].as_object().map_or(0, serde_json::Map::len);
            assert!(fields("spec") > 8 && fields("status") > 8, "this is the schema");
            let mut found = Vec::new();
            undescribed(schema, kind, &mut found);
            assert_eq!(found, Vec::<String>::new());
        }
    }

    #[test]
    fn the_published_reference_is_the_codes() {
        compare("docs/api.md", &super::api_docs().expect("Markdown"));
    }
}
