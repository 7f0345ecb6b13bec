//! SIGINT (Ctrl-C) and SIGTERM: the first asks the work to stop where nothing is lost, the second ends the process.
//!
//! Where there is nothing to save yet, the first one ends it as well. Either way no half-written file stays behind.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::error::{Error, Result};
use crate::files;

/// Exit code of the signal that asked for the stop; 0: none did.
static ASKED: AtomicU8 = AtomicU8::new(0);
/// There is something to save, so that the first signal only asks.
static SAVES: AtomicBool = AtomicBool::new(false);

const INTERRUPTED: u8 = 130;
#[cfg(unix)]
const TERMINATED: u8 = 75;

/// Installs the handler once. Signals end the process until [`save_first`].
pub(super) fn listen() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        if let Err(e) = install() {
            eprintln!("warning: Ctrl-C will not save: {e}");
        }
    });
}

/// From here on the first signal asks, and the work goes on until it looks at [`asked`] or [`go_on`].
pub(super) fn save_first() {
    SAVES.store(true, Ordering::SeqCst);
}

/// Whether a stop was asked for.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst) != 0
}

/// An error, in the words of [`stopped`], once a stop was asked for.
///
/// # Errors
/// [`Error::Interrupted`] or [`Error::Terminated`].
pub(super) fn go_on() -> Result<()> {
    if asked() { Err(stopped(String::new())) } else { Ok(()) }
}

/// The error that the verb ends with, by the signal that came.
pub(super) fn stopped(what: String) -> Error {
    match ASKED.load(Ordering::SeqCst) {
        INTERRUPTED | 0 => Error::Interrupted { what },
        _ => Error::Terminated { what },
    }
}

/// A word as a shell has to be given it.
pub(super) fn quoted(word: &str) -> String {
    match word.chars().all(|c| c.is_alphanumeric() || "=./_-,:".contains(c)) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(unix)]
fn install() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let heed = move || signals.forever().for_each(|signal| heard(if signal == SIGTERM { TERMINATED } else { INTERRUPTED }));
    std::thread::Builder::new().name("signals".into()).spawn(heed).map(drop)
}

#[cfg(not(unix))]
fn install() -> std::result::Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| heard(INTERRUPTED))
}

fn heard(code: u8) {
    let first = ASKED.swap(code, Ordering::SeqCst) == 0;
    if first && SAVES.load(Ordering::SeqCst) {
        eprintln!("\nstopping as soon as everything is saved; once more to stop at once");
        return;
    }
    if first {
        eprintln!("\nstopped; nothing half-written is left");
    }
    leave(code.into());
}

/// Ends the process without waiting for its other threads, which are at work.
#[cfg(unix)]
fn leave(code: i32) {
    files::abandon();
    signal_hook::low_level::exit(code);
}

#[cfg(not(unix))]
fn leave(code: i32) {
    files::abandon();
    std::process::exit(code);
}
