//! The journal against a model, on a disk that loses power and fails at any call.
//!
//! `CUTS=1000000 cargo test --release -p watershed-journal --test model` is the long form; `SEED=n` runs one world.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod disk;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use disk::{Disk, Random};
use watershed_journal::{
    AppendError, Compression, File, Files, Journal, OnFull, Options, Record, Recovery, Stored,
};

/// What is known of a record that was appended.
#[derive(Clone, Debug)]
struct Known {
    sequence: u64,
    length: usize,
    state: State,
    /// Whom it is owed to, and whom it was owed to at the last flush that succeeded.
    owed: u64,
    flushed: u64,
    /// Who never completed it, in any process: what the power took of completions may come back with it.
    never: u64,
    /// How often it was marked, and how often that was flushed.
    attempts: u32,
    attempts_flushed: u32,
    attempts_ever: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not in the journal of this process; it may come back with the next one.
    Refused,
    /// Committed: survives the process.
    Committed,
    /// Synced: survives the power.
    Synced,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    PowerCut,
}

struct World {
    seed: u64,
    random: Random,
    disk: Disk,
    options: Options,
    journal: Option<Journal<Disk>>,
    /// By what their payloads say.
    known: BTreeMap<u64, Known>,
    /// What is in the journal, by sequence.
    view: BTreeMap<u64, u64>,
    /// Appended since the last commit.
    staged: Vec<u64>,
    cursors: Vec<u64>,
    next_id: u64,
    cuts: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEED={} reproduces it", self.seed);
        }
    }
}

/// The payload of record `id`: says which one it is, and is partly compressible.
fn payload(id: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(id);
    let mut bytes = id.to_le_bytes().to_vec();
    while bytes.len() < length {
        let word = random.next().to_le_bytes();
        (0..1 + word[0] % 16).for_each(|_| bytes.extend_from_slice(&word));
    }
    bytes.truncate(length.max(8));
    bytes
}

impl Known {
    fn done(&mut self, branches: u64) {
        self.owed &= !branches;
        self.never &= !branches;
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let options = Options {
            max_bytes: 30_000 + random.below(100_000),
            segment_bytes: 4096 + random.below(8000),
            max_unsynced: 10_000 + random.below(40_000),
            compression: if random.one_in(2) { Compression::Lz4 } else { Compression::None },
            on_full: if random.one_in(3) { OnFull::DropOldest } else { OnFull::Refuse },
            ..Options::new((0..1 + random.below(3)).map(|branch| format!("branch {branch}")))
        };
        let disk = Disk::new(Random::new(seed ^ 0xd15c));
        let cursors = vec![0; options.branches.len()];
        let (known, view) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self {
            seed,
            random,
            disk,
            options,
            journal: None,
            known,
            view,
            staged: Vec::new(),
            cursors,
            next_id: 0,
            cuts: 0,
        };
        world.reopen(End::Killed);
        world
    }

    fn run(mut self) -> u64 {
        let faulty = self.random.one_in(2);
        for _ in 0..30 {
            self.disk.fail(if faulty { 20 + self.random.below(200) } else { 0 });
            let power = self.random.below(4) > 0;
            if power {
                let calls = 1 + self.random.below(60);
                self.disk.arm(calls);
            }
            let steps = if power { 10_000 } else { 1 + self.random.below(100) };
            for _ in 0..steps {
                self.step();
                if self.disk.is_dead() {
                    break;
                }
            }
            self.end(if power { End::PowerCut } else { End::Killed });
        }
        self.cuts
    }

    fn journal(&mut self) -> &mut Journal<Disk> {
        self.journal.as_mut().expect("it is open")
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=5 => self.append(),
            6..=8 => self.commit(),
            9 => self.sync(),
            10..=13 => self.complete(),
            14..=15 => self.flush(),
            16..=17 => self.read(),
            18 => self.get(),
            _ => self.mark(),
        }
        let losses = self.journal().losses();
        assert!(losses.is_empty(), "nothing was damaged: {losses:?}");
        let usage = self.journal().usage();
        let live: Vec<u64> =
            self.view.values().map(|id| self.known[id].owed).filter(|owed| *owed != 0).collect();
        assert_eq!(usage.records, live.len() as u64);
        for (branch, owed) in usage.owed.iter().enumerate() {
            assert_eq!(*owed, live.iter().filter(|mask| *mask >> branch & 1 == 1).count() as u64);
        }
        if self.disk.failed() == 0 && !self.disk.is_dead() {
            assert_eq!(usage.bytes, self.disk.bytes(""), "what files take is known");
        }
    }

    fn append(&mut self) {
        let id = self.next_id;
        let length = match self.random.below(20) {
            0 => 3000 + self.random.below(20_000),
            1..=4 => self.random.below(3000),
            _ => self.random.below(400),
        } as usize;
        let payload = Bytes::from(payload(id, length));
        let cut = self.random.below(payload.len() as u64 + 1) as usize;
        let parts = [payload.slice(..cut), payload.slice(cut..)];
        let parts = if self.random.one_in(2) { &parts[..] } else { &[payload.clone()][..] };
        let record = Record {
            kind: id as u8,
            items: id as u32,
            arrived: id,
            attempts: id as u32 % 3,
            context: &id.to_be_bytes(),
            payload: parts,
        };
        let appended = self.journal().append(&record);
        let given_up = self.journal().given_up();
        let everybody = (1 << self.options.branches.len()) - 1;
        assert!(given_up.is_empty() || self.options.on_full == OnFull::DropOldest);
        for given_up in given_up {
            let range = self.view.range(given_up.from..=given_up.to);
            let ids: Vec<u64> = range.map(|(_, id)| *id).filter(|id| self.known[id].owed != 0).collect();
            assert_eq!(given_up.records, ids.len() as u64);
            ids.iter().for_each(|id| self.known.get_mut(id).unwrap().done(everybody));
        }
        let sequence = match appended {
            Ok(sequence) => sequence,
            Err(AppendError::Unsynced) => return self.sync(),
            Err(AppendError::Full) => {
                // Somebody finishes something.
                (0..10).for_each(|_| self.complete());
                return self.flush();
            }
            Err(error) => panic!("{error}"),
        };
        self.next_id += 1;
        let known = Known {
            sequence,
            length: payload.len(),
            state: State::Refused,
            owed: everybody,
            flushed: everybody,
            never: everybody,
            attempts: 0,
            attempts_flushed: 0,
            attempts_ever: 0,
        };
        self.known.insert(id, known);
        self.staged.push(id);
    }

    fn commit(&mut self) {
        let sync = self.random.one_in(2);
        let before = self.disk.bytes(".seg");
        let committed = self.journal().commit(sync);
        let after = self.disk.bytes(".seg");
        // What the power brought back may be above the bound, but nothing is added to it.
        assert!(after <= before.max(self.options.max_bytes) || self.disk.failed() > 0, "{after}");
        let staged = std::mem::take(&mut self.staged);
        if committed.is_err() {
            assert!(self.disk.failed() > 0 || self.disk.is_dead(), "{committed:?}");
            return;
        }
        for id in &staged {
            let known = self.known.get_mut(id).unwrap();
            known.state = State::Committed;
            assert!(self.view.insert(known.sequence, *id).is_none(), "a sequence is given twice");
        }
        if sync {
            self.synced();
        }
        for id in staged {
            // The owner hands on what it has just committed.
            let (sequence, branch) =
                (self.known[&id].sequence, self.random.below(self.cursors.len() as u64) as usize);
            if self.random.one_in(2) {
                let next = self.next_owed(branch);
                assert_eq!(self.journal().skip(sequence, branch), next == Some(sequence));
                if next == Some(sequence) {
                    self.cursors[branch] = sequence + 1;
                }
            }
        }
    }

    fn sync(&mut self) {
        if self.journal().sync().is_ok() {
            self.synced();
        }
    }

    fn synced(&mut self) {
        for id in self.view.values() {
            let known = self.known.get_mut(id).unwrap();
            if known.state == State::Committed {
                known.state = State::Synced;
            }
        }
        let staged = self.staged.iter().map(|id| self.known[id].length).sum::<usize>();
        assert!((self.journal().unsynced() > 0) == (staged > 0));
    }

    fn complete(&mut self) {
        let live: Vec<u64> = self
            .view
            .iter()
            .filter(|(_, id)| self.known[id].owed != 0)
            .map(|(sequence, _)| *sequence)
            .collect();
        if live.is_empty() {
            return self.journal().complete(1 << 40, 0);
        }
        for _ in 0..self.random.below(12) {
            // Mostly the older ones, so that segments end; some stay behind.
            let most = if self.random.one_in(3) { live.len() } else { live.len().min(8) };
            let sequence = live[self.random.below(most as u64) as usize];
            if sequence.is_multiple_of(37) && !self.random.one_in(10) {
                continue;
            }
            let id = self.view[&sequence];
            if self.random.one_in(3) {
                self.journal().complete_all(sequence);
                self.known.get_mut(&id).unwrap().done(u64::MAX);
            } else {
                let branch = self.random.below(self.cursors.len() as u64) as usize;
                self.journal().complete(sequence, branch);
                self.known.get_mut(&id).unwrap().done(1 << branch);
            }
        }
    }

    fn flush(&mut self) {
        if self.journal().flush().is_ok() {
            for id in self.view.values() {
                let known = self.known.get_mut(id).unwrap();
                (known.flushed, known.attempts_flushed) = (known.owed, known.attempts);
            }
            let known = &self.known;
            self.view.retain(|_, id| known[id].owed != 0);
        }
    }

    fn read(&mut self) {
        let branch = self.random.below(self.cursors.len() as u64) as usize;
        let bound = self.random.below(5000) as usize;
        let (mut records, nothing) = (Vec::new(), self.next_owed(branch).is_none());
        let result = self.journal().read(branch, bound, &mut records);
        for record in &records {
            assert_eq!(Some(record.sequence), self.next_owed(branch), "in order, and nothing left out");
            self.check(record);
            self.cursors[branch] = record.sequence + 1;
        }
        let bytes: usize = records.iter().map(|record| record.payload.len() + record.context.len()).sum();
        assert!(bytes <= bound || records.len() == 1);
        match result {
            Ok(()) => assert_eq!(records.is_empty(), nothing),
            Err(_) => assert!(self.disk.failed() > 0 || self.disk.is_dead()),
        }
        let behind = self.next_owed(branch).is_some();
        assert_eq!(self.journal().is_behind(branch), behind);
    }

    fn next_owed(&self, branch: usize) -> Option<u64> {
        let owed = |id: &u64| self.known[id].owed >> branch & 1 == 1;
        self.view.range(self.cursors[branch]..).find(|(_, id)| owed(id)).map(|(sequence, _)| *sequence)
    }

    fn get(&mut self) {
        let first = self.view.first_key_value().map_or(0, |(sequence, _)| *sequence);
        let last = self.view.last_key_value().map_or(0, |(sequence, _)| *sequence);
        let sequence = first + self.random.below(last - first + 3);
        let owed = self.view.get(&sequence).is_some_and(|id| self.known[id].owed != 0);
        match self.journal().get(sequence) {
            Ok(record) => {
                assert_eq!(record.is_some(), owed);
                record.iter().for_each(|record| self.check(record));
            }
            Err(_) => assert!(self.disk.failed() > 0 || self.disk.is_dead()),
        }
    }

    fn mark(&mut self) {
        let ids: Vec<(u64, u64)> = self.view.iter().map(|(sequence, id)| (*sequence, *id)).collect();
        if !ids.is_empty() {
            let (sequence, id) = ids[self.random.below(ids.len() as u64) as usize];
            self.journal().attempted(&[sequence]);
            let known = self.known.get_mut(&id).unwrap();
            (known.attempts, known.attempts_ever) = (known.attempts + 1, known.attempts_ever + 1);
        }
    }

    /// A record of this process is exactly what was appended.
    fn check(&self, record: &Stored) {
        let id = self.same_bytes(record);
        let known = &self.known[&id];
        assert_eq!(self.view.get(&record.sequence), Some(&id));
        assert_eq!((record.owed, record.attempts), (known.owed, known.attempts + id as u32 % 3));
    }

    /// What is read was once appended, byte for byte. Returns which one it is.
    fn same_bytes(&self, record: &Stored) -> u64 {
        let id = u64::from_le_bytes(record.payload[..8].try_into().unwrap());
        let known = self.known.get(&id).expect("it was appended");
        assert_eq!(record.payload, payload(id, known.length));
        assert_eq!(record.context, id.to_be_bytes()[..]);
        assert_eq!((record.kind, record.items, record.arrived), (id as u8, id as u32, id));
        assert_eq!(record.sequence, known.sequence);
        id
    }

    fn end(&mut self, mut end: End) {
        if self.disk.is_haunted() {
            end = End::PowerCut;
        }
        self.journal = None;
        self.staged.clear();
        if end == End::PowerCut {
            self.disk.restart();
            self.cuts += 1;
        }
        self.reopen(end);
    }

    fn open(&self) -> std::result::Result<(Journal<Disk>, Recovery), watershed_journal::OpenError> {
        Journal::open(self.disk.clone(), self.options.clone())
    }

    fn reopen(&mut self, mut end: End) {
        let quiet = self.disk.failed() == 0;
        if self.random.one_in(3) {
            // Opening is interrupted as well.
            let calls = 1 + self.random.below(30);
            self.disk.arm(calls);
            let opened = self.open();
            assert!(opened.is_ok() || self.disk.is_dead() || self.disk.failed() > 0, "{:?}", opened.err());
            drop(opened);
            self.disk.restart();
            self.cuts += 1;
            end = End::PowerCut;
        }
        self.disk.fail(0);
        let copy = self.disk.copy();
        let (mut journal, recovery) = self.open().expect("a quiet disk can be opened");
        assert!(end == End::PowerCut || !quiet || recovery.lost.is_empty(), "{recovery:?}");
        assert!(recovery.failures.is_empty(), "{recovery:?}");
        // A sequence may be given again where what had it was done, and is forgotten.
        let last: BTreeMap<u64, &Known> = self.known.values().map(|known| (known.sequence, known)).collect();
        for known in last.values().filter(|known| quiet && known.state == State::Synced) {
            let told = recovery.lost.iter().find(|lost| (lost.from..=lost.to).contains(&known.sequence));
            assert!(told.is_none(), "{known:?} is on the disk, whatever {told:?} says");
        }
        let found = self.read_all(&mut journal);
        drop(journal);
        if quiet {
            self.lose_a_segment(&copy, end, &found);
        }
        self.settle(end, &found);

        // What one opening found the next one finds, and nothing is told twice.
        let (journal, again) = self.open().expect("a quiet disk can be opened");
        assert!(again.lost.is_empty() && again.torn_bytes == 0, "{again:?}");
        assert_eq!((again.records, &again.owed), (recovery.records, &recovery.owed));
        assert_eq!(again.records, found.len() as u64);
        assert_eq!(journal.usage().bytes, self.disk.bytes(""), "{:?}", journal.usage());
        self.journal = Some(journal);
        self.cursors.fill(0);
    }

    /// What is lost with a segment is told: all of it as long as the power has not gone, and never more.
    fn lose_a_segment(&mut self, disk: &Disk, end: End, whole: &BTreeMap<u64, Stored>) {
        let mut names = disk.list().expect("a quiet disk can be listed");
        names.retain(|name| name.ends_with(".seg"));
        if names.is_empty() {
            return;
        }
        let last = names.len() as u64 - 1;
        let at = [0, last, self.random.below(last + 1)][self.random.below(3) as usize];
        disk.remove(&names[at as usize]).expect("it is there");
        // What was to be removed when the power went is known to be done, and given again only while it is there.
        let mut sides = disk.list().expect("a quiet disk can be listed");
        sides.retain(|name| name.ends_with(".done"));
        let (gaps, all_gaps) = (gaps(disk, &names), gaps(disk, &sides));
        let options = self.options.clone();
        let open = || Journal::open(disk.clone(), options.clone()).expect("a quiet disk can be opened");
        let (mut journal, recovery) = open();
        let found = self.read_all(&mut journal);
        drop(journal);
        let missing: Vec<u64> = whole
            .iter()
            .filter(|(id, _)| !found.contains_key(id))
            .map(|(_, record)| record.sequence)
            .collect();
        let gone = &names[at as usize];
        if end == End::Killed {
            let missed = |gaps: &[Range<u64>]| {
                missing.iter().filter(|sequence| !gaps.iter().any(|gap| gap.contains(sequence))).count()
                    as u64
            };
            let told: u64 = recovery.lost.iter().map(|lost| lost.records).sum();
            // The gap of one that was removed itself counts as long as the manifest names that.
            let bounds = missed(&all_gaps)..=missed(&gaps);
            assert!(bounds.contains(&told), "{told}, not {bounds:?}: {gone} of {names:?}: {recovery:?}");
        }
        // The power may have taken the manifest, and with it what was done; but not what can be read.
        for lost in &recovery.lost {
            let read = found.values().find(|record| (lost.from..=lost.to).contains(&record.sequence));
            assert!(read.is_none(), "{gone} of {names:?}: {lost:?}, but {read:?}");
        }
        assert!(open().1.lost.is_empty(), "nothing is told twice");
    }

    /// Everything that a journal has, by what it says it is.
    fn read_all(&mut self, journal: &mut Journal<Disk>) -> BTreeMap<u64, Stored> {
        let mut found: BTreeMap<u64, Stored> = BTreeMap::new();
        let mut given = BTreeMap::<u64, u64>::new();
        for branch in 0..self.options.branches.len() {
            let (mut records, mut last) = (Vec::new(), 0);
            loop {
                records.clear();
                let bound = self.random.below(10_000) as usize;
                journal.read(branch, bound, &mut records).expect("a quiet disk can be read");
                if records.is_empty() {
                    break;
                }
                for record in &records {
                    assert!(record.sequence > last, "in order");
                    last = record.sequence;
                    let id = self.same_bytes(record);
                    *given.entry(id).or_default() |= 1 << branch;
                    found.insert(id, record.clone());
                }
            }
        }
        let losses = journal.losses();
        assert!(losses.is_empty(), "opening has found all damage: {losses:?}");
        for (id, record) in &found {
            assert_eq!(record.owed, given[id], "each is given to whom it is owed to");
        }
        found
    }

    /// What may and what must be there after `end`, against what is.
    fn settle(&mut self, end: End, found: &BTreeMap<u64, Stored>) {
        let everybody = (1 << self.options.branches.len()) - 1;
        let faulty = self.disk.failed() > 0;
        for (id, known) in &mut self.known {
            let must = match end {
                End::Killed => matches!(known.state, State::Committed | State::Synced),
                End::PowerCut => known.state == State::Synced,
            };
            let least = if end == End::Killed { known.owed } else { known.never };
            let Some(record) = found.get(id) else {
                assert!(!must || least == 0, "record {id} is lost: {known:?}");
                // What is done may still come back with what was lost of the directory.
                known.owed = 0;
                continue;
            };
            // What was refused may meet what was done of the record that had its place then.
            assert!(!must || least & !record.owed == 0, "what is owed stays owed: {id} {known:?}");
            let attempts = record.attempts - *id as u32 % 3;
            // A write that failed may come back with the power beside the one that came after it.
            assert!(!must || faulty || attempts <= known.attempts_ever, "{id} {attempts} {known:?}");
            // Two calls that fail together can keep what was flushed from a segment that is written anew.
            if end == End::Killed && !faulty {
                assert_eq!(record.owed & !known.flushed, 0, "what is done and flushed is not given again");
                assert!(
                    (known.attempts_flushed..=known.attempts).contains(&attempts),
                    "{id} {attempts} {known:?}"
                );
            }
            assert_eq!(record.owed & !everybody, 0);
            (known.owed, known.flushed) = (record.owed, record.owed);
            (known.attempts, known.attempts_flushed) = (attempts, attempts);
            // What was read was synced by opening, where it lies in the last segment.
            known.state = if known.state == State::Synced { State::Synced } else { State::Committed };
        }
        self.view = found.iter().map(|(id, record)| (record.sequence, *id)).collect();
        assert_eq!(self.view.len(), found.len(), "no sequence is there twice");
    }
}

/// The gaps that the side files of `segments` tell of.
fn gaps(disk: &Disk, segments: &[String]) -> Vec<Range<u64>> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let mut gaps = Vec::new();
    for segment in segments {
        let Ok(file) = disk.open(&segment.replace(".seg", ".done"), false) else { continue };
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let frames = bytes.windows(29).filter(|frame| frame[..8] == *b"\xf5WSf\x11\0\0\0" && frame[12] == 5);
        gaps.extend(frames.map(|frame| number(&frame[13..21])..number(&frame[21..29])));
    }
    gaps
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_is_acknowledged_survives_what_it_was_promised_to_survive() {
    if let Some(seed) = from_env("SEED") {
        World::new(seed).run();
        return;
    }
    let wanted = from_env("CUTS").unwrap_or(10_000);
    let (mut cuts, mut seed) = (0, from_env("FROM").unwrap_or(1));
    while cuts < wanted {
        cuts += World::new(seed).run();
        seed += 1;
    }
    println!("{cuts} power cuts in worlds up to seed {seed}");
}

/// Worlds in which something was once lost, invented or told wrongly.
#[test]
fn what_was_broken_once_holds() {
    for seed in [700_004_423, 5_000_015_170, 6_000_015_820] {
        World::new(seed).run();
    }
}
