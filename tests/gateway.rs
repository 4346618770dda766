//! The gateway and the real agent on loopback, seen by the ordinary OpenSSH client.

mod support;

use support::{Bench, Options};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_have_output_errors_and_exit_status() {
    let bench = Bench::start(Options::default()).await;
    let output = bench.run(&["echo out; echo err >&2; exit 7"], b"").await;
    assert_eq!((output.status.code(), text(&output.stdout), text(&output.stderr)), (Some(7), "out\n".into(), "err\n".into()));
    let output = bench.run(&["true"], b"").await;
    assert_eq!(output.status.code(), Some(0));
}
