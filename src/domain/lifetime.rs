//! How long a session lives. The deadline follows from two facts nobody can edit afterwards: when the object was
//! created, and its immutable spec.

use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;

/// Reads a duration such as `30m`, `1h15m`, `90s`: hours, minutes, seconds, in this order, at least one of them.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut seconds: u64 = 0;
    let mut rest = text;
    let mut read_any = false;
    for (unit, factor) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, after)) = rest.split_once(unit) else { continue };
        if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        seconds += digits.parse::<u64>().ok()? * factor;
        rest = after;
        read_any = true;
    }
    (read_any && rest.is_empty()).then_some(Duration::from_secs(seconds))
}

/// The end of a session: `created + min(ttl, cap)`, or `not_after` where that is earlier.
#[must_use]
pub fn expires_at(created: DateTime<Utc>, ttl: Duration, cap: Duration, not_after: Option<DateTime<Utc>>) -> DateTime<Utc> {
    let ttl = TimeDelta::from_std(ttl.min(cap)).unwrap_or(TimeDelta::zero());
    let end = created.checked_add_signed(ttl).unwrap_or(created);
    not_after.map_or(end, |limit| end.min(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("30m", 1800), ("1h15m", 4500), ("90s", 90), ("1h0m1s", 3601)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "m", "30m1h", "-5m", "1.5h", "1h ", "99999999h", "1d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_earliest_of_ttl_cap_and_not_after_wins() {
        let created = DateTime::from_timestamp(1_800_000_000, 0).expect("valid");
        let minutes = |count| Duration::from_mins(count);
        let after = |count| created + TimeDelta::minutes(count);
        assert_eq!(expires_at(created, minutes(30), minutes(60), None), after(30));
        assert_eq!(expires_at(created, minutes(90), minutes(60), None), after(60));
        assert_eq!(expires_at(created, minutes(30), minutes(60), Some(after(10))), after(10));
        assert_eq!(expires_at(created, minutes(30), minutes(60), Some(after(40))), after(30));
        assert_eq!(expires_at(created, minutes(30), minutes(60), Some(after(-5))), after(-5));
    }
}
