//! When keys are fetched, with a pretended source and a pretended clock.

use super::*;
use crate::domain::provisioning::Issuer;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Default)]
struct Pretended {
    fetches: AtomicUsize,
    away: AtomicBool,
    second: AtomicBool,
    panics: AtomicBool,
}

struct Shared(Arc<Pretended>);

#[async_trait]
impl Source for Shared {
    async fn keys(&self) -> Result<KeySet, FetchError> {
        self.0.fetches.fetch_add(1, Ordering::SeqCst);
        assert!(!self.0.panics.load(Ordering::SeqCst), "as a test wants it");
        if self.0.away.load(Ordering::SeqCst) {
            return Err(FetchError::Get { url: "x".into(), why: "away".into() });
        }
        let name = if self.0.second.load(Ordering::SeqCst) { "two" } else { "one" };
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": "A".repeat(43) });
        Ok(KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).expect("a set"))
    }
}

fn keyring() -> (Arc<Keyring>, Arc<Pretended>) {
    let settings = json!({
        "name": "ci", "url": "https://x", "audience": "a", "refreshInterval": "10m", "staleWindow": "1h", "fetchInterval": "30s",
    });
    let issuer: Issuer = serde_json::from_value(settings).expect("an issuer");
    let source = Arc::new(Pretended::default());
    (Keyring::new(&issuer, Box::new(Shared(Arc::clone(&source))), Metrics::default()), source)
}

/// Until the fetch in the background has ended.
async fn settled(keyring: &Keyring) {
    let flight = keyring.lock().flight.clone();
    if let Some(flight) = flight {
        flight.await;
    }
}

#[tokio::test]
async fn keys_are_used_until_they_are_due_and_beyond_while_the_issuer_is_away() {
    let (keyring, source) = keyring();
    let start = Instant::now();
    let at = |minutes: u64| start + Duration::from_mins(minutes);
    assert!(keyring.find("one", at(0)).await.is_ok());
    assert!(keyring.find("one", at(9)).await.is_ok());
    assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
    source.away.store(true, Ordering::SeqCst);
    for minutes in [10, 40, 69] {
        assert!(keyring.find("one", at(minutes)).await.is_ok(), "{minutes}");
        settled(&keyring).await;
    }
    assert_eq!(source.fetches.load(Ordering::SeqCst), 4, "it is tried each time that is due");
    assert_eq!(keyring.find("one", at(70)).await.map(drop), Err(KeyError::Unavailable { wait: Duration::from_secs(30) }));
    source.away.store(false, Ordering::SeqCst);
    assert!(keyring.find("one", at(71)).await.is_ok());
}

#[tokio::test]
async fn a_key_that_the_issuer_took_back_is_not_believed_once_the_keys_are_due() {
    let (keyring, source) = keyring();
    let start = Instant::now();
    assert!(keyring.find("one", start).await.is_ok());
    source.second.store(true, Ordering::SeqCst);
    let later = keyring.find("one", start + Duration::from_mins(65)).await.map(drop);
    assert!(matches!(later, Err(KeyError::Unknown { .. })), "{later:?}");
    // Also where the issuer was away meanwhile.
    let (keyring, source) = self::keyring();
    assert!(keyring.find("one", start).await.is_ok());
    source.away.store(true, Ordering::SeqCst);
    assert!(keyring.find("one", start + Duration::from_mins(10)).await.is_ok());
    source.away.store(false, Ordering::SeqCst);
    source.second.store(true, Ordering::SeqCst);
    assert!(keyring.find("one", start + Duration::from_hours(1)).await.is_err());
}

#[tokio::test]
async fn unknown_names_lead_to_a_fetch_at_most_every_interval() {
    let (keyring, source) = keyring();
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    assert!(keyring.find("one", at(0)).await.is_ok());
    source.second.store(true, Ordering::SeqCst);
    for second in 1..30 {
        assert_eq!(keyring.find("two", at(second)).await.map(drop), Err(KeyError::Unknown { wait: Duration::from_secs(30 - second) }));
    }
    assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
    assert!(keyring.find("two", at(30)).await.is_ok(), "rotated keys are found");
    assert!(keyring.find("one", at(61)).await.is_err(), "and the old ones are not believed any more");
    assert_eq!(source.fetches.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn an_unknown_name_while_the_issuer_is_away_is_not_called_unknown() {
    let (keyring, source) = keyring();
    let start = Instant::now();
    assert!(keyring.find("one", start).await.is_ok());
    source.away.store(true, Ordering::SeqCst);
    let later = start + Duration::from_secs(31);
    assert!(matches!(keyring.find("two", later).await, Err(KeyError::Unavailable { .. })));
    assert!(keyring.find("one", later).await.is_ok());
}

#[tokio::test]
async fn a_fetch_that_dies_is_not_the_last() {
    let (keyring, source) = keyring();
    source.panics.store(true, Ordering::SeqCst);
    let start = Instant::now();
    assert!(matches!(keyring.find("one", start).await, Err(KeyError::Unknown { .. } | KeyError::Unavailable { .. })));
    source.panics.store(false, Ordering::SeqCst);
    assert!(keyring.find("one", start + Duration::from_secs(31)).await.is_ok());
}
