//! The keys of one issuer, kept: when they are fetched again, for how long they are used while that fails, and that a flood of
//! tokens is no flood of fetches. Time is an argument; the fetch itself is [`Source`]'s.

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::keys::KeySet;
use super::metrics::Metrics;
use super::published::FetchError;
use crate::domain::provisioning::Issuer;

/// Where keys come from.
#[async_trait]
pub trait Source: Send + Sync {
    /// Fetches them, within a limit of its own.
    async fn keys(&self) -> Result<KeySet, FetchError>;
}

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The issuer publishes none of this name. If it has just begun to, it will be seen at the next fetch.
    Unknown {
        /// Time until then.
        wait: Duration,
    },
    /// The issuer cannot be asked, and what it said is too old.
    Unavailable {
        /// Time until it is asked again.
        wait: Duration,
    },
}

/// A fetch under way. It goes on when those who wait for it leave.
type Flight = Shared<BoxFuture<'static, ()>>;

#[derive(Default)]
struct State {
    keys: Option<(Arc<KeySet>, Instant)>,
    flight: Option<Flight>,
    asked: Option<Instant>,
    failed: bool,
}

/// The keys of one issuer.
pub struct Keyring {
    name: String,
    source: Box<dyn Source>,
    refresh: Duration,
    usable: Duration,
    interval: Duration,
    metrics: Metrics,
    state: Mutex<State>,
}

impl Keyring {
    /// Empty.
    #[must_use]
    pub fn new(issuer: &Issuer, source: Box<dyn Source>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            name: issuer.name.clone(),
            source,
            refresh: issuer.refresh_interval(),
            usable: issuer.refresh_interval() + issuer.stale_window(),
            interval: issuer.fetch_interval(),
            metrics,
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys, one of which has this name.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn find(self: &Arc<Self>, name: &str, now: Instant) -> Result<Arc<KeySet>, KeyError> {
        let held = self.usable(now).filter(|(keys, _)| keys.has(name));
        if let Some((keys, age)) = &held
            && *age < self.refresh
        {
            return Ok(Arc::clone(keys));
        }
        // What is due is asked for first: the issuer may have taken a key back. Where it does not answer, what is held will do.
        if let Some(flight) = self.ask(now) {
            flight.await;
        }
        let wait = self.lock().asked.map_or(self.interval, |asked| self.interval.saturating_sub(now.saturating_duration_since(asked)));
        let failed = self.lock().failed;
        match self.usable(now) {
            Some((keys, _)) if keys.has(name) => Ok(keys),
            Some(_) if !failed => Err(KeyError::Unknown { wait }),
            _ => Err(KeyError::Unavailable { wait }),
        }
    }

    /// Fetches the keys if they are due; for the start, so that the first job does not wait.
    pub async fn warm(self: &Arc<Self>, now: Instant) {
        if let Some(flight) = self.ask(now) {
            flight.await;
        }
    }

    fn usable(&self, now: Instant) -> Option<(Arc<KeySet>, Duration)> {
        let state = self.lock();
        let (keys, fetched) = state.keys.as_ref()?;
        let age = now.saturating_duration_since(*fetched);
        (age < self.usable).then(|| (Arc::clone(keys), age))
    }

    /// The fetch under way, or a new one; `None` where the last one is too recent.
    fn ask(self: &Arc<Self>, now: Instant) -> Option<Flight> {
        let mut state = self.lock();
        if let Some(flight) = state.flight.as_ref().filter(|flight| flight.peek().is_none()) {
            return Some(flight.clone());
        }
        if state.asked.is_some_and(|asked| now.saturating_duration_since(asked) < self.interval) {
            return None;
        }
        state.asked = Some(now);
        let this = Arc::clone(self);
        let task = tokio::spawn(async move { this.fetch(now).await });
        let flight = task.map(drop).boxed().shared();
        state.flight = Some(flight.clone());
        Some(flight)
    }

    async fn fetch(&self, now: Instant) {
        let fetched = self.source.keys().await;
        self.metrics.fetched(fetched.is_ok());
        let mut state = self.lock();
        state.flight = None;
        state.failed = fetched.is_err();
        match fetched {
            Ok(keys) => state.keys = Some((Arc::new(keys), now)),
            Err(error) => {
                let held = state.keys.as_ref().is_some_and(|(_, fetched)| now.saturating_duration_since(*fetched) < self.usable);
                tracing::warn!(issuer = self.name, %error, cached = held, "the keys of an issuer could not be fetched");
            }
        }
    }
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
