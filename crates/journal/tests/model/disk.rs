//! A disk that loses and reorders what was not synced, and fails when it likes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::rc::Rc;

use watershed_journal::{File, Files};

/// What survives of a write survives in pieces of this size, in bytes.
const SECTOR: usize = 512;

/// Random numbers from a seed: xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// A directory on the disk. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Disk(Rc<RefCell<State>>);

/// An open file.
#[derive(Debug)]
pub struct Handle {
    disk: Disk,
    id: u64,
}

#[derive(Clone, Debug)]
struct State {
    random: Random,
    /// The directory as processes see it, as it is on the disk, and what leads from the one to the other.
    names: BTreeMap<String, u64>,
    synced: BTreeMap<String, u64>,
    entries: Vec<Entry>,
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// How often the power came.
    boots: u64,
    /// How many calls there are until the power goes.
    fuse: Option<u64>,
    dead: bool,
    /// One call in so many fails; none where it is zero.
    odds: u64,
    failed: u64,
    /// Whether something is seen that is neither on the disk nor will be.
    haunted: bool,
}

#[derive(Clone, Debug)]
enum Entry {
    Create(String, u64),
    Remove(String),
    Rename(String, String, u64),
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// As processes see it, and as it is on the disk.
    seen: Vec<u8>,
    disk: Vec<u8>,
    dirty: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

// === impl Random ===

impl Random {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn one_in(&mut self, odds: u64) -> bool {
        odds > 0 && self.below(odds) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        (1..items.len()).rev().for_each(|at| items.swap(at, self.below(at as u64 + 1) as usize));
    }
}

// === impl Disk ===

impl Disk {
    pub fn new(random: Random) -> Self {
        Self(Rc::new(RefCell::new(State {
            random,
            names: BTreeMap::new(),
            synced: BTreeMap::new(),
            entries: Vec::new(),
            nodes: BTreeMap::new(),
            next: 0,
            boots: 1,
            fuse: None,
            dead: false,
            odds: 0,
            failed: 0,
            haunted: false,
        })))
    }

    /// Another disk that is as this one is.
    pub fn copy(&self) -> Self {
        Self(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    /// The power goes at one of the next `calls` calls.
    pub fn arm(&self, calls: u64) {
        self.0.borrow_mut().fuse = Some(calls);
    }

    /// One call in `odds` fails from here on.
    pub fn fail(&self, odds: u64) {
        self.0.borrow_mut().odds = odds;
    }

    /// How many calls have failed, power apart.
    pub fn failed(&self) -> u64 {
        self.0.borrow().failed
    }

    /// Whether a sync failed since the power last came: a process that ends takes the only good copy with it.
    pub fn is_haunted(&self) -> bool {
        self.0.borrow().haunted
    }

    pub fn is_dead(&self) -> bool {
        self.0.borrow().dead
    }

    /// The power comes back: there is what was synced, and some of the rest.
    pub fn restart(&self) {
        let state = &mut *self.0.borrow_mut();
        (state.dead, state.fuse, state.haunted) = (false, None, false);
        state.boots += 1;
        state.settle_entries();
        state.names = state.synced.clone();
        let State { random, nodes, names, .. } = state;
        nodes.retain(|id, _| names.values().any(|named| named == id));
        nodes.values_mut().for_each(|node| node.settle(random));
        nodes.values_mut().for_each(|node| node.seen = node.disk.clone());
    }

    /// What the files whose names end like this take, in bytes.
    pub fn bytes(&self, end: &str) -> u64 {
        let state = self.0.borrow();
        let named = state.names.iter().filter(|(name, _)| name.ends_with(end));
        named.map(|(_, id)| id).map(|id| state.nodes[id].seen.len() as u64).sum()
    }

    /// Runs a call: with the answer whether it fails, and how much of it happens all the same (of 256).
    fn call<T>(&self, call: impl FnOnce(&mut State, Option<Error>) -> Result<T>) -> Result<T> {
        let state = &mut *self.0.borrow_mut();
        if state.dead {
            return Err(Error::other("no power"));
        }
        if let Some(fuse) = &mut state.fuse {
            *fuse = fuse.saturating_sub(1);
            if *fuse == 0 {
                state.dead = true;
                let _ = call(state, Some(Error::other("no power")));
                return Err(Error::other("no power"));
            }
        }
        let fails = state.random.one_in(state.odds).then(|| {
            state.failed += 1;
            if state.random.one_in(2) { Error::from_raw_os_error(5) } else { ErrorKind::StorageFull.into() }
        });
        call(state, fails)
    }
}

impl State {
    /// Some of what was not synced gets to the disk, in any order.
    fn settle_entries(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        self.random.shuffle(&mut entries);
        for entry in entries {
            if self.random.one_in(2) {
                entry.apply(&mut self.synced);
            }
        }
    }

    fn enter(&mut self, entry: Entry) {
        entry.apply(&mut self.names);
        self.entries.push(entry);
    }

    fn id(&self, name: &str) -> Result<u64> {
        self.names.get(name).copied().ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Entry {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, id) => drop(names.insert(name.clone(), *id)),
            Self::Remove(name) => drop(names.remove(name)),
            Self::Rename(from, to, id) => {
                names.remove(from);
                names.insert(to.clone(), *id);
            }
        }
    }
}

impl Node {
    /// Some of what was not synced gets to the disk: in any order, and of a write any sectors.
    fn settle(&mut self, random: &mut Random) {
        let mut pieces = Vec::new();
        for change in std::mem::take(&mut self.dirty) {
            match change {
                Change::Length(_) => pieces.push(change),
                Change::Write(mut offset, bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let sector = SECTOR - offset as usize % SECTOR;
                        let (piece, more) = rest.split_at(sector.min(rest.len()));
                        pieces.push(Change::Write(offset, piece.to_vec()));
                        (offset, rest) = (offset + piece.len() as u64, more);
                    }
                }
            }
        }
        let odds = 1 + random.below(4);
        if random.one_in(2) {
            random.shuffle(&mut pieces);
        }
        for piece in pieces {
            if !random.one_in(odds) {
                piece.apply(&mut self.disk);
            }
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.dirty.push(change);
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length as usize, 0),
            Self::Write(offset, written) => {
                let (start, end) = (*offset as usize, *offset as usize + written.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(written);
            }
        }
    }
}

impl Files for Disk {
    type File = Handle;

    fn place(&self) -> &Path {
        Path::new("disk")
    }

    fn list(&self) -> Result<Vec<String>> {
        self.call(|state, fails| fails.map_or_else(|| Ok(state.names.keys().cloned().collect()), Err))
    }

    fn create(&self, name: &str) -> Result<Handle> {
        let id = self.call(|state, fails| {
            if state.names.contains_key(name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            if let Some(error) = fails
                && !state.dead
            {
                return Err(error);
            }
            state.next += 1;
            let id = state.next;
            state.nodes.insert(id, Node::default());
            state.enter(Entry::Create(name.to_owned(), id));
            Ok(id)
        })?;
        Ok(Handle { disk: self.clone(), id })
    }

    fn open(&self, name: &str, _: bool) -> Result<Handle> {
        let id = self.call(|state, fails| fails.map_or_else(|| state.id(name), Err))?;
        Ok(Handle { disk: self.clone(), id })
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.call(|state, fails| {
            if let Some(error) = fails
                && !state.dead
            {
                return Err(error);
            }
            state.id(name)?;
            state.enter(Entry::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.call(|state, fails| {
            if let Some(error) = fails
                && !state.dead
            {
                return Err(error);
            }
            let id = state.id(from)?;
            state.enter(Entry::Rename(from.to_owned(), to.to_owned(), id));
            Ok(())
        })
    }

    fn sync_dir(&self) -> Result<()> {
        self.call(|state, fails| {
            match fails {
                // What could not be written is not dirty any more, and never will be written.
                Some(error) => {
                    state.haunted = true;
                    state.settle_entries();
                    return Err(error);
                }
                None => {
                    std::mem::take(&mut state.entries).iter().for_each(|entry| entry.apply(&mut state.synced))
                }
            }
            Ok(())
        })
    }

    fn boot(&self) -> u64 {
        self.0.borrow().boots
    }

    fn lock(&mut self) -> Result<()> {
        self.call(|_, fails| fails.map_or(Ok(()), Err))
    }
}

impl Handle {
    fn call<T>(
        &self,
        call: impl FnOnce(&mut Random, &mut Node, Option<Error>, bool) -> Result<T>,
    ) -> Result<T> {
        self.disk.call(|state, fails| {
            let State { random, nodes, dead, .. } = state;
            let Some(node) = nodes.get_mut(&self.id) else { return Err(Error::other("gone with the power")) };
            call(random, node, fails, *dead)
        })
    }
}

impl File for Handle {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.call(|random, node, fails, _| {
            let written =
                if fails.is_some() { random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
            node.change(Change::Write(offset, bytes[..written].to_vec()));
            fails.map_or(Ok(()), Err)
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.call(|_, node, fails, _| {
            let rest = node.seen.get(offset as usize..).unwrap_or_default();
            let read = rest.len().min(into.len());
            into[..read].copy_from_slice(&rest[..read]);
            fails.map_or(Ok(read), Err)
        })
    }

    fn sync_data(&mut self) -> Result<()> {
        let synced = self.call(|random, node, fails, _| {
            let Some(error) = fails else {
                std::mem::take(&mut node.dirty).iter().for_each(|change| change.apply(&mut node.disk));
                return Ok(());
            };
            // As Linux does: what could not be written is clean, and gone when its page is.
            node.settle(random);
            if random.one_in(2) {
                let length = node.seen.len();
                node.seen = node.disk.clone();
                node.seen.resize(length, 0);
            }
            Err(error)
        });
        self.disk.0.borrow_mut().haunted |= synced.is_err();
        synced
    }

    fn set_len(&mut self, bytes: u64) -> Result<()> {
        self.call(|_, node, fails, dead| {
            if fails.is_none() || dead {
                node.change(Change::Length(bytes));
            }
            fails.map_or(Ok(()), Err)
        })
    }

    fn size(&self) -> Result<u64> {
        self.call(|_, node, fails, _| fails.map_or(Ok(node.seen.len() as u64), Err))
    }
}
