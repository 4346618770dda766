//! The registry that `/metrics` serves. Each part registers its own, before the server takes the registry.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// A registry that says which version runs.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register("sandglass_build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    registry
}
