//! What can go wrong, by who has to act.

use std::io;
use std::path::PathBuf;

use crate::Files;

/// A call of the file system that failed.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {action}: {source}", path = path.display())]
pub struct IoError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried, as a phrase: "can not write".
    pub action: &'static str,
    /// What the operating system said.
    pub source: io::Error,
}

/// Why a journal can not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict the journal's bounds.
    #[error("{0}")]
    Options(String),
    /// Another process, or another journal of this one, has the directory.
    #[error("{path} is in use by another journal: give each its own directory", path = .0.display())]
    Locked(PathBuf),
    /// There is no such directory.
    #[error("{path} does not exist: create the directory", path = .0.display())]
    Missing(PathBuf),
    /// It is something else than a directory.
    #[error("{path} is not a directory: name one", path = .0.display())]
    NotADirectory(PathBuf),
    /// The directory can be read at most.
    #[error("{path} can not be written: allow this user to write it, or name another directory", path = .0.display())]
    ReadOnly(PathBuf),
    /// A file was written by a later release.
    #[error(
        "{path} has format version {found}, and this release reads up to {supported}: use the release that wrote \
         it, or move the file away",
        path = path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: u16,
        /// The newest version that is understood.
        supported: u16,
    },
    /// A call failed that has nothing to do with what is in the files.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// `max_bytes` are used: not now.
    #[error("the journal is full")]
    Full,
    /// `max_unsynced` bytes wait to be known to be on the disk: not before a sync succeeds.
    #[error("the disk does not keep up: too much is not synced")]
    Unsynced,
    /// Not ever.
    #[error("the record is larger than the whole journal, or than 1 GiB")]
    TooLarge,
}

/// Nothing appended since the last commit is in the journal, which can be used as before.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CommitError(#[from] pub IoError);

/// Records could not be read. The cursor stands where it stood, so that the call can be tried again.
#[derive(Debug, thiserror::Error)]
#[error("records from {sequence} on can not be read: {source}")]
pub struct ReadError {
    /// The first record that is not read.
    pub sequence: u64,
    /// What failed.
    pub source: IoError,
}

/// Says of an error which file it happened to, and what could not be done.
pub(crate) fn failed<F: Files>(
    files: &F,
    name: &str,
    action: &'static str,
) -> impl FnOnce(io::Error) -> IoError + use<F> {
    let path = files.place().join(name);
    move |source| IoError { path, action, source }
}
