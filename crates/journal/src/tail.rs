//! What is not known to be on the disk, held in memory.

use std::collections::VecDeque;

use crate::format::Header;

/// The most that a buffer keeps for the next commit, in bytes.
const SPARE: usize = 4 << 20;

/// Where a journal is written, and what was written and may yet be lost.
#[derive(Debug)]
pub(crate) struct Tail<F> {
    /// Appended, not committed.
    pub staged: Chunk,
    /// Committed, not synced: all of it in the last segment.
    pub held: VecDeque<Chunk>,
    /// The last segment, while it can be appended to.
    pub file: Option<F>,
    /// How much of it is on the disk, in bytes.
    pub synced: u64,
    /// Whether what is held must be written anew, since nobody knows what the disk has of it.
    pub suspect: bool,
    /// Whether the directory has entries that are not synced.
    pub dir: bool,
    /// Whether a sync of the directory failed since: nobody knows which of them it has.
    pub doubtful: bool,
    /// Whether the last segment, all of whose records are done, is to make room.
    pub retire: bool,
}

/// Encoded records that follow one another.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub first: u64,
    /// Where each begins.
    pub starts: Vec<usize>,
    pub bytes: Vec<u8>,
}

// === impl Tail ===

impl<F> Tail<F> {
    pub fn new() -> Self {
        Self {
            staged: Chunk::default(),
            held: VecDeque::new(),
            file: None,
            synced: 0,
            suspect: false,
            dir: false,
            doubtful: false,
            retire: false,
        }
    }

    /// Everything in memory, in bytes.
    pub fn unsynced(&self) -> u64 {
        let chunks = self.held.iter().chain([&self.staged]);
        chunks.map(|chunk| chunk.bytes.len() as u64).sum()
    }

    /// The record with `sequence`, if it is held.
    pub fn find(&self, sequence: u64) -> Option<&[u8]> {
        let after = self.held.partition_point(|chunk| chunk.first <= sequence);
        let chunk = self.held.get(after.checked_sub(1)?)?;
        let start = *chunk.starts.get(usize::try_from(sequence - chunk.first).ok()?)?;
        chunk.bytes.get(start..)
    }

    /// Nothing needs to be held any more.
    pub fn clear(&mut self) {
        let spare = self.held.pop_back().filter(|_| self.staged.starts.is_empty());
        if let Some(mut chunk) = spare {
            chunk.starts.clear();
            chunk.bytes.clear();
            chunk.bytes.shrink_to(SPARE);
            self.staged = chunk;
        }
        self.held.clear();
        self.suspect = false;
    }
}

// === impl Chunk ===

impl Chunk {
    pub fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Where each record begins, counted from `base`, and its header.
    pub fn records(&self, base: u64) -> impl Iterator<Item = (u64, Header)> + '_ {
        let headers = self.starts.iter().map(|start| (*start, Header::parse(&self.bytes[*start..])));
        headers.filter_map(move |(start, header)| Some((base + start as u64, header?)))
    }
}
