//! What is counted while requests are answered; names are vLLM's where it has the same.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What is counted while requests are answered.
pub(super) struct Metrics {
    first_token: Histogram,
    next_token: Histogram,
    answered: Histogram,
    refused: Counter,
    swapped: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let seconds = |bounds: &[f64]| Histogram::new(bounds.iter().copied());
        Metrics {
            first_token: seconds(&[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
            next_token: seconds(&[0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5]),
            answered: seconds(&[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]),
            refused: Counter::default(),
            swapped: Counter::default(),
        }
    }
}

impl Metrics {
    pub(super) fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub(super) fn next_token(&self, after: Duration) {
        self.next_token.observe(after.as_secs_f64());
    }

    pub(super) fn answered(&self, after: Duration) {
        self.answered.observe(after.as_secs_f64());
    }

    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    pub(super) fn swapped(&self) {
        self.swapped.inc();
    }

    /// Under their names.
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, histogram) in [
            ("vllm:time_to_first_token_seconds", "From a request's arrival to its first token", &self.first_token),
            ("vllm:inter_token_latency_seconds", "From a token to the next of the same answer", &self.next_token),
            ("vllm:e2e_request_latency_seconds", "From a request's arrival to the end of an answer", &self.answered),
        ] {
            registry.register(name, help, histogram.clone());
        }
        registry.register("lorakit:requests_refused", "Requests refused because the queue was full", self.refused.clone());
        registry.register("lorakit:adapter_swaps", "Adapters loaded, unloaded and rolled back at run time", self.swapped.clone());
    }
}
