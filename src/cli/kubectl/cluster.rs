//! The way to the API server as kubectl finds it: kubeconfig, context, namespace, and the user's own credentials.

use super::complete;
use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::path::PathBuf;
use std::time::Duration;

/// Which cluster, as whom, and where in it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterOptions {
    /// Context of the kubeconfig. Default: its current one.
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::contexts))]
    pub context: Option<String>,
    /// Namespace. Default: the context's.
    #[arg(long, short, global = true, value_name = "NAME", add = ArgValueCompleter::new(complete::namespaces))]
    pub namespace: Option<String>,
    /// The kubeconfig file. Default: $KUBECONFIG, else ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
}

/// A cluster and a namespace in it.
pub struct Cluster {
    /// As the user.
    pub client: Client,
    /// Where the objects are.
    pub namespace: String,
}

/// Why there is no way to the API server. Nothing that a credential plugin printed is shown: it may be a credential.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No kubeconfig, or one that cannot be used.
    #[error("failed to read the kubeconfig: {reason}: set KUBECONFIG or --kubeconfig, and see `kubectl config get-contexts`")]
    Kubeconfig {
        /// What is wrong with it.
        reason: String,
    },
    /// The kubeconfig's credential plugin did not give a credential.
    #[error("failed to get a credential from the plugin that the kubeconfig names: {reason}: try `kubectl auth whoami`")]
    Credential {
        /// What is known.
        reason: String,
    },
    /// Anything else.
    #[error("failed to build a client from the kubeconfig: {reason}")]
    Client {
        /// What is wrong.
        reason: String,
    },
}

impl ClusterOptions {
    /// Connects.
    ///
    /// # Errors
    /// What [`ConnectError`] says.
    pub async fn connect(&self) -> Result<Cluster, ConnectError> {
        let mut configuration = self.configuration().await?;
        // kube's own retries know no limit and repeat creations; every call has its deadline.
        configuration.default_retry = false;
        configuration.connect_timeout = Some(Duration::from_secs(10));
        let namespace = self.namespace.clone().unwrap_or_else(|| configuration.default_namespace.clone());
        configuration.default_namespace.clone_from(&namespace);
        let client = Client::try_from(configuration).map_err(|error| unusable(&error))?;
        Ok(Cluster { client, namespace })
    }

    async fn configuration(&self) -> Result<Config, ConnectError> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let of_kubeconfig = |error: KubeconfigError| ConnectError::Kubeconfig { reason: error.to_string() };
        match &self.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(of_kubeconfig)?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(of_kubeconfig)
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.map_err(of_kubeconfig),
            None => match Config::from_kubeconfig(&options).await {
                Ok(configuration) => Ok(configuration),
                // In a pod there is none, and none is needed.
                Err(error) => Config::incluster().map_err(|_| of_kubeconfig(error)),
            },
        }
    }

    /// The same options, as somebody is typing them: of the words of an unfinished command line.
    #[must_use]
    pub fn of_words(words: &[String]) -> Self {
        let value = |long: &str, short: &str| {
            words.iter().enumerate().rev().find_map(|(at, word)| {
                if word == long || (!short.is_empty() && word == short) {
                    return words.get(at + 1).cloned();
                }
                word.strip_prefix(long).and_then(|rest| rest.strip_prefix('=')).map(str::to_owned)
            })
        };
        Self {
            context: value("--context", ""),
            namespace: value("--namespace", "-n"),
            kubeconfig: value("--kubeconfig", "").map(Into::into),
        }
    }
}

/// What is wrong, without what a credential plugin said.
fn unusable(error: &kube::Error) -> ConnectError {
    use kube::client::AuthError;
    let kube::Error::Auth(problem) = error else { return ConnectError::Client { reason: super::failure::one_line(&error.to_string()) } };
    let reason = match problem {
        AuthError::AuthExecStart(problem) => format!("it cannot be started ({problem})"),
        AuthError::AuthExecRun { out, .. } => format!("it ended with {}", out.status),
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => "its answer cannot be understood".into(),
        AuthError::MissingCommand => "it names no command".into(),
        _ => "the credential cannot be used, or is of a kind that this program does not know (auth-provider)".into(),
    };
    ConnectError::Credential { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_an_unfinished_line() {
        let words = ["kubectl-sandglass", "ssh", "-n", "ci", "--context=west", "--kubeconfig", "/tmp/k", "bui"].map(str::to_owned);
        let options = ClusterOptions::of_words(&words);
        assert_eq!((options.namespace.as_deref(), options.context.as_deref()), (Some("ci"), Some("west")));
        assert_eq!(options.kubeconfig, Some(PathBuf::from("/tmp/k")));
        assert!(ClusterOptions::of_words(&["ssh".to_owned(), "-n".to_owned()]).namespace.is_none());
    }

    #[tokio::test]
    async fn what_a_credential_plugin_says_is_not_shown() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
        let text = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
                    clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], users: [{name: u, user: {exec: {apiVersion: \
                    client.authentication.k8s.io/v1, command: sh, args: ['-c', 'echo hidden-token; exit 3'], env: [{name: A, value: hidden-token}]}}}]}";
        std::fs::write(&file, text).expect("written");
        let options = ClusterOptions { kubeconfig: Some(file), ..ClusterOptions::default() };
        let failure = options.connect().await.err().expect("refused").to_string();
        assert!(failure.contains("exit status: 3") && !failure.contains("hidden"), "{failure}");
    }
}
