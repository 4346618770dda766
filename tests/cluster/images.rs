//! Images of all kinds: without a shell, with tools, with root, and those that cannot be had.

use super::harness::{BUILD_IMAGE, DEBUG, Lab, finish, kubectl, text};
use super::node::{self, on_the_node};
use super::reading::{condition, is_true, open_message, status};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_shell() {
    let lab = Lab::shared("bare").await;
    let session = lab.open("s", json!({ "source": { "image": "local.test/bare:1" } })).await;
    let output = lab.ssh(&session, "ls").await;
    assert_eq!(output.status.code(), Some(126));
    let told = "sandglass: this image has no shell to run commands with: use sftp, or name an image with a shell in spec.tools\n";
    assert_eq!(text(&output.stderr), told);
    let mut shell = lab.client_of("ssh", &session);
    shell.args(["-tt", "s"]);
    let shell = finish(shell, 20).await;
    assert_eq!(shell.status.code(), Some(126));
    assert!(text(&shell.stdout).contains("sandglass: this image has no shell that runs: use sftp, or name an image"), "{shell:?}");

    std::fs::write(lab.path("up"), "through sftp\n").expect("written");
    std::fs::write(lab.path("batch"), format!("put {0}/up /tmp-up\nget /tmp-up {0}/down\nls -l /netprobe\n", lab.path("").display()))
        .expect("written");
    let mut sftp = lab.client_of("sftp", &session);
    sftp.arg("-b").arg(lab.path("batch")).arg("s");
    let sftp = finish(sftp, 20).await;
    assert!(sftp.status.success(), "{sftp:?}");
    assert_eq!(std::fs::read_to_string(lab.path("down")).expect("came back"), "through sftp\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tools() {
    let lab = Lab::shared("tools").await;
    let spec = json!({ "source": { "image": "local.test/bare:1" }, "tools": { "image": "local.test/tools:1" } });
    lab.session("bare", spec).await;
    let spec = json!({ "tools": { "image": "local.test/tools:1" }, "project": "build" });
    lab.session("build", spec).await;
    // Beside the image's own programs, and behind them on PATH.
    let build = lab.until_open("build").await;
    assert_eq!(lab.run(&build, "busybox echo from busybox; command -v ls").await, "from busybox\n/usr/bin/ls");
    assert_ne!(lab.ssh(&build, "echo x > $(command -v busybox)").await.status.code(), Some(0), "the tools are read-only");
    // The image of the tools has no shell under that name: nothing runs, and the user is told so.
    let bare = lab.until_open("bare").await;
    let output = lab.ssh(&bare, "busybox ls /").await;
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    assert!(text(&output.stderr).contains("name an image with a shell in spec.tools"), "{output:?}");
    for session in [&build, &bare] {
        let pod = lab.pod(session).await.expect("a pod");
        let spec = pod.spec.expect("a spec");
        assert_eq!(spec.init_containers.iter().flatten().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["copy-tools"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside() {
    let lab = Lab::shared("root").await;
    let session = lab.open("s", json!({})).await;
    assert_eq!(lab.run(&session, "id -u; echo changed > /etc/motd; cat /etc/motd").await, "0\nchanged");
    assert_eq!(lab.run(&session, "grep ^CapEff /proc/self/status | cut -f2").await, "0000000000000000");
    let mut login = lab.stay(&session, "exec sleep 600").await;
    assert!(login.goes_on());
    if !on_the_node() {
        return;
    }
    let processes = node::processes_of(&status(&session).pod.expect("a pod").uid);
    assert!(processes.iter().any(|process| process.command == "sleep 600"), "the login's own process is among them");
    assert!(processes.iter().any(|process| process.command.ends_with("sandglass-agent serve")));
    for process in &processes {
        let users = process.users();
        assert!(users.len() == 4 && users.iter().all(|user| *user > 65_535), "{} runs as {users:?} on the node", process.command);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_numeric_user_where_that_is_asked() {
    let lab = Lab::shared("restricted").await;
    let session = lab.open("s", json!({ "isolation": "Restricted" })).await;
    assert_eq!(lab.run(&session, "id -u; id -g; id -G").await, "10001\n10001\n10001");
    for command in ["echo x > /etc/motd", "echo x > /workspace/x", "touch /x", "cat /proc/1/environ", "chown 0 /tmp"] {
        assert_ne!(lab.ssh(&session, command).await.status.code(), Some(0), "{command}");
    }
    assert_eq!(
        lab.run(&session, "cat /workspace/src/greeting.txt; echo x > /tmp/x && cat /tmp/x; cd; echo y > y; cat y").await,
        "helo, sandglass\nx\ny"
    );
    if on_the_node() {
        for process in node::processes_of(&status(&session).pod.expect("a pod").uid) {
            assert_eq!(process.users(), [10001; 4], "{}", process.command);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_cannot_be_had() {
    let lab = Lab::shared("absent").await;
    lab.session("missing", json!({ "source": { "image": "local.test/ci-build:no-such-tag" } })).await;
    lab.session("foreign", json!({ "source": { "image": "registry.example.com/x:1" }, "project": "b" })).await;
    lab.session("tools", json!({ "source": { "image": BUILD_IMAGE }, "tools": { "image": "local.test/none:1" }, "project": "c" })).await;
    lab.session("trick", json!({ "source": { "image": "local.test.example.com/ci-build:1" }, "project": "d" })).await;

    let foreign = lab.until_reason("foreign", "ImageNotAllowed").await;
    let message = open_message(&foreign);
    assert!(message.contains("registry.example.com/x:1 is outside allowedImages of the configuration"), "{message}");
    assert!(message.contains("ask the operator to allow it") && is_true(&foreign, "Stalled"), "{message}");
    assert_eq!(status(&foreign).pod, None);
    lab.until_reason("trick", "ImageNotAllowed").await;

    // A pull that cannot succeed ends the session: another tag needs another object anyway.
    let missing = lab.until_reason("missing", "ImageRefused").await;
    let message = open_message(&missing);
    assert!(message.contains("the session's image cannot be had: check that it exists") && message.contains("no-such-tag"), "{message}");
    let missing = lab.until("missing", 20, "stalled", |session| is_true(session, "Stalled")).await;
    assert_eq!(condition(&missing, "Stalled").expect("stalled").reason, "ImageRefused");
    let tools = lab.until_reason("tools", "ImageRefused").await;
    assert!(open_message(&tools).contains("the tools image cannot be had: check spec.tools.image"), "{}", open_message(&tools));
    for session in [&missing, &tools] {
        lab.until_no_pod(session, 20).await;
    }
    let left = kubectl(&["get", "pods", "-n", DEBUG, "-o", "name"]);
    for session in ["missing", "tools", "foreign", "trick"] {
        assert!(!left.contains(&format!("{}-{session}", lab.namespace)), "{left}");
    }
}
