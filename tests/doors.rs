//! The doors through which people come to Sandglass, each against the real thing on the other side: Tekton, CI outside the
//! cluster, the kubectl plugin.
//!
//! Runs in the network of a cluster where Sandglass is installed (`e2e/doors/test`); `KUBECONFIG` names it.

// A test that cannot go on fails where it stands, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "the cluster's own tests use more of it")]
#[path = "cluster/harness.rs"]
mod harness;
#[path = "doors/plugin.rs"]
mod plugin;
#[allow(dead_code, reason = "the cluster's own tests use more of it")]
#[path = "cluster/reading.rs"]
mod reading;
#[path = "doors/tekton.rs"]
mod tekton;
