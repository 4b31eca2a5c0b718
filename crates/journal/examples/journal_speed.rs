//! What the journal costs: `cargo run --release -p watershed-journal --example journal_speed -- DIRECTORY [MiB]`.
//!
//! Records are 40 KB of text that repeats itself about as much as telemetry does.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use watershed_journal::{Compression, Journal, Options, OsFiles, Record};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const RECORD: usize = 40_000;

/// How many records a group commit takes together.
const GROUP: usize = 16;

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().ok_or("which directory? it is filled and emptied")?;
    let mib = arguments.next().map_or(Ok(1024), |mib| mib.parse::<u64>())?;
    let payloads: Vec<Bytes> = (0..64).map(payload).collect();
    for compression in [Compression::None, Compression::Lz4] {
        for sync in [false, true] {
            write(Path::new(&place).join("write"), &payloads, compression, sync, mib << 20)?;
        }
    }
    for segment_bytes in [4 << 20, 16 << 20, 64 << 20] {
        recover(Path::new(&place).join("recover"), &payloads, segment_bytes, mib << 20)?;
    }
    sync(Path::new(&place).join("sync"))
}

/// Resource attributes, names and times with random ids between them.
fn payload(seed: u64) -> Bytes {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(RECORD);
    while bytes.len() < RECORD {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        bytes.extend_from_slice(&random.to_le_bytes());
        bytes.extend_from_slice(&random.rotate_left(29).to_le_bytes());
        bytes.extend_from_slice(
            b"\x2a\x14GET /api/v1/checkout\x30\x02\x4a\x1d\x0a\x0bhttp.method\x12\x05GET\x4a\x22",
        );
        bytes.extend_from_slice(format!("http.status_code {} ", 200 + random % 7).as_bytes());
        bytes.extend_from_slice(&(1_760_000_000_000_000_000 + random % 1_000_000_000).to_le_bytes());
    }
    bytes.truncate(RECORD);
    bytes.into()
}

fn open(place: &Path, options: Options) -> Result<Journal<OsFiles>> {
    let _ = std::fs::remove_dir_all(place);
    Ok(Journal::open(OsFiles::create(place)?, options)?.0)
}

fn options(bytes: u64) -> Options {
    Options { max_bytes: 4 * bytes + (1 << 20), max_unsynced: 1 << 40, ..Options::new(["branch"]) }
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// Appends and commits in groups, completes what is behind, and flushes.
fn write(
    place: std::path::PathBuf,
    payloads: &[Bytes],
    compression: Compression,
    sync: bool,
    bytes: u64,
) -> Result {
    let mut journal = open(&place, Options { compression, ..options(bytes) })?;
    let (mut appending, mut writing, begin) = (Duration::ZERO, Duration::ZERO, now());
    let records = bytes as usize / RECORD;
    for group in 0..records / GROUP {
        let before = now();
        let mut last = 0;
        for at in 0..GROUP {
            let payload = &payloads[(group * GROUP + at) % payloads.len()..][..1];
            last = journal.append(&Record { items: 100, context: &[7; 64], payload, ..Record::default() })?;
        }
        let between = now();
        journal.commit(sync)?;
        (appending, writing) = (appending + (between - before), writing + between.elapsed());
        // Interval mode: a sync for each 16 MiB.
        if !sync && journal.unsynced() > 16 << 20 {
            journal.sync()?;
        }
        (last - GROUP as u64 + 1..=last).for_each(|sequence| journal.complete(sequence, 0));
        if group % 32 == 0 {
            journal.flush()?;
        }
    }
    let whole = begin.elapsed();
    let each = |time: Duration| time.as_nanos() as f64 / records as f64;
    println!(
        "{compression:?}, {}: append {:.0} ns a record, commit {:.0} ns, with completion and flush {:.0} MB/s",
        if sync { "a sync for each 16 records" } else { "a sync for each 16 MiB" },
        each(appending),
        each(writing),
        bytes as f64 / whole.as_secs_f64() / 1e6,
    );
    Ok(std::fs::remove_dir_all(place)?)
}

/// Opens a backlog, and reads it.
fn recover(place: std::path::PathBuf, payloads: &[Bytes], segment_bytes: u64, bytes: u64) -> Result {
    let options = Options { segment_bytes, ..options(bytes) };
    let mut journal = open(&place, options.clone())?;
    for record in 0..bytes as usize / RECORD {
        let payload = &payloads[record % payloads.len()..][..1];
        journal.append(&Record { items: 100, context: &[7; 64], payload, ..Record::default() })?;
        if record % GROUP == 0 {
            journal.commit(false)?;
        }
    }
    journal.commit(true)?;
    drop(journal);
    let begin = now();
    let (mut journal, recovery) = Journal::open(OsFiles::new(&place), options)?;
    let opened = begin.elapsed();
    let (mut records, mut read) = (Vec::new(), 0);
    let begin = now();
    while journal.is_behind(0) {
        records.clear();
        journal.read(0, 1 << 20, &mut records)?;
        read += records.len();
    }
    println!(
        "segments of {} MiB: {} records of a backlog of {} MiB opened in {:.2} s: {:.2} GB/s; {read} read at {:.2} GB/s",
        segment_bytes >> 20,
        recovery.records,
        bytes >> 20,
        opened.as_secs_f64(),
        bytes as f64 / opened.as_secs_f64() / 1e9,
        bytes as f64 / begin.elapsed().as_secs_f64() / 1e9,
    );
    Ok(std::fs::remove_dir_all(place)?)
}

/// How often this disk can sync.
fn sync(place: std::path::PathBuf) -> Result {
    let mut journal = open(&place, options(1 << 30))?;
    let (begin, mut count) = (now(), 0);
    while begin.elapsed() < Duration::from_secs(3) {
        let sequence =
            journal.append(&Record { payload: &[Bytes::from_static(&[1; 400])], ..Record::default() })?;
        journal.commit(true)?;
        journal.complete(sequence, 0);
        count += 1;
    }
    println!("{:.0} commits with a sync in a second", f64::from(count) / begin.elapsed().as_secs_f64());
    Ok(std::fs::remove_dir_all(place)?)
}
