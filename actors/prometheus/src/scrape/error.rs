//! Why a scrape failed.

use std::borrow::Cow;
use std::fmt;

use watershed_stage::delivery::Exhausted;

/// Why a scrape failed: a word to count by, and a sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    pub(crate) message: Cow<'static, str>,
}

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The target was not reached, or the connection to it was lost.
    Connect,
    /// It took longer than `scrape_timeout`.
    Timeout,
    /// It answered, and not with 200.
    Status,
    /// It does not say which format it answers in, or it is none that is known.
    ContentType,
    /// What it answered is not in the format that it says.
    Parse,
    /// One of the limits of the job.
    Limit,
    /// There is no memory for it now.
    Memory,
    /// It panicked.
    Panic,
    /// The credentials are not to be had.
    Credentials,
}

// === impl Failed ===

impl Failed {
    pub(crate) fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(crate) fn parse(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::Parse, message)
    }

    /// The same, in that line.
    pub(crate) fn in_line(self, line: u64) -> Self {
        match self.reason {
            Reason::Parse => Self::parse(format!("line {line}: {}", self.message)),
            _ => self,
        }
    }
}

impl From<Exhausted> for Failed {
    fn from(exhausted: Exhausted) -> Self {
        Self::new(Reason::Memory, exhausted.to_string())
    }
}

// === impl Reason ===

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::ContentType => "content_type",
            Self::Parse => "parse",
            Self::Limit => "limit",
            Self::Memory => "memory",
            Self::Panic => "panic",
            Self::Credentials => "credentials",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
