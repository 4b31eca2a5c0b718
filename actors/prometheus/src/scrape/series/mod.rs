//! What is known of a target's series from scrape to scrape.
//!
//! A line of an exposition is the same text from scrape to scrape but for its value. So a series is looked up by that
//! text, as Prometheus does it, and what became of it (its labels after relabelling, encoded; the point, the metric and
//! the scope it belongs to) is made once. Lines mostly come in the order in which they came first: the series after the
//! last one is tried before anything is hashed, and then a line costs a comparison.

mod compact;
mod output;
mod place;
mod point;
mod scrape;
mod shape;

pub(crate) use output::Request;
pub(crate) use point::{Exemplar, Exemplars, Native};
pub(crate) use scrape::{Counts, Scrape};
pub(crate) use shape::{Family, Type};

use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use watershed_stage::delivery::Permit;

use self::point::Tally;
use self::shape::{Kind, Role};

/// No point: the series was dropped by relabelling.
const DROPPED: u32 = u32::MAX;

/// No point: OTLP has no place for such a series.
const UNMAPPED: u32 = u32::MAX - 1;

/// The family of what the receiver says itself.
const OWN: u32 = 1;

/// What is no place in a table.
const NONE: u32 = u32::MAX;

/// What a series takes beside its text and its labels, about: its places in the tables, and those kept free.
const SERIES: u64 = 2 * (size_of::<Entry>() + size_of::<Point>() + 16) as u64;

/// What a target has exposed so far.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// Counts scrapes; those that failed, too.
    scrape: u32,
    hasher: RandomState,
    /// The texts of all series and the labels of all points, encoded.
    arena: Vec<u8>,
    entries: Vec<Entry>,
    by_text: Index,
    points: Vec<Point>,
    by_labels: Index,
    tallies: Vec<Tally>,
    metrics: Vec<Metric>,
    by_name: Index,
    groups: Vec<Group>,
    by_scope: Index,
    families: Vec<Declared>,
    by_family: Index,
    /// The memory of all that, once it has any.
    permit: Option<Permit>,
    held: u64,
    /// What was held after the last rewrite.
    kept: u64,
}

/// Places by the hash of what is there.
#[derive(Debug, Default)]
struct Index(HashTable<(u64, u32)>);

/// A part of the arena.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    at: u32,
    len: u32,
}

/// One series, as its text names it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    text: Slice,
    /// Its point, or [`DROPPED`].
    point: u32,
    /// What declared it when it was first seen; 0 if nothing did.
    family: u32,
    role: Role,
    /// The bound of a bucket, or the quantile.
    bound: f64,
    /// The scrape that it was last seen in.
    seen: u32,
}

/// One point of what comes out, of which several series are a histogram or a summary.
#[derive(Clone, Copy, Debug)]
struct Point {
    metric: u32,
    /// Its attributes, encoded as its kind has them.
    attributes: Slice,
    /// The scrape that it was last seen in.
    seen: u32,
    /// Whether it was there in the scrape before.
    was: bool,
    /// Whether it leaves a marker when it goes: not if it came with a time of its own.
    tracked: bool,
    /// When what it counts began, as far as that is known, in nanoseconds.
    start: u64,
    /// That time as the target says it, and the scrape in which it did.
    created: u64,
    created_in: u32,
    /// What it counted last.
    last: f64,
    /// Where its start is written in this scrape's points.
    start_at: u32,
    /// What is gathered of it, if that takes several series.
    tally: u32,
}

/// A metric: points of one name and kind in one scope.
#[derive(Debug)]
struct Metric {
    group: u32,
    name: Box<str>,
    kind: Kind,
    family: u32,
    /// This scrape's points.
    points: Vec<u8>,
    /// The scrape that last gave it any.
    active_in: u32,
}

/// A scope of a resource.
#[derive(Debug, Default)]
struct Group {
    job: Box<str>,
    instance: Box<str>,
    /// `InstrumentationScope` and its schema URL, encoded; empty for the scope of the receiver.
    scope: Vec<u8>,
    schema_url: Box<str>,
    /// `target_info` as attributes, encoded, and the scrape that said so. Only in a scope that is the receiver's.
    info: Slice,
    info_in: u32,
}

/// A family that some scrape has declared.
#[derive(Debug)]
struct Declared {
    family: Family,
    /// The scrape that last did.
    seen: u32,
}

// === impl Series ===

impl Series {
    /// Nothing yet. What becomes known is charged to `permit`.
    pub(crate) fn new(permit: Permit) -> Self {
        let mut series = Self { permit: Some(permit), ..Self::default() };
        series.clear();
        series
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        let (permit, scrape) = (self.permit.take(), self.scrape);
        // Before the first scrape, nothing was seen in the one before it.
        *self = Self { permit, scrape: scrape.max(1), ..Self::default() };
        // What nothing has declared, and what the receiver says itself.
        self.families.push(Declared { family: Family::default(), seen: 0 });
        let own = Family { kind: Type::Gauge, ..Family::default() };
        self.families.push(Declared { family: own, seen: 0 });
        self.hold(0);
    }

    /// How many series were looked up by now and are kept.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Charges what is held to its permit, whatever the budget says: for what gets less.
    fn hold(&mut self, held: u64) {
        self.held = held;
        if let Some(permit) = &self.permit {
            permit.trim(held);
            permit.cover(held);
        }
    }

    fn slice(&self, slice: Slice) -> &[u8] {
        let at = slice.at as usize;
        self.arena.get(at..at + slice.len as usize).unwrap_or_default()
    }

    /// The hash of a text in parts. It is not that of other parts which make the same text.
    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    /// The series of that text.
    fn find(&self, parts: &[&[u8]]) -> Option<u32> {
        let hash = self.hash(parts);
        self.by_text.find(hash, |id| {
            self.entries.get(id as usize).is_some_and(|entry| is_joined(self.slice(entry.text), parts))
        })
    }

    fn push(arena: &mut Vec<u8>, parts: &[&[u8]]) -> Slice {
        let at = arena.len();
        parts.iter().for_each(|part| arena.extend_from_slice(part));
        Slice { at: at as u32, len: (arena.len() - at) as u32 }
    }
}

// === impl Index ===

impl Index {
    fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.0.find(hash, |(other, id)| *other == hash && is_it(*id)).map(|(_, id)| *id)
    }

    fn insert(&mut self, hash: u64, id: u32) {
        self.0.insert_unique(hash, (hash, id), |(hash, _)| *hash);
    }
}

/// Whether `text` is these parts, one after the other.
fn is_joined(text: &[u8], parts: &[&[u8]]) -> bool {
    let mut rest = text;
    for part in parts {
        match rest.strip_prefix(*part) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod series_tests;
