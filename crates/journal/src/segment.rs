//! A segment as the journal knows it while it is open.

use std::ops::Range;

use crate::format::{Header, Kind, Stem};
use crate::manifest::Claim;
use crate::marks::Marks;
use crate::scan::Index;
use crate::side::{Gap, Side};

/// A segment as the journal knows it while it is open: nothing that grows with a record but some bits.
#[derive(Debug)]
pub(crate) struct Segment {
    pub stem: Stem,
    pub marks: Marks,
    pub index: Index,
    pub side: Side,
    /// Where the last record ends.
    pub end: u64,
    /// How many of its records are known to be on the disk.
    pub synced: u32,
    /// What the file takes, in bytes.
    pub bytes: u64,
    /// When the first and the last of its records arrived.
    pub arrived: Option<(u64, u64)>,
}

// === impl Segment ===

impl Segment {
    pub fn name(&self) -> String {
        self.stem.name(Kind::Segment)
    }

    /// What the manifest is to say of it.
    pub fn claim(&self) -> Claim {
        Claim { stem: self.stem, synced: self.synced, written: self.marks.count() }
    }

    /// Its sequences.
    pub fn range(&self) -> Range<u64> {
        self.stem.first..self.stem.first + u64::from(self.marks.count())
    }

    /// The place of a sequence that is in it.
    pub fn place(&self, sequence: u64) -> Option<u32> {
        let inside = self.range().contains(&sequence);
        u32::try_from(sequence.checked_sub(self.stem.first)?).ok().filter(|_| inside)
    }

    /// One more record at `offset`.
    pub fn push(&mut self, offset: u64, arrived: u64) {
        self.index.push(self.marks.count(), offset, false, arrived);
        self.marks.push();
        self.came(arrived);
    }

    fn came(&mut self, arrived: u64) {
        let (first, last) = self.arrived.unwrap_or((arrived, arrived));
        self.arrived = Some((first.min(arrived), last.max(arrived)));
    }

    /// The record at `offset`, of which more than that may be known.
    pub fn push_known(&mut self, offset: u64, header: &Header) {
        if let Some(at) = self.place(header.sequence) {
            self.index.push(at, offset, false, header.arrived);
            self.came(header.arrived);
        } else {
            self.push(offset, header.arrived);
        }
    }

    /// From when to when those arrived that are not done, or that lie near them or after them; none where all are done.
    pub fn unfinished(&self) -> Option<(u64, u64)> {
        let (first, last) = self.arrived?;
        Some((self.index.arrived(self.marks.next_live()?).unwrap_or(first), last))
    }

    /// Everything known of its records is to be written beside it.
    pub fn note_marks(&mut self) {
        for at in 0..self.marks.count() {
            let owed = self.marks.owed_to(at);
            if owed == 0 {
                self.side.finished(at);
                continue;
            }
            for branch in (0..self.marks.owed().len()).filter(|branch| owed >> branch & 1 == 0) {
                self.side.done(at, branch);
            }
            (0..self.marks.attempts(at)).for_each(|_| self.side.attempted(at));
            (0..self.marks.alone(at)).for_each(|_| self.side.tried_alone(at));
        }
    }

    /// Takes the records from `at` on out again, the first of which began at `offset`.
    pub fn truncate(&mut self, at: u32, offset: u64) {
        drop(self.marks.split_off(at));
        self.index.truncate(at);
        self.end = offset;
    }

    /// Everything that it takes on the disk, in bytes.
    pub fn footprint(&self) -> u64 {
        self.bytes + self.side.size
    }

    /// Nobody misses what follows it, before `until`.
    pub fn note_gap(&mut self, until: u64) {
        let from = self.range().end;
        let known = self.side.gap().unwrap_or(Gap { from, until: from });
        if until > known.until {
            self.side.set_gap(Gap { from: from.min(known.from), until }, false);
        }
    }

    /// `branch` is no longer owed record `at`, and that is to be written.
    pub fn complete(&mut self, at: u32, branch: usize) {
        if !self.marks.complete(at, branch) {
            return;
        }
        // With the last of those that there are it is done: the file may name branches that are no more.
        match self.marks.owed_to(at) {
            0 => self.side.finished(at),
            _ => self.side.done(at, branch),
        }
    }

    /// Record `at` is owed to nobody any more, and that is to be written.
    pub fn finish(&mut self, at: u32) {
        if self.marks.complete_all(at) {
            self.side.finished(at);
        }
    }
}
