//! What the process occupies, from `/proc`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A figure of `/proc/self/status` in MB (10^6 bytes); `None` where there is no such file.
pub(super) fn status(key: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = text.lines().find_map(|l| l.strip_prefix(key))?.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

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
                p.fetch_max(status("RssAnon:").unwrap_or(0.0) as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Sampler { done, peak, thread }
    }

    /// Largest value seen, MB.
    pub(super) fn stop(self) -> f64 {
        self.done.store(true, Ordering::Relaxed);
        // A sampler that panicked has still left what it saw.
        let _ = self.thread.join();
        self.peak.load(Ordering::Relaxed) as f64
    }
}
