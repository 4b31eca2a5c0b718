//! Looking at a journal without touching it.

use crate::survey::{Survey, Surveyed};
use crate::{Files, Loss, OpenError};

/// What is in a directory, as far as it can be read.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Segments in order of age.
    pub segments: Vec<SegmentReport>,
    /// Records that are missing or damaged and were not known to be done.
    pub lost: Vec<Loss>,
    /// Files that hold what was damaged, with their lengths in bytes.
    pub quarantined: Vec<(String, u64)>,
}

/// What is in a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub name: String,
    /// The version of its format; none where its header can not be read.
    pub version: Option<u16>,
    /// Its length in bytes.
    pub bytes: u64,
    /// Records that can be read, done or not.
    pub records: u64,
    /// Records that are not done.
    pub unfinished: u64,
    /// The first record's sequence.
    pub first: u64,
    /// The sequence after the last record's.
    pub end: u64,
    /// When the first and the last record arrived, in Unix nanoseconds.
    pub arrived: Option<(u64, u64)>,
    /// Records owed to each branch, by name.
    pub owed: Vec<(String, u64)>,
    /// Bytes between readable records, or before the first, that belong to none.
    pub damaged_bytes: u64,
    /// Bytes after the last record that nobody misses: a write cut short.
    pub torn_bytes: u64,
    /// Bytes of the side file that can not be read.
    pub damaged_marks: u64,
}

/// Reads a journal's files without taking the lock, and repairs nothing: what a living owner is writing may look torn.
/// Checks the headers, and where `deep` the bodies as well.
pub fn inspect<F: Files>(files: &F, deep: bool) -> Result<Inspection, OpenError> {
    let survey = Survey::run(files, deep)?;
    let mut inspection = Inspection { quarantined: survey.kept, ..Inspection::default() };
    for segment in &survey.segments {
        let lost = segment.missing.iter().filter(|missing| missing.live > 0).map(|missing| Loss {
            from: segment.stem.first + missing.records.start,
            to: segment.stem.first + missing.records.end - 1,
            records: missing.live,
            reason: missing.reason,
            kept: None,
        });
        inspection.lost.extend(lost);
        if !segment.gone {
            inspection.segments.push(report(segment));
        }
    }
    Ok(inspection)
}

fn report(segment: &Surveyed) -> SegmentReport {
    let Surveyed { stem, scan, replay, count, .. } = segment;
    let within = segment.missing.iter().map(|missing| missing.records.clone());
    let within: Vec<_> = within.map(|range| range.start..range.end.min(u64::from(*count))).collect();
    let there = |at: &u32| !within.iter().any(|range| range.contains(&u64::from(*at)));
    let unfinished: Vec<u32> = (0..*count).filter(there).filter(|at| !replay.is_done(*at)).collect();
    let owed = |done: &crate::marks::Bits| unfinished.iter().filter(|at| !done.get(**at)).count() as u64;
    SegmentReport {
        name: stem.name(crate::format::Kind::Segment),
        version: scan.version,
        bytes: scan.size,
        records: (0..*count).filter(there).count() as u64,
        unfinished: unfinished.len() as u64,
        first: stem.first,
        end: stem.first + u64::from(*count),
        arrived: scan.arrived,
        owed: replay.names.iter().cloned().zip(replay.done.iter().map(owed)).collect(),
        damaged_bytes: scan.damage.iter().map(|damage| damage.bytes.end - damage.bytes.start).sum(),
        torn_bytes: segment.torn,
        damaged_marks: replay.damaged,
    }
}
