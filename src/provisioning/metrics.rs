//! The door's counters. Labels are closed sets: never a repository, a user or a text.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::problem::Kind;

/// How a request that was not refused ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// A session was made.
    Created,
    /// It was there already.
    Existing,
    /// It was read.
    Read,
    /// The document of the interface.
    Document,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Result {
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fetched {
    result: Result,
}

/// The door's counters.
#[derive(Clone, Default)]
pub struct Metrics {
    answers: Family<Answered, Counter>,
    refusals: Family<Refused, Counter>,
    fetches: Family<Fetched, Counter>,
    /// Connections at the moment.
    pub connections: Gauge,
}

impl Metrics {
    /// Makes the counters known.
    pub fn register(&self, registry: &mut Registry) {
        // From the start, at zero: a rate needs the count before the first one.
        for outcome in [Outcome::Created, Outcome::Existing, Outcome::Read, Outcome::Document] {
            drop(self.answers.get_or_create(&Answered { outcome }));
        }
        for reason in Kind::ALL.iter().copied() {
            drop(self.refusals.get_or_create(&Refused { reason }));
        }
        for result in [Result::Done, Result::Failed] {
            drop(self.fetches.get_or_create(&Fetched { result }));
        }
        registry.register("sandglass_provisioning_answers", "Requests that were not refused, by outcome", self.answers.clone());
        registry.register("sandglass_provisioning_refusals", "Requests that were refused, by reason", self.refusals.clone());
        registry.register("sandglass_provisioning_key_fetches", "Fetches of issuers' keys, by result", self.fetches.clone());
        registry.register("sandglass_provisioning_connections", "Connections at the moment", self.connections.clone());
    }

    /// Counts an answer.
    pub fn answered(&self, outcome: Outcome) {
        self.answers.get_or_create(&Answered { outcome }).inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Kind) {
        self.refusals.get_or_create(&Refused { reason }).inc();
    }

    /// Counts a fetch.
    pub fn fetched(&self, well: bool) {
        self.fetches.get_or_create(&Fetched { result: if well { Result::Done } else { Result::Failed } }).inc();
    }
}
