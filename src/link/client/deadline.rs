//! The pod's own end: an absolute time and a number of seconds since its start, whichever comes first, looked at on a
//! short tick, so that no clock that jumps or stops can lengthen a session.

use chrono::{DateTime, TimeDelta, Utc};
use std::time::{Duration, Instant};

/// The pod acts this long after the session's end, so that the gateway's last line gets out first.
const GRACE: Duration = Duration::from_secs(15);
const TICK: Duration = Duration::from_secs(1);

/// When the pod ends by itself.
pub struct Deadline {
    wall: DateTime<Utc>,
    started: Instant,
    length: Duration,
}

impl Deadline {
    /// The end of a session that ends at `expires_at`, `remaining_seconds` after its pod began.
    #[must_use]
    pub fn new(expires_at: DateTime<Utc>, remaining_seconds: u32) -> Self {
        let grace = TimeDelta::from_std(GRACE).unwrap_or_default();
        Self { wall: expires_at + grace, started: Instant::now(), length: Duration::from_secs(remaining_seconds.into()) + GRACE }
    }

    fn is_past(&self, wall: DateTime<Utc>, now: Instant) -> bool {
        wall >= self.wall || now.duration_since(self.started) >= self.length
    }

    /// Returns when the deadline is past.
    pub async fn passed(&self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            if self.is_past(Utc::now(), Instant::now()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_clock_ends_it() {
        let now = Utc::now();
        let deadline = Deadline { wall: now + TimeDelta::seconds(60), started: Instant::now(), length: Duration::from_mins(1) };
        assert!(!deadline.is_past(now, deadline.started));
        assert!(deadline.is_past(now + TimeDelta::seconds(60), deadline.started), "the wall clock alone");
        assert!(deadline.is_past(now - TimeDelta::hours(1), deadline.started + Duration::from_mins(1)), "the elapsed time alone");
    }
}
