//! How often: token buckets by key, in memory, bounded. Time is an argument.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Keys remembered. Beyond it the one that was quiet longest is forgotten.
const MOST_KEYS: usize = 8192;

struct Bucket {
    /// How much is left, as of `at`.
    left: f64,
    at: Instant,
}

/// Token buckets: each key has `size` at first, and gets as many again within `per`.
pub struct Buckets<K> {
    size: f64,
    per: Duration,
    state: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Full ones.
    #[must_use]
    pub fn new(size: u32, per: Duration) -> Self {
        Self { size: f64::from(size), per, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Bucket>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self, bucket: &Bucket, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + passed / self.per.as_secs_f64() * self.size).min(self.size)
    }

    fn wait(&self, left: f64) -> Duration {
        let seconds = (1.0 - left) * self.per.as_secs_f64() / self.size;
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// Whether one could be taken.
    ///
    /// # Errors
    /// The time until there is one.
    pub fn look(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let left = self.lock().get(key).map_or(self.size, |bucket| self.left(bucket, now));
        if left >= 1.0 { Ok(()) } else { Err(self.wait(left)) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none: the time until there is.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let mut state = self.lock();
        let left = state.get(key).map_or(self.size, |bucket| self.left(bucket, now));
        if left < 1.0 {
            return Err(self.wait(left));
        }
        if state.len() >= MOST_KEYS && !state.contains_key(key) {
            state.retain(|_, bucket| self.left(bucket, now) < self.size);
            let quietest = state.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone());
            if state.len() >= MOST_KEYS
                && let Some(quietest) = quietest
            {
                state.remove(&quietest);
            }
        }
        state.insert(key.clone(), Bucket { left: left - 1.0, at: now });
        Ok(())
    }
}

/// Who is counted: an IPv4 address or an IPv6 /64.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_size_and_then_one_by_one() {
        let buckets = Buckets::new(10, Duration::from_mins(10));
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(buckets.take(&"a", start), Ok(()));
        }
        let wait = buckets.take(&"a", start).expect_err("empty");
        assert!(wait > Duration::from_secs(59) && wait <= Duration::from_mins(1), "{wait:?}");
        assert!(buckets.look(&"a", start).is_err());
        assert_eq!(buckets.take(&"b", start), Ok(()), "another key has its own");
        let later = start + Duration::from_secs(61);
        assert_eq!(buckets.look(&"a", later), Ok(()), "looking takes none");
        assert_eq!(buckets.take(&"a", later), Ok(()));
        assert!(buckets.take(&"a", later).is_err());
        let much_later = start + Duration::from_hours(5);
        assert_eq!((0..20).filter(|_| buckets.take(&"a", much_later).is_ok()).count(), 10, "never more than the size");
    }

    #[test]
    fn keys_are_bounded_and_the_quietest_is_forgotten() {
        let buckets = Buckets::new(2, Duration::from_hours(1));
        let start = Instant::now();
        for number in 0..MOST_KEYS * 2 {
            let at = start + Duration::from_millis(number as u64);
            assert_eq!(buckets.take(&number, at), Ok(()));
        }
        assert_eq!(buckets.lock().len(), MOST_KEYS);
        assert!(!buckets.lock().contains_key(&0) && buckets.lock().contains_key(&(MOST_KEYS * 2 - 1)));
    }

    #[test]
    fn a_source_is_a_network_of_ipv6() {
        let source = |text: &str| source_of(text.parse().expect("an address")).to_string();
        assert_eq!(source("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
