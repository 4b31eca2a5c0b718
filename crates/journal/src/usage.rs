//! What a journal holds, in numbers.

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What its files take, in bytes.
    pub bytes: u64,
    /// What they may take, in bytes.
    pub max_bytes: u64,
    /// How many segments there are.
    pub segments: usize,
    /// Records that are not done, whatever the number of branches they are owed to.
    pub records: u64,
    /// Records owed to each branch, in the order of `Options::branches`.
    pub owed: Vec<u64>,
    /// From when to when records arrived that are not done, that lie near the first of these in its segment or that
    /// follow it there, in Unix nanoseconds and in the order of the segments: nothing that is not done arrived at any
    /// other time.
    pub unfinished: Vec<(u64, u64)>,
    /// Written or held, and not known to be on the disk, in bytes.
    pub unsynced: u64,
    /// What is kept of damaged segments, in bytes; part of `bytes`.
    pub quarantined: u64,
}

/// Unfinished records that were given up because the journal was full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// How many were not done.
    pub records: u64,
    /// How many each branch was still owed, in the order of `Options::branches`.
    pub owed: Vec<u64>,
}

/// Records that are no longer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
    /// How many of them were not known to be done.
    pub records: u64,
    /// What became of them.
    pub reason: Reason,
    /// The file in which the damaged bytes are kept, if they could be.
    pub kept: Option<String>,
}

/// What becomes of records that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Their bytes are not what was written.
    #[error("damaged")]
    Damaged,
    /// The file that held them is gone.
    #[error("file missing")]
    Missing,
}
