//! Ctrl-C and SIGTERM: the first asks the work to finish its step, the second ends the process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);
/// Nothing is left to save: the next signal ends the process.
static AT_ONCE: AtomicBool = AtomicBool::new(false);

/// Installs the handler once.
pub(super) fn listen() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let installed = ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::SeqCst) || AT_ONCE.load(Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
        });
        if let Err(e) = installed {
            eprintln!("warning: Ctrl-C will not save: {e}");
        }
    });
}

/// Whether a stop was asked for.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// From here on everything is saved, so that one signal ends the process.
pub(super) fn at_once() {
    AT_ONCE.store(true, Ordering::SeqCst);
}
