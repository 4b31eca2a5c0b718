//! The journal: the one owner of a directory.

use std::sync::Arc;

use crate::format::HEADER;
use crate::manifest::{self, Manifest};
use crate::read::Cursor;
use crate::segment::Segment;
use crate::tail::Tail;
use crate::{AppendError, Files, GivenUp, Loss, OnFull, Options, Record, Usage};

/// A journal: records in the order in which they were appended, each owed to every branch until it is completed.
///
/// It has one owner, and every call does its work before it returns: the owner is a thread that may wait for a disk.
#[derive(Debug)]
pub struct Journal<F: Files> {
    pub(crate) files: F,
    pub(crate) options: Options,
    /// `Options::branches`, shared with what is known of each segment.
    pub(crate) names: Arc<[String]>,
    /// In the order of number and sequence. The last one stays even when all of it is done: it knows how far the
    /// journal has come.
    pub(crate) segments: Vec<Segment>,
    pub(crate) manifest: Manifest<F::File>,
    pub(crate) tail: Tail<F::File>,
    /// One for each branch.
    pub(crate) cursors: Vec<Cursor<F::File>>,
    /// For records that are read again.
    pub(crate) again: Cursor<F::File>,
    /// The next segment's number.
    pub(crate) number: u64,
    /// The sequence after the last committed record's.
    pub(crate) next: u64,
    /// Side files whose segments are removed, with their lengths. They stay until that is known to be on the disk: a
    /// segment that came back without its side file would be given again as a whole.
    pub(crate) widows: Vec<(String, u64)>,
    /// What is kept of damaged segments, in bytes.
    pub(crate) kept: u64,
    /// What all files take, in bytes.
    pub(crate) used: u64,
    pub(crate) given_up: Vec<GivenUp>,
    pub(crate) losses: Vec<Loss>,
    /// What is gathered before it is compressed.
    scratch: Vec<u8>,
}

impl<F: Files> Journal<F> {
    /// A journal without segments, the next of which has `number` and begins with `next`.
    pub(crate) fn empty(files: F, mut options: Options, number: u64, next: u64) -> Self {
        // A journal of less than four segments could not give back what is done without giving back everything.
        options.segment_bytes = options.segment_bytes.min(options.max_bytes / 4).clamp(1 << 12, 1 << 31);
        Self {
            names: options.branches.clone().into(),
            cursors: options.branches.iter().map(|_| Cursor::new()).collect(),
            files,
            options,
            segments: Vec::new(),
            manifest: Manifest::new(0),
            tail: Tail::new(),
            again: Cursor::new(),
            number,
            next,
            widows: Vec::new(),
            kept: 0,
            used: 0,
            given_up: Vec::new(),
            losses: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Encodes `record` into memory, to be written by the next [`commit`](Self::commit), and returns its sequence:
    /// the first is 1, each one more than the one before. A sequence whose commit failed is given again.
    pub fn append(&mut self, record: &Record<'_>) -> Result<u64, AppendError> {
        let bound = record.bound().ok_or(AppendError::TooLarge)?;
        self.admit(bound)?;
        let staged = &mut self.tail.staged;
        let sequence = self.next + staged.len();
        staged.first = self.next;
        staged.starts.push(staged.bytes.len());
        record.encode(sequence, self.options.compression, &mut self.scratch, &mut staged.bytes);
        Ok(sequence)
    }

    /// Whether a record of `bytes` can be taken; makes room for it where there are means to.
    fn admit(&mut self, bytes: u64) -> Result<(), AppendError> {
        let bytes = bytes + self.head_bytes();
        if bytes + manifest::LEAST > self.options.max_bytes {
            return Err(AppendError::TooLarge);
        }
        let unsynced = self.tail.unsynced();
        if unsynced > 0 && unsynced + bytes > self.options.max_unsynced {
            return Err(AppendError::Unsynced);
        }
        while self.taken() + bytes > self.options.max_bytes {
            if !self.make_room() {
                return Err(AppendError::Full);
            }
        }
        Ok(())
    }

    /// What the files will take with what is appended, in bytes.
    fn taken(&self) -> u64 {
        let retired = self.segments.last().filter(|_| self.tail.retire).map_or(0, Segment::footprint);
        self.used + self.tail.staged.bytes.len() as u64 - retired.min(self.used)
    }

    /// Frees something; false when there is nothing to free.
    fn make_room(&mut self) -> bool {
        let used = self.used;
        // What can not be removed now is tried again by every flush.
        let _ = self.remove_done();
        if self.manifest.is_stale(self.segments.len()) {
            let _ = self.rewrite_manifest(&[]);
            self.recount();
        }
        if self.used < used {
            return true;
        }
        let done = self.segments.last().is_some_and(|last| last.marks.live() == 0 && last.marks.count() > 0);
        if done && !self.tail.retire {
            self.tail.retire = true;
            return true;
        }
        self.options.on_full == OnFull::DropOldest && self.give_up()
    }

    /// Gives up what is unfinished in the oldest segment that has something unfinished.
    fn give_up(&mut self) -> bool {
        let Some(segment) = self.segments.iter_mut().find(|segment| segment.marks.live() > 0) else {
            return false;
        };
        let owed = segment.marks.owed().iter().map(|owed| u64::from(*owed)).collect();
        let records = u64::from(segment.marks.live());
        let range = segment.range();
        self.given_up.push(GivenUp { from: range.start, to: range.end - 1, records, owed });
        (0..segment.marks.count()).for_each(|at| segment.finish(at));
        true
    }

    /// What a segment takes without a record, in bytes.
    fn head_bytes(&self) -> u64 {
        (HEADER + self.names.iter().map(|name| 2 + name.len()).sum::<usize>()) as u64
    }

    /// What is appended or committed and not known to be on the disk, in bytes; all of it is held in memory.
    pub fn unsynced(&self) -> u64 {
        self.tail.unsynced()
    }

    /// Branch number `branch` of `Options::branches` is no longer owed the record. In memory until
    /// [`flush`](Self::flush). What is not in the journal is passed over.
    pub fn complete(&mut self, sequence: u64, branch: usize) {
        if let Some((segment, at)) = self.segment_mut(sequence) {
            segment.complete(at, branch);
        }
    }

    /// The record is owed to nobody any more. In memory until [`flush`](Self::flush).
    pub fn complete_all(&mut self, sequence: u64) {
        if let Some((segment, at)) = self.segment_mut(sequence) {
            segment.finish(at);
        }
    }

    /// Marks records as tried once more. Written with the next [`flush`](Self::flush): flush before they are handed
    /// out, so that the death of the process is counted.
    pub fn attempted(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            if let Some((segment, at)) = self.segment_mut(*sequence) {
                segment.marks.attempted(at);
                segment.side.attempted(at);
            }
        }
    }

    /// Marks a record as tried with nothing beside it. Written like [`attempted`](Self::attempted).
    pub fn alone(&mut self, sequence: u64) {
        if let Some((segment, at)) = self.segment_mut(sequence) {
            segment.marks.tried_alone(at);
            segment.side.tried_alone(at);
        }
    }

    /// Takes back both kinds of marks of a record: it was tried, and nothing came of it. Written like
    /// [`attempted`](Self::attempted).
    pub fn acquit(&mut self, sequence: u64) {
        if let Some((segment, at)) = self.segment_mut(sequence) {
            segment.marks.acquit(at);
            segment.side.acquit(at);
        }
    }

    /// What the journal holds.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            bytes: self.used,
            max_bytes: self.options.max_bytes,
            segments: self.segments.len(),
            owed: vec![0; self.names.len()],
            unsynced: self.unsynced(),
            quarantined: self.kept,
            ..Usage::default()
        };
        for segment in &self.segments {
            usage.records += u64::from(segment.marks.live());
            usage.owed.iter_mut().zip(segment.marks.owed()).for_each(|(sum, owed)| *sum += u64::from(*owed));
        }
        // Those that were between two may have been done, and be gone: of their time nothing is left.
        let follows = |one: &Segment, next: &Segment| one.range().end == next.range().start;
        let both = |one: &Segment, next: &Segment| one.marks.live() > 0 && next.marks.live() > 0;
        for run in self.segments.chunk_by(|one, next| both(one, next) && follows(one, next)) {
            let arrived = run.iter().filter_map(Segment::unfinished);
            let all = arrived.reduce(|all, it| (all.0.min(it.0), all.1.max(it.1)));
            usage.unfinished.extend(all);
        }
        usage
    }

    /// What was given up since the last call to make room.
    pub fn given_up(&mut self) -> Vec<GivenUp> {
        std::mem::take(&mut self.given_up)
    }

    /// What was found damaged since the last call, after opening.
    pub fn losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// What it was opened with, bounded where the bounds contradict each other.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The segment that has `sequence`, and the record's place in it.
    pub(crate) fn locate(&self, sequence: u64) -> Option<(&Segment, u32)> {
        let at = self.segments.partition_point(|segment| segment.range().end <= sequence);
        let segment = self.segments.get(at)?;
        Some((segment, segment.place(sequence)?))
    }

    /// See [`locate`](Self::locate).
    pub(crate) fn segment_mut(&mut self, sequence: u64) -> Option<(&mut Segment, u32)> {
        let at = self.segments.partition_point(|segment| segment.range().end <= sequence);
        let segment = self.segments.get_mut(at)?;
        let place = segment.place(sequence)?;
        Some((segment, place))
    }

    /// Counts anew what all files take.
    pub(crate) fn recount(&mut self) {
        let segments: u64 = self.segments.iter().map(Segment::footprint).sum();
        let widows: u64 = self.widows.iter().map(|(_, bytes)| bytes).sum();
        self.used = segments + widows + self.kept + self.manifest.size;
    }
}
