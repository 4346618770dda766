//! What the gateway holds in memory when clients or programs do not keep up. Alone in its process, one after the other: the
//! gateway under test shares it with the tests.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Bench, Options, eventually, succeeded};
use tokio::sync::Mutex;

static ALONE: Mutex<()> = Mutex::const_new(());

fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_costs_no_memory() {
    let _alone = ALONE.lock().await;
    let bench = Bench::start(Options::default()).await;
    let mut command = bench.client("ssh");
    let mut reader = command.args(["s", "cat /dev/zero"]).stdout(Stdio::piped()).spawn().expect("started");
    let sent = || bench.gateway.metrics.bytes_out.get();
    eventually("the first bytes", || sent() > 0).await;
    // Nobody reads: the counter comes to rest.
    let mut last = (0, Instant::now());
    eventually("output to stop", || {
        if sent() != last.0 {
            last = (sent(), Instant::now());
        }
        last.1.elapsed() > Duration::from_secs(1)
    })
    .await;
    let rested = memory_kb();
    assert!(last.0 < 64 << 20, "{} bytes were sent to nobody", last.0);
    eventually("another second", || last.1.elapsed() > Duration::from_secs(2)).await;
    assert!(memory_kb() < rested + 8192, "{rested} kB grew to {} kB", memory_kb());
    assert_eq!(bench.run(&["true"], b"").await.status.code(), Some(0), "others are served");
    reader.kill().expect("killed");
    reader.wait().expect("ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_passes_beside_shells_and_a_stalled_forward() {
    let _alone = ALONE.lock().await;
    let bench = Bench::start(Options::default()).await;
    let silent = support::silent_server().await;
    let before = memory_kb();
    let output = bench
        .script(&format!(
            r#"
            # Seeded, so that a failure can be repeated.
            head -c 1G < <(openssl enc -aes-128-ctr -nosalt -pbkdf2 -pass pass:sandglass < /dev/zero 2> /dev/null) > $D/data
            ssh -M -S $D/master -f -N s
            STALLED=; SHELLS=
            trap 'kill $STALLED $SHELLS 2> /dev/null || true; ssh -S $D/master -O exit s 2> /dev/null || true' EXIT
            (head -c 200M /dev/zero | ssh -S $D/master -W {silent} s > /dev/null 2>&1) & STALLED=$!
            for i in 1 2 3 4; do (mkfifo $D/in$i; exec 3<> $D/in$i; ssh -S $D/master -tt s < $D/in$i > $D/shell$i 2>&1) & SHELLS="$SHELLS $!"; done
            want=$(sha256sum < $D/data)
            [ "$(ssh -S $D/master s cat < $D/data | sha256sum)" = "$want" ] || {{ echo hash; exit 1; }}
            for i in 1 2 3 4; do echo 'echo alive$((1+1))' > $D/in$i; done
            for i in 1 2 3 4; do timeout 10 bash -c "until grep -q alive2 $D/shell$i; do sleep 0.05; done" || {{ echo shell $i; exit 1; }}; done
            "#
        ))
        .await;
    succeeded(&output);
    let grown = memory_kb().saturating_sub(before);
    assert!(grown < 64 * 1024, "the gateway grew by {grown} kB");
}
