//! What takes minutes, and what is measured: on demand.

use super::bench::{self, Machine, command, text};
use super::trouble;
use super::user::{Gateway, User};
use sandglass::link::frame;
use sandglass::link::message::Exit;
use sandglass::recovery::ssh::{Place, connect};
use std::time::{Duration, Instant};

/// Two minutes: a machine that is paused for half a minute goes on, one that stays away is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes two minutes"]
async fn a_pause_is_survived_and_an_end_is_found() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    let (address, paused) = trouble::pausing_proxy(machine.place().address).await;
    let place = Place { address, ..machine.place() };
    let connection = connect(&place, &machine.identity(), &machine.agent.socket).await.expect("connected");
    let mut user = gateway.serve(connection, command("cat")).await;
    user.limit = Duration::from_secs(200);
    user.send(frame::STDIN, b"before").await;
    user.until(|user| text(&user.stdout).ends_with("before")).await;
    paused.send_replace(true);
    tokio::time::sleep(Duration::from_secs(32)).await;
    user.send(frame::STDIN, b"meanwhile").await;
    paused.send_replace(false);
    user.until(|user| text(&user.stdout).ends_with("meanwhile")).await;
    paused.send_replace(true);
    let began = Instant::now();
    user.rest().await;
    assert!(matches!(&user.exit, Some(Exit::Failed(text)) if text.contains("no sign of life for 75 s")), "{:?}", user.exit);
    assert!((74..95).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// Printed, not judged: this against the OpenSSH client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let (machine, gateway) = (Machine::start("").await, Gateway::start().await);
    for round in 0..3 {
        let began = Instant::now();
        let mut user = machine.run(&gateway, command("head -c 536870912 /dev/zero")).await;
        let count = user.discard().await;
        let here = began.elapsed();
        let began = Instant::now();
        let ssh = machine.ssh("head -c 536870912 /dev/zero", "cat >/dev/null");
        let down = (512.0 / here.as_secs_f64(), 512.0 / ssh.as_secs_f64(), began.elapsed());
        let mut user = machine.run(&gateway, command("cat >/dev/null")).await;
        let began = Instant::now();
        for _ in 0..4096 {
            user.send(frame::STDIN, &vec![0; 128 * 1024]).await;
        }
        user.send(frame::CLOSE, &[frame::STDIN]).await;
        user.rest().await;
        let here = began.elapsed();
        let ssh = machine.ssh_with_input("cat >/dev/null");
        println!(
            "round {round}: down {:.0} MiB/s (ssh {:.0}), up {:.0} MiB/s (ssh {:.0}); {count} bytes; {} kB resident",
            down.0,
            down.1,
            512.0 / here.as_secs_f64(),
            512.0 / ssh.as_secs_f64(),
            bench::resident()
        );
    }
    // Memory while nobody reads.
    let before = bench::resident();
    let mut stalled: Vec<User> = Vec::new();
    for _ in 0..4 {
        stalled.push(machine.run(&gateway, command("cat /dev/zero")).await);
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        println!("four stalled channels: {} kB more", bench::resident().saturating_sub(before));
    }
}
