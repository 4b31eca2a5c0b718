//! Opening: what was found, and what is done about it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use crate::error::failed;
use crate::format::{Kind, Stem};
use crate::manifest::{self, Manifest};
use crate::marks::Marks;
use crate::segment::Segment;
use crate::side::Side;
use crate::survey::{Missing, Survey, Surveyed};
use crate::{File, Files, IoError, Journal, Loss, OpenError, Options, Reason};

/// What is known against a record that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The record.
    pub sequence: u64,
    /// How often it was marked as [`attempted`](crate::Journal::attempted).
    pub attempts: u32,
    /// How often it was marked as tried [`alone`](crate::Journal::alone).
    pub alone: u32,
}

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
    /// What a write cut short left at the end of a segment, in bytes; it is cut off.
    pub torn_bytes: u64,
    /// Bytes of segments that belong to no readable record, whether a record is missing for them or not.
    pub damaged_bytes: u64,
    /// Bytes of side files that can not be read: what was done may be given again. Told until their segments go.
    pub damaged_marks: u64,
    /// Records that were only still owed to branches that are no more, by the name of the branch.
    pub orphaned: Vec<(String, u64)>,
    /// Records that are not done and were marked.
    pub tried: Vec<Tried>,
    /// What failed and could be left undone for now.
    pub failures: Vec<IoError>,
}

/// A buffer's size for copying, in bytes.
const COPY: usize = 1 << 20;

impl<F: Files> Journal<F> {
    /// Takes the directory and reads what is in it.
    ///
    /// Nothing found in the files is fatal but a format of a later release: damage is set aside and told.
    pub fn open(mut files: F, options: Options) -> Result<(Self, Recovery), OpenError> {
        options.check().map_err(OpenError::Options)?;
        lock(&mut files)?;
        let survey = Survey::run(&files, true)?;
        let mut recovery = Recovery::default();
        for name in &survey.unfinished {
            // Nothing is owed that is only there.
            let removed = files.remove(name).map_err(failed(&files, name, "can not be removed"));
            recovery.failures.extend(removed.err());
        }
        let mut journal = Self::empty(files, options, survey.number, survey.next);
        journal.kept = survey.kept.iter().map(|(_, bytes)| bytes).sum();
        journal.widows = survey.widows;
        journal.manifest = Manifest::new(survey.manifest);
        journal.manifest.gone = survey.gone;
        let mut orphaned = BTreeMap::new();
        let mut segments = survey.segments.into_iter().peekable();
        while let Some(found) = segments.next() {
            if found.gone {
                journal.miss(&found, segments.peek().map(|next| next.stem.first), &mut recovery);
            } else {
                recovery.segments += 1;
                journal.take(found, &mut recovery, &mut orphaned);
            }
        }
        if let Some(last) = journal.segments.last_mut() {
            // Numbers that the manifest has as given, and of which nothing is on the disk or known to have been.
            last.note_gap(survey.next);
        }
        recovery.orphaned = orphaned.into_iter().collect();
        journal.recount();
        recovery.failures.extend(journal.sync_found().err());
        // The manifest, written anew, no longer knows of what they leave out.
        journal.sync_gaps();
        recovery.failures.extend(journal.flush().err());
        if !journal.manifest.is_open() {
            // Last, so that what is missed is told by the next opening if not by this one.
            let written = journal.rewrite_manifest(&[]);
            recovery
                .failures
                .extend(written.map_err(failed(&journal.files, manifest::NAME, "can not be written")).err());
            journal.recount();
        }
        let usage = journal.usage();
        (recovery.records, recovery.owed) = (usage.records, usage.owed);
        Ok((journal, recovery))
    }

    /// Takes over a segment that was found.
    fn take(&mut self, mut found: Surveyed, recovery: &mut Recovery, orphaned: &mut BTreeMap<String, u64>) {
        let before = self.segments.last().map_or(0, |before| before.range().end);
        let limit = self.options.max_bytes / 8;
        let torn = found.torn;
        recovery.damaged_marks += found.replay.damaged;
        recovery.damaged_bytes +=
            found.scan.damage.iter().map(|damage| damage.bytes.end - damage.bytes.start).sum::<u64>();
        let mut segment = revive(&mut found, self, orphaned);
        segment.note_gap(found.covered);
        for missing in &found.missing {
            let first = segment.stem.first;
            let (from, until) = (first + missing.records.start, first + missing.records.end);
            if missing.reason == Reason::Missing {
                segment.note_gap(until);
            }
            if missing.live == 0 {
                continue;
            }
            let kept =
                keep(&self.files, segment.stem, missing.bytes.clone(), limit.saturating_sub(self.kept));
            let kept = kept.unwrap_or_else(|error| {
                recovery.failures.push(error);
                None
            });
            self.kept += kept.as_ref().map_or(0, |(_, bytes)| *bytes);
            let kept = kept.map(|(name, _)| name);
            let (to, reason) = (until - 1, missing.reason);
            recovery.lost.push(Loss { from, to, records: missing.live, reason, kept });
        }
        for at in (0..segment.marks.count()).filter(|at| segment.marks.owed_to(*at) != 0) {
            let (attempts, alone) = (segment.marks.attempts(at).into(), segment.marks.alone(at).into());
            if attempts > 0 || alone > 0 {
                recovery.tried.push(Tried { sequence: segment.stem.first + u64::from(at), attempts, alone });
            }
        }
        if torn > 0 {
            recovery.torn_bytes += torn;
            let cut = self.files.open(&segment.name(), true).and_then(|mut file| file.set_len(segment.end));
            match cut.map_err(failed(&self.files, &segment.name(), "can not be cut")) {
                Ok(()) => segment.bytes = segment.end,
                Err(error) => recovery.failures.push(error),
            }
        }
        if segment.marks.count() == 0 && segment.stem.first < before {
            // Nothing of it counts, and it would stand before what does.
            let removed = self.files.remove(&segment.name());
            recovery
                .failures
                .extend(removed.map_err(failed(&self.files, &segment.name(), "can not be removed")).err());
            self.widows
                .extend(segment.side.length.map(|_| (segment.stem.name(Kind::Side), segment.side.size)));
            return;
        }
        self.segments.push(segment);
    }

    /// Tells what was in a segment whose file is gone, and that the next opening need not; the next segment begins with
    /// `next`.
    fn miss(&mut self, found: &Surveyed, next: Option<u64>, recovery: &mut Recovery) {
        for Missing { records, live, reason, .. } in found.missing.iter().filter(|missing| missing.live > 0) {
            let (from, to) = (found.stem.first + records.start, found.stem.first + records.end - 1);
            recovery.lost.push(Loss { from, to, records: *live, reason: *reason, kept: None });
        }
        if let Some(before) = self.segments.last_mut() {
            before.note_gap(next.unwrap_or(0).max(found.end()));
        }
    }

    /// A process that was killed may have left what is not on the disk: what is given out again should be.
    fn sync_found(&mut self) -> Result<(), IoError> {
        let Some(name) = self.segments.last().map(Segment::name) else { return Ok(()) };
        let synced =
            self.files.open(&name, true).and_then(|mut file| file.sync_data()).and_then(|()| self.sync_dir());
        synced.map_err(failed(&self.files, &name, "can not be synced"))?;
        // Those before it were synced before it was begun.
        self.segments.iter_mut().for_each(|segment| segment.synced = segment.marks.count());
        Ok(())
    }
}

/// What is known of a segment, for the branches that there are.
fn revive<F: Files>(
    found: &mut Surveyed,
    journal: &Journal<F>,
    orphaned: &mut BTreeMap<String, u64>,
) -> Segment {
    let mut index = std::mem::take(&mut found.scan.index);
    index.truncate(found.count);
    let Surveyed { stem, scan, replay, .. } = &*found;
    let mut side = Side::found(&replay.names, &journal.names);
    side.length = found.side.map(|_| replay.length);
    side.size = found.side.unwrap_or(0);
    side.ragged = side.size > replay.length;
    if let Some(gap) = replay.gap {
        side.set_gap(gap, true);
    }
    let mut segment = Segment {
        stem: *stem,
        marks: Marks::new(journal.names.len()),
        index,
        side,
        end: scan.end,
        synced: 0,
        bytes: scan.size,
        arrived: scan.arrived,
    };
    let place = |name: &String| replay.names.iter().position(|known| known == name);
    let places: Vec<Option<usize>> = journal.names.iter().map(place).collect();
    let gone: Vec<usize> = (0..replay.names.len()).filter(|place| !places.contains(&Some(*place))).collect();
    for at in 0..found.count {
        segment.marks.push();
        if replay.is_done(at) {
            segment.marks.complete_all(at);
            continue;
        }
        let done = |place: &Option<usize>| place.is_some_and(|place| replay.done[place].get(at));
        for branch in (0..places.len()).filter(|branch| done(&places[*branch])) {
            segment.marks.complete(at, branch);
        }
        if segment.marks.owed_to(at) == 0 {
            segment.side.finished(at);
            for place in gone.iter().filter(|place| !replay.done[**place].get(at)) {
                *orphaned.entry(replay.names[*place].clone()).or_default() += 1;
            }
        }
    }
    for missing in found.missing.iter().filter(|missing| missing.reason == Reason::Damaged) {
        let end = u32::try_from(missing.records.end).unwrap_or(u32::MAX);
        // Those before it that are not there either are in a gap: done, and told.
        let there = segment.marks.count();
        while segment.marks.count() < end {
            segment.marks.push();
        }
        for at in u32::try_from(missing.records.start).unwrap_or(end).min(there)..end {
            if !replay.is_done(at) {
                segment.finish(at);
            }
            segment.marks.complete_all(at);
        }
    }
    replay.attempts.iter().for_each(|at| segment.marks.attempted(*at));
    replay.alone.iter().for_each(|at| segment.marks.tried_alone(*at));
    segment
}

/// Copies damaged bytes into a file of their own, if they have at most `limit` bytes. Returns its name and length.
pub(crate) fn keep<F: Files>(
    files: &F,
    stem: Stem,
    bytes: Range<u64>,
    limit: u64,
) -> Result<Option<(String, u64)>, IoError> {
    let length = bytes.end.saturating_sub(bytes.start);
    if length == 0 || length > limit {
        return Ok(None);
    }
    let name = stem.kept(bytes.start);
    let copy = || -> io::Result<u64> {
        let source = files.open(&stem.name(Kind::Segment), false)?;
        let mut target = files.create(&name)?;
        let (mut buffer, mut at) = (vec![0; COPY.min(usize::try_from(length).unwrap_or(COPY))], 0);
        while at < length {
            let part = usize::try_from(length - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let read = source.read_at(bytes.start + at, &mut buffer[..part])?;
            if read == 0 {
                break;
            }
            target.write_at(at, &buffer[..read])?;
            at += read as u64;
        }
        Ok(at)
    };
    match copy() {
        Ok(copied) => Ok(Some((name, copied))),
        // Told by an opening that could not write that down.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Some((name, 0))),
        Err(error) => Err(failed(files, &name, "can not be written")(error)),
    }
}

/// Takes the directory, and says why it can not be had.
fn lock<F: Files>(files: &mut F) -> Result<(), OpenError> {
    let place = files.place().to_owned();
    files.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(place),
        io::ErrorKind::NotFound => OpenError::Missing(place),
        io::ErrorKind::NotADirectory => OpenError::NotADirectory(place),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly(place),
        _ => failed(files, "lock", "can not be locked")(error).into(),
    })
}
