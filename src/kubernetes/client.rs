//! How to reach the API server: from inside the cluster, or by the usual kubeconfig.

use kube::Client;
use kube::config::Config;
use std::time::Duration;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Neither in a cluster nor with a kubeconfig.
    #[error("found no way to the API server: run inside the cluster, or set KUBECONFIG to a file with a current context")]
    Configuration(#[source] Box<kube::config::InferConfigError>),
    /// The configuration is there but cannot be used.
    #[error("failed to build a client from the configuration of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client as all of Sandglass uses it: no retries of kube's own (they know no limit and repeat creations), and every call
/// has its deadline by [`super::call()`].
///
/// # Errors
/// What [`ClientError`] says.
pub async fn connect() -> Result<Client, ClientError> {
    build(None).await
}

/// A client for the Lease, whose calls are made by a crate that knows no deadline: here the connection has one. (Watches could
/// not live with it.)
///
/// # Errors
/// As [`connect`].
pub async fn connect_for_lease() -> Result<Client, ClientError> {
    build(Some(Duration::from_secs(5))).await
}

async fn build(read_timeout: Option<Duration>) -> Result<Client, ClientError> {
    let mut configuration = Config::infer().await.map_err(|error| ClientError::Configuration(Box::new(error)))?;
    configuration.default_retry = false;
    configuration.connect_timeout = Some(Duration::from_secs(5));
    configuration.read_timeout = read_timeout;
    configuration.reset_reader_on_write = read_timeout.is_some();
    Client::try_from(configuration).map_err(|error| ClientError::Client(Box::new(error)))
}
