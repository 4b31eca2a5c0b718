//! What was found when a journal was opened.

use crate::{IoError, Loss};

/// What was found when a journal was opened. All of it is for the log and the counters: whatever it says, the journal
/// is open and gives what is readable.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Segments that were read.
    pub segments: usize,
    /// Records that are not done.
    pub records: u64,
    /// Records owed to each branch, in the order of `Options::branches`.
    pub owed: Vec<u64>,
    /// Records that are no longer there and were not known to be done. Each is told once: the next opening takes
    /// them for done.
    pub lost: Vec<Loss>,
    /// What a write cut short left at the end of the last segment, in bytes; it is cut off.
    pub torn_bytes: u64,
    /// Bytes of side files that can not be read: what was done may be given again.
    pub damaged_marks: u64,
    /// Records that were only still owed to branches that are no more, by the name of the branch.
    pub orphaned: Vec<(String, u64)>,
    /// Records that are not done and were marked [`alone`](crate::Journal::alone), with the number of marks.
    pub alone: Vec<(u64, u32)>,
    /// What failed and could be left undone for now.
    pub failures: Vec<IoError>,
}
