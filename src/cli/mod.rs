//! What `sandglass` prints instead of running: the custom resource definitions, and their documentation. Pure: text out.

mod api_docs;
mod crds;

pub use api_docs::api_docs;
pub use crds::crds;
