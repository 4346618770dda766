//! What other programs do with the connection: files and forwards, through the real gateways.

use super::harness::{Lab, PROBE_IMAGE, eventually, finish, text};
use serde_json::json;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_a_server_and_forward_to_it() {
    let lab = Lab::shared("editor").await;
    let spec =
        json!({ "source": { "image": PROBE_IMAGE }, "access": { "authorizedKeys": [lab.public_key], "allow": ["Sftp", "LocalForward"] } });
    let session = lab.open("s", spec).await;
    // A megabyte and a script, as editors bring their server along.
    std::fs::write(lab.path("blob"), vec![7_u8; 1 << 20]).expect("written");
    std::fs::write(lab.path("server"), "#!/bin/sh\nexec nc -ll -p 7000 -e cat\n").expect("written");
    let mut copy = lab.client_of("scp", &session);
    copy.arg("-p").arg(lab.path("blob")).arg(lab.path("server")).arg("s:/tmp/");
    let copy = finish(copy, 30).await;
    assert!(copy.status.success(), "{copy:?}");
    let sum = std::process::Command::new("sha256sum").arg(lab.path("blob")).output().expect("sha256sum");
    assert_eq!(
        lab.run(&session, "sha256sum < /tmp/blob; chmod +x /tmp/server").await.split(' ').next(),
        text(&sum.stdout).split(' ').next()
    );

    let mut server = lab.stay(&session, "exec /tmp/server").await;
    let port = free_port();
    let mut forward = lab.client_of("ssh", &session);
    forward.args(["-N", "-o", "ExitOnForwardFailure=yes", "-L", &format!("127.0.0.1:{port}:127.0.0.1:7000"), "s"]);
    let mut forward = forward.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ssh");
    let echoed = async || {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
        let mut answer = [0; 5];
        stream.write_all(b"hello").await.is_ok() && stream.read_exact(&mut answer).await.is_ok() && &answer == b"hello"
    };
    eventually("an echo through the forward", 20, echoed).await;
    assert!(server.goes_on() && forward.try_wait().expect("asked").is_none());
    // Two more, at once.
    let both = tokio::join!(echoed(), echoed());
    assert_eq!(both, (true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_refused() {
    let lab = Lab::shared("refused").await;
    let session = lab.open("s", json!({ "access": { "authorizedKeys": [lab.public_key], "allow": [] } })).await;
    let mut forward = lab.client_of("ssh", &session);
    forward.args(["-o", "LogLevel=INFO", "-W", "127.0.0.1:7000", "s"]);
    let forward = finish(forward, 20).await;
    assert_ne!(forward.status.code(), Some(0));
    assert!(text(&forward.stderr).contains("administratively prohibited"), "{forward:?}");
    let mut sftp = lab.client_of("sftp", &session);
    sftp.arg("s");
    assert_ne!(finish(sftp, 20).await.status.code(), Some(0), "sftp without being allowed");
    let mut remote = lab.client_of("ssh", &session);
    remote.args(["-o", "ExitOnForwardFailure=yes", "-R", "7001:127.0.0.1:22", "s", "true"]);
    assert_ne!(finish(remote, 20).await.status.code(), Some(0), "a remote forward");
    let agent = lab.run(&session, "echo agent:$SSH_AUTH_SOCK").await;
    assert_eq!(agent, "agent:");
    // Somebody else's key.
    let other = sandglass::gateway::keys::new_ed25519().expect("key");
    other.write_openssh_file(lab.path("other"), russh::keys::ssh_key::LineEnding::LF).expect("written");
    let mut stranger = lab.client_of("ssh", &session);
    let own = std::fs::read_to_string(lab.path("s.ssh_config")).expect("written by the line above");
    let swapped = own.replace(&lab.path("id").display().to_string(), &lab.path("other").display().to_string());
    std::fs::write(lab.path("s.ssh_config"), swapped).expect("written");
    stranger.args(["s", "true"]);
    let stranger = finish(stranger, 20).await;
    assert_eq!(stranger.status.code(), Some(255));
    assert!(text(&stranger.stderr).contains("Permission denied (publickey)"), "{stranger:?}");
}
