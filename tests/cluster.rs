//! Sessions on a real cluster, seen by the ordinary OpenSSH client: what Sandglass promises, kept by the real API server,
//! kubelet, container runtime and network plugin.
//!
//! Runs in the network of a cluster where Sandglass is installed (`e2e/test cluster`); `KUBECONFIG` names it. Each test has a
//! namespace of its own. What disturbs others (a policy removed, replicas killed, a quota, a full node) is in `alone`.

// A test that cannot go on fails where it stands, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "cluster/alone.rs"]
mod alone;
#[path = "cluster/census.rs"]
mod census;
#[path = "cluster/clients.rs"]
mod clients;
#[path = "cluster/ending.rs"]
mod ending;
#[path = "cluster/harness.rs"]
mod harness;
#[path = "cluster/images.rs"]
mod images;
#[path = "cluster/isolation.rs"]
mod isolation;
#[path = "cluster/limits.rs"]
mod limits;
#[path = "cluster/link.rs"]
mod link;
#[path = "cluster/machine.rs"]
mod machine;
#[path = "cluster/node.rs"]
mod node;
#[path = "cluster/reading.rs"]
mod reading;
#[path = "cluster/recording.rs"]
mod recording;
#[path = "cluster/recovery.rs"]
mod recovery;
#[path = "cluster/sources.rs"]
mod sources;
#[path = "cluster/turns.rs"]
mod turns;
