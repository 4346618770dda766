//! Recoveries of a real machine under qemu, with keys from a real Vault server and verbs on a real sshd of its hypervisor.

use super::harness::{Lab, SYSTEM, eventually, kubectl, text};
use super::machine::{BOX, Machine, bao, may, process, read, read_key, script, self_service};
use super::reading::{open_message, status};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use sandglass::api::BreakglassVM;
use sandglass::api::breakglass_vm::PowerState;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The result that a power verb prints.
fn result(stdout: &[u8]) -> Value {
    let text = text(stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|problem| panic!("{problem}: {text}"))
}

/// What was begun is carried through: the machine is given back when nothing is done to it any more.
async fn no_verb_runs() {
    let quiet = async || !std::process::Command::new("pgrep").args(["-x", "sandglass-power"]).output().expect("pgrep").status.success();
    eventually("the hypervisor is quiet", 90, quiet).await;
}

/// The middle of a private key's text: what must be seen nowhere.
fn needle(key: &str) -> String {
    key.lines().nth(2).expect("three lines").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_on_the_machine_and_no_trace_of_its_key() {
    let lab = Lab::shared("vmshell").await;
    let machine = Machine::take(&lab).await;
    let began = Instant::now();
    let session = machine.open(&lab, "devvm", json!({})).await;
    assert_eq!(lab.run(&session, "cat /proc/sys/kernel/ostype; id -u").await, "Linux\n0");
    println!("apply to first byte of the machine: {:.1} s", began.elapsed().as_secs_f32());
    let output = lab.ssh(&session, "echo wrong >&2; exit 7").await;
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(7), "wrong\n"));
    let mut login = lab.stay(&session, "stty size; read line; echo got $line").await;
    login.type_in("typed\n").await;
    login.ended(20).await;
    assert!(login.seen().contains("got typed") && login.seen().contains("this session ends at"), "{}", login.seen());
    let mut sftp = lab.client_of("sftp", &session);
    sftp.args(["-b", "/dev/null", "s"]);
    let refused = super::harness::finish(sftp, 30).await;
    assert!(!refused.status.success(), "spec.access.allow is empty by default");

    let mut seen = vec![
        kubectl(&["get", "all,events,serviceaccounts,networkpolicies,secrets,configmaps", "-A", "-o", "yaml"]),
        kubectl(&["get", "breakglassvms,events", "-n", &lab.namespace, "-o", "yaml"]),
        kubectl(&["logs", "-n", BOX, "-l", "sandglass.dev/owner-kind=BreakglassVM", "--tail=-1"]),
    ];
    for component in ["controller", "gateway"] {
        seen.push(kubectl(&["logs", "-n", SYSTEM, "-l", &format!("app.kubernetes.io/component={component}"), "--tail=-1"]));
    }
    for key in ["vm/target_key", "vm/hypervisor_key"] {
        let needle = needle(&read_key(key));
        assert!(seen.iter().all(|text| !text.contains(&needle)), "a key was seen");
    }
    assert!(seen[2].contains("isolated"), "the log was read: {}", seen[2]);
    machine.end(&lab, "devvm").await;
    let denied = lab.refused_login(&session).await;
    assert!(denied.contains("sandglass: the session has ended: EndRequested"), "{denied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_object_allows_works_on_the_machine() {
    let lab = Lab::shared("vmallow").await;
    let machine = Machine::take(&lab).await;
    let allow = json!({ "access": { "authorizedKeys": [lab.public_key], "allow": ["Sftp", "LocalForward", "AgentForward"] } });
    let session = machine.open(&lab, "devvm", allow).await;
    std::fs::write(lab.path("up"), vec![7_u8; 300_000]).expect("written");
    let batch = format!("put {0}/up /root/up\nget /root/up {0}/down\n", lab.path("").display());
    std::fs::write(lab.path("batch"), batch).expect("written");
    let mut sftp = lab.client_of("sftp", &session);
    sftp.arg("-b").arg(lab.path("batch")).arg("s");
    let output = super::harness::finish(sftp, 60).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(std::fs::read(lab.path("down")).expect("a file"), vec![7_u8; 300_000]);
    // Through the machine, to its own sshd: whose host key is the machine's.
    let mut through = lab.client_of("ssh", &session);
    through.args(["-W", "127.0.0.1:22", "s"]).stdin(std::process::Stdio::piped());
    through.stdout(std::process::Stdio::piped());
    let mut child = through.spawn().expect("ssh");
    let mut banner = [0; 8];
    let stdout = child.stdout.as_mut().expect("an output");
    let read = tokio::time::timeout(Duration::from_secs(20), tokio::io::AsyncReadExt::read_exact(stdout, &mut banner)).await;
    read.expect("a banner in time").expect("read");
    assert_eq!(&banner, b"SSH-2.0-");
    machine.end(&lab, "devvm").await;
}

/// A wedged machine says what helps, and comes back by it; its console has at least so many bytes.
async fn back_with_evidence(lab: &Lab, session: &BreakglassVM, console: u64) {
    let began = Instant::now();
    let output = lab.ssh(session, "true").await;
    assert_eq!(output.status.code(), Some(126), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("power"), "it says what helps: {}", text(&output.stderr));
    assert!(began.elapsed() < Duration::from_secs(40));
    let output = lab.ssh(session, "power forensics").await;
    let forensics = result(&output.stdout);
    assert_eq!((output.status.code(), &forensics["state"]), (Some(0), &json!("Succeeded")), "{}", text(&output.stderr));
    let address = forensics["evidence"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("s3://recordings/e2e/evidence/"), "{address}");
    let folder = address.strip_prefix("s3://recordings/").expect("the bucket");
    let kept = super::recording::objects(lab, folder).await;
    let size = |name: &str| kept.iter().find(|(one, _)| one.ends_with(name)).map_or(0, |(_, size)| *size);
    assert!(size("/screen.png") > 1000 && size("/console.log") >= console, "{kept:?}");
    let output = lab.ssh(session, "power cycle").await;
    let cycled = result(&output.stdout);
    assert_eq!((output.status.code(), &cycled["after"]), (Some(0), &json!("running")), "{cycled} {}", text(&output.stderr));
    assert_ne!(cycled["evidence"], forensics["evidence"], "a bundle of its own");
    let back = async || lab.ssh(session, "true").await.status.success();
    eventually("the machine is back", 60, back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedged_machine_comes_back_with_evidence_kept() {
    let lab = Lab::shared("vmwedge").await;
    let machine = Machine::take(&lab).await;
    let session = machine.open(&lab, "devvm", json!({})).await;
    let output = lab.ssh(&session, "power status").await;
    assert_eq!((output.status.code(), &result(&output.stdout)["before"]), (Some(0), &json!("running")), "{}", text(&output.stderr));
    for (asked, words) in [("power cycle now", "usage"), ("power off", "no power verb"), ("power 'status;id'", "no power verb")] {
        let output = lab.ssh(&session, asked).await;
        assert!(output.status.code() == Some(1) && text(&output.stderr).contains(words), "{asked}: {}", text(&output.stderr));
    }
    // Stopped processors, some lines after a start; and full memory, of which it panics at length.
    for (wedge, console) in [("pause", 100), ("fill-memory", 2000)] {
        script("vm/vm", &[wedge], "").await;
        back_with_evidence(&lab, &session, console).await;
    }
    machine.end(&lab, "devvm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_killed_in_the_middle_of_a_verb_never_has_it_run_twice() {
    let lab = Lab::shared("vmkilled").await;
    let machine = Machine::take(&lab).await;
    // Stopped, the socket accepts and stays silent: the verb hangs in its first look.
    script("vm/vm", &["stop-answering"], "").await;
    machine.create(&lab, "devvm", json!({ "power": { "verb": "Reset" } })).await;
    let begun = |session: &BreakglassVM| session.status.as_ref().is_some_and(|status| status.power.is_some());
    let session = lab.until_of("devvm", 60, "begun", begun).await;
    let pod = status(&session).pod.expect("a pod").name;
    lab.api_in::<Pod>(BOX).delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("deleted");
    let session = machine.until_gone(&lab, "devvm", 60).await;
    assert!(open_message(&session).starts_with("PodGone"), "{}", open_message(&session));
    let ended = |session: &BreakglassVM| {
        let power = session.status.as_ref().and_then(|status| status.power.as_ref());
        power.is_some_and(|power| power.state != PowerState::Running)
    };
    let session = lab.until_of("devvm", 30, "known", ended).await;
    script("vm/vm", &["continue"], "").await;
    let power = session.status.and_then(|status| status.power).expect("a power status");
    assert_eq!(power.state, PowerState::Unknown, "{power:?}");
    assert!(power.message.is_some_and(|message| message.contains("not known")), "it says so");
    no_verb_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_goes_on_and_is_on_record_when_its_user_leaves() {
    let lab = Lab::shared("vmleave").await;
    let machine = Machine::take(&lab).await;
    let session = machine.open(&lab, "devvm", json!({})).await;
    let before = process();
    let mut client = lab.client_of("ssh", &session);
    client.args(["s", "power cycle"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = client.spawn().expect("ssh");
    let mut first = [0; 1];
    let words = child.stderr.as_mut().expect("an output");
    tokio::time::timeout(Duration::from_secs(30), tokio::io::AsyncReadExt::read_exact(words, &mut first))
        .await
        .expect("begun")
        .expect("read");
    child.kill().await.expect("killed");
    eventually("the machine is started anew", 60, async || process().is_some_and(|now| Some(now) != before)).await;
    no_verb_runs().await;
    let name = format!("e2e/evidence/{}/{}/devvm/", chrono::Utc::now().format("%Y-%m-%d"), lab.namespace);
    let kept = async || super::recording::objects(&lab, &name).await.iter().any(|(name, _)| name.ends_with("/screen.png"));
    eventually("the evidence is kept", 30, kept).await;
    let told = async || super::recording::audit(&lab).await.contains("\"event\":\"power\"");
    eventually("the run is on record", 30, told).await;
    let audit = super::recording::audit(&lab).await;
    assert!(audit.contains("\"state\":\"Succeeded\""), "{audit}");
    machine.end(&lab, "devvm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_key_that_is_not_pinned_is_refused_with_both_fingerprints() {
    let lab = Lab::shared("vmpin").await;
    let machine = Machine::take(&lab).await;
    let other = read("vm/hypervisor_host_key.pub");
    let target = json!({ "target": { "address": "10.244.0.250", "user": "breakglass", "hostKeys": [other] } });
    let session = machine.open(&lab, "devvm", target).await;
    let output = lab.ssh(&session, "true").await;
    let words = text(&output.stderr);
    let fingerprint =
        |line: &str| russh::keys::PublicKey::from_openssh(line).expect("a key").fingerprint(russh::keys::HashAlg::Sha256).to_string();
    assert_eq!(output.status.code(), Some(126), "{words}");
    for key in ["vm/host_key.pub", "vm/hypervisor_host_key.pub"] {
        assert!(words.contains(&fingerprint(&read(key))), "{words}");
    }
    machine.end(&lab, "devvm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_vault_has_its_own_reason() {
    let lab = Lab::shared("vmvault").await;
    let machine = Machine::take(&lab).await;
    let kv = |which: &str| may(&format!("secret/data/{}", machine.path(which)), "read");
    let narrow = kv("target") + &kv("hypervisor") + &self_service();
    let planted = needle(&read_key("vm/target_key"));
    let mut number = 0;
    let mut refused = async |reason: &str, words: &str| {
        number += 1;
        let name = format!("vm-{number}");
        machine.create(&lab, &name, json!({})).await;
        let message = machine.until_reason(&lab, &name, reason).await;
        assert!(message.contains(words) && !message.contains(&planted), "{reason}: {message}");
        lab.api::<BreakglassVM>().delete(&name, &DeleteParams::default()).await.expect("deleted");
        eventually("nothing is left", 60, async || machine.left(&lab).await.is_empty()).await;
    };
    let broad = format!("{narrow}{}", may("secret/data/*", "read"));
    machine.grant(&lab, &broad, "vault").await;
    refused("VaultRoleTooBroad", "secret/data/").await;
    machine.grant(&lab, &narrow, "elsewhere").await;
    refused("VaultAudienceWrong", "audience").await;
    machine.grant(&lab, &(kv("target") + &self_service()), "vault").await;
    refused("VaultPolicyTooNarrow", &machine.path("hypervisor")).await;
    machine.grant(&lab, &narrow, "vault").await;
    bao(&["kv", "put", "-mount=secret", &machine.path("target"), "-"], &json!({ "other": "field" }).to_string()).await;
    refused("VaultKeyMissing", "private_key").await;
    machine.put_key("target", "not a key\n").await;
    refused("VaultKeyUnusable", &machine.path("target")).await;
    bao(&["delete", &format!("auth/kubernetes/role/{}", machine.role)], "").await;
    refused("VaultRoleUnknown", &machine.role).await;
    machine.put_key("target", &read_key("vm/target_key")).await;
    machine.grant(&lab, &narrow, "vault").await;

    // What passes by itself is waited for.
    script("vault/server", &["seal"], "").await;
    machine.create(&lab, "sealed", json!({})).await;
    let message = machine.until_reason(&lab, "sealed", "VaultSealed").await;
    assert!(message.contains("unseal"), "{message}");
    script("vault/server", &["unseal"], "").await;
    let session = lab.until_of("sealed", 60, "open", |session: &BreakglassVM| super::reading::is_open(session)).await;
    assert_eq!(lab.run(&session, "echo open").await, "open");
    machine.end(&lab, "sealed").await;
    script("vault/server", &["stop-answering"], "").await;
    machine.create(&lab, "silent", json!({})).await;
    machine.until_reason(&lab, "silent", "VaultUnreachable").await;
    script("vault/server", &["continue"], "").await;
    lab.until_of("silent", 60, "open", |session: &BreakglassVM| super::reading::is_open(session)).await;
    machine.end(&lab, "silent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_fetched_anew_and_a_signed_one_works() {
    let lab = Lab::shared("vmrotate").await;
    let machine = Machine::take(&lab).await;
    let session = machine.open(&lab, "before", json!({})).await;
    assert_eq!(lab.run(&session, "echo before").await, "before");
    // The key of somebody else: a new recovery has that one, and the machine does not take it.
    machine.put_key("target", &read_key("vm/hypervisor_key")).await;
    let rotated = machine.open(&lab, "rotated", json!({})).await;
    let output = lab.ssh(&rotated, "true").await;
    assert!(output.status.code() == Some(126) && text(&output.stderr).contains("does not take"), "{}", text(&output.stderr));
    assert_eq!(lab.run(&session, "echo still").await, "still", "an open recovery keeps its own");
    machine.put_key("target", &read_key("vm/target_key")).await;
    let again = machine.open(&lab, "again", json!({})).await;
    assert_eq!(lab.run(&again, "echo again").await, "again");

    let role = json!({
        "key_type": "ca", "allow_user_certificates": true, "allowed_users": "breakglass", "ttl": "120", "max_ttl": "300",
        "default_extensions": { "permit-pty": "" }, "allowed_extensions": "permit-pty", "allowed_user_key_lengths": { "ed25519": [0] },
    });
    bao(&["write", &format!("ssh-client-signer/roles/{}", machine.role), "-"], &role.to_string()).await;
    let policy = may(&format!("ssh-client-signer/sign/{}", machine.role), "update") + &self_service();
    machine.grant(&lab, &policy, "vault").await;
    let mut vault = machine.manifest(&lab, "x", &json!({}))["spec"]["vault"].take();
    vault["targetKey"] = json!({ "ssh": { "mount": "ssh-client-signer", "role": machine.role } });
    vault.as_object_mut().expect("an object").remove("hypervisorKey");
    let signed = machine.open(&lab, "signed", json!({ "vault": vault, "hypervisor": null })).await;
    assert_eq!(lab.run(&signed, "id -un").await, "root");
    let output = lab.ssh(&signed, "power status").await;
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("spec.hypervisor"), "{}", text(&output.stderr));
    for name in ["before", "rotated", "again", "signed"] {
        lab.api::<BreakglassVM>().delete(name, &DeleteParams::default()).await.expect("deleted");
    }
    eventually("nothing is left", 60, async || machine.left(&lab).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_comes_in_the_middle_of_a_shell_and_of_a_verb() {
    let lab = Lab::shared("vmend").await;
    let machine = Machine::take(&lab).await;
    let soon = || (chrono::Utc::now() + chrono::TimeDelta::seconds(40)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let session = machine.open(&lab, "devvm", json!({ "notAfter": soon() })).await;
    let mut login = lab.stay(&session, "sleep 300").await;
    let expires = status(&session).expires_at.expect("an end");
    let (ended, at) = login.ended(60).await;
    super::reading::assert_cut_in_time(super::reading::since(&expires, at));
    assert_eq!(ended.code(), Some(124), "{}", login.seen());
    assert!(login.last_line().contains("expired"), "{}", login.seen());
    let nothing = async || script("vm/vm", &["ssh", "ps | grep -c '[s]leep 300' || true"], "").await.trim() == "0";
    eventually("nothing of it to run on the machine", 30, nothing).await;
    machine.until_gone(&lab, "devvm", 40).await;

    script("vm/vm", &["stop-answering"], "").await;
    machine.create(&lab, "verb", json!({ "notAfter": soon(), "power": { "verb": "Reset" } })).await;
    let begun = |session: &BreakglassVM| session.status.as_ref().is_some_and(|status| status.power.is_some());
    lab.until_of("verb", 38, "begun", begun).await;
    let session = machine.until_gone(&lab, "verb", 120).await;
    assert!(open_message(&session).starts_with("Expired"), "{}", open_message(&session));
    let known = |session: &BreakglassVM| {
        let power = session.status.as_ref().and_then(|status| status.power.as_ref());
        power.is_some_and(|power| power.state != PowerState::Running)
    };
    let session = lab.until_of("verb", 60, "known", known).await;
    let power = session.status.and_then(|status| status.power).expect("a power status");
    assert!(matches!(power.state, PowerState::Unknown | PowerState::Failed), "{power:?}");
    script("vm/vm", &["continue"], "").await;
    no_verb_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hypervisor_that_cannot_be_reached_is_named() {
    let lab = Lab::shared("vmhyper").await;
    let machine = Machine::take(&lab).await;
    let mut hypervisor = machine.manifest(&lab, "x", &json!({}))["spec"]["hypervisor"].take();
    hypervisor["port"] = json!(2299);
    let session = machine.open(&lab, "devvm", json!({ "hypervisor": hypervisor })).await;
    let output = lab.ssh(&session, "power status").await;
    let words = text(&output.stderr);
    assert!(output.status.code() == Some(1) && words.contains("hypervisor"), "{words}");
    assert_eq!(result(&output.stdout)["state"], "Failed", "it was not begun");
    assert_eq!(lab.run(&session, "echo the machine is there").await, "the machine is there");
    machine.end(&lab, "devvm").await;
}
