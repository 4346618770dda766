//! The other side of a recovery: a Vault server, a machine, and its hypervisor (e2e/vm/targets), and objects that name them.

use super::harness::{Lab, suffix, text};
use super::reading::{condition, has_ended, is_open, is_true, open_message};
use kube::api::{ListParams, Patch, PatchParams};
use sandglass::api::BreakglassVM;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

/// Where the pods of recoveries are.
pub const BOX: &str = "sandglass-vm";

/// There is one machine: tests take turns at it.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// The machine, for one test.
pub struct Machine {
    /// The Vault role of this test, and the last part of its secrets' paths.
    pub role: String,
    _turn: MutexGuard<'static, ()>,
}

/// A file of the test cluster's state folder.
fn state(path: &str) -> PathBuf {
    let folder = std::env::var_os("SANDGLASS_E2E_STATE").map_or_else(|| "/var/lib/sandglass-e2e".into(), PathBuf::from);
    folder.join(path)
}

/// What is in one.
pub fn read(path: &str) -> String {
    let path = state(path);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|problem| panic!("{}: {problem}: run e2e/vm/targets up", path.display()))
        .trim()
        .to_owned()
}

/// Which process the machine is; none while it is off, or being started.
pub fn process() -> Option<String> {
    std::fs::read_to_string(state("pids/vm")).ok()
}

/// One line of a policy.
pub fn may(path: &str, capability: &str) -> String {
    format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}\n")
}

/// What every role without the default policy needs.
pub fn self_service() -> String {
    may("sys/capabilities-self", "update") + &may("auth/token/revoke-self", "update")
}

/// Runs a script of e2e, which must succeed; what it prints.
pub async fn script(path: &str, arguments: &[&str], input: &str) -> String {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("e2e").join(path);
    // The scripts enter the cluster's network themselves.
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("a script");
    let mut stdin = child.stdin.take().expect("an input");
    stdin.write_all(input.as_bytes()).await.expect("written");
    drop(stdin);
    let limit = std::time::Duration::from_mins(2);
    let output = tokio::time::timeout(limit, child.wait_with_output()).await.expect("ends within its limit").expect("ended");
    assert!(output.status.success(), "{path} {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// `bao` with the root token.
pub async fn bao(arguments: &[&str], input: &str) -> String {
    script("vault/server", &[&["bao"], arguments].concat(), input).await
}

impl Machine {
    /// Waits for its turn; the machine runs then, and Vault has its keys and a role that can read them and nothing else.
    pub async fn take(lab: &Lab) -> Self {
        let turn = MACHINE.lock().await;
        script("vm/targets", &["up"], "").await;
        let machine = Self { role: format!("role-{}", suffix()), _turn: turn };
        machine.put_key("target", &read_key("vm/target_key")).await;
        machine.put_key("hypervisor", &read_key("vm/hypervisor_key")).await;
        let policy = ["target", "hypervisor"].map(|which| may(&format!("secret/data/{}", machine.path(which)), "read"));
        machine.grant(lab, &(policy.concat() + &self_service()), "vault").await;
        machine
    }

    /// Path of a key's secret, below its mount.
    pub fn path(&self, which: &str) -> String {
        format!("breakglass/{}/{which}", self.role)
    }

    /// Writes a key into Vault.
    pub async fn put_key(&self, which: &str, key: &str) {
        let secret = json!({ "private_key": key }).to_string();
        bao(&["kv", "put", "-mount=secret", &self.path(which), "-"], &secret).await;
    }

    /// Gives the role this policy.
    pub async fn grant(&self, lab: &Lab, policy: &str, audience: &str) {
        bao(&["policy", "write", &self.role, "-"], policy).await;
        let role = json!({
            "bound_service_account_names": [format!("{}.{}", lab.namespace, self.role)],
            "bound_service_account_namespaces": [BOX],
            "audience": audience,
            "token_policies": [self.role],
            "token_no_default_policy": true,
            "token_ttl": "5m",
            "token_num_uses": 6,
        });
        bao(&["write", &format!("auth/kubernetes/role/{}", self.role), "-"], &role.to_string()).await;
    }

    /// The manifest of a recovery of the machine; `spec` replaces its fields, `null` removes one.
    pub fn manifest(&self, lab: &Lab, name: &str, spec: &Value) -> Value {
        let kv = |which: &str| json!({ "kv": { "mount": "secret", "path": self.path(which), "field": "private_key" } });
        let mut whole = json!({
            "target": { "address": "10.244.0.250", "user": "breakglass", "hostKeys": [read("vm/host_key.pub")] },
            "hypervisor": {
                "address": "10.244.0.1", "port": 2201, "user": "power", "hostKeys": [read("vm/hypervisor_host_key.pub")],
                "vm": "devvm", "verbs": ["Status", "Forensics", "Reset", "Stop", "Start", "Cycle"],
            },
            "vault": {
                "address": "https://10.244.0.1:8200", "caBundle": read("vault/ca.crt"), "role": self.role,
                "targetKey": kv("target"), "hypervisorKey": kv("hypervisor"),
            },
            "ttl": "5m",
            "requester": "octocat",
            "access": { "authorizedKeys": [lab.public_key] },
        });
        for (field, value) in spec.as_object().expect("a spec is an object") {
            whole[field] = value.clone();
        }
        whole.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        json!({
            "apiVersion": "sandglass.dev/v1alpha1",
            "kind": "BreakglassVM",
            "metadata": { "name": name, "namespace": lab.namespace },
            "spec": whole,
        })
    }

    /// Creates a recovery.
    pub async fn create(&self, lab: &Lab, name: &str, spec: Value) -> BreakglassVM {
        lab.create(self.manifest(lab, name, &spec)).await
    }

    /// A recovery that is open.
    pub async fn open(&self, lab: &Lab, name: &str, spec: Value) -> BreakglassVM {
        self.create(lab, name, spec).await;
        let decided = |session: &BreakglassVM| is_open(session) || has_ended(session) || is_true(session, "Stalled");
        let session = lab.until_of(name, 60, "open", decided).await;
        assert!(is_open(&session), "{name} did not open: {}", open_message(&session));
        session
    }

    /// Waits until `Open` is not true for this reason; its message.
    pub async fn until_reason(&self, lab: &Lab, name: &str, reason: &str) -> String {
        let is_so = |session: &BreakglassVM| condition(session, "Open").is_some_and(|open| open.reason == reason);
        let session = lab.until_of(name, 60, &format!("not open for the reason {reason}"), is_so).await;
        condition(&session, "Open").expect("a condition").message.clone()
    }

    /// Ends a recovery and waits until nothing of it is left.
    pub async fn end(&self, lab: &Lab, name: &str) {
        let end = Patch::Merge(json!({ "spec": { "end": true } }));
        lab.api::<BreakglassVM>().patch(name, &PatchParams::default(), &end).await.expect("ended");
        self.until_gone(lab, name, 60).await;
    }

    /// Waits until a recovery is over, and looks that nothing of it is left.
    pub async fn until_gone(&self, lab: &Lab, name: &str, seconds: u64) -> BreakglassVM {
        let over =
            |session: &BreakglassVM| has_ended(session) && condition(session, "Ready").is_some_and(|ready| ready.reason != "Terminating");
        let session = lab.until_of(name, seconds, "over, with everything gone", over).await;
        assert_eq!(self.left(lab).await, Vec::<String>::new());
        session
    }

    /// Names of what there is in the namespace of the pods for this test's recoveries.
    pub async fn left(&self, lab: &Lab) -> Vec<String> {
        use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
        use k8s_openapi::api::networking::v1::NetworkPolicy;
        async fn names<K>(lab: &Lab) -> Vec<String>
        where
            K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
                + Clone
                + std::fmt::Debug
                + serde::de::DeserializeOwned,
        {
            let items = lab.api_in::<K>(BOX).list(&ListParams::default()).await.expect("listed").items;
            let names = items.into_iter().filter_map(|item| item.meta().name.clone());
            names.filter(|name| name.starts_with(&lab.namespace)).collect()
        }
        [names::<Pod>(lab).await, names::<NetworkPolicy>(lab).await, names::<ServiceAccount>(lab).await].concat()
    }
}

/// A private key, with its last line feed.
pub fn read_key(path: &str) -> String {
    read(path) + "\n"
}
