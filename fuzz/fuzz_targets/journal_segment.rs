//! A journal's files from outside: whatever is in them, the directory opens, gives only what its checksums cover, goes on
//! and opens again. The first byte chooses between files of any content and a whole journal with edits.

#![no_main]

#[allow(dead_code)]
#[path = "../../crates/journal/tests/model/disk.rs"]
mod disk;

use bytes::Bytes;
use disk::{Disk, Random};
use libfuzzer_sys::fuzz_target;
use watershed_journal::{Compression, File, Files, Journal, OpenError, Options, Record, inspect};

const SEGMENT: &str = "000000000000-00000000000000000001.seg";
const SIDE: &str = "000000000000-00000000000000000001.done";

fn options() -> Options {
    Options { segment_bytes: 4096, compression: Compression::Lz4, ..Options::new(["a", "b"]) }
}

/// A few records, some of them done.
fn journal(disk: &Disk) {
    let (mut journal, _) = Journal::open(disk.clone(), options()).expect("an empty directory opens");
    for sequence in 1..=20 {
        let payload = [Bytes::from(vec![7; 30 * sequence])];
        journal.append(&Record { context: b"context", payload: &payload, ..Record::default() }).expect("there is room");
        journal.commit(true).expect("it is written");
    }
    [2, 3, 4, 9].into_iter().for_each(|sequence| journal.complete(sequence, 1));
    journal.attempted(&[5]);
    journal.flush().expect("it is written");
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let disk = Disk::new(Random::new(1));
    if choice % 2 == 0 {
        let (segment, side) = data.split_at(usize::from(choice) * data.len() / 256);
        for (name, bytes) in [(SEGMENT, segment), (SIDE, side)] {
            disk.create(name).expect("it is new").write_at(0, bytes).expect("it is written");
        }
    } else {
        journal(&disk);
        for edit in data.chunks_exact(4) {
            let mut file = disk.open(if edit[0] % 4 > 0 { SEGMENT } else { SIDE }, true).expect("it is there");
            let at = u64::from(u16::from_le_bytes([edit[1], edit[2]]));
            match edit[0] / 4 {
                0 => file.set_len(at),
                length => file.write_at(at, &vec![edit[3]; usize::from(length)]),
            }
            .expect("it is written");
        }
    }
    let looked = inspect(&disk, true);
    let (mut journal, recovery) = match Journal::open(disk.clone(), options()) {
        Ok(opened) => opened,
        Err(error) => return assert!(matches!(error, OpenError::Version { .. }), "{error}"),
    };
    assert_eq!(looked.expect("what opens can be looked at").lost.len(), recovery.lost.len());
    let mut records = Vec::new();
    journal.read(0, usize::MAX, &mut records).expect("it can be read");
    assert!(records.windows(2).all(|two| two[0].sequence < two[1].sequence));
    let sequence = journal.append(&Record::default()).expect("there is room");
    assert!(records.last().is_none_or(|last| last.sequence < sequence));
    journal.commit(true).expect("it is written");
    journal.flush().expect("it is written");
    drop(journal);
    let (_, again) = Journal::open(disk, options()).expect("it opens again");
    assert!(again.lost.is_empty() && again.torn_bytes == 0);
});
