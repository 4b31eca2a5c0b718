//! Reading what is owed: each branch in order, and single records again.

use std::io;
use std::ops::Range;

use crate::error::failed;
use crate::format::{HEADER, Header};
use crate::recovery::keep;
use crate::scan::{fits, next_record};
use crate::segment::Segment;
use crate::window::Window;
use crate::{Files, Journal, Loss, ReadError, Reason, Stored};

/// How much a cursor reads at once, in bytes.
const AHEAD: usize = 256 << 10;

/// How far a branch has been given records.
#[derive(Debug)]
pub(crate) struct Cursor<F> {
    next: u64,
    window: Window,
    place: Option<Place<F>>,
}

/// Where a cursor is in a file.
#[derive(Debug)]
struct Place<F> {
    number: u64,
    file: F,
    /// A record, and where it begins.
    at: u32,
    offset: u64,
}

/// What was found where a record should be.
enum Found {
    Record(Stored),
    /// More than there is room for.
    Large,
    /// Records that can not be read any more, and what of the file they may have been.
    Lost(Range<u32>, Range<u64>),
}

// === impl Cursor ===

impl<F> Cursor<F> {
    pub fn new() -> Self {
        Self { next: 0, window: Window::new(AHEAD), place: None }
    }

    /// Lets go of a file that is not one of `segments`: while it is open it takes room though it is removed.
    pub fn release(&mut self, segments: &[Segment]) {
        let stays = |place: &Place<F>| segments.iter().any(|segment| segment.stem.number == place.number);
        self.place = self.place.take().filter(stays);
    }
}

impl<F: Files> Journal<F> {
    /// Appends to `into` the next committed records owed to `branch`, in order, up to `max_bytes` of contexts and
    /// payloads, but at least one however large; none when the branch has been given everything.
    ///
    /// A damaged record is passed over and told by [`losses`](Self::losses). On an error what was read before it is
    /// in `into`, and the next call begins after that.
    pub fn read(&mut self, branch: usize, max_bytes: usize, into: &mut Vec<Stored>) -> Result<(), ReadError> {
        let (mut room, mut none) = (max_bytes, true);
        while let Some(sequence) = self.next_owed(branch) {
            let mut cursor = std::mem::replace(&mut self.cursors[branch], Cursor::new());
            let found = self.fetch(&mut cursor, sequence, if none { usize::MAX } else { room });
            self.cursors[branch] = cursor;
            match found? {
                Found::Record(record) => {
                    self.cursors[branch].next = sequence + 1;
                    (room, none) = (room.saturating_sub(record.bytes()), false);
                    into.push(record);
                }
                Found::Large => break,
                Found::Lost(records, bytes) => self.lose(sequence, records, bytes),
            }
        }
        Ok(())
    }

    /// Whether [`read`](Self::read) has something for `branch`.
    pub fn is_behind(&mut self, branch: usize) -> bool {
        self.next_owed(branch).is_some()
    }

    /// The owner hands a record that it has just committed to `branch` itself: true where it is the one that
    /// [`read`](Self::read) would give next, which it then does not; false where the branch is behind and the record
    /// will be read in its turn, or has been.
    pub fn skip(&mut self, sequence: u64, branch: usize) -> bool {
        let next = self.next_owed(branch) == Some(sequence);
        if next {
            self.cursors[branch].next = sequence + 1;
        }
        next
    }

    /// One record again, whatever the cursors; none where it is not in the journal, done, or damaged.
    pub fn get(&mut self, sequence: u64) -> Result<Option<Stored>, ReadError> {
        let owed = self.locate(sequence).is_some_and(|(segment, at)| segment.marks.owed_to(at) != 0);
        if !owed {
            return Ok(None);
        }
        let mut cursor = std::mem::replace(&mut self.again, Cursor::new());
        let found = self.fetch(&mut cursor, sequence, usize::MAX);
        self.again = cursor;
        match found? {
            Found::Record(record) => Ok(Some(record)),
            Found::Large => Ok(None),
            Found::Lost(records, bytes) => {
                self.lose(sequence, records, bytes);
                Ok(None)
            }
        }
    }

    /// The next record that `branch` is owed and was not given.
    fn next_owed(&mut self, branch: usize) -> Option<u64> {
        let cursor = self.cursors.get_mut(branch)?;
        let begin = self.segments.partition_point(|segment| segment.range().end <= cursor.next);
        for segment in &self.segments[begin..] {
            let Range { start, end } = segment.range();
            let from = u32::try_from(cursor.next.saturating_sub(start)).unwrap_or(u32::MAX);
            if let Some(at) = segment.marks.next_owed(branch, from) {
                cursor.next = start + u64::from(at);
                return Some(cursor.next);
            }
            cursor.next = cursor.next.max(end);
        }
        None
    }

    /// Reads a record that is owed to somebody, if it has at most `room` bytes.
    fn fetch(
        &mut self,
        cursor: &mut Cursor<F::File>,
        sequence: u64,
        room: usize,
    ) -> Result<Found, ReadError> {
        // Memory is the better source while it has it: after a failed sync it is the only one.
        if let Some(bytes) = self.tail.find(sequence)
            && let Some(header) = Header::parse(bytes)
            && let Some(body) = bytes[HEADER..].get(..header.body())
        {
            return Ok(self.decode(&header, body, 0..0, room));
        }
        self.fetch_stored(cursor, sequence, room).map_err(|error| {
            let name = self.locate(sequence).map(|(segment, _)| segment.name()).unwrap_or_default();
            // The file is opened again for the next try.
            cursor.place = None;
            ReadError { sequence, source: failed(&self.files, &name, "can not be read")(error) }
        })
    }

    fn fetch_stored(
        &mut self,
        cursor: &mut Cursor<F::File>,
        sequence: u64,
        room: usize,
    ) -> io::Result<Found> {
        let Some((segment, wanted)) = self.locate(sequence) else { return Ok(Found::Large) };
        let number = segment.stem.number;
        if cursor.place.as_ref().is_none_or(|place| place.number != number) {
            let file = self.files.open(&segment.name(), false)?;
            cursor.window.clear();
            cursor.place = Some(Place { number, file, at: 0, offset: 0 });
        }
        let Cursor { place: Some(place), window, .. } = cursor else { return Ok(Found::Large) };
        let near = segment.index.before(wanted).unwrap_or((0, 0));
        if place.at > wanted || place.at <= near.0 {
            (place.at, place.offset) = near;
        }
        loop {
            let known = (place.offset, place.at);
            let fits = |offset: u64, header: &Header| fits(segment.stem, known, offset, header);
            let next = next_record(&place.file, window, place.offset, segment.end, fits)?;
            let found = next.map(|(offset, header)| {
                (u32::try_from(header.sequence - segment.stem.first).unwrap_or(u32::MAX), offset, header)
            });
            match found {
                Some((at, offset, header)) if at == wanted => {
                    let body = window.get(&place.file, offset + HEADER as u64, header.body())?;
                    let whole = offset..offset + header.total();
                    if crc32c::crc32c(body) != header.body {
                        return Ok(Found::Lost(wanted..wanted + 1, whole));
                    }
                    let found = self.decode(&header, body, whole.clone(), room);
                    if let Found::Record(_) = found {
                        (place.at, place.offset) = (wanted + 1, whole.end);
                    }
                    return Ok(found);
                }
                Some((at, offset, header)) if at < wanted => {
                    (place.at, place.offset) = (at + 1, offset + header.total());
                }
                Some((at, offset, _)) => return Ok(Found::Lost(wanted..at, place.offset..offset)),
                None => return Ok(Found::Lost(wanted..segment.marks.count(), place.offset..segment.end)),
            }
        }
    }

    /// The record that lies in `bytes` of its file, whose body has been checked.
    fn decode(&self, header: &Header, body: &[u8], bytes: Range<u64>, room: usize) -> Found {
        let Some((segment, at)) = self.locate(header.sequence) else { return Found::Large };
        if header.context as usize + header.raw as usize > room {
            return Found::Large;
        }
        let Some(mut record) = Stored::decode(header, body) else { return Found::Lost(at..at + 1, bytes) };
        record.owed = segment.marks.owed_to(at);
        record.attempts = record.attempts.saturating_add(u32::from(segment.marks.attempts(at)));
        Found::Record(record)
    }

    /// Records of the segment of `sequence` can not be read any more: they are told, and owed to nobody.
    fn lose(&mut self, sequence: u64, records: Range<u32>, bytes: Range<u64>) {
        let limit = self.options.max_bytes / 8;
        let Some((segment, _)) = self.segment_mut(sequence) else { return };
        let live = records.clone().filter(|at| segment.marks.owed_to(*at) != 0).count() as u64;
        let first = segment.stem.first;
        let (from, to) = (first + u64::from(records.start), first + u64::from(records.end) - 1);
        let stem = segment.stem;
        records.for_each(|at| segment.finish(at));
        let kept = keep(&self.files, stem, bytes, limit.saturating_sub(self.kept)).unwrap_or_default();
        self.kept += kept.as_ref().map_or(0, |(_, bytes)| *bytes);
        self.losses.push(Loss {
            from,
            to,
            records: live,
            reason: Reason::Damaged,
            kept: kept.map(|(name, _)| name),
        });
        self.recount();
    }
}
