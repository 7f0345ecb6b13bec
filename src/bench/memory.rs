//! The anonymous part of what the process occupies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::machine;

/// Watches the anonymous part of the resident set, which the kernel keeps no peak of.
pub(super) struct Sampler {
    done: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Sampler {
    pub(super) fn start() -> Sampler {
        let (done, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (d, p) = (done.clone(), peak.clone());
        let thread = std::thread::spawn(move || {
            while !d.load(Ordering::Relaxed) {
                p.fetch_max(machine::resident().map_or(0, |r| r.anonymous), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Sampler { done, peak, thread }
    }

    /// Largest value seen, MB (10^6 bytes).
    pub(super) fn stop(self) -> f64 {
        self.done.store(true, Ordering::Relaxed);
        // A sampler that panicked has still left what it saw.
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed) as f64 / 1e6
    }
}
