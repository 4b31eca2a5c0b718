//! Signals that ask the process to end, or to read its configuration again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, one after another.
pub(crate) struct Signals {
    term: Signal,
    interrupt: Signal,
}

/// SIGHUP. A terminal that is closed sends it too: what runs on then is what ran before.
pub(crate) struct Hangups(Signal);

// === impl Signals ===

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

// === impl Hangups ===

impl Hangups {
    /// From now on this signal no longer ends the process by itself.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Ready when it has come.
    pub(crate) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
