//! How long an object whose passes fail is left alone.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often each object failed in a row.
#[derive(Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
    jitter: RandomState,
}

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_mins(1);

impl Backoff {
    /// A panic in another task must not spread through a lock.
    fn open(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another failure: how long to wait. Doubles each time, up to a minute; between half and all of it, at random.
    pub(super) fn failed(&self, uid: &str) -> Duration {
        let count = {
            let mut failures = self.open();
            let count = failures.entry(uid.to_owned()).or_default();
            *count = count.saturating_add(1);
            *count
        };
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(count.min(16) - 1)).min(LONGEST_DELAY);
        let random = u32::try_from(self.jitter.hash_one((uid, count)) % 1000).unwrap_or_default();
        delay / 2 + delay * random / 2000
    }

    /// It worked, or the object is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.open().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_a_limit_and_is_forgotten() {
        let backoff = Backoff::default();
        let mut last = Duration::ZERO;
        for step in 0..40_u32 {
            last = backoff.failed("a");
            let full = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(step)).min(LONGEST_DELAY);
            assert!(last >= full / 2 && last <= full, "{step}: {last:?}");
        }
        assert!(last >= LONGEST_DELAY / 2);
        backoff.forget("a");
        assert!(backoff.failed("a") <= FIRST_DELAY);
    }
}
