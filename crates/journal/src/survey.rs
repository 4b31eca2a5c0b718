//! Reading a whole directory: what counts of each segment, and what is missing. Nothing is changed.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use crate::error::failed;
use crate::format::{HEADER, Kind, Stem};
use crate::manifest::{self, Claims};
use crate::scan::{Scan, Unread};
use crate::side::Replay;
use crate::{File, Files, IoError, OpenError, Reason, format};

/// The longest side file that is read, in bytes: more than a full segment of the smallest records can need.
const MAX_SIDE: u64 = 256 << 20;

/// What is in a directory.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// In the order of their numbers.
    pub segments: Vec<Surveyed>,
    /// Side files without a segment, with their lengths.
    pub widows: Vec<(String, u64)>,
    /// Files that were being written anew, and segments that were being removed.
    pub unfinished: Vec<String>,
    /// The numbers of segments that the manifest has as gone.
    pub gone: Vec<u64>,
    /// What was set aside, with its length.
    pub kept: Vec<(String, u64)>,
    /// The manifest's length; zero where there is none.
    pub manifest: u64,
    /// The next segment's number.
    pub number: u64,
    /// The next record's sequence.
    pub next: u64,
}

/// What is in a segment.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub stem: Stem,
    /// Whether its file is not there, though it should be.
    pub gone: bool,
    /// How many records the manifest says that it had, at least.
    pub known: u32,
    pub scan: Scan,
    pub replay: Replay,
    /// The side file's length, if there is one.
    pub side: Option<u64>,
    /// How many of its records count: those from there on are in a later segment.
    pub count: u32,
    /// Up to where a segment before it says that all was done. A removal that the power undid may have brought back
    /// less than there was.
    pub covered: u64,
    /// In order; the last may be those up to the next segment.
    pub missing: Vec<Missing>,
    /// Bytes after the last record that nobody misses.
    pub torn: u64,
}

/// Records that are not there.
#[derive(Debug)]
pub(crate) struct Missing {
    /// Their places, counted from the segment's first record.
    pub records: Range<u64>,
    /// How many of them are not known to be done.
    pub live: u64,
    pub reason: Reason,
    /// The bytes that may have been theirs.
    pub bytes: Range<u64>,
}

// === impl Survey ===

impl Survey {
    /// Reads everything; the bodies of records only where `deep`.
    pub fn run<F: Files>(files: &F, deep: bool) -> Result<Self, OpenError> {
        let read =
            || Claims::read(files).map_err(|found| refused(files, manifest::NAME, Unread::Later(found)));
        let claims = read()?;
        let mut names = files.list().map_err(failed(files, "", "can not be listed"))?;
        names.sort_unstable();
        let named: Vec<(Stem, Kind)> = names.iter().filter_map(|name| Stem::parse(name)).collect();
        let segment =
            |(stem, kind): &(Stem, Kind)| (*kind == Kind::Segment && !claims.is_gone(*stem)).then_some(*stem);
        let segments: BTreeSet<Stem> = named.iter().filter_map(segment).collect();
        let mut survey = Self { next: claims.next.max(1), number: claims.number, ..Self::default() };
        for (stem, kind) in &named {
            survey.number = survey.number.max(stem.number + 1);
            match kind {
                Kind::Segment if claims.is_gone(*stem) => survey.unfinished.push(stem.name(*kind)),
                Kind::Segment => survey.segments.extend(Surveyed::scan(files, *stem, deep)?),
                Kind::Unfinished => survey.unfinished.push(stem.name(*kind)),
                Kind::Side if !segments.contains(stem) => {
                    let name = stem.name(*kind);
                    let length = files.open(&name, false).and_then(|file| file.size()).unwrap_or(0);
                    survey.widows.push((name, length));
                }
                Kind::Side | Kind::Kept => {}
            }
        }
        let length = |name: &str| files.open(name, false).and_then(|file| file.size()).unwrap_or(0);
        for name in names {
            match &name[..] {
                manifest::NAME => survey.manifest = length(&name),
                manifest::UNFINISHED => survey.unfinished.push(name),
                _ if Stem::parse(&name).is_some_and(|(_, kind)| kind == Kind::Kept) => {
                    survey.kept.push((name.clone(), length(&name)));
                }
                _ => {}
            }
        }
        let mut gone: Vec<Stem> = claims.stems().filter(|stem| !segments.contains(stem)).collect();
        if !gone.is_empty() {
            // An owner at work may have removed them before they were listed: it has noted that before.
            let again = read()?;
            gone.retain(|stem| again.stems().any(|known| known == *stem));
        }
        // Nothing is missed of those that went, and nobody misses them.
        gone.extend(&claims.went);
        survey.gone.extend(&claims.gone);
        survey.segments.extend(gone.into_iter().map(|stem| Surveyed::new(stem, Scan::default(), true)));
        survey.segments.iter_mut().for_each(|segment| segment.known = claims.known(segment.stem));
        survey.segments.sort_by_key(|segment| segment.stem);
        survey.replay(files)?;
        survey.clip();
        survey.find_missing();
        Ok(survey)
    }

    fn replay<F: Files>(&mut self, files: &F) -> Result<(), OpenError> {
        // A side file alone may have lost a name: others know whom records were owed to.
        let named = self.segments.iter().rev().find(|segment| !segment.scan.names.is_empty());
        let names = named.map(|segment| segment.scan.names.clone()).unwrap_or_default();
        for segment in self.segments.iter_mut().filter(|segment| segment.gone) {
            segment.scan.names.clone_from(&names);
        }
        for at in 0..self.segments.len() {
            let next = self.segments.get(at + 1).map(|next| next.stem.first);
            self.segments[at].replay(files, next)?;
        }
        Ok(())
    }

    /// Each segment ends where a later one begins: what it has beyond that was given up and written again.
    fn clip(&mut self) {
        let mut limit = u64::MAX;
        for segment in self.segments.iter_mut().rev() {
            let gap = segment.replay.gap.map_or(u64::MAX, |gap| gap.from);
            let room = limit.min(gap).saturating_sub(segment.stem.first);
            segment.count = segment.scan.count.min(u32::try_from(room).unwrap_or(u32::MAX));
            // A name alone proves nothing; the manifest's word does.
            if segment.known > 0 || segment.scan.version.is_some() || segment.scan.count > 0 {
                limit = limit.min(segment.stem.first);
            }
        }
    }

    fn find_missing(&mut self) {
        let mut covered = 0;
        for at in 0..self.segments.len() {
            let next = self.segments.get(at + 1).map(|next| next.stem.first);
            let segment = &mut self.segments[at];
            segment.covered = covered;
            segment.find_missing(next);
            covered = covered.max(segment.replay.gap.map_or(0, |gap| gap.until));
            self.next = self.next.max(segment.end()).max(segment.stem.first);
        }
    }
}

// === impl Surveyed ===

impl Surveyed {
    fn scan<F: Files>(files: &F, stem: Stem, deep: bool) -> Result<Option<Self>, OpenError> {
        let name = stem.name(Kind::Segment);
        let read =
            files.open(&name, false).map_err(Unread::from).and_then(|file| Scan::run(&file, stem, deep));
        let scan = match read {
            Ok(scan) => scan,
            // Whoever looks without the lock sees files go.
            Err(Unread::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(unread) => return Err(refused(files, &name, unread)),
        };
        Ok(Some(Self::new(stem, scan, false)))
    }

    fn new(stem: Stem, scan: Scan, gone: bool) -> Self {
        Self {
            stem,
            gone,
            known: 0,
            count: scan.count,
            scan,
            replay: Replay::default(),
            side: None,
            covered: 0,
            missing: Vec::new(),
            torn: 0,
        }
    }

    /// Reads the side file; the next segment begins with `next`.
    fn replay<F: Files>(&mut self, files: &F, next: Option<u64>) -> Result<(), OpenError> {
        let name = self.stem.name(Kind::Side);
        let read = || -> io::Result<Vec<u8>> {
            let file = files.open(&name, false)?;
            let mut bytes = vec![0; usize::try_from(file.size()?.min(MAX_SIDE)).unwrap_or(0)];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        let bytes = match read() {
            Ok(bytes) => {
                self.side = Some(bytes.len() as u64);
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(files, &name, "can not be read")(error).into()),
        };
        // What is missing at the end may be known to be done as well.
        let until = next.and_then(|next| u32::try_from(next.checked_sub(self.stem.first)?).ok());
        let until = until.unwrap_or(0).max(self.known);
        let count = self.scan.count.max(Some(until).filter(|until| *until <= 1 << 24).unwrap_or(0));
        let names = std::mem::take(&mut self.scan.names);
        self.replay = Replay::run(&bytes, self.stem, count, names)
            .map_err(|version| refused(files, &name, Unread::Later(version)))?;
        Ok(())
    }

    /// Finds what is missing in it and after it, where the next segment begins with `next`.
    fn find_missing(&mut self, next: Option<u64>) {
        for damage in std::mem::take(&mut self.scan.damage) {
            let records = u64::from(damage.records.start)..u64::from(damage.records.end.min(self.count));
            self.miss(records, Reason::Damaged, damage.bytes.clone());
            self.scan.damage.push(damage);
        }
        // What was given up and written again is neither torn nor missed.
        let rest = if self.count == self.scan.count { self.scan.rest() } else { 0 };
        let count = u64::from(self.count);
        let place = |sequence: u64| sequence.saturating_sub(self.stem.first);
        let upto = match next {
            // What it had beyond that was given up, or never on the disk.
            Some(next) if self.gone => place(next).min(self.known.into()),
            Some(next) => place(next),
            None => self.known.into(),
        };
        let gap = self.replay.gap.map_or(upto..upto, |gap| place(gap.from)..place(gap.until));
        let seen = count.max(place(self.covered));
        let own = seen..upto.min(gap.start);
        if own.is_empty() {
            // What follows a gap was told when the gap was noted.
            self.torn = if self.replay.gap.is_some() { 0 } else { rest };
        } else if own.end - own.start <= rest / HEADER as u64 {
            self.miss(own, Reason::Damaged, self.scan.end..self.scan.size);
        } else {
            self.miss(own, Reason::Missing, self.scan.end..self.scan.end + rest);
            self.torn = rest;
        }
        self.miss(seen.max(gap.end)..upto, Reason::Missing, 0..0);
    }

    fn miss(&mut self, records: Range<u64>, reason: Reason, bytes: Range<u64>) {
        let done = |at: u64| u32::try_from(at).is_ok_and(|at| self.replay.is_done(at));
        // Beyond what the side file was read for nothing is known.
        let known = records.start..records.end.min(1 << 24);
        let live =
            (records.end - records.start.min(records.end)) - known.filter(|at| done(*at)).count() as u64;
        if !records.is_empty() {
            self.missing.push(Missing { records, live, reason, bytes });
        }
    }

    /// The sequence after the last one that is its own, readable or not, or was another's that is gone.
    pub fn end(&self) -> u64 {
        let gap = self.replay.gap.map_or(0, |gap| gap.until);
        let missing = self.missing.last().map_or(0, |missing| missing.records.end);
        gap.max(self.stem.first + missing.max(self.count.into()))
    }
}

fn refused<F: Files>(files: &F, name: &str, unread: Unread) -> OpenError {
    match unread {
        Unread::Io(error) => IoError::into(failed(files, name, "can not be read")(error)),
        Unread::Later(found) => {
            OpenError::Version { path: files.place().join(name), found, supported: format::VERSION }
        }
    }
}
