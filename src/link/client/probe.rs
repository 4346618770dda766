//! Isolation is proven, not assumed: a new pod can reach out for a moment before its network policy is programmed, and some
//! network plugins enforce nothing. Before the first channel, and as long as the session lives, addresses that must be
//! closed are tried.

use super::Readiness;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info};

/// How a connection is waited for: a plugin that drops packets gives no answer.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(250);
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

/// Starts probing once a gateway was `reached`: before that nothing may answer because there is no network yet. The verdict changes once at the
/// start, and again should an address open later.
#[must_use]
pub fn start(must_be_closed: Vec<SocketAddr>, mut reached: watch::Receiver<bool>) -> watch::Receiver<Readiness> {
    let (sender, verdict) = watch::channel(Readiness::Unknown);
    tokio::task::spawn_local(async move {
        if reached.wait_for(|reached| *reached).await.is_err() {
            return;
        }
        loop {
            let now = settle(&must_be_closed, LIMIT).await;
            match &now {
                Readiness::NotIsolated(address) => error!(%address, "an address that must be closed is open"),
                _ if *sender.borrow() == Readiness::Unknown => info!("isolated"),
                _ => {}
            }
            let open = matches!(now, Readiness::NotIsolated(_));
            sender.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            if open {
                return sender.closed().await;
            }
            sleep(LATER).await;
        }
    });
    verdict
}

/// Returns when isolation was refuted and the gateways had time to hear of it.
pub async fn refused(mut verdict: watch::Receiver<Readiness>) {
    match verdict.wait_for(|verdict| matches!(verdict, Readiness::NotIsolated(_))).await {
        Ok(_) => sleep(REPORT_GRACE).await,
        Err(_) => std::future::pending().await,
    }
}

/// Tries until everything is closed, or something is still open after `limit`.
async fn settle(must_be_closed: &[SocketAddr], limit: Duration) -> Readiness {
    let began = Instant::now();
    loop {
        match first_open(must_be_closed).await {
            None => return Readiness::Ready,
            Some(address) if began.elapsed() >= limit => return Readiness::NotIsolated(address),
            Some(_) => {}
        }
        sleep(if began.elapsed() < Duration::from_secs(1) { PAUSE } else { LONGER_PAUSE }).await;
    }
}

/// Tries each address twice, a moment apart and without waiting for one another: what drops packets is waited for once.
async fn first_open(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let attempts = addresses.iter().flat_map(|address| [(address, Duration::ZERO), (address, PAUSE)]).map(|(address, pause)| async move {
        sleep(pause).await;
        let open = matches!(timeout(ATTEMPT_LIMIT, TcpStream::connect(address)).await, Ok(Ok(_)));
        open.then_some(*address)
    });
    futures_util::future::join_all(attempts).await.into_iter().flatten().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn open_and_closed_addresses_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let open = listener.local_addr().expect("address");
        assert_eq!(first_open(&[open]).await, Some(open));
        drop(listener);
        assert_eq!(settle(&[open], LIMIT).await, Readiness::Ready);
        assert_eq!(settle(&[], LIMIT).await, Readiness::Ready);
    }

    /// A listener whose queue is full drops packets, as some network plugins do.
    #[tokio::test]
    async fn what_gives_no_answer_is_waited_for_once() {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let listener = socket.listen(0).expect("listening");
        let address = listener.local_addr().expect("an address");
        let mut queue = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(50), TcpStream::connect(address)).await {
            queue.push(stream);
            assert!(queue.len() < 16, "the queue is never full");
        }
        tokio::time::pause();
        let began = Instant::now();
        assert_eq!(first_open(&[address]).await, None);
        assert!(began.elapsed() < ATTEMPT_LIMIT * 2, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn closed_counts_from_the_first_connection_to_a_gateway_on() {
        let tests = tokio::task::LocalSet::new();
        tests
            .run_until(async {
                let (reached, heard) = watch::channel(false);
                let mut verdict = start(vec![], heard);
                assert!(timeout(Duration::from_millis(100), verdict.changed()).await.is_err(), "{:?}", *verdict.borrow());
                reached.send_replace(true);
                verdict.wait_for(|verdict| *verdict == Readiness::Ready).await.expect("a verdict");
            })
            .await;
    }

    #[tokio::test]
    async fn an_address_that_stays_open_is_found_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let open = listener.local_addr().expect("address");
        assert_eq!(settle(&[open], Duration::from_millis(100)).await, Readiness::NotIsolated(open));
    }
}
