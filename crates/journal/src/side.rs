//! The file beside a segment that says which of its records are done: format v1, as `FORMAT.md` promises it.

use std::sync::Arc;

use crate::format::{HEAD, Head, Stem, u32_at, u64_at};
use crate::frame::{FRAME, MAX_CONTENT, content, find_frame, frame};
use crate::marks::Bits;

const SIDE_MAGIC: [u8; 8] = *b"WSHDDONE";

/// Everybody, where a branch is named.
const ALL: u16 = u16::MAX;

/// What frames hold.
mod tag {
    pub const NAME: u8 = 1;
    pub const DONE: u8 = 2;
    pub const ATTEMPTS: u8 = 3;
    pub const ALONE: u8 = 4;
    pub const GAP: u8 = 5;
    pub const ACQUITTED: u8 = 6;
}

/// What is known and not yet written beside a segment.
#[derive(Debug)]
pub(crate) struct Side {
    /// The branches that its records are or were owed to; one's place is its id in this file.
    names: Arc<[String]>,
    /// The id of each branch of the journal.
    ids: Vec<u16>,
    /// Whether the names are yet to be written in this run. Writing them again does no harm.
    unnamed: bool,
    done: Vec<(u16, u32)>,
    attempts: Vec<u32>,
    alone: Vec<u32>,
    acquitted: Vec<u32>,
    gap: Option<Gap>,
    gap_written: bool,
    /// How much of the file is whole, in bytes; none where there is no file.
    pub length: Option<u64>,
    /// Whether there may be something after that.
    pub ragged: bool,
    /// What the file takes, in bytes, as far as is known.
    pub size: u64,
}

/// The sequences after a segment that have been in others, which are gone because all was done: nobody misses them.
/// Records of this segment's own file from `from` on are not part of it, they were written again elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub from: u64,
    pub until: u64,
}

/// What a side file says.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Whom records are or were owed to.
    pub names: Vec<String>,
    /// For each name, what it has completed.
    pub done: Vec<Bits>,
    /// What nobody is owed.
    pub finished: Bits,
    pub attempts: Vec<u32>,
    pub alone: Vec<u32>,
    pub gap: Option<Gap>,
    /// Where the last whole frame ends.
    pub length: u64,
    /// Bytes that are part of no whole frame.
    pub damaged: u64,
}

// === impl Side ===

impl Side {
    /// For a segment whose records are owed to `names`, which are all the journal's branches.
    pub fn new(names: &Arc<[String]>) -> Self {
        let ids = (0..).take(names.len()).collect();
        Self::known(names.clone(), ids)
    }

    /// For a segment that was found, whose records were owed to `known`, in a journal with `branches`.
    pub fn found(known: &[String], branches: &Arc<[String]>) -> Self {
        let mut names = known.to_vec();
        names.extend(branches.iter().filter(|branch| !known.contains(branch)).cloned());
        let place = |branch| names.iter().position(|name| name == branch);
        let ids = branches
            .iter()
            .map(|branch| place(branch).and_then(|at| u16::try_from(at).ok()).unwrap_or(ALL - 1));
        Self::known(
            if names[..] == branches[..] { branches.clone() } else { names.clone().into() },
            ids.collect(),
        )
    }

    fn known(names: Arc<[String]>, ids: Vec<u16>) -> Self {
        Self {
            names,
            ids,
            unnamed: true,
            done: Vec::new(),
            attempts: Vec::new(),
            alone: Vec::new(),
            acquitted: Vec::new(),
            gap: None,
            gap_written: true,
            length: None,
            ragged: false,
            size: 0,
        }
    }

    /// Notes that `branch` has completed record `at`.
    pub fn done(&mut self, at: u32, branch: usize) {
        self.done.push((self.ids[branch], at));
    }

    /// Notes that nobody is owed record `at`.
    pub fn finished(&mut self, at: u32) {
        self.done.push((ALL, at));
    }

    pub fn attempted(&mut self, at: u32) {
        self.attempts.push(at);
    }

    pub fn tried_alone(&mut self, at: u32) {
        self.alone.push(at);
    }

    /// Notes that what was noted of record `at` before no longer counts.
    pub fn acquit(&mut self, at: u32) {
        self.attempts.retain(|tried| *tried != at);
        self.alone.retain(|tried| *tried != at);
        self.acquitted.push(at);
    }

    /// The sequences that follow the segment's and are nobody's.
    pub fn gap(&self) -> Option<Gap> {
        self.gap
    }

    /// Notes them; `written` where they come from the file.
    pub fn set_gap(&mut self, gap: Gap, written: bool) {
        self.gap_written = written || (self.gap_written && self.gap == Some(gap));
        self.gap = Some(gap);
    }

    /// Whether they are yet to be written.
    pub fn gap_is_new(&self) -> bool {
        !self.gap_written
    }

    /// Whether there is something to write.
    pub fn is_dirty(&self) -> bool {
        let marks = [&self.attempts, &self.alone, &self.acquitted];
        !(self.done.is_empty() && marks.iter().all(|marks| marks.is_empty()) && self.gap_written)
    }

    /// What is to be written after the first `length` bytes.
    pub fn encode(&mut self, stem: Stem) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.length.unwrap_or(0) == 0 {
            bytes.extend_from_slice(&Head::encode(SIDE_MAGIC, stem, &[]));
        }
        if self.unnamed {
            for (id, name) in (0_u16..).zip(self.names.iter()) {
                frame(&mut bytes, tag::NAME, &[&id.to_le_bytes(), name.as_bytes()]);
            }
        }
        self.done.sort_unstable();
        self.done.dedup();
        for branch in self.done.chunk_by(|one, other| one.0 == other.0) {
            let runs = branch.chunk_by(|one, other| one.1 + 1 == other.1);
            let runs = runs.map(|run| (run[0].1, u32::try_from(run.len()).unwrap_or(u32::MAX)));
            let runs: Vec<u8> =
                runs.flat_map(|(at, count)| [at.to_le_bytes(), count.to_le_bytes()]).flatten().collect();
            // Shorter than a frame may be by the branch's id.
            for part in runs.chunks(MAX_CONTENT / 2) {
                frame(&mut bytes, tag::DONE, &[&branch[0].0.to_le_bytes(), part]);
            }
        }
        // What was tried again after it was acquitted counts again.
        let marks =
            [(tag::ACQUITTED, &self.acquitted), (tag::ATTEMPTS, &self.attempts), (tag::ALONE, &self.alone)];
        for (tag, records) in marks {
            for part in records.chunks(MAX_CONTENT / 8) {
                let part: Vec<u8> = part.iter().flat_map(|at| at.to_le_bytes()).collect();
                frame(&mut bytes, tag, &[&part]);
            }
        }
        if let Some(Gap { from, until }) = self.gap.filter(|_| !self.gap_written) {
            frame(&mut bytes, tag::GAP, &[&from.to_le_bytes(), &until.to_le_bytes()]);
        }
        bytes
    }

    /// What was encoded is in the file, which now has `length` bytes.
    pub fn written(&mut self, length: u64) {
        (self.length, self.ragged, self.size) = (Some(length), false, length);
        (self.unnamed, self.gap_written) = (false, true);
        self.done.clear();
        self.attempts.clear();
        self.alone.clear();
        self.acquitted.clear();
    }
}

// === impl Replay ===

impl Replay {
    /// Reads the side file of the segment named `stem`, which has `count` records that were owed to `names` when it was
    /// begun; or the version, where it is a later one.
    pub fn run(bytes: &[u8], stem: Stem, count: u32, names: Vec<String>) -> Result<Self, u16> {
        let mut replay = Self { done: vec![Bits::default(); names.len()], names, ..Self::default() };
        let mut ids = Vec::new();
        let mut at = match Head::parse(SIDE_MAGIC, bytes, stem) {
            Head::Later(version) => return Err(version),
            Head::Valid { .. } => HEAD,
            Head::Damaged => 0,
        };
        let mut good = at;
        replay.length = at as u64;
        while at < bytes.len() {
            if let Some(content) = content(&bytes[at..]) {
                replay.apply(content, count, &mut ids);
                at += FRAME + content.len();
                good += FRAME + content.len();
                replay.length = at as u64;
            } else {
                at = find_frame(bytes, at + 1).unwrap_or(bytes.len());
            }
        }
        replay.damaged = (bytes.len() - good) as u64;
        Ok(replay)
    }

    fn apply(&mut self, content: &[u8], count: u32, ids: &mut Vec<(u16, usize)>) {
        let Some((&tag, body)) = content.split_first() else { return };
        let numbers =
            |body: &[u8]| -> Vec<u32> { body.chunks_exact(4).map(|number| u32_at(number, 0)).collect() };
        let named = body.split_first_chunk().map(|(id, rest)| (u16::from_le_bytes(*id), rest));
        match (tag, named) {
            (tag::NAME, Some((id, name))) => self.define(id, name, count, ids),
            (tag::DONE, Some((id, runs))) => {
                let bits = match ids.iter().find(|(known, _)| *known == id) {
                    _ if id == ALL => &mut self.finished,
                    Some((_, place)) => &mut self.done[*place],
                    // Its name was lost: what it completed is given again.
                    None => return,
                };
                for run in numbers(runs).chunks_exact(2) {
                    (run[0]..run[0].saturating_add(run[1]).min(count)).for_each(|at| {
                        bits.set(at);
                    });
                }
            }
            (tag::ATTEMPTS, _) => self.attempts.extend(numbers(body)),
            (tag::ALONE, _) => self.alone.extend(numbers(body)),
            (tag::ACQUITTED, _) => {
                let acquitted = numbers(body);
                self.attempts.retain(|at| !acquitted.contains(at));
                self.alone.retain(|at| !acquitted.contains(at));
            }
            (tag::GAP, _) if body.len() == 16 => {
                let until = self.gap.map_or(0, |gap| gap.until).max(u64_at(body, 8));
                self.gap = Some(Gap { from: u64_at(body, 0), until });
            }
            _ => {}
        }
    }

    /// From here on `id` is the branch called `name`, and what is not done is owed to it as well.
    fn define(&mut self, id: u16, name: &[u8], count: u32, ids: &mut Vec<(u16, usize)>) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        let place = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            // What was done before it came stays so.
            (0..count).filter(|at| self.is_done(*at)).collect::<Vec<_>>().into_iter().for_each(|at| {
                self.finished.set(at);
            });
            self.names.push(name.to_owned());
            self.done.push(Bits::default());
            self.names.len() - 1
        });
        ids.retain(|(known, _)| *known != id);
        ids.push((id, place));
    }

    /// Whether everybody whom record `at` was owed to has completed it.
    pub fn is_done(&self, at: u32) -> bool {
        self.finished.get(at) || (!self.done.is_empty() && self.done.iter().all(|done| done.get(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEM: Stem = Stem { number: 3, first: 41 };

    fn names(names: &[&str]) -> Arc<[String]> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// What is written by a journal of `a` and `b`, in two flushes.
    fn written() -> Vec<u8> {
        let mut side = Side::new(&names(&["a", "b"]));
        assert!(!side.is_dirty());
        [5, 3, 4, 4, 9].into_iter().for_each(|at| side.done(at, 1));
        side.attempted(7);
        let mut bytes = side.encode(STEM);
        side.written(bytes.len() as u64);
        assert!(!side.is_dirty());
        side.finished(0);
        side.tried_alone(7);
        side.set_gap(Gap { from: 51, until: 60 }, false);
        bytes.extend(side.encode(STEM));
        bytes
    }

    fn replay(bytes: &[u8], known: &[&str]) -> Replay {
        Replay::run(bytes, STEM, 10, names(known).to_vec()).unwrap()
    }

    fn set(bits: &Bits) -> Vec<u32> {
        (0..100).filter(|at| bits.get(*at)).collect()
    }

    #[test]
    fn what_is_written_is_read_whatever_the_segment_says() {
        let bytes = written();
        for known in [&["a", "b"][..], &["b", "a"], &[]] {
            let replay = replay(&bytes, known);
            let b = replay.names.iter().position(|name| name == "b").unwrap();
            assert_eq!((set(&replay.done[b]), set(&replay.done[1 - b])), (vec![3, 4, 5, 9], vec![]));
            assert_eq!((set(&replay.finished), replay.gap), (vec![0], Some(Gap { from: 51, until: 60 })));
            assert_eq!((&replay.attempts[..], &replay.alone[..]), (&[7][..], &[7][..]));
            assert_eq!((replay.length, replay.damaged), (bytes.len() as u64, 0));
        }
    }

    #[test]
    fn a_frame_that_is_not_whole_is_passed_over() {
        let bytes = written();
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let replay = replay(&flipped, &["a", "b"]);
            assert!(replay.damaged > 0, "bit {bit}");
            assert!((0..10).all(|at| !replay.is_done(at) || at == 0), "nothing is done that was not");
        }
        for length in 0..bytes.len() {
            assert!(replay(&bytes[..length], &["a", "b"]).length <= length as u64);
        }
    }

    #[test]
    fn a_branch_that_comes_later_is_owed_what_was_not_done_then() {
        let mut bytes = written();
        for (branches, at) in [(["b", "a"], 3), (["b", "c"], 6)] {
            let mut side = Side::found(&["a".to_owned(), "b".to_owned()], &names(&branches));
            side.length = Some(bytes.len() as u64);
            side.done(at, 1);
            bytes.extend(side.encode(STEM));
        }
        let replay = replay(&bytes, &["a", "b"]);
        assert_eq!((&replay.names[2..], set(&replay.done[2])), (&["c".to_owned()][..], vec![6]));
        // Both had done 3 when the third came, which has only done 6.
        assert_eq!((0..10).filter(|at| replay.is_done(*at)).collect::<Vec<_>>(), [0, 3]);
    }
}
