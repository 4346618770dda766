//! What the controllers count. Labels are closed enums: never names, UIDs or error text.

use chrono::{DateTime, TimeDelta, Utc};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt::Write as _;
use std::time::Duration;

use crate::api::session::Phase;
use crate::kubernetes::Category;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: PhaseValue,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct PhaseValue(Option<Phase>);

impl EncodeLabelValue for PhaseValue {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self.0 {
            None => "New",
            Some(Phase::Waiting) => "Waiting",
            Some(Phase::Starting) => "Starting",
            Some(Phase::Open) => "Open",
            Some(Phase::Ended) => "Ended",
            Some(Phase::Failed) => "Failed",
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailureLabel {
    kind: &'static str,
    category: &'static str,
}

/// What is counted of the passes of both controllers, by kind; clones share their values.
#[derive(Clone, Debug)]
pub struct Passes {
    errors: Family<FailureLabel, Counter>,
    seconds: Family<KindLabel, Histogram>,
    start_seconds: Family<KindLabel, Histogram>,
}

impl Passes {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let passes = Self {
            errors: Family::default(),
            seconds: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
            }),
            start_seconds: Family::new_with_constructor(|| {
                Histogram::new([0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0])
            }),
        };
        registry.register("sandglass_reconcile_errors", "Failed passes by category", passes.errors.clone());
        registry.register("sandglass_reconcile_seconds", "Duration of a pass", passes.seconds.clone());
        registry.register("sandglass_pod_start_seconds", "From the creation of the pod to an open session", passes.start_seconds.clone());
        passes
    }
}

/// One controller's metrics; clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    kind: KindLabel,
    sessions: Family<PhaseLabel, Gauge>,
    overdue: Gauge,
    oldest_seconds: Gauge,
    passes: Passes,
}

const PHASES: [Option<Phase>; 6] =
    [None, Some(Phase::Waiting), Some(Phase::Starting), Some(Phase::Open), Some(Phase::Ended), Some(Phase::Failed)];

const CATEGORIES: [Category; 8] = [
    Category::Timeout,
    Category::Conflict,
    Category::Forbidden,
    Category::NotFound,
    Category::Invalid,
    Category::Unavailable,
    Category::Malformed,
    Category::Other,
];

impl Metrics {
    /// Registers those of the kind `kind`, whose objects are called `objects` in the names of metrics.
    #[must_use]
    pub fn register(registry: &mut Registry, kind: &'static str, objects: &str, passes: &Passes) -> Self {
        let metrics = Self {
            kind: KindLabel { kind },
            sessions: Family::default(),
            overdue: Gauge::default(),
            oldest_seconds: Gauge::default(),
            passes: passes.clone(),
        };
        // From the start, at zero: a rate needs the count before the first one.
        drop(passes.seconds.get_or_create(&metrics.kind));
        drop(passes.start_seconds.get_or_create(&metrics.kind));
        for category in CATEGORIES {
            drop(passes.errors.get_or_create(&FailureLabel { kind, category: category.as_str() }));
        }
        registry.register(format!("sandglass_{objects}"), "Sessions by phase", metrics.sessions.clone());
        let overdue = "Sessions past their deadline that are not over";
        registry.register(format!("sandglass_{objects}_overdue"), overdue, metrics.overdue.clone());
        let oldest = "Age of the oldest session that is not over, in seconds";
        registry.register(format!("sandglass_{objects}_oldest_seconds"), oldest, metrics.oldest_seconds.clone());
        metrics
    }

    pub(super) fn count(&self, phases: impl Iterator<Item = Option<Phase>>) {
        let mut counts = [0_i64; PHASES.len()];
        for phase in phases {
            if let Some(count) = PHASES.iter().position(|known| *known == phase).and_then(|at| counts.get_mut(at)) {
                *count += 1;
            }
        }
        for (phase, count) in PHASES.into_iter().zip(counts) {
            self.sessions.get_or_create(&PhaseLabel { phase: PhaseValue(phase) }).set(count);
        }
    }

    /// Takes the sessions that are not over: when each began, and when it must end.
    pub(super) fn live(&self, sessions: &[(DateTime<Utc>, DateTime<Utc>)], now: DateTime<Utc>) {
        let overdue = sessions.iter().filter(|(_, end)| *end < now).count();
        self.overdue.set(i64::try_from(overdue).unwrap_or(i64::MAX));
        let oldest = sessions.iter().map(|(begin, _)| (now - *begin).num_seconds()).max();
        self.oldest_seconds.set(oldest.unwrap_or(0).max(0));
    }

    pub(super) fn failed(&self, category: Category) {
        self.passes.errors.get_or_create(&FailureLabel { kind: self.kind.kind, category: category.as_str() }).inc();
    }

    pub(super) fn passed(&self, took: Duration) {
        self.passes.seconds.get_or_create(&self.kind).observe(took.as_secs_f64());
    }

    pub(super) fn started(&self, took: TimeDelta) {
        self.passes.start_seconds.get_or_create(&self.kind).observe(took.as_seconds_f64().max(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overdue_and_what_is_oldest_is_told() {
        let mut registry = Registry::default();
        let passes = Passes::register(&mut registry);
        let metrics = Metrics::register(&mut registry, "DebugSession", "debug_sessions", &passes);
        let at = |minutes| DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        metrics.live(&[(at(0), at(30)), (at(20), at(50))], at(31));
        assert_eq!((metrics.overdue.get(), metrics.oldest_seconds.get()), (1, 31 * 60));
        metrics.live(&[], at(32));
        assert_eq!((metrics.overdue.get(), metrics.oldest_seconds.get()), (0, 0));
    }
}
