//! Whether the pod can serve: isolated first, then its keys. No key is fetched by a pod that could reach what must be closed.

use super::keyholder::Keyholder;
use crate::link::client::Readiness;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::sleep;

/// A new pod's network policy may be a moment late: what passes by itself within this time is not told.
const QUIET: Duration = Duration::from_secs(4);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Time for a refusal to reach the gateways and the object's status before the pod ends; usually it is deleted before.
const REPORT_GRACE: Duration = Duration::from_secs(20);
/// Vault says no also when it cannot ask the API server about the token: for so long that is not taken for its last word.
const DENIED_PATIENCE: Duration = Duration::from_secs(30);

/// Brings `readiness` from unknown to its end.
pub async fn prepare(mut isolation: watch::Receiver<Readiness>, keyholder: Rc<Keyholder>, readiness: watch::Sender<Readiness>) {
    let Ok(first) = isolation.wait_for(|known| *known != Readiness::Unknown).await.map(|known| known.clone()) else { return };
    if first == Readiness::Ready {
        let loaded = tokio::select! {
            loaded = load(&keyholder, &readiness) => loaded,
            opened = isolation.wait_for(|known| matches!(known, Readiness::NotIsolated(_))) => match opened {
                Ok(opened) => opened.clone(),
                Err(_) => return,
            },
        };
        readiness.send_replace(loaded);
    }
    // From here on only the isolation can change, and only once.
    if let Ok(opened) = isolation.wait_for(|known| matches!(known, Readiness::NotIsolated(_))).await {
        let opened = opened.clone();
        readiness.send_replace(opened);
    }
    readiness.closed().await;
}

/// Has the keys fetched: again and again as long as that may help.
async fn load(keyholder: &Keyholder, readiness: &watch::Sender<Readiness>) -> Readiness {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let attempt = Instant::now();
        let error = match keyholder.load().await {
            Ok(()) => {
                tracing::info!(milliseconds = attempt.elapsed().as_millis(), "keys fetched");
                return Readiness::Ready;
            }
            Err(error) => error,
        };
        let may_pass = error.transient || (error.reason == "VaultDenied" && began.elapsed() < DENIED_PATIENCE);
        let held = Readiness::Held { last: !may_pass, reason: error.reason, message: error.message };
        if !may_pass {
            tracing::error!(reason = ?held, "no key");
            return held;
        }
        tracing::warn!(reason = ?held, "no key yet");
        if began.elapsed() >= QUIET {
            readiness.send_if_modified(|known| std::mem::replace(known, held.clone()) != held);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Returns when the pod will never serve and the gateways had time to hear of it.
pub async fn refused(mut readiness: watch::Receiver<Readiness>) {
    let never = |known: &Readiness| matches!(known, Readiness::NotIsolated(_) | Readiness::Held { last: true, .. });
    match readiness.wait_for(never).await {
        Ok(_) => sleep(REPORT_GRACE).await,
        Err(_) => std::future::pending().await,
    }
}
