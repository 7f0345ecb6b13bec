//! Signals of the system to a server.

use crate::error::Result;

/// What the process was asked for.
pub(super) enum Signal {
    /// Read again what is read from files (SIGHUP).
    Reload,
    /// Take no more requests (SIGTERM, SIGINT).
    End,
}

/// What it listens to.
#[cfg(unix)]
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// # Errors
    /// When the system does not let it listen.
    pub(super) fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen =
            |kind| signal(kind).map_err(|e| crate::error::Error::usage("signals", e.to_string(), "report this as a bug"));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}

/// What it listens to: Ctrl-C alone.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// # Errors
    /// None.
    pub(super) fn new() -> Result<Signals> {
        Ok(Signals)
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        // Where it cannot be listened to, the process is ended from outside.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::End
    }
}
