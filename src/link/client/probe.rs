//! Isolation is proven, not assumed: a new pod can reach out for a moment before its network policy is programmed, and some
//! network plugins enforce nothing. Before the first channel, and as long as the session lives, addresses that must be
//! closed are tried.

use super::Readiness;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info};

/// How long an answer is waited for: a plugin that drops packets gives none. The kernel sends what got lost again after a second.
pub const PATIENCE: Duration = Duration::from_millis(1500);
/// The same for the first verdict where a user waits for it: at least so long, and so many times as long as a gateway took to answer.
pub const SHORT_PATIENCE: Duration = Duration::from_millis(100);
const TIMES: u32 = 20;
/// Time between two looks at the start, and between the two attempts of one look.
const PAUSE: Duration = Duration::from_millis(20);
/// The same once the first second is over: a policy that comes late is not missed, and the target's queue of connections not
/// filled, which would look like closed.
const LONGER_PAUSE: Duration = Duration::from_millis(250);
/// How long an address may stay open at the start.
const LIMIT: Duration = Duration::from_secs(10);
/// Time between two looks later.
const LATER: Duration = Duration::from_secs(5);
/// Time for the report to reach the gateway before the agent exits.
const REPORT_GRACE: Duration = Duration::from_secs(3);

/// Starts probing once a gateway was `reached`, and in what time: before that nothing may answer because there is no network yet. The verdict
/// changes once at the start, for which an answer is waited for `at_least` so long, and again should an address open later.
#[must_use]
pub fn start(
    must_be_closed: Vec<SocketAddr>,
    at_least: Duration,
    mut reached: watch::Receiver<Option<Duration>>,
) -> watch::Receiver<Readiness> {
    let (sender, verdict) = watch::channel(Readiness::Unknown);
    tokio::task::spawn_local(async move {
        let Ok(took) = reached.wait_for(Option::is_some).await.map(|took| took.unwrap_or_default()) else { return };
        let mut now = settle(&must_be_closed, first_patience(took, at_least), LIMIT).await;
        if now == Readiness::Ready {
            info!("isolated");
            sender.send_replace(now);
            // What answers too late for the first verdict is found here, and not forgiven.
            now = settle(&must_be_closed, PATIENCE, Duration::ZERO).await;
        }
        while now == Readiness::Ready {
            sleep(LATER).await;
            now = settle(&must_be_closed, PATIENCE, LIMIT).await;
        }
        if let Readiness::NotIsolated(address) = &now {
            error!(%address, "an address that must be closed is open");
        }
        sender.send_replace(now);
        sender.closed().await;
    });
    verdict
}

fn first_patience(took: Duration, at_least: Duration) -> Duration {
    took.saturating_mul(TIMES).clamp(at_least, PATIENCE)
}

/// Returns when isolation was refuted and the gateways had time to hear of it.
pub async fn refused(mut verdict: watch::Receiver<Readiness>) {
    match verdict.wait_for(|verdict| matches!(verdict, Readiness::NotIsolated(_))).await {
        Ok(_) => sleep(REPORT_GRACE).await,
        Err(_) => std::future::pending().await,
    }
}

/// Tries until everything is closed, or something is still open after `limit`.
async fn settle(must_be_closed: &[SocketAddr], patience: Duration, limit: Duration) -> Readiness {
    let began = Instant::now();
    loop {
        match first_open(must_be_closed, patience).await {
            None => return Readiness::Ready,
            Some(address) if began.elapsed() >= limit => return Readiness::NotIsolated(address),
            Some(_) => {}
        }
        sleep(if began.elapsed() < Duration::from_secs(1) { PAUSE } else { LONGER_PAUSE }).await;
    }
}

/// Tries each address twice, a moment apart and without waiting for one another: what drops packets is waited for once.
async fn first_open(addresses: &[SocketAddr], patience: Duration) -> Option<SocketAddr> {
    let attempts = addresses.iter().flat_map(|address| [(address, Duration::ZERO), (address, PAUSE)]).map(|(address, pause)| async move {
        sleep(pause).await;
        let open = matches!(timeout(patience, TcpStream::connect(address)).await, Ok(Ok(_)));
        open.then_some(*address)
    });
    let mut outcomes: FuturesUnordered<_> = attempts.collect();
    while let Some(outcome) = outcomes.next().await {
        if outcome.is_some() {
            return outcome;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn open_and_closed_addresses_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let open = listener.local_addr().expect("address");
        assert_eq!(first_open(&[open], PATIENCE).await, Some(open));
        drop(listener);
        assert_eq!(settle(&[open], PATIENCE, LIMIT).await, Readiness::Ready);
        assert_eq!(settle(&[], PATIENCE, LIMIT).await, Readiness::Ready);
    }

    /// A listener whose queue is full drops packets, as some network plugins do.
    async fn full_queue() -> (TcpListener, SocketAddr, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let listener = socket.listen(0).expect("listening");
        let address = listener.local_addr().expect("an address");
        let mut queue = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(50), TcpStream::connect(address)).await {
            queue.push(stream);
            assert!(queue.len() < 16, "the queue is never full");
        }
        (listener, address, queue)
    }

    #[tokio::test]
    async fn what_gives_no_answer_is_waited_for_once() {
        let (_listener, address, _queue) = full_queue().await;
        tokio::time::pause();
        let began = Instant::now();
        assert_eq!(first_open(&[address], PATIENCE).await, None);
        assert!(began.elapsed() < PATIENCE * 2, "{:?}", began.elapsed());
    }

    #[test]
    fn the_first_verdict_waits_by_what_a_gateway_took() {
        let patience = |took| first_patience(Duration::from_millis(took), SHORT_PATIENCE).as_millis();
        assert_eq!([0, 5, 20, 49, 51, 3000].map(patience), [100, 100, 400, 980, 1020, 1500]);
        assert_eq!(first_patience(Duration::ZERO, PATIENCE), PATIENCE);
    }

    #[tokio::test]
    async fn what_is_open_is_told_before_what_is_silent_is_given_up() {
        let (_listener, silent, _queue) = full_queue().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let open = listener.local_addr().expect("address");
        tokio::time::pause();
        let began = Instant::now();
        assert_eq!(first_open(&[silent, open], PATIENCE).await, Some(open));
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn what_answers_too_late_for_the_first_verdict_is_found_out_all_the_same() {
        let tests = tokio::task::LocalSet::new();
        tests
            .run_until(async {
                let (listener, address, _queue) = full_queue().await;
                let (_reached, heard) = watch::channel(Some(Duration::ZERO));
                let mut verdict = start(vec![address], SHORT_PATIENCE, heard);
                let first = timeout(Duration::from_secs(20), verdict.wait_for(|verdict| *verdict != Readiness::Unknown)).await;
                assert_eq!(*first.expect("in time").expect("a verdict"), Readiness::Ready);
                // With room in its queue it answers what is sent again after a second.
                tokio::task::spawn_local(async move { while listener.accept().await.is_ok() {} });
                let found = timeout(LATER, verdict.wait_for(|verdict| *verdict == Readiness::NotIsolated(address))).await;
                assert!(found.is_ok_and(|found| found.is_ok()), "an address that is open was not found");
            })
            .await;
    }

    #[tokio::test]
    async fn closed_counts_from_the_first_connection_to_a_gateway_on() {
        let tests = tokio::task::LocalSet::new();
        tests
            .run_until(async {
                let (reached, heard) = watch::channel(None);
                let mut verdict = start(vec![], SHORT_PATIENCE, heard);
                assert!(timeout(Duration::from_millis(100), verdict.changed()).await.is_err(), "{:?}", *verdict.borrow());
                reached.send_replace(Some(Duration::from_millis(1)));
                verdict.wait_for(|verdict| *verdict == Readiness::Ready).await.expect("a verdict");
            })
            .await;
    }

    #[tokio::test]
    async fn an_address_that_stays_open_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let open = listener.local_addr().expect("address");
        assert_eq!(settle(&[open], PATIENCE, Duration::from_millis(100)).await, Readiness::NotIsolated(open));
    }
}
