//! The segment log on disk: what was acknowledged survives kill -9 and, where it was synced, a power cut.
//!
//! A [`Journal`] is a directory of segments. Records are [appended](Journal::append) in memory and
//! [committed](Journal::commit) together; each is owed to every *branch* until that branch
//! [completes](Journal::complete) it; a segment goes when nothing in it is owed. What is [read](Journal::read) is
//! what is still owed, also after a crash.
//!
//! * At least once: losing a completion repeats a record, and nothing loses one.
//! * Damage is never fatal: what can not be read is counted, set aside and passed over ([`Recovery`]).
//! * Memory does not grow with the backlog: a few bits for each record, a sparse index for each segment.
//!
//! The format is promised: `FORMAT.md`. The crate is pure: it knows no OTLP, has no clock and no thread, and its file
//! system is handed in ([`Files`]).

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod clean;
mod error;
mod files;
mod format;
mod frame;
mod inspect;
mod journal;
mod manifest;
mod marks;
mod options;
mod read;
mod record;
mod recovery;
mod scan;
mod segment;
mod side;
mod survey;
mod tail;
mod usage;
mod window;
mod write;

pub use error::{AppendError, CommitError, IoError, OpenError, ReadError};
pub use files::{File, Files, OsFile, OsFiles};
pub use inspect::{Inspection, SegmentReport, inspect};
pub use journal::Journal;
pub use options::{Compression, OnFull, Options};
pub use record::{Record, Stored};
pub use recovery::{Recovery, Tried};
pub use usage::{GivenUp, Loss, Reason, Usage};
