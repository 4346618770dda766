//! `kubectl sandglass` on the real cluster: the real program, kubectl that finds it, a real ssh-agent, the real ssh.

#[allow(dead_code, reason = "the cluster's own tests use more of it")]
#[path = "../cluster/machine.rs"]
mod machine;

use super::harness::{BUILD_IMAGE, Lab, SYSTEM, eventually, finish, text};
use super::{harness, reading};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use machine::Machine;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-sandglass");
/// Sessions of tests are small.
const SMALL: [&str; 4] = ["--ttl", "5m", "--limits", "cpu=500m,memory=128Mi,ephemeral-storage=256Mi"];

/// An ssh-agent with the test's key; ended with it.
struct Agent {
    socket: PathBuf,
    _process: Child,
}

impl Agent {
    async fn start(lab: &Lab) -> Self {
        let socket = lab.path("agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let agent = Self { socket: socket.clone(), _process: command.spawn().expect("ssh-agent") };
        eventually("the agent listens", 10, async || socket.exists()).await;
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(lab.path("id")).env("SSH_AUTH_SOCK", &agent.socket).stdin(Stdio::null());
        assert!(finish(add, 20).await.status.success(), "the agent takes the key");
        agent
    }
}

/// The folder of a built program before everything else, and the script of kubectl's completion.
fn path() -> OsString {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/krew");
    let old = std::env::var_os("PATH").unwrap_or_default();
    let folders = [Path::new(PLUGIN).parent().expect("a folder").to_owned(), scripts].into_iter().chain(std::env::split_paths(&old));
    std::env::join_paths(folders).expect("a PATH")
}

/// The plugin in the test's namespace.
fn plugin(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(PLUGIN);
    if !arguments.contains(&"-n") {
        command.args(["-n", &lab.namespace]);
    }
    command.args(arguments).env("NO_COLOR", "1").env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(lab: &Lab, agent: Option<&Agent>, arguments: &[&str]) -> Output {
    let mut command = plugin(lab, arguments);
    if let Some(agent) = agent {
        command.env("SSH_AUTH_SOCK", &agent.socket);
    }
    finish(command, 120).await
}

/// What a command prints that must be done.
async fn done(lab: &Lab, agent: Option<&Agent>, arguments: &[&str]) -> String {
    let output = run(lab, agent, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {:?}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

/// A refusal has its exit code and is one line with these words.
async fn refused(lab: &Lab, agent: Option<&Agent>, code: i32, words: &str, arguments: &[&str]) -> String {
    let output = run(lab, agent, arguments).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{}", text(&output.stdout));
    assert!(said.contains(words) && said.lines().count() == 1 && said.starts_with("kubectl sandglass: "), "{arguments:?}: {said}");
    said
}

/// The arguments of `open` with a small session.
fn open<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["open"], &SMALL[..], arguments].concat()
}

/// A kubeconfig by which one is somebody else, without any right of one's own.
fn kubeconfig_of(lab: &Lab, user: &str) -> String {
    let output = std::process::Command::new("kubectl").args(["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).output();
    let mut kubeconfig: Value = serde_json::from_slice(&output.expect("kubectl").stdout).expect("JSON");
    kubeconfig["users"][0]["user"]["as"] = json!(user);
    let file = lab.path(&format!("kubeconfig-{user}"));
    std::fs::write(&file, kubeconfig.to_string()).expect("written");
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_an_image_by_the_keys_of_the_agent() {
    let lab = Lab::shared("plugin").await;
    let agent = Agent::start(&lab).await;
    let reason = ["--image", BUILD_IMAGE, "--name", "s", "--reason", "flaky", "--env", "GREETING=well met", "--env", "API_TOKEN=x"];
    let output = run(&lab, Some(&agent), &open(&reason)).await;
    let shown = text(&output.stdout);
    assert!(output.status.success() && text(&output.stderr).starts_with("note: left out, "), "{output:?}");
    let session = lab.get("s").await;
    let connection = reading::status(&session).connection.expect("connection data");
    assert!(shown.contains(&format!("get in     {}\n", connection.command)), "{shown}");
    assert!(shown.contains(&connection.known_hosts[0]) && shown.contains("SHA256:") && shown.contains("expires    20"), "{shown}");
    assert!(
        text(&output.stderr).contains("API_TOKEN") && !serde_json::to_string(&session).expect("JSON").contains("API_TOKEN"),
        "{output:?}"
    );
    assert_eq!((session.spec.requester.as_str(), session.spec.reason.as_deref()), ("admin", Some("flaky")));
    let key = |line: &str| line.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(session.spec.access.authorized_keys.iter().map(|line| key(line)).collect::<Vec<_>>(), [key(&lab.public_key)]);

    let listed = done(&lab, None, &["list"]).await;
    let row: Vec<&str> = listed.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[..4], [lab.namespace.as_str(), "s", "DebugSession", "Open"], "{listed}");
    assert!(listed.lines().next().expect("titles").starts_with("NAMESPACE") && listed.contains(&connection.command), "{listed}");
    assert_eq!(done(&lab, None, &["list", "-o", "name"]).await, "debugsession.sandglass.dev/s");
    let list: Value = serde_json::from_str(&done(&lab, None, &["list", "-o", "json"]).await).expect("JSON");
    assert_eq!((&list["items"][0]["metadata"]["uid"], &list["items"][0]["kind"]), (&json!(session.metadata.uid), &json!("DebugSession")));
    assert!(done(&lab, None, &["list", "-A", "-o", "yaml"]).await.contains(&lab.namespace));

    assert_eq!(done(&lab, Some(&agent), &["ssh", "s", "--", "echo $GREETING; id -u"]).await, "well met\n0");
    assert_eq!(run(&lab, Some(&agent), &["ssh", "dbg/s", "--", "exit 7"]).await.status.code(), Some(7));
    let mut cat = plugin(&lab, &["ssh", "s", "--", "cat"]);
    cat.env("SSH_AUTH_SOCK", &agent.socket).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = cat.spawn().expect("started");
    child.stdin.take().expect("an input").write_all(b"both ways").await.expect("written");
    let output = tokio::time::timeout(Duration::from_mins(1), child.wait_with_output()).await.expect("in time").expect("ended");
    assert_eq!(text(&output.stdout), "both ways");

    let ended = done(&lab, None, &["end", "s"]).await;
    assert_eq!(ended, "debugsession.sandglass.dev/s of admin ends");
    refused(&lab, Some(&agent), 3, "kubectl sandglass open", &["ssh", "s"]).await;
    let session = lab.until_ended("s", 60).await;
    assert_eq!(reading::end_reason(&session), "EndRequested");
    refused(&lab, Some(&agent), 3, "is over (EndRequested", &["ssh", "s"]).await;
    assert_eq!(done(&lab, None, &["list"]).await, "");
    assert!(done(&lab, None, &["list", "--all"]).await.contains("Ended"));
    assert!(done(&lab, None, &["end", "s"]).await.ends_with("was over already"));
    recorded(&lab, &agent).await;
}

/// What was done by the plugin is in the store, and the plugin finds it there.
async fn recorded(lab: &Lab, agent: &Agent) {
    let keys: Secret = lab.api_in(SYSTEM).get("sandglass-recording-store").await.expect("the store's keys");
    let key = |name: &str| text(&keys.data.as_ref().expect("data")[name].0);
    let list = async || {
        let store = ["--store", "s3://recordings/e2e", "--endpoint", "http://10.244.0.1:8333"];
        let mut command = plugin(lab, &[&["recordings", "list", "-o", "json"], &store[..]].concat());
        command.env("AWS_ACCESS_KEY_ID", key("access-key-id")).env("AWS_SECRET_ACCESS_KEY", key("secret-access-key"));
        let output = finish(command, 60).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Vec<Value>>(&output.stdout).expect("JSON")
    };
    eventually("three logins are on record", 30, async || list().await.len() == 3).await;
    assert!(agent.socket.exists());
}

/// A build that fails, as Job and as pod, and the controller's right to look at it.
async fn failed_builds(lab: &Lab) {
    lab.create::<RoleBinding>(json!({
        "metadata": { "name": "sandglass-source-reader" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sandglass-source-reader" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": SYSTEM, "name": "sandglass-controller" }],
    }))
    .await;
    let container = json!({
        "name": "build", "image": BUILD_IMAGE, "workingDir": "/workspace/tests", "command": ["/bin/sh", "-c", "exit 3"],
        "env": [{ "name": "BUILD_CAUSE", "value": "pull-request-17" }],
    });
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container] });
    lab.create::<Pod>(json!({ "metadata": { "name": "runner-x" }, "spec": spec })).await;
    lab.create::<Job>(json!({ "metadata": { "name": "nightly" }, "spec": { "backoffLimit": 0, "template": { "spec": spec } } })).await;
    let failed = async || {
        let job = lab.api::<Job>().get("nightly").await.expect("a Job").status.is_some_and(|status| status.failed == Some(1));
        let pod = lab.api::<Pod>().get("runner-x").await.expect("a pod").status.and_then(|status| status.phase);
        job && pod.as_deref() == Some("Failed")
    };
    eventually("the builds' failures", 60, failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn straight_into_failed_builds() {
    let lab = Lab::shared("plugin-job").await;
    let agent = Agent::start(&lab).await;
    failed_builds(&lab).await;
    // In by the agent, with the exit code of what was run there; the name comes from the Job.
    let command = ["--job", "nightly", "--ssh", "--", "pwd; echo $BUILD_CAUSE; exit 9"];
    let output = run(&lab, Some(&agent), &open(&command)).await;
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(9), "/workspace/tests\npull-request-17\n"), "{output:?}");
    let listed = done(&lab, None, &["list", "-o", "name"]).await;
    let name = listed.strip_prefix("debugsession.sandglass.dev/").expect("a name").to_owned();
    assert!(name.starts_with("nightly-") && name.len() == "nightly-".len() + 5, "{name}");
    done(&lab, None, &["end", &name]).await;

    // In by the key of a file, without any agent, in a project of its own.
    let key = lab.path("id.pub");
    std::fs::write(&key, &lab.public_key).expect("written");
    let key = key.display().to_string();
    let command = ["--pod", "runner-x", "-c", "build", "--key", &key, "--project", "other", "--ssh", "--", "pwd"];
    assert_eq!(done(&lab, None, &open(&command)).await, "/workspace/tests");
    // With -o the object alone is on standard output.
    let command =
        ["--image", BUILD_IMAGE, "--key", &key, "--project", "third", "--name", "third", "--allow", "sftp,LocalForward", "-o", "json"];
    let object: Value = serde_json::from_str(&done(&lab, None, &open(&command)).await).expect("JSON");
    assert_eq!((&object["status"]["phase"], &object["spec"]["access"]["allow"]), (&json!("Open"), &json!(["Sftp", "LocalForward"])));
    assert_eq!(object["metadata"]["managedFields"], Value::Null);
    let names = done(&lab, None, &["list", "-o", "name"]).await;
    let names: Vec<&str> = names.lines().collect();
    let output = run(&lab, None, &[&["end", "none"], &names[..]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "one of them is not there");
    assert_eq!(text(&output.stdout).lines().count(), names.len(), "the others end all the same: {}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_helps() {
    let lab = Lab::shared("plugin-no").await;
    let running = Agent::start(&lab).await;
    let agent = Some(&running);
    let image = ["--image", BUILD_IMAGE];
    // 1: failed
    refused(&lab, None, 1, "no ssh-agent runs", &open(&image)).await;
    let private = lab.path("id").display().to_string();
    let said = refused(&lab, None, 1, "is a private key", &open(&["--image", BUILD_IMAGE, "--key", &private])).await;
    let secret = std::fs::read_to_string(&private).expect("a key");
    assert!(secret.lines().skip(1).take(4).all(|line| !said.contains(line)), "nothing of the key is shown");
    refused(&lab, agent, 1, "there is no Job none in namespace", &open(&["--job", "none"])).await;
    refused(&lab, agent, 1, "there is no Pod none", &open(&["--pod", "none"])).await;
    refused(&lab, agent, 1, "there is no TaskRun none", &open(&["--task-run", "none"])).await;
    refused(&lab, agent, 1, "there is no namespace nowhere", &open(&["-n", "nowhere", "--image", BUILD_IMAGE])).await;
    refused(&lab, None, 1, "there is no session none", &["ssh", "none"]).await;
    refused(&lab, None, 1, "kubectl config get-contexts", &["--context", "none", "list"]).await;
    // 2: wrong arguments
    refused(&lab, None, 2, "--job", &["open"]).await;
    refused(&lab, None, 2, "off", &["power", "off", "devvm"]).await;
    // 3: never open
    refused(&lab, agent, 3, "ImageNotAllowed", &open(&["--image", "registry.example.com/other:1"])).await;
    // 5: refused by schema and policy, in their own words
    refused(&lab, agent, 5, "this installation allows at most 1h", &["open", "--image", BUILD_IMAGE, "--ttl", "2h"]).await;
    refused(&lab, agent, 5, "spec.ttl must be between", &["open", "--image", BUILD_IMAGE, "--ttl", "5s"]).await;
    // 4: not in time; and it is held by the one before it, whose name is taken then
    let first = open(&["--image", BUILD_IMAGE, "--name", "first"]);
    done(&lab, agent, &first).await;
    refused(&lab, agent, 1, "there is a DebugSession first", &first).await;
    refused(&lab, agent, 4, "ProjectBusy", &open(&["--image", BUILD_IMAGE, "--name", "second", "--timeout", "8s"])).await;
    assert_eq!(
        done(&lab, agent, &open(&["--image", BUILD_IMAGE, "--name", "x", "--no-wait"])).await,
        "debugsession.sandglass.dev/x created"
    );
    progress(&lab, &running).await;
    done(&lab, None, &["end", "x", "second", "first"]).await;
}

/// On a terminal one sees what is waited for, in colour unless one does not want any; elsewhere nothing.
async fn progress(lab: &Lab, agent: &Agent) {
    for (name, no_color) in [("coloured", ""), ("plain", "1")] {
        let words = open(&["-n", &lab.namespace, "--image", BUILD_IMAGE, "--name", name, "--timeout", "8s"]).join(" ");
        let mut terminal = Command::new("script");
        terminal.args(["-q", "-e", "-c", &format!("{PLUGIN} {words}"), "/dev/null"]).env("TERM", "xterm").env("NO_COLOR", no_color);
        terminal.env("SSH_AUTH_SOCK", &agent.socket).stdin(Stdio::null()).kill_on_drop(true);
        let output = finish(terminal, 60).await;
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(4), "{shown}");
        let waits = (0..8).any(|second| shown.contains(&format!("{name}: {second}s: ProjectBusy: ")));
        assert!(waits, "{shown}");
        assert_eq!(shown.contains("\u{1b}[2m"), no_color.is_empty(), "{shown}");
        done(lab, None, &["end", name]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_more_rights_by_it() {
    let lab = Lab::shared("plugin-rights").await;
    let agent = Agent::start(&lab).await;
    let kubeconfig = kubeconfig_of(&lab, "jane");
    let as_jane = ["--kubeconfig", kubeconfig.as_str()];
    let image = ["--image", BUILD_IMAGE, "--name", "s"];
    let said = refused(&lab, Some(&agent), 5, "ClusterRole sandglass-requester", &open(&[&image, &as_jane[..]].concat())).await;
    assert!(said.contains("jane"), "{said}");
    refused(&lab, None, 5, "jane", &[&["list"], &as_jane[..]].concat()).await;
    lab.create::<RoleBinding>(json!({
        "metadata": { "name": "requester" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sandglass-requester" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane" }],
    }))
    .await;
    let for_octocat = [&image[..], &["--requester", "octocat"], &as_jane].concat();
    let bound = async || !text(&run(&lab, Some(&agent), &open(&for_octocat)).await.stderr).contains("cannot create");
    eventually("the binding holds", 20, bound).await;
    refused(&lab, Some(&agent), 5, "spec.requester is octocat, but the request comes from jane", &open(&for_octocat)).await;
    // Her own name is found by itself.
    done(&lab, Some(&agent), &open(&[&image, &as_jane[..]].concat())).await;
    assert_eq!(lab.get("s").await.spec.requester, "jane");
    // She may not list recoveries; her sessions she sees.
    let output = run(&lab, None, &[&["list"], &as_jane[..]].concat()).await;
    assert!(output.status.success() && text(&output.stdout).contains(" s "), "{output:?}");
    assert_eq!(text(&output.stderr), "note: you may not list BreakglassVMs here\n");
    assert_eq!(done(&lab, Some(&agent), &[&["ssh", "s"], &as_jane[..], &["--", "echo in"]].concat()).await, "in");
    server_configuration(&lab, &kubeconfig).await;
    done(&lab, None, &[&["end", "s"], &as_jane[..]].concat()).await;
}

/// What a user without any right in the installation's namespace learns of the gateway is enough for ssh.
async fn server_configuration(lab: &Lab, kubeconfig: &str) {
    let outsider = kubeconfig_of(lab, "nobody");
    let whole: Value =
        serde_json::from_str(&done(lab, None, &["server-config", "--kubeconfig", &outsider, "-o", "json"]).await).expect("JSON");
    let connection = reading::status(&lab.get("s").await).connection.expect("connection data");
    assert_eq!((&whole["host"], &whole["port"]), (&json!(connection.host), &json!(connection.port)));
    assert_eq!(whole["knownHosts"], json!(connection.known_hosts));
    let print = whole["hostKeys"][0]["fingerprint"].as_str().expect("a fingerprint");
    assert!(done(lab, None, &["server-config", "--kubeconfig", kubeconfig]).await.contains(print));
    // As a shell takes it, into the files that ssh reads.
    let script = "set -eu\neval \"$(kubectl sandglass server-config --kubeconfig \"$1\" -o env)\"\ncd \"$2\"\n\
                  printf '%s\\n' \"$SANDGLASS_KNOWN_HOSTS\" >known\nprintf '%s' \"$SANDGLASS_SSH_CONFIG\" >config\n\
                  exec ssh -F config -o UserKnownHostsFile=known -o BatchMode=yes -o LogLevel=ERROR -i id \"$3@sandglass\" 'echo configured'";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh", &outsider]).arg(lab.path("")).arg(connection.user).env("PATH", path());
    shell.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).kill_on_drop(true);
    let output = finish(shell, 60).await;
    assert_eq!(text(&output.stdout), "configured\n", "{}", text(&output.stderr));
}

/// `kubectl` itself, with the plugin on its PATH.
async fn kubectl(arguments: &[&str]) -> Output {
    let mut command = Command::new("kubectl");
    command.args(arguments).env("PATH", path()).env_remove("SSH_AUTH_SOCK").stdin(Stdio::null()).kill_on_drop(true);
    finish(command, 60).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_it_and_shells_complete_names() {
    let lab = Lab::shared("plugin-tab").await;
    let namespace = lab.namespace.as_str();
    let plugins = text(&kubectl(&["plugin", "list"]).await.stdout);
    assert!(plugins.contains(PLUGIN), "{plugins}");
    lab.session("build-42", json!({})).await;
    lab.session("build-43", json!({ "end": true, "project": "other" })).await;
    let listed = kubectl(&["sandglass", "list", "-n", namespace]).await;
    assert!(listed.status.success() && text(&listed.stdout).contains("build-42"), "{listed:?}");
    let code = kubectl(&["sandglass", "ssh", "none", "-n", namespace]).await.status.code();
    assert_eq!(code, Some(1), "kubectl passes exit codes on");

    // As kubectl's own completion asks.
    let offered = async |words: &[&str]| text(&kubectl(&[&["__complete", "sandglass"], words].concat()).await.stdout);
    // Where the API server takes its time, nothing is offered.
    let find = async |words: &[&str], name: &str| eventually("it is offered", 30, async || offered(words).await.contains(name)).await;
    find(&["ssh", "-n", namespace, "bui"], "build-42\t").await;
    let names = offered(&["ssh", "-n", namespace, "bui"]).await;
    assert!(names.contains("\n:4") && !names.contains("build-43"), "{names}");
    assert!(offered(&["po"]).await.starts_with("power"));
    assert!(offered(&["power", "cy"]).await.starts_with("cycle"));
    find(&["list", "-n", namespace.split_at(namespace.len() - 2).0], namespace).await;
    // As bash asks.
    let script = "source <(kubectl-sandglass completion bash)\nCOMP_WORDS=(kubectl-sandglass end -n \"$1\" bui); COMP_CWORD=4; COMP_TYPE=9\n\
                  _clap_complete_kubectl_sandglass kubectl-sandglass bui \"$1\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let in_bash = async || {
        let mut bash = Command::new("bash");
        bash.args(["-c", script, "bash", namespace]).env("PATH", path()).stdin(Stdio::null()).kill_on_drop(true);
        text(&finish(bash, 30).await.stdout).trim() == "build-42"
    };
    eventually("bash offers it", 30, in_bash).await;
    for shell in ["zsh", "fish", "powershell"] {
        assert!(done(&lab, None, &["completion", shell]).await.contains("kubectl-sandglass"), "{shell}");
    }
    silent_server(&lab).await;
    for (field, shown) in [("debugsession.spec.access", "authorizedKeys"), ("debugsession.status", "strippedEnv"), ("bgvm.spec", "vault")] {
        let explained = text(&kubectl(&["explain", field]).await.stdout);
        assert!(explained.contains(shown) && !explained.contains("<no description>"), "{field}: {explained}");
    }
}

/// An API server that says nothing costs a shell two seconds and gives it nothing.
async fn silent_server(lab: &Lab) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server = format!("https://{}", listener.local_addr().expect("an address"));
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "silent",
        "contexts": [{ "name": "silent", "context": { "cluster": "silent", "user": "silent" } }],
        "clusters": [{ "name": "silent", "cluster": { "server": server } }], "users": [{ "name": "silent", "user": {} }],
    });
    let file = lab.path("silent");
    std::fs::write(&file, kubeconfig.to_string()).expect("written");
    let file = file.display().to_string();
    let began = Instant::now();
    let offered = kubectl(&["__complete", "sandglass", "ssh", "--kubeconfig", &file, ""]).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(!text(&offered.stdout).contains("build-"), "{}", text(&offered.stdout));
    let contexts = kubectl(&["__complete", "sandglass", "ssh", "--kubeconfig", &file, "--context", ""]).await;
    assert!(text(&contexts.stdout).starts_with("silent\n"), "{}", text(&contexts.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn power_over_ssh_with_its_exit_codes() {
    let lab = Lab::shared("plugin-power").await;
    let agent = Agent::start(&lab).await;
    let agent = Some(&agent);
    let machine = Machine::take(&lab).await;
    machine.open(&lab, "devvm", json!({})).await;
    let power = async |verb: &str| {
        let output = run(&lab, agent, &["power", verb, "devvm"]).await;
        let result = text(&output.stdout).lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
        (output.status.code(), result["after"].as_str().or(result["before"].as_str()).unwrap_or_default().to_owned())
    };
    assert_eq!(power("status").await.0, Some(0));
    let stopped = power("stop").await;
    assert_eq!(stopped.0, Some(0), "{stopped:?}");
    assert_eq!(power("status").await.0, Some(2));
    assert_eq!(power("start").await, (Some(0), "running".to_owned()));
    assert_eq!(power("status").await.0, Some(0));
    let listed = done(&lab, None, &["list"]).await;
    assert!(listed.contains("BreakglassVM"), "{listed}");
    // A session has no such verbs.
    lab.session("s", json!({})).await;
    refused(&lab, agent, 2, "power verbs are for a BreakglassVM", &["power", "status", "dbg/s"]).await;
    assert_eq!(done(&lab, None, &["end", "bgvm/devvm"]).await, "breakglassvm.sandglass.dev/devvm of octocat ends");
    machine.until_gone(&lab, "devvm", 60).await;
    refused(&lab, agent, 3, "devvm is over", &["power", "status", "devvm"]).await;
}
