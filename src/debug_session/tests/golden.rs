//! The pods that are built, whole, one per variant; and the fields that keep a session from harm, by name, in all of them.

use chrono::TimeDelta;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

use super::world::{session, settings, start};
use crate::api::DebugSession;
use crate::api::debug_session::Isolation;
use crate::debug_session::build::{self, settings_of};
use crate::debug_session::source::SourceRead;
use crate::debug_session::validate;
use crate::domain::configuration::AgentDelivery;
use crate::lifecycle::{Identity, Settings};

struct Variant {
    name: &'static str,
    session: DebugSession,
    settings: Settings,
}

impl Variant {
    /// All names in it differ, so that a swap shows.
    fn new(name: &'static str, changes: &serde_json::Value, adapt: impl FnOnce(&mut Settings)) -> Self {
        let mut object = session("build.42");
        object["metadata"]["uid"] = json!("0f1e2d3c-1111-4222-8333-444455556666");
        object["metadata"]["creationTimestamp"] = json!("2027-01-15T08:00:00Z");
        object["spec"]["env"] = json!([{ "name": "CI", "value": "$(HOME)" }, { "name": "API_KEY", "value": "x" }]);
        object["spec"]["workingDir"] = json!("/workspace");
        for (field, value) in changes.as_object().expect("fields") {
            object["spec"][field] = value.clone();
        }
        let mut settings = settings();
        adapt(&mut settings);
        Self { name, session: serde_json::from_value(object).expect("a session"), settings }
    }

    fn pod(&self) -> Pod {
        let identity = Identity::of(&self.session, Duration::from_hours(1)).expect("complete");
        let plan = validate::plan(&self.session, &identity, &SourceRead::Image, &self.settings).expect("valid");
        build::session_pod(&self.session, &identity, &plan, &self.settings, start() + TimeDelta::seconds(10))
    }
}

fn variants() -> Vec<Variant> {
    vec![
        Variant::new("user-namespace", &json!({}), |_| {}),
        Variant::new("restricted", &json!({ "isolation": "Restricted", "network": "Egress" }), |settings| {
            settings.configuration.sessions.egress_nameservers = vec!["192.0.2.53".parse().expect("an address")];
        }),
        Variant::new("init-container-and-tools", &json!({ "tools": { "image": "registry.example.com/builds/tools:1" } }), |settings| {
            settings.configuration.sessions.agent = AgentDelivery::InitContainer;
        }),
        Variant::new(
            "everything",
            &json!({
                "tools": { "image": "registry.example.com/builds/tools:1" },
                "resources": { "limits": { "cpu": "50m", "memory": "3Gi", "ephemeral-storage": "5Gi" } },
                "project": "frontend",
            }),
            |settings| {
                let sessions = &mut settings.configuration.sessions;
                sessions.extra_capabilities = vec!["CHOWN".into(), "SETUID".into()];
                sessions.runtime_class = Some("sandboxed".into());
                sessions.avoid_node_labels = vec!["example.com/database".into()];
                sessions.tolerations = vec![Toleration { operator: Some("Exists".into()), ..Toleration::default() }];
            },
        ),
    ]
}

#[test]
fn whole_pods() {
    let regenerate = std::env::var_os("SANDGLASS_REGENERATE").is_some();
    for variant in variants() {
        let built = serde_saphyr::to_string(&serde_json::to_value(variant.pod()).expect("JSON")).expect("YAML");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/pod-{}.yaml", variant.name));
        if regenerate {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(&path, &built).expect("written");
        }
        let golden = std::fs::read_to_string(&path).expect("the golden pod");
        assert_eq!(built, golden, "{}: if the change is wanted, run with SANDGLASS_REGENERATE=1 and read the difference", variant.name);
    }
}

#[test]
fn what_keeps_a_session_from_harm_is_in_every_pod() {
    for variant in variants() {
        let pod = variant.pod();
        let spec = pod.spec.expect("a spec");
        let name = variant.name;
        assert_eq!(spec.automount_service_account_token, Some(false), "{name}");
        assert_eq!(spec.enable_service_links, Some(false), "{name}");
        assert_eq!(spec.restart_policy.as_deref(), Some("Never"), "{name}");
        assert_eq!(spec.service_account_name.as_deref(), Some("sandglass-debug"), "{name}");
        assert_eq!(spec.active_deadline_seconds, Some(30 * 60 - 10 + 60), "{name}");
        assert!(spec.termination_grace_period_seconds.is_some_and(|grace| (1..=5).contains(&grace)), "{name}");
        assert!(spec.host_network.is_none() && spec.host_pid.is_none() && spec.host_ipc.is_none(), "{name}");
        assert!(spec.share_process_namespace.is_none() && spec.node_name.is_none(), "{name}");
        let security = spec.security_context.expect("a security context");
        let user = security.run_as_user.expect("a numeric user");
        assert_eq!(security.run_as_group, Some(user), "{name}: an image with USER root would keep group 0");
        assert_eq!(security.seccomp_profile.map(|profile| profile.type_).as_deref(), Some("RuntimeDefault"), "{name}");
        match variant.session.spec.isolation {
            Some(Isolation::Restricted) => {
                assert!(user > 0 && security.run_as_non_root == Some(true) && spec.host_users.is_none(), "{name}");
            }
            _ => assert!(user == 0 && spec.host_users == Some(false), "{name}"),
        }
        assert_eq!(spec.containers.len(), 1, "{name}");
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let security = container.security_context.as_ref().expect("a security context");
            let capabilities = security.capabilities.as_ref().expect("capabilities");
            assert_eq!(security.allow_privilege_escalation, Some(false), "{name}");
            assert_eq!(security.privileged, Some(false), "{name}");
            assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]), "{name}");
            assert!(capabilities.add.is_none() || spec.host_users == Some(false), "{name}");
            let limits = container.resources.as_ref().and_then(|resources| resources.limits.clone()).expect("limits");
            assert_eq!(limits.keys().collect::<Vec<_>>(), ["cpu", "ephemeral-storage", "memory"], "{name}");
            assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"), "{name}");
            assert!(container.ports.is_none() && container.env_from.is_none() && container.lifecycle.is_none(), "{name}");
        }
        for volume in spec.volumes.iter().flatten() {
            let sized = volume.empty_dir.as_ref().is_some_and(|empty| empty.size_limit.is_some());
            assert!(sized || volume.projected.is_some() || volume.image.is_some(), "{name}: {}", volume.name);
            assert!(volume.host_path.is_none() && volume.secret.is_none() && volume.config_map.is_none(), "{name}");
        }
    }
}

#[test]
fn the_agent_reads_what_the_controller_wrote() {
    let variant = variants().remove(0);
    let agent = settings_of(&variant.pod()).expect("settings");
    assert_eq!(agent.environment, [("CI".to_owned(), "$(HOME)".to_owned())]);
    assert_eq!(agent.stripped_environment, ["API_KEY"]);
    assert_eq!(agent.remaining_seconds, 30 * 60 - 10);
    assert_eq!(agent.expires_at, start() + TimeDelta::minutes(30));
    assert_eq!(agent.known_hosts, ["git.example.com ssh-ed25519 AAAAgit"]);
}
