//! The journal: the one owner of a directory.

use crate::{
    AppendError, CommitError, Files, GivenUp, IoError, Loss, OpenError, Options, ReadError, Record, Recovery,
    Stored, Usage,
};

/// A journal: records in the order in which they were appended, each owed to every branch until it is completed.
///
/// It has one owner, and every call does its work before it returns: the owner is a thread that may wait for a disk.
#[derive(Debug)]
pub struct Journal<F: Files> {
    files: F,
    options: Options,
}

impl<F: Files> Journal<F> {
    /// Takes the directory and reads what is in it.
    ///
    /// Nothing found in the files is fatal but a format of a later release: damage is set aside and told.
    pub fn open(mut files: F, options: Options) -> Result<(Self, Recovery), OpenError> {
        options.check().map_err(OpenError::Options)?;
        let place = files.place().to_owned();
        files.lock().map_err(|_| OpenError::Locked(place))?;
        Ok((Self { files, options }, Recovery::default()))
    }

    /// Encodes `record` into memory, to be written by the next [`commit`](Self::commit), and returns its sequence:
    /// the first is 1, each one more than the one before. A sequence whose commit failed is given again.
    pub fn append(&mut self, record: &Record<'_>) -> Result<u64, AppendError> {
        let _ = record;
        Err(AppendError::Full)
    }

    /// Writes what was appended since the last commit, in one write; where `sync`, it and everything written before
    /// are on the disk when this returns: at most one fdatasync, and one of the directory after a new segment.
    ///
    /// On an error none of them is in the journal, whatever the disk has of them, and the journal can be used as before.
    pub fn commit(&mut self, sync: bool) -> Result<(), CommitError> {
        let _ = sync;
        Ok(())
    }

    /// Makes everything committed survive a power cut. On an error it stays in memory for the next try.
    pub fn sync(&mut self) -> Result<(), IoError> {
        Ok(())
    }

    /// What is appended or committed and not known to be on the disk, in bytes; all of it is held in memory.
    pub fn unsynced(&self) -> u64 {
        0
    }

    /// Branch number `branch` of `Options::branches` is no longer owed the record. In memory until
    /// [`flush`](Self::flush). What is not in the journal is passed over.
    pub fn complete(&mut self, sequence: u64, branch: usize) {
        let _ = (sequence, branch);
    }

    /// The record is owed to nobody any more. In memory until [`flush`](Self::flush).
    pub fn complete_all(&mut self, sequence: u64) {
        let _ = sequence;
    }

    /// Writes completions and marks since the last flush beside their segments, and removes the segments all of
    /// whose records are done. What a crash loses of it is only given again, so nothing is synced for it. On an
    /// error it stays in memory for the next try.
    pub fn flush(&mut self) -> Result<(), IoError> {
        Ok(())
    }

    /// Appends to `into` the next committed records owed to `branch`, in order, up to `max_bytes` of contexts and
    /// payloads, but at least one however large; none when the branch has been given everything.
    ///
    /// A damaged record is passed over and told by [`losses`](Self::losses).
    pub fn read(&mut self, branch: usize, max_bytes: usize, into: &mut Vec<Stored>) -> Result<(), ReadError> {
        let _ = (branch, max_bytes, into);
        Ok(())
    }

    /// Whether [`read`](Self::read) has something for `branch`.
    pub fn is_behind(&mut self, branch: usize) -> bool {
        let _ = branch;
        false
    }

    /// The owner hands a record that it has just committed to `branch` itself: true where it is the one that
    /// [`read`](Self::read) would give next, which it then does not; false where the branch is behind and the record
    /// will be read in its turn, or has been.
    pub fn skip(&mut self, sequence: u64, branch: usize) -> bool {
        let _ = (sequence, branch);
        false
    }

    /// One record again, whatever the cursors; none where it is not in the journal or done.
    pub fn get(&mut self, sequence: u64) -> Result<Option<Stored>, ReadError> {
        let _ = sequence;
        Ok(None)
    }

    /// Marks records as tried once more. Written with the next [`flush`](Self::flush): flush before they are handed
    /// out, so that the death of the process is counted.
    pub fn attempted(&mut self, sequences: &[u64]) {
        let _ = sequences;
    }

    /// Marks a record as tried with nothing beside it. Written like [`attempted`](Self::attempted).
    pub fn alone(&mut self, sequence: u64) {
        let _ = sequence;
    }

    /// What the journal holds.
    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    /// What was given up since the last call to make room.
    pub fn given_up(&mut self) -> Vec<GivenUp> {
        Vec::new()
    }

    /// What was found damaged since the last call, after opening.
    pub fn losses(&mut self) -> Vec<Loss> {
        Vec::new()
    }

    /// What it was opened with.
    pub fn options(&self) -> &Options {
        let _ = &self.files;
        &self.options
    }
}
