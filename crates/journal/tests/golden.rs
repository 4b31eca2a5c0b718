//! What version 1 wrote is read for ever: the files in `tests/golden/v1` never change.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use watershed_journal::{Compression, Journal, Options, OsFiles, Record, Tried, inspect};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn options() -> Options {
    let compression = Compression::Lz4;
    Options { segment_bytes: 4096, compression, ..Options::new(["traces/jaeger", "traces/archive"]) }
}

fn payload(sequence: u64) -> Vec<u8> {
    // Every second one is smaller compressed.
    let repeated = if sequence.is_multiple_of(2) { 400 } else { 1 };
    (0..repeated).flat_map(|_| format!("payload {sequence};").into_bytes()).chain(0..255).collect()
}

/// Writes them; run once for each version, by hand.
#[test]
#[ignore = "the files are written and committed once"]
fn write_the_golden_files() -> Result {
    let place = golden();
    let (mut journal, _) = Journal::open(OsFiles::create(&place)?, options())?;
    for sequence in 1..=36 {
        let payload = Bytes::from(payload(sequence));
        journal.append(&Record {
            kind: (sequence % 3) as u8,
            items: sequence as u32 * 10,
            arrived: 1_790_000_000_000_000_000 + sequence,
            attempts: u32::from(sequence == 3),
            context: format!("context {sequence}").as_bytes(),
            payload: &[payload.slice(..8), payload.slice(8..)],
        })?;
        journal.commit(true)?;
    }
    // One segment between two others goes; branches differ in what they have done.
    (11..=25).for_each(|sequence| journal.complete_all(sequence));
    (1..=8).for_each(|sequence| journal.complete(sequence, 0));
    journal.complete(30, 1);
    journal.attempted(&[3, 9, 9]);
    journal.alone(9);
    journal.flush()?;
    drop(journal);
    Ok(std::fs::remove_file(place.join("lock"))?)
}

#[test]
fn what_version_1_wrote_is_read() -> Result {
    let place = tempfile::tempdir()?;
    for entry in std::fs::read_dir(golden())? {
        let entry = entry?;
        std::fs::copy(entry.path(), place.path().join(entry.file_name()))?;
    }
    let found = inspect(&OsFiles::new(place.path()), true)?;
    assert!(found.lost.is_empty() && found.segments.iter().all(|segment| segment.damaged_bytes == 0));
    let (mut journal, recovery) = Journal::open(OsFiles::new(place.path()), options())?;
    assert_eq!((recovery.torn_bytes, recovery.damaged_bytes, recovery.damaged_marks), (0, 0, 0));
    assert!(recovery.lost.is_empty() && recovery.failures.is_empty() && recovery.orphaned.is_empty());
    let tried = [(3, 1, 0), (9, 2, 1)];
    let tried = tried.map(|(sequence, attempts, alone)| Tried { sequence, attempts, alone }).to_vec();
    assert_eq!((recovery.records, recovery.owed, recovery.tried), (21, vec![13, 20], tried));
    let mut records = Vec::new();
    journal.read(1, usize::MAX, &mut records)?;
    let sequences: Vec<u64> = records.iter().map(|record| record.sequence).collect();
    let expected: Vec<u64> = (1..=10).chain(26..=29).chain(31..=36).collect();
    assert_eq!(sequences, expected);
    for record in records {
        let sequence = record.sequence;
        assert_eq!(record.payload, payload(sequence));
        assert_eq!(record.context, format!("context {sequence}"));
        assert_eq!((record.kind, record.items), ((sequence % 3) as u8, sequence as u32 * 10));
        assert_eq!(record.arrived, 1_790_000_000_000_000_000 + sequence);
        assert_eq!(
            record.attempts,
            [(3, 2), (9, 2)].into_iter().find(|(at, _)| *at == sequence).map_or(0, |(_, n)| n)
        );
        assert_eq!(record.owed, if sequence <= 8 { 2 } else { 3 });
    }
    assert_eq!(journal.append(&Record::default())?, 37);
    Ok(())
}
