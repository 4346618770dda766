//! Time at the edge: the clock, and the one place where Kubernetes' time (jiff) and ours (chrono) meet.

use chrono::{DateTime, SubsecRound, Utc};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

/// Kubernetes' time as ours.
#[must_use]
pub fn to_chrono(time: &Time) -> DateTime<Utc> {
    let nanoseconds = u32::try_from(time.0.subsec_nanosecond()).unwrap_or_default();
    DateTime::from_timestamp(time.0.as_second(), nanoseconds).unwrap_or(DateTime::UNIX_EPOCH)
}

/// Our time as Kubernetes', in whole seconds: what the API server would make of it anyway.
#[must_use]
pub fn from_chrono(time: DateTime<Utc>) -> Time {
    Time(Timestamp::from_second(time.trunc_subsecs(0).timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Where the time comes from. Decisions take `now`; only the edge asks.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Clock {
    /// The machine's wall clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(Utc::now))
    }

    /// Any other, for tests.
    #[must_use]
    pub fn of(read: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// What it says.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let time = DateTime::from_timestamp(1_800_000_000, 0).expect("valid");
        assert_eq!(to_chrono(&from_chrono(time)), time);
        let early = DateTime::from_timestamp(-5, 0).expect("valid");
        assert_eq!(to_chrono(&from_chrono(early)), early);
    }
}
