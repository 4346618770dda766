//! Where the installation is and what it is configured to be: read once, used by the other checks.

use super::finding::Finding;
use super::known::{Known, read};
use crate::domain::configuration::Configuration;
use crate::domain::images::Reference;
use crate::gateway::keys::HOST_KEY_PUBLIC;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use russh::keys::PublicKey;
use std::collections::BTreeMap;

const CHECK: &str = "configuration";

/// The installation as its `ConfigMaps` describe it.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    /// Namespace of controller and gateway.
    pub system: String,
    /// Namespace of the session pods.
    pub debug: String,
    /// Namespace of the recovery pods.
    pub vm: String,
    /// The text of `sandglass.yaml`, understood or not.
    pub configuration: Known<Result<Configuration, String>>,
    /// What the admission policies hold everybody to.
    pub admission: Known<BTreeMap<String, String>>,
    /// The public halves of the installation's keys.
    pub public: Known<BTreeMap<String, String>>,
}

impl Installation {
    /// Reads what there is.
    pub(super) async fn read(client: &Client, system: &str) -> Self {
        let (file, admission, public) = futures::join!(
            data(client, system, "sandglass"),
            data(client, system, "sandglass-admission"),
            data(client, system, crate::cli::install_keys::PUBLIC),
        );
        let configuration = match file {
            Known::There(data) => Known::There(match data.get("sandglass.yaml") {
                Some(text) => Configuration::parse(text).map_err(|error| error.to_string()),
                None => Err("it has no sandglass.yaml".into()),
            }),
            Known::Absent => Known::Absent,
            Known::Unknown(unknown) => Known::Unknown(unknown),
        };
        let understood = configuration.there().and_then(|parsed| parsed.as_ref().ok());
        let (debug, vm) = understood.map_or_else(
            || ("sandglass-debug".to_owned(), "sandglass-vm".to_owned()),
            |configuration| (configuration.debug_namespace.clone(), configuration.vm_namespace.clone()),
        );
        Self { system: system.to_owned(), debug, vm, configuration, admission, public }
    }

    /// The configuration, where it could be read and understood.
    pub(super) fn configuration(&self) -> Option<&Configuration> {
        self.configuration.there()?.as_ref().ok()
    }

    /// The host key that the installation publishes.
    pub(super) fn host_key(&self) -> Option<PublicKey> {
        PublicKey::from_openssh(self.public.there()?.get(HOST_KEY_PUBLIC)?.trim()).ok()
    }
}

async fn data(client: &Client, namespace: &str, name: &'static str) -> Known<BTreeMap<String, String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match read("read a ConfigMap of the installation", &format!("get configmaps in {namespace}"), api.get(name)).await {
        Known::There(map) => Known::There(map.data.unwrap_or_default()),
        Known::Absent => Known::Absent,
        Known::Unknown(unknown) => Known::Unknown(unknown),
    }
}

/// Whether the configuration can be understood, and agrees with what the admission policies are told.
pub(super) fn judge(installation: &Installation) -> Vec<Finding> {
    let system = &installation.system;
    let configuration = match &installation.configuration {
        Known::There(Ok(configuration)) => configuration,
        Known::There(Err(problem)) => {
            return vec![Finding::fail(
                CHECK,
                format!("the ConfigMap sandglass in {system} cannot be used: {problem}"),
                "correct it; `sandglass config check FILE` says the same of a file",
            )];
        }
        Known::Absent => {
            let message = format!("there is no ConfigMap sandglass in {system}");
            return vec![Finding::fail(CHECK, message, "apply the manifests of Sandglass, or name its namespace: --system-namespace")];
        }
        Known::Unknown(unknown) => return vec![unknown.finding(CHECK)],
    };
    let mut findings = Vec::new();
    match &installation.admission {
        Known::There(told) => findings.extend(disagreements(configuration, told)),
        Known::Absent => findings.push(Finding::fail(
            CHECK,
            format!("there is no ConfigMap sandglass-admission in {system}: the admission policies refuse every session"),
            "apply the manifests of Sandglass (manifests/base/config.yaml)",
        )),
        Known::Unknown(unknown) => findings.push(unknown.finding(CHECK)),
    }
    if configuration.allowed_images.is_empty() {
        let message = "allowedImages is empty: every session is refused with ImageNotAllowed";
        findings.push(Finding::warn(
            CHECK,
            message,
            format!("name the images that may be debugged in the ConfigMap sandglass in {system}"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "the configuration is valid and agrees with the admission policies"));
    }
    findings
}

fn disagreements(configuration: &Configuration, told: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let cap = &configuration.sessions.ttl_cap;
    let admitted = told.get("ttlCap").map_or("", String::as_str);
    if crate::domain::lifetime::parse_duration(admitted) != crate::domain::lifetime::parse_duration(cap) {
        findings.push(Finding::warn(
            CHECK,
            format!("sessions.ttlCap is {cap}, but the admission policies go by {admitted:?}"),
            "write the same ttlCap into the ConfigMaps sandglass and sandglass-admission",
        ));
    }
    let image = &configuration.sessions.agent_image;
    let repository = told.get("agentRepository").map_or("", String::as_str);
    let mounted = image.strip_prefix(repository).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']));
    if repository.is_empty() || !mounted {
        findings.push(Finding::fail(
            CHECK,
            format!("sessions.agentImage is {image}, but the admission policies allow only {repository:?}: every session pod is refused"),
            "write its repository into agentRepository of the ConfigMap sandglass-admission",
        ));
    }
    if let Err(error) = Reference::parse(image) {
        findings.push(Finding::fail(CHECK, error.to_string(), "correct sessions.agentImage"));
    }
    findings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::kubectl::doctor::Level;
    use crate::cli::kubectl::doctor::known::Unknown;

    const FILE: &str = "{ gateway: { host: gw.example.com }, sessions: { agentImage: 'registry.example.com/sandglass:1' }, recording: { mode: Off }, \
                        allowedImages: [{ prefix: registry.example.com/ }] }";

    /// An installation of that configuration and those admission settings.
    pub fn installation(file: &str, told: &[(&str, &str)]) -> Installation {
        Installation {
            system: "system".into(),
            debug: "debug".into(),
            vm: "vm".into(),
            configuration: Known::There(Configuration::parse(file).map_err(|error| error.to_string())),
            admission: Known::There(told.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()),
            public: Known::Absent,
        }
    }

    #[test]
    fn configuration_and_admission_must_agree() {
        let agreeing = [("ttlCap", "60m"), ("agentRepository", "registry.example.com/sandglass")];
        let levels = |installation: &Installation| judge(installation).iter().map(|finding| finding.level).collect::<Vec<_>>();
        assert_eq!(levels(&installation(FILE, &agreeing)), [Level::Ok]);
        for (told, word, level) in [
            ([("ttlCap", "2h"), agreeing[1]], "ttlCap", Level::Warn),
            ([agreeing[0], ("agentRepository", "registry.example.com/sand")], "agentRepository", Level::Fail),
            ([agreeing[0], ("agentRepository", "")], "agentRepository", Level::Fail),
        ] {
            let findings = judge(&installation(FILE, &told));
            assert_eq!((findings.len(), findings[0].level), (1, level), "{findings:?}");
            assert!(findings[0].cure.as_deref().is_some_and(|cure| cure.contains(word)), "{findings:?}");
        }
        assert_eq!(levels(&installation("{ gateway: {} }", &agreeing)), [Level::Fail]);
        let empty = installation(
            "{ gateway: { host: gw.example.com }, sessions: { agentImage: 'registry.example.com/sandglass:1' }, recording: { mode: Off } }",
            &agreeing,
        );
        assert_eq!(levels(&empty), [Level::Warn]);
        let mut unread = installation(FILE, &agreeing);
        unread.admission = Known::Absent;
        assert_eq!(levels(&unread), [Level::Fail]);
        unread.configuration = Known::Unknown(Unknown::Right("get configmaps in system".into()));
        assert_eq!(levels(&unread), [Level::Skip]);
        unread.configuration = Known::Absent;
        assert_eq!(levels(&unread), [Level::Fail]);
    }
}
