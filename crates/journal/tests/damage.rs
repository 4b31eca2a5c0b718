//! Whatever happens to a journal's files, the rest of it is read and what is lost is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "model/disk.rs"]
mod disk;

use std::collections::BTreeMap;

use bytes::Bytes;
use disk::{Disk, Random};
use watershed_journal::{File, Files, Journal, OpenError, Options, Reason, Record, Recovery, inspect};

type Contents = BTreeMap<String, Vec<u8>>;

const RECORDS: u64 = 121;

fn options() -> Options {
    Options { segment_bytes: 4096, max_bytes: 1 << 20, ..Options::new(["a", "b"]) }
}

fn payload(sequence: u64) -> Vec<u8> {
    sequence.to_le_bytes().repeat(1 + sequence as usize % 60)
}

/// A journal of several segments, a third of whose records are done.
fn journal() -> Contents {
    let disk = Disk::new(Random::new(1));
    let (mut journal, _) = Journal::open(disk.clone(), options()).unwrap();
    for sequence in 1..=RECORDS {
        let payload = [Bytes::from(payload(sequence))];
        journal.append(&Record { arrived: sequence, payload: &payload, ..Record::default() }).unwrap();
        journal.commit(true).unwrap();
        if sequence % 3 == 0 {
            journal.complete_all(sequence);
            journal.flush().unwrap();
        }
    }
    drop(journal);
    contents(&disk)
}

fn contents(disk: &Disk) -> Contents {
    let read = |name: &String| {
        let file = disk.open(name, false).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    disk.list().unwrap().into_iter().map(|name| (name.clone(), read(&name))).collect()
}

fn on_disk(contents: &Contents) -> Disk {
    let disk = Disk::new(Random::new(1));
    for (name, bytes) in contents {
        disk.create(name).unwrap().write_at(0, bytes).unwrap();
    }
    disk
}

/// What can be read of a damaged journal, and what was said of the rest.
struct Found {
    sequences: Vec<u64>,
    recovery: Recovery,
}

fn open(contents: &Contents) -> Found {
    let disk = on_disk(contents);
    let looked = [false, true].map(|deep| inspect(&disk, deep).unwrap());
    let (mut journal, recovery) = Journal::open(disk.clone(), options()).unwrap();
    assert_eq!(looked[1].lost.iter().map(|lost| lost.records).sum::<u64>(), lost(&recovery));
    let mut records = Vec::new();
    journal.read(0, usize::MAX, &mut records).unwrap();
    for record in &records {
        assert_eq!(record.payload, payload(record.sequence));
    }
    assert!(journal.losses().is_empty() && recovery.failures.is_empty(), "{recovery:?}");
    let sequences: Vec<u64> = records.iter().map(|record| record.sequence).collect();
    assert!(sequences.windows(2).all(|two| two[0] < two[1]));
    // It goes on, and says nothing twice.
    let payload = [Bytes::from_static(b"more")];
    let next = journal.append(&Record { payload: &payload, ..Record::default() }).unwrap();
    assert!(sequences.last().is_none_or(|last| next > *last));
    journal.commit(true).unwrap();
    drop(journal);
    let (mut journal, again) = Journal::open(disk, options()).unwrap();
    assert!(again.lost.is_empty() && again.torn_bytes == 0, "{again:?} after {recovery:?}");
    let mut records = Vec::new();
    journal.read(1, usize::MAX, &mut records).unwrap();
    assert_eq!(records.len(), sequences.len() + 1);
    Found { sequences, recovery }
}

fn lost(recovery: &Recovery) -> u64 {
    recovery.lost.iter().map(|lost| lost.records).sum()
}

/// What is owed and was not read.
fn missing(found: &Found) -> Vec<u64> {
    (1..=RECORDS).filter(|sequence| sequence % 3 != 0 && !found.sequences.contains(sequence)).collect()
}

fn segments(contents: &Contents) -> Vec<String> {
    contents.keys().filter(|name| name.ends_with(".seg")).cloned().collect()
}

#[test]
fn a_flipped_bit_loses_one_record_at_most_and_is_counted() {
    let whole = journal();
    assert!(segments(&whole).len() > 5 && missing(&open(&whole)).is_empty());
    let mut random = Random::new(2);
    for _ in 0..600 {
        let mut damaged = whole.clone();
        let names: Vec<&String> = whole.keys().collect();
        let name = names[random.below(names.len() as u64) as usize].clone();
        let bytes = damaged.get_mut(&name).unwrap();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        let found = open(&damaged);
        let missing = missing(&found);
        assert!(missing.len() <= usize::from(name.ends_with(".seg")), "{name} {at}: {missing:?}");
        assert_eq!(
            (missing.len() as u64, found.recovery.torn_bytes),
            (lost(&found.recovery), 0),
            "{name} {at}"
        );
        for lost in &found.recovery.lost {
            assert_eq!((lost.from, lost.reason), (missing[0], Reason::Damaged));
            assert!(lost.kept.is_some());
        }
        // What is given again was done, and only because its side file is damaged.
        let again = found.sequences.iter().filter(|sequence| *sequence % 3 == 0).count();
        assert!(again == 0 || (name.ends_with(".done") && found.recovery.damaged_marks > 0));
    }
}

#[test]
fn a_segment_that_is_gone_is_missed_wherever_it_was() {
    let whole = journal();
    let segments = segments(&whole);
    for name in &segments {
        let mut damaged = whole.clone();
        damaged.remove(name);
        let found = open(&damaged);
        let missing = missing(&found);
        assert!(!missing.is_empty() && missing.len() as u64 == lost(&found.recovery), "{name}");
        // Which of them were done goes with the side file.
        damaged.remove(&name.replace(".seg", ".done"));
        let [lost] = &open(&damaged).recovery.lost[..] else { panic!("{name} is one loss") };
        assert!(lost.from <= missing[0] && lost.to >= missing[missing.len() - 1]);
        assert_eq!((lost.records, lost.reason), (lost.to - lost.from + 1, Reason::Missing));
    }
    // Several, and all.
    for gone in [&segments[..3], &segments[segments.len() - 3..], &segments] {
        let mut damaged = whole.clone();
        damaged.retain(|name, _| !gone.contains(name));
        let found = open(&damaged);
        assert_eq!(
            (missing(&found).len() as u64, found.recovery.lost.len()),
            (lost(&found.recovery), gone.len())
        );
    }
}

#[test]
fn without_a_manifest_what_is_gone_is_missed_between_two_others() {
    let mut whole = journal();
    let manifest = whole.remove("manifest").unwrap();
    let segments = segments(&whole);
    for (at, name) in segments.iter().enumerate() {
        let mut damaged = whole.clone();
        damaged.remove(name);
        let known = at > 0 && at + 1 < segments.len();
        assert_eq!(open(&damaged).recovery.lost.len(), usize::from(known));
    }
    // Half a manifest is none: what it has lost may have been that something is gone.
    let mut random = Random::new(5);
    for _ in 0..100 {
        let mut half = manifest.clone();
        let at = random.below(half.len() as u64) as usize;
        half[at] ^= 1 << random.below(8);
        let mut damaged = whole.clone();
        damaged.insert("manifest".to_owned(), half);
        assert!(missing(&open(&damaged)).is_empty());
        damaged.remove(&segments[0]);
        assert!(open(&damaged).recovery.lost.is_empty());
    }
}

#[test]
fn a_side_file_that_is_gone_costs_nothing_but_repetition() {
    let whole = journal();
    for name in whole.keys().filter(|name| name.ends_with(".done")) {
        let mut damaged = whole.clone();
        damaged.remove(name);
        let found = open(&damaged);
        assert!(missing(&found).is_empty() && found.recovery.lost.is_empty());
    }
}

#[test]
fn what_was_only_written_is_missed_until_the_power_goes() {
    let disk = Disk::new(Random::new(1));
    let (mut journal, _) = Journal::open(disk.clone(), options()).unwrap();
    for (sequence, sync) in [(1, true), (2, false), (3, false)] {
        let payload = [Bytes::from(payload(sequence))];
        journal.append(&Record { payload: &payload, ..Record::default() }).unwrap();
        journal.commit(sync).unwrap();
    }
    drop(journal);
    let mut damaged = contents(&disk);
    let name = segments(&damaged).remove(0);
    damaged.remove(&name);
    assert_eq!(lost(&open(&damaged).recovery), 3);
    let disk = on_disk(&damaged);
    ["manifest", "lock"].iter().for_each(|name| _ = disk.open(name, true).map(|mut file| file.sync_data()));
    disk.sync_dir().unwrap();
    disk.restart();
    let (_, recovery) = Journal::open(disk, options()).unwrap();
    assert_eq!((recovery.lost[0].from, recovery.lost[0].to), (1, 1), "the others may never have been there");
}

#[test]
fn a_file_that_is_cut_off_loses_what_was_behind_the_cut() {
    let whole = journal();
    let mut random = Random::new(3);
    for _ in 0..300 {
        let mut damaged = whole.clone();
        let names: Vec<&String> = whole.keys().collect();
        let name = names[random.below(names.len() as u64) as usize].clone();
        let bytes = damaged.get_mut(&name).unwrap();
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        let found = open(&damaged);
        let missing = missing(&found).len() as u64;
        assert!(missing == 0 || name.ends_with(".seg"));
        assert_eq!(lost(&found.recovery), missing, "{name}");
    }
}

#[test]
fn much_damage_at_once_is_survived() {
    let whole = journal();
    let mut random = Random::new(4);
    for _ in 0..150 {
        let mut damaged = whole.clone();
        for bytes in damaged.values_mut() {
            for _ in 0..random.below(6) {
                let (from, length) = (random.below(bytes.len() as u64) as usize, random.below(900) as usize);
                let to = (from + length).min(bytes.len());
                match random.below(3) {
                    0 => bytes[from..to].fill(0),
                    1 => bytes[from..to].iter_mut().for_each(|byte| *byte = random.next() as u8),
                    _ => drop(bytes.drain(from..to)),
                }
            }
        }
        open(&damaged);
    }
    // Nothing but damage.
    let damaged = whole.keys().map(|name| (name.clone(), vec![7; 5000])).collect();
    assert!(open(&damaged).sequences.is_empty());
}

#[test]
fn damage_that_comes_later_is_passed_over_and_told() {
    let disk = on_disk(&journal());
    let (mut journal, _) = Journal::open(disk.clone(), options()).unwrap();
    let segments = segments(&contents(&disk));
    // A body in one segment, a header in another.
    let mut file = disk.open(&segments[1], true).unwrap();
    file.write_at(file.size().unwrap() - 1, b"x").unwrap();
    let first = segments[2].split(['-', '.']).nth(1).unwrap().parse::<u64>().unwrap();
    disk.open(&segments[2], true).unwrap().write_at(60, &[0; 20]).unwrap();
    let mut records = Vec::new();
    while journal.is_behind(0) {
        journal.read(0, 3000, &mut records).unwrap();
    }
    let mut found = Found {
        sequences: records.iter().map(|record| record.sequence).collect(),
        recovery: Recovery::default(),
    };
    found.recovery.lost = journal.losses();
    let missing = missing(&found);
    assert_eq!(missing.len() as u64, lost(&found.recovery));
    assert!(
        !missing.is_empty()
            && missing.iter().all(|sequence| [first - 1, first, first + 1].contains(sequence))
    );
    journal.flush().unwrap();
    drop(journal);
    let (_, recovery) = Journal::open(disk, options()).unwrap();
    assert!(recovery.lost.is_empty(), "{recovery:?}");
}

#[test]
fn a_format_of_a_later_release_is_refused_by_name() {
    let mut later = journal();
    let name = segments(&later).remove(0);
    let bytes = later.get_mut(&name).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    let error = Journal::open(on_disk(&later), options()).unwrap_err();
    assert!(matches!(&error, OpenError::Version { path, found: 2, supported: 1 } if path.ends_with(&name)));
    assert!(error.to_string().contains("format version 2"), "{error}");
}
