//! A journal in a directory of the operating system.

use bytes::Bytes;
use watershed_journal::{
    AppendError, Compression, Journal, OnFull, OpenError, Options, OsFiles, Record, Recovery, Stored, Tried,
    inspect,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn open(place: &std::path::Path, options: &Options) -> Result<(Journal<OsFiles>, Recovery)> {
    Ok(Journal::open(OsFiles::create(place)?, options.clone())?)
}

fn append(journal: &mut Journal<OsFiles>, payload: &[u8]) -> std::result::Result<u64, AppendError> {
    let payload = [Bytes::copy_from_slice(payload)];
    journal.append(&Record {
        kind: 2,
        items: 3,
        arrived: 4,
        attempts: 0,
        context: b"context",
        payload: &payload,
    })
}

fn read(journal: &mut Journal<OsFiles>, branch: usize) -> Result<Vec<Stored>> {
    let mut records = Vec::new();
    while {
        let before = records.len();
        journal.read(branch, 1000, &mut records)?;
        records.len() > before
    } {}
    Ok(records)
}

fn sequences(records: &[Stored]) -> Vec<u64> {
    records.iter().map(|record| record.sequence).collect()
}

/// The owner is a thread.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Journal<OsFiles>>();
};

#[test]
fn what_is_committed_is_read_until_it_is_completed() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options::new(["a", "b"]);
    let (mut journal, recovery) = open(place.path(), &options)?;
    assert_eq!((recovery.segments, recovery.records), (0, 0));
    for n in 0..10_u8 {
        assert_eq!(append(&mut journal, &[n; 300])?, u64::from(n) + 1);
    }
    assert!(read(&mut journal, 0)?.is_empty(), "nothing is read that is not committed");
    journal.commit(true)?;
    let records = read(&mut journal, 0)?;
    assert_eq!(sequences(&records), (1..=10).collect::<Vec<_>>());
    assert_eq!(records[3].payload, vec![3; 300]);
    assert_eq!((records[3].kind, records[3].items, records[3].arrived, records[3].owed), (2, 3, 4, 3));
    assert_eq!(&records[3].context[..], b"context");
    (1..=9).for_each(|sequence| journal.complete(sequence, 0));
    (1..=3).for_each(|sequence| journal.complete(sequence, 1));
    journal.attempted(&[5, 6, 10]);
    journal.alone(6);
    journal.alone(10);
    journal.flush()?;
    journal.acquit(6);
    journal.flush()?;
    assert_eq!(journal.usage().owed, [1, 7]);
    drop(journal);

    let (mut journal, recovery) = open(place.path(), &options)?;
    let tried = [(5, 1, 0), (10, 1, 1)];
    let tried = tried.map(|(sequence, attempts, alone)| Tried { sequence, attempts, alone }).to_vec();
    assert_eq!((recovery.records, recovery.owed, recovery.tried), (7, vec![1, 7], tried));
    assert!(recovery.lost.is_empty() && recovery.torn_bytes == 0 && recovery.failures.is_empty());
    let records = read(&mut journal, 0)?;
    assert_eq!((sequences(&records), records[0].attempts, records[0].owed), (vec![10], 1, 3));
    assert_eq!(sequences(&read(&mut journal, 1)?), (4..=10).collect::<Vec<_>>());
    assert_eq!(journal.get(5)?.map(|record| (record.attempts, record.owed)), Some((1, 2)));
    assert_eq!(journal.get(1)?, None);
    assert_eq!(append(&mut journal, b"more")?, 11);
    journal.commit(true)?;
    assert_eq!(read(&mut journal, 1)?.len(), 1);
    (1..=11).for_each(|sequence| journal.complete_all(sequence));
    journal.flush()?;
    assert_eq!((journal.usage().records, journal.usage().segments), (0, 1));
    Ok(())
}

#[test]
fn a_branch_that_is_not_behind_is_handed_what_was_committed() -> Result {
    let place = tempfile::tempdir()?;
    let (mut journal, _) = open(place.path(), &Options::new(["a", "b"]))?;
    for _ in 0..3 {
        append(&mut journal, b"payload")?;
    }
    journal.commit(false)?;
    assert!(journal.is_behind(0) && !journal.skip(2, 0), "branch a is still to be given record 1");
    assert!(journal.skip(1, 0) && journal.skip(2, 0) && !journal.skip(2, 0));
    assert_eq!(sequences(&read(&mut journal, 0)?), [3]);
    assert!(!journal.is_behind(0) && journal.is_behind(1));
    assert_eq!(sequences(&read(&mut journal, 1)?), [1, 2, 3]);
    Ok(())
}

#[test]
fn a_stuck_record_pins_only_its_own_segment() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options { segment_bytes: 4096, ..Options::new(["a"]) };
    let (mut journal, _) = open(place.path(), &options)?;
    for n in 0..40_u8 {
        append(&mut journal, &[n; 1000])?;
        journal.commit(true)?;
    }
    let before = journal.usage();
    assert!(before.segments > 10 && before.bytes > 40_000);
    (1..=40)
        .filter(|sequence| ![10, 20].contains(sequence))
        .for_each(|sequence| journal.complete(sequence, 0));
    journal.flush()?;
    assert_eq!((journal.usage().segments, journal.usage().records), (3, 2));
    drop(journal);
    let (mut journal, recovery) = open(place.path(), &options)?;
    assert!(recovery.lost.is_empty(), "what was removed is not missed: {:?}", recovery.lost);
    assert_eq!(sequences(&read(&mut journal, 0)?), [10, 20]);
    journal.complete(10, 0);
    journal.flush()?;
    drop(journal);
    let (mut journal, recovery) = open(place.path(), &options)?;
    assert!(recovery.lost.is_empty(), "{:?}", recovery.lost);
    assert_eq!(append(&mut journal, b"next")?, 41);
    Ok(())
}

#[test]
fn it_is_known_when_that_arrived_which_is_not_done() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options { segment_bytes: 4096, ..Options::new(["a"]) };
    let (mut journal, _) = open(place.path(), &options)?;
    assert_eq!(journal.usage().unfinished, []);
    // Each commit has a segment of its own, in which the later record comes first.
    for commit in 0..10 {
        for arrived in [commit * 10 + 5, commit * 10] {
            let payload = [Bytes::from(vec![7; 2000])];
            journal.append(&Record { arrived, payload: &payload, ..Record::default() })?;
        }
        journal.commit(true)?;
    }
    assert_eq!(journal.usage().unfinished, [(0, 95)]);
    (3..=20)
        .filter(|sequence| ![11, 14].contains(sequence))
        .for_each(|sequence| journal.complete(sequence, 0));
    assert_eq!(journal.usage().unfinished, [(0, 5), (50, 65)]);
    journal.flush()?;
    drop(journal);
    let (mut journal, _) = open(place.path(), &options)?;
    assert_eq!(journal.usage().unfinished, [(0, 5), (50, 65)]);
    [1, 2, 11, 14].into_iter().for_each(|sequence| journal.complete(sequence, 0));
    assert_eq!(journal.usage().unfinished, []);
    Ok(())
}

#[test]
fn what_is_done_does_not_make_that_old_which_follows_it_in_a_segment() -> Result {
    let place = tempfile::tempdir()?;
    let (mut journal, _) = open(place.path(), &Options::new(["a", "b"]))?;
    let second = |number: u64| number * 1_000_000_000;
    for number in 0..100 {
        journal.append(&Record { arrived: second(number), ..Record::default() })?;
    }
    journal.commit(true)?;
    (1..=90).for_each(|sequence| journal.complete_all(sequence));
    journal.complete(91, 0);
    journal.flush()?;
    let usage = journal.usage();
    assert_eq!((usage.segments, usage.unfinished.len()), (1, 1));
    let (from, to) = usage.unfinished[0];
    assert!((second(85)..=second(90)).contains(&from) && to == second(99), "{from} to {to}");
    drop(journal);
    let (journal, _) = open(place.path(), &Options::new(["a", "b"]))?;
    assert_eq!(journal.usage().unfinished, usage.unfinished);
    Ok(())
}

#[test]
fn a_full_journal_refuses_until_something_is_done() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options { max_bytes: 64 << 10, ..Options::new(["a"]) };
    let (mut journal, _) = open(place.path(), &options)?;
    assert_eq!(append(&mut journal, &[0; 65 << 10]), Err(AppendError::TooLarge));
    let mut last = 0;
    while let Ok(sequence) = append(&mut journal, &[7; 1000]) {
        journal.commit(true)?;
        last = sequence;
    }
    assert!(last > 50 && journal.usage().bytes <= 64 << 10);
    assert_eq!(append(&mut journal, &[7; 1000]), Err(AppendError::Full));
    (1..=20).for_each(|sequence| journal.complete(sequence, 0));
    journal.flush()?;
    assert_eq!(append(&mut journal, &[7; 1000]), Ok(last + 1));
    journal.commit(true)?;
    (1..=last + 1).for_each(|sequence| journal.complete(sequence, 0));
    // As large as the journal allows: everything else has to go first.
    assert_eq!(append(&mut journal, &[7; 65_000]), Ok(last + 2));
    journal.commit(true)?;
    journal.flush()?;
    let bytes =
        std::fs::read_dir(place.path())?.map(|entry| Ok(entry?.metadata()?.len())).sum::<Result<u64>>()?;
    assert!(bytes <= 64 << 10 && bytes == journal.usage().bytes, "{bytes} {:?}", journal.usage());
    assert_eq!(sequences(&read(&mut journal, 0)?), [last + 2]);
    Ok(())
}

#[test]
fn a_full_journal_gives_up_what_is_oldest_where_it_is_told_to() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options { max_bytes: 64 << 10, on_full: OnFull::DropOldest, ..Options::new(["a", "b"]) };
    let (mut journal, _) = open(place.path(), &options)?;
    for sequence in 1..=200 {
        assert_eq!(append(&mut journal, &[7; 1000])?, sequence);
        journal.commit(true)?;
        journal.complete(sequence, 0);
        assert!(journal.usage().bytes <= 64 << 10);
    }
    let given_up = journal.given_up();
    assert!(given_up.windows(2).all(|two| two[0].to + 1 == two[1].from) && given_up[0].from == 1);
    let gone: u64 = given_up.iter().map(|one| one.records).sum();
    assert_eq!((gone, given_up[0].owed[0]), (given_up.last().unwrap().to, 0));
    assert_eq!(sequences(&read(&mut journal, 1)?), (gone + 1..=200).collect::<Vec<_>>());
    append(&mut journal, &[7; 60_000])?;
    journal.commit(true)?;
    assert_eq!(sequences(&read(&mut journal, 1)?), [201]);
    Ok(())
}

#[test]
fn payloads_are_compressed_only_where_that_is_smaller() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options { compression: Compression::Lz4, ..Options::new(["a"]) };
    let (mut journal, _) = open(place.path(), &options)?;
    let random: Vec<u8> = (0..9000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let parts = [Bytes::from(vec![1; 40_000]), Bytes::from(vec![2; 40_000])];
    journal.append(&Record { payload: &parts, ..Record::default() })?;
    append(&mut journal, &random)?;
    append(&mut journal, b"")?;
    journal.commit(true)?;
    assert!(journal.usage().bytes < 10_000);
    let records = read(&mut journal, 0)?;
    assert_eq!(records[0].payload, parts.concat());
    assert_eq!((&records[1].payload[..], records[2].payload.len()), (&random[..], 0));
    Ok(())
}

#[test]
fn branches_come_and_go_between_two_openings() -> Result {
    let place = tempfile::tempdir()?;
    let (mut journal, _) = open(place.path(), &Options::new(["a", "b"]))?;
    for _ in 0..4 {
        append(&mut journal, b"payload")?;
    }
    journal.commit(true)?;
    // 1 is done, 2 is owed to b, 3 to a, 4 to both.
    [(1, 0), (1, 1), (2, 0), (3, 1)]
        .into_iter()
        .for_each(|(sequence, branch)| journal.complete(sequence, branch));
    journal.flush()?;
    drop(journal);

    let (journal, recovery) = open(place.path(), &Options::new(["a"]))?;
    assert_eq!((recovery.owed, recovery.orphaned), (vec![2], vec![("b".to_owned(), 1)]));
    drop(journal);

    // A new branch is owed what is not done, and b knows what it has done, wherever it stands in the list.
    let (mut journal, recovery) = open(place.path(), &Options::new(["c", "b", "a"]))?;
    assert_eq!((recovery.owed, recovery.orphaned.len()), (vec![2, 1, 2], 0));
    (3..=4).for_each(|sequence| journal.complete(sequence, 2));
    journal.complete(4, 1);
    journal.flush()?;
    drop(journal);
    let (_, recovery) = open(place.path(), &Options::new(["a", "b", "c"]))?;
    assert_eq!((recovery.records, recovery.owed), (2, vec![0, 0, 2]));
    Ok(())
}

#[test]
fn a_branch_that_is_no_more_is_not_owed_what_everybody_else_has() -> Result {
    let place = tempfile::tempdir()?;
    let (mut journal, _) = open(place.path(), &Options::new(["x", "z"]))?;
    for _ in 0..3 {
        append(&mut journal, b"payload")?;
    }
    journal.commit(true)?;
    drop(journal);
    let (mut journal, recovery) = open(place.path(), &Options::new(["x"]))?;
    assert_eq!((recovery.owed, recovery.orphaned.len()), (vec![3], 0));
    journal.complete(2, 0);
    journal.flush()?;
    drop(journal);
    let owed = [("x".to_owned(), 2), ("z".to_owned(), 2)];
    assert_eq!(inspect(&OsFiles::new(place.path()), false)?.segments[0].owed, owed);
    let (_, recovery) = open(place.path(), &Options::new(["x"]))?;
    assert_eq!((recovery.owed, recovery.orphaned), (vec![2], vec![]));
    let (_, recovery) = open(place.path(), &Options::new(["z", "x"]))?;
    assert_eq!(
        (recovery.records, recovery.owed),
        (2, vec![2, 2]),
        "z is owed what was not finished without it"
    );
    Ok(())
}

#[test]
fn a_directory_that_can_not_be_had_is_named() -> Result {
    let place = tempfile::tempdir()?;
    let options = Options::new(["a"]);
    let _journal = open(place.path(), &options)?;
    let refused =
        |files: OsFiles, options: &Options| Journal::open(files, options.clone()).map(drop).unwrap_err();
    assert!(
        matches!(refused(OsFiles::new(place.path()), &options), OpenError::Locked(path) if path == place.path())
    );
    assert!(matches!(refused(OsFiles::new(place.path().join("none")), &options), OpenError::Missing(_)));
    std::fs::write(place.path().join("file"), b"")?;
    assert!(matches!(
        refused(OsFiles::new(place.path().join("file")), &options),
        OpenError::NotADirectory(_)
    ));
    for names in [vec![], vec!["a", "a"], vec![""]] {
        assert!(matches!(refused(OsFiles::new(place.path()), &Options::new(names)), OpenError::Options(_)));
    }
    Ok(())
}

#[test]
fn a_journal_can_be_looked_at_while_it_is_in_use() -> Result {
    let place = tempfile::tempdir()?;
    let (mut journal, _) = open(place.path(), &Options::new(["a", "b"]))?;
    for _ in 0..3 {
        append(&mut journal, b"payload")?;
    }
    journal.commit(false)?;
    journal.complete(1, 0);
    journal.complete_all(2);
    journal.flush()?;
    for deep in [false, true] {
        let found = inspect(&OsFiles::new(place.path()), deep)?;
        let report = &found.segments[0];
        assert_eq!((report.records, report.unfinished, report.first, report.end), (3, 2, 1, 4));
        assert_eq!(report.owed, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!((report.damaged_bytes, report.torn_bytes, found.lost.len()), (0, 0, 0));
        assert_eq!(report.version, Some(1));
    }
    Ok(())
}
