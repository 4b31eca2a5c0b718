//! Reading a whole segment: what is in it, and what of it is damaged.

use std::io;
use std::ops::Range;

use crate::File;
use crate::format::{HEAD, HEADER, Head, Header, OVERLAP, Stem, find_record, names};
use crate::window::Window;

/// How much of a segment is read at once, in bytes.
const AHEAD: usize = 1 << 20;

/// How far apart the places are at which a walk through a segment can begin, in bytes.
const STEP: u64 = 64 << 10;

/// How much is searched at once for the next record, in bytes.
const SEARCH: usize = 64 << 10;

/// How far apart those are by when records arrived, in nanoseconds: of what came slowly more is known than where it is.
const APART: u64 = 4_000_000_000;

/// Where some of a segment's records are, and when those arrived from there on: enough to be near any of them.
#[derive(Debug, Default)]
pub(crate) struct Index(Vec<Near>);

#[derive(Debug)]
struct Near {
    at: u32,
    offset: u64,
    /// When the first arrived of the records from here to the next that is noted, in Unix nanoseconds.
    arrived: u64,
}

/// Bytes that are part of no readable record, and the records that are missing because of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub bytes: Range<u64>,
    pub records: Range<u32>,
}

/// What is in a segment.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The format's version; none where the header is not whole.
    pub version: Option<u16>,
    /// Whom the records were owed to when the segment was begun; none where that can not be read.
    pub names: Vec<String>,
    /// One more than the last readable record's place.
    pub count: u32,
    pub index: Index,
    /// In order; what comes after the last readable record is not part of it.
    pub damage: Vec<Damage>,
    /// Where the last readable record ends.
    pub end: u64,
    /// How long the file is.
    pub size: u64,
    /// When the first and the last readable record arrived.
    pub arrived: Option<(u64, u64)>,
}

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    Io(io::Error),
    /// It has a later version.
    Later(u16),
}

// === impl Index ===

impl Index {
    /// Notes where record `at` is, if nothing near is noted or it `must` be: what is before it is damaged, so that
    /// nothing can be found by walking through that.
    pub fn push(&mut self, at: u32, offset: u64, must: bool, arrived: u64) {
        let near = self.0.last_mut().filter(|last| {
            !must && offset - last.offset < STEP && arrived.saturating_sub(last.arrived) < APART
        });
        match near {
            Some(last) => last.arrived = last.arrived.min(arrived),
            None => self.0.push(Near { at, offset, arrived }),
        }
    }

    /// The last noted record that is not after `at`.
    pub fn before(&self, at: u32) -> Option<(u32, u64)> {
        self.0[..self.up_to(at)].last().map(|near| (near.at, near.offset))
    }

    /// When the first arrived of `at` and those after it, or of those not far before.
    pub fn arrived(&self, at: u32) -> Option<u64> {
        self.0[self.up_to(at).saturating_sub(1)..].iter().map(|near| near.arrived).min()
    }

    /// Forgets the records from `at` on.
    pub fn truncate(&mut self, at: u32) {
        self.0.truncate(self.0.partition_point(|near| near.at < at));
    }

    /// How many noted records are not after `at`.
    fn up_to(&self, at: u32) -> usize {
        self.0.partition_point(|near| near.at <= at)
    }
}

// === impl Scan ===

impl Scan {
    /// Reads the segment named `stem`; the bodies of its records only where `deep`.
    pub fn run<F: File>(file: &F, stem: Stem, deep: bool) -> Result<Self, Unread> {
        let mut scan = Self { size: file.size()?, ..Self::default() };
        let mut window = Window::new(usize::try_from(scan.size).map_or(AHEAD, |size| size.min(AHEAD)));
        scan.read_head(file, &mut window, stem)?;
        let mut at = scan.end;
        loop {
            let (end, count) = (scan.end, scan.count);
            let fits = |offset: u64, header: &Header| fits(stem, (end, count), offset, header);
            let Some((offset, header)) = next_record(file, &mut window, at, scan.size, fits)? else { break };
            let body = offset + HEADER as u64;
            if body + header.body() as u64 > scan.size {
                // Its writer was cut off, and nothing can have been written after it.
                break;
            }
            at = offset + header.total();
            if !deep || crc32c::crc32c(window.get(file, body, header.body())?) == header.body {
                scan.push(stem, offset, &header);
            }
        }
        Ok(scan)
    }

    fn read_head<F: File>(&mut self, file: &F, window: &mut Window, stem: Stem) -> Result<(), Unread> {
        match Head::segment(window.get(file, 0, HEAD)?, stem) {
            Head::Later(version) => return Err(Unread::Later(version)),
            Head::Damaged => {}
            Head::Valid { version, names: length, crc } => {
                let list = window.get(file, HEAD as u64, length as usize)?;
                self.version = Some(version);
                self.end = HEAD as u64 + list.len() as u64;
                self.names = names(list, crc).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// A record that can be read, and is the next but for what is damaged.
    fn push(&mut self, stem: Stem, offset: u64, header: &Header) {
        let place = u32::try_from(header.sequence - stem.first).unwrap_or(u32::MAX);
        let damaged = offset > self.end;
        if damaged {
            self.damage.push(Damage { bytes: self.end..offset, records: self.count..place });
        }
        self.index.push(place, offset, damaged, header.arrived);
        self.count = place.saturating_add(1);
        self.end = offset + header.total();
        let (first, last) = self.arrived.unwrap_or((header.arrived, header.arrived));
        self.arrived = Some((first.min(header.arrived), last.max(header.arrived)));
    }

    /// Bytes after the last readable record.
    pub fn rest(&self) -> u64 {
        self.size - self.end.min(self.size)
    }
}

/// Whether a header found at `offset` can be that of a record of this segment, the last one before it having been
/// `count - 1` and ended at `end`: bytes of another file or of a payload hardly are, and no more records can be missing
/// than there is room for.
pub(crate) fn fits(stem: Stem, (end, count): (u64, u32), offset: u64, header: &Header) -> bool {
    let missing = header.sequence.checked_sub(stem.first + u64::from(count));
    missing.is_some_and(|missing| missing <= offset.saturating_sub(end) / HEADER as u64)
}

/// The record at `from`, or the first one after it whose header `fits`.
pub(crate) fn next_record<F: File>(
    file: &F,
    window: &mut Window,
    mut from: u64,
    end: u64,
    fits: impl Fn(u64, &Header) -> bool,
) -> io::Result<Option<(u64, Header)>> {
    while from + HEADER as u64 <= end {
        if let Some(header) = Header::parse(window.get(file, from, HEADER)?)
            && fits(from, &header)
        {
            return Ok(Some((from, header)));
        }
        let bytes = window.get(file, from, SEARCH)?;
        from += match find_record(bytes, 1) {
            Some(at) => at as u64,
            None if bytes.len() < SEARCH => return Ok(None),
            None => (bytes.len() - OVERLAP) as u64,
        };
    }
    Ok(None)
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
