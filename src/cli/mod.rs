//! What `sandglass` does instead of running for ever: printing the custom resource definitions and their documentation,
//! making the installation's keys, reading recordings, and the last step of a pipeline.

mod api_docs;
pub mod ci;
mod crds;
mod install_keys;
pub mod recordings;
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

    #[test]
    fn the_published_reference_is_the_codes() {
        compare("docs/api.md", &super::api_docs().expect("Markdown"));
    }
}
