//! Moments by which something must be over. Nothing in this room waits without one.

use std::time::{Duration, Instant};

/// A moment by which something must be over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// That far from now.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// What is left; `None` when it has passed.
    #[must_use]
    pub fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.left().is_none()
    }

    /// Sleeps for `pause`, at most until the deadline; false when it has passed.
    #[must_use]
    pub fn pause(self, pause: Duration) -> bool {
        let Some(left) = self.left() else { return false };
        std::thread::sleep(pause.min(left));
        true
    }
}
