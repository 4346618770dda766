//! What `sandglass` does instead of running for ever: printing the custom resource definitions and their documentation, and
//! making the installation's keys.

mod api_docs;
mod crds;
mod install_keys;

pub use api_docs::api_docs;
pub use crds::crds;
pub use install_keys::{Installed, install_keys};
