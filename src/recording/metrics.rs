//! The recorder's counters.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// The recorder's counters; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Bytes stored, packed.
    pub bytes: Counter,
    /// Chunks stored.
    pub chunks: Counter,
    /// Age of the oldest byte of this replica that is not stored, in seconds.
    pub lag: Gauge<f64, AtomicU64>,
    /// Writes that failed.
    pub failures: Counter,
    /// Channels refused because they could not be recorded.
    pub refused: Counter,
    /// Recordings of dead replicas that were closed.
    pub sealed_incomplete: Counter,
}

impl Metrics {
    /// Makes the counters known.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("sandglass_recording_bytes", "Bytes of recordings stored", self.bytes.clone());
        registry.register("sandglass_recording_chunks", "Chunks of recordings stored", self.chunks.clone());
        registry.register("sandglass_recording_lag_seconds", "Age of the oldest byte that is not stored", self.lag.clone());
        registry.register("sandglass_recording_failures", "Writes to the recording store that failed", self.failures.clone());
        registry.register("sandglass_recording_refused", "Channels refused because they could not be recorded", self.refused.clone());
        registry.register(
            "sandglass_recording_sealed_incomplete",
            "Recordings of dead replicas that this one closed",
            self.sealed_incomplete.clone(),
        );
    }
}
