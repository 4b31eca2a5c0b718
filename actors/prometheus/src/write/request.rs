//! Requests of remote write, 1.0 and 2.0.
//!
//! Sources: `prometheus/docs: docs/specs/prw/remote_write_spec.md`, `remote_write_spec_2_0.md`;
//! `prometheus: prompb/remote.proto, prompb/io/prometheus/write/v2/types.proto`.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use watershed_telemetry::wire;

use super::collect::{Collected, Item, Range, Sample};
use crate::labels::unpack;
use crate::proto::{nested, put_double, put_text};
use crate::translate::Kind;

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) body: Bytes,
    /// Where its series begin, behind symbols or metadata.
    begin: usize,
    /// How much of what is before them they can not do without: symbols, no metadata.
    shared: usize,
    /// Its series, in order.
    ends: Vec<End>,
}

/// Where a series of a request ends.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// From where series begin.
    at: u32,
    /// What there is up to there.
    counts: Counts,
    /// Names it among all series of its batch.
    key: u64,
}

/// What is in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Points of OpenTelemetry that it stands for.
    pub(super) points: u32,
    pub(super) samples: u32,
    pub(super) histograms: u32,
    pub(super) exemplars: u32,
}

/// What requests of one shard are made of.
struct Writer<'w> {
    collected: &'w Collected,
    version: Version,
    /// The largest request, in bytes.
    most: usize,
    out: Vec<u8>,
    /// Metadata of 1.0, which stands before the series.
    metadata: Vec<u8>,
    symbols: Symbols,
    counts: Counts,
    ends: Vec<End>,
    ready: VecDeque<Request>,
    done: &'w HashSet<u64>,
}

/// Every text of a request once. The first is empty.
struct Symbols {
    /// `symbols` fields as they are sent.
    bytes: Vec<u8>,
    /// Where each lies in them.
    texts: Vec<Range>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

/// The requests of each shard, in the order in which they are to be sent, without the series that are `done`; and how many
/// points were left out since a later one of the same time stands for them.
pub(super) fn requests(
    collected: &Collected,
    version: Version,
    shards: usize,
    most: usize,
    metadata: bool,
    done: &HashSet<u64>,
) -> (Vec<VecDeque<Request>>, u64) {
    let mut order: Vec<(usize, u32, u8, i64, Reverse<u32>)> = (0..)
        .zip(&collected.samples)
        .map(|(index, sample)| {
            let series = collected.series.get(sample.series as usize);
            // A remainder of a number of shards is one of them.
            let shard = series.map_or(0, |series| (series.shard % shards as u64) as usize);
            let class = match sample.item {
                Item::Value(_) => 0,
                Item::Histogram(_) => 1,
                Item::Exemplar(..) => 2,
            };
            (shard, sample.series, class, sample.time, Reverse(index))
        })
        .collect();
    // Of two of one time, the later comes first, and stays.
    order.sort_unstable();
    let mut superseded = 0;
    let mut all: Vec<VecDeque<Request>> = Vec::new();
    for shard in order.chunk_by(|one, other| one.0 == other.0) {
        let mut writer = Writer {
            collected,
            version,
            most,
            out: Vec::new(),
            metadata: Vec::new(),
            symbols: Symbols::new(),
            counts: Counts::default(),
            ends: Vec::new(),
            ready: VecDeque::new(),
            done,
        };
        if all.is_empty() && metadata && version == Version::V1 {
            writer.put_metadata();
        }
        for series in shard.chunk_by(|one, other| one.1 == other.1) {
            superseded += writer.series(series);
        }
        all.push(writer.finish());
    }
    (all, superseded)
}

type Ordered = (usize, u32, u8, i64, Reverse<u32>);

// === impl Request ===

impl Request {
    pub(super) fn counts(&self) -> Counts {
        self.ends.last().map(|end| end.counts).unwrap_or_default()
    }

    /// What names its series.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.ends.iter().map(|end| end.key)
    }

    pub(super) fn series(&self) -> usize {
        self.ends.len()
    }

    /// The same in two requests, in their order, metadata in the first; as it was where there is nothing to cut.
    pub(super) fn halves(mut self) -> Result<[Self; 2], Self> {
        let metadata = usize::from(self.begin > self.shared);
        if self.ends.len() + metadata < 2 {
            return Err(self);
        }
        let second = self.ends.split_off(self.ends.len() / 2);
        let last = self.ends.last().copied().unwrap_or_default();
        let cut = self.begin + last.at as usize;
        let (Some(head), Some(rest)) = (self.body.get(..self.shared), self.body.get(cut..)) else {
            return Err(self);
        };
        let body = Bytes::from([head, rest].concat());
        let after = |end: End| End { at: end.at - last.at, counts: end.counts.since(last.counts), ..end };
        let ends = second.into_iter().map(after).collect();
        let second = Self { body, begin: self.shared, shared: self.shared, ends };
        self.body.truncate(cut);
        Ok([self, second])
    }
}

// === impl Counts ===

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            points: self.points - before.points,
            samples: self.samples - before.samples,
            histograms: self.histograms - before.histograms,
            exemplars: self.exemplars - before.exemplars,
        }
    }
}

// === impl Writer ===

impl Writer<'_> {
    /// One series: values and histograms apart, since a series is either, and exemplars with what comes first.
    fn series(&mut self, order: &[Ordered]) -> u64 {
        let collected = self.collected;
        let sample = |(.., Reverse(index)): &Ordered| collected.samples.get(*index as usize);
        let mut superseded = 0;
        let exemplars = order.iter().position(|(_, _, class, ..)| *class == 2).unwrap_or(order.len());
        let (order, exemplars) = order.split_at(exemplars);
        let mut exemplars: Vec<&Sample> = exemplars.iter().filter_map(sample).collect();
        for class in order.chunk_by(|one, other| one.2 == other.2) {
            let first = class.first().and_then(|first| Some((first.2, sample(first)?.series)));
            let key = first.map_or(0, |(class, series)| collected.key(series, class));
            if self.done.contains(&key) {
                exemplars.clear();
                continue;
            }
            let mut samples: Vec<&Sample> = Vec::with_capacity(class.len());
            for sample in class.iter().filter_map(sample) {
                if samples.last().is_some_and(|last| last.time == sample.time) {
                    superseded += u64::from(sample.stands);
                } else {
                    samples.push(sample);
                }
            }
            self.write(key, &samples, &exemplars);
            exemplars.clear();
            self.cut();
        }
        superseded
    }

    fn write(&mut self, key: u64, samples: &[&Sample], exemplars: &[&Sample]) {
        let Self { collected, version, out, symbols, counts, ends, .. } = self;
        let Some(series) = samples.first().and_then(|sample| collected.series.get(sample.series as usize))
        else {
            return;
        };
        let labels = collected.at(series.labels);
        let is_v2 = *version == Version::V2;
        let (field, histograms_field, exemplars_field) = if is_v2 { (5, 3, 4) } else { (1, 4, 3) };
        nested(out, field, |out| {
            if is_v2 {
                symbols.put_refs(out, labels);
            } else {
                put_labels(out, labels);
            }
            for sample in samples {
                counts.points += u32::from(sample.stands);
                let start = if is_v2 { sample.start } else { 0 };
                match sample.item {
                    Item::Value(value) => {
                        counts.samples += 1;
                        nested(out, 2, |out| {
                            put_double(out, 1, value);
                            wire::put_varint_field(out, 2, sample.time as u64);
                            put_time(out, 3, start);
                        });
                    }
                    Item::Histogram(body) => {
                        counts.histograms += 1;
                        nested(out, histograms_field, |out| {
                            out.extend_from_slice(collected.at(body));
                            wire::put_varint_field(out, 15, sample.time as u64);
                            put_time(out, 17, start);
                        });
                    }
                    Item::Exemplar(..) => {}
                }
            }
            for exemplar in exemplars {
                let Item::Exemplar(value, labels) = exemplar.item else { continue };
                counts.exemplars += 1;
                nested(out, exemplars_field, |out| {
                    if is_v2 {
                        symbols.put_refs(out, collected.at(labels));
                    } else {
                        put_labels(out, collected.at(labels));
                    }
                    put_double(out, 2, value);
                    put_time(out, 3, exemplar.time);
                });
            }
            if is_v2 && let Some(metric) = collected.metrics.get(series.metric as usize) {
                let (help, unit) = (collected.text(metric.help), collected.text(metric.unit));
                let (help, unit) = (symbols.intern(help), symbols.intern(unit));
                nested(out, 5, |out| {
                    wire::put_varint_field(out, 1, type_of(metric.kind));
                    put_time(out, 3, help.into());
                    put_time(out, 4, unit.into());
                });
            }
        });
        // Requests are bounded far below 4 GiB.
        let at = u32::try_from(out.len()).unwrap_or(u32::MAX);
        ends.push(End { at, counts: *counts, key });
    }

    /// What there is to know of every metric of the batch.
    fn put_metadata(&mut self) {
        let Self { collected, metadata: out, .. } = self;
        let mut seen = HashSet::new();
        for metric in &collected.metrics {
            let name = collected.text(metric.name);
            if !seen.insert(name) {
                continue;
            }
            nested(out, 3, |out| {
                wire::put_varint_field(out, 1, type_of(metric.kind));
                put_text(out, 2, name);
                put_text(out, 4, collected.text(metric.help));
                put_text(out, 5, collected.text(metric.unit));
            });
        }
    }

    /// Closes the request if it is large enough.
    fn cut(&mut self) {
        if self.out.len() + self.symbols.bytes.len() >= self.most {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let series = std::mem::take(&mut self.out);
        let mut body = std::mem::take(&mut self.metadata);
        if self.version == Version::V2 {
            // Fields of protobuf stand in any order, but these have to be known first.
            body = std::mem::replace(&mut self.symbols, Symbols::new()).bytes;
        }
        let begin = body.len();
        let shared = if self.version == Version::V2 { begin } else { 0 };
        body.extend_from_slice(&series);
        self.counts = Counts::default();
        let ends = std::mem::take(&mut self.ends);
        self.ready.push_back(Request { body: body.into(), begin, shared, ends });
    }

    fn finish(mut self) -> VecDeque<Request> {
        self.close();
        self.ready
    }
}

fn put_labels(out: &mut Vec<u8>, packed: &[u8]) {
    for (name, value) in unpack(packed) {
        nested(out, 1, |out| {
            put_text(out, 1, name);
            put_text(out, 2, value);
        });
    }
}

/// A number that is left out where it is zero.
fn put_time(out: &mut Vec<u8>, number: u32, time: i64) {
    if time != 0 {
        wire::put_varint_field(out, number, time as u64);
    }
}

/// `MetricMetadata.MetricType`, the same in both versions.
fn type_of(kind: Kind) -> u64 {
    match kind {
        Kind::Unknown => 0,
        Kind::Counter => 1,
        Kind::Gauge => 2,
        Kind::Histogram => 3,
        Kind::Summary => 5,
        Kind::Info => 6,
        Kind::StateSet => 7,
    }
}

// === impl Symbols ===

impl Symbols {
    fn new() -> Self {
        let (bytes, texts) = (Vec::new(), Vec::new());
        let mut symbols =
            Self { bytes, texts, table: HashTable::new(), hasher: DefaultHashBuilder::default() };
        symbols.intern("");
        symbols
    }

    fn intern(&mut self, text: &str) -> u32 {
        let Self { bytes, texts, table, hasher } = self;
        let at = |index: u32| {
            let (from, to) = texts.get(index as usize).copied().unwrap_or_default();
            bytes.get(from as usize..to as usize).unwrap_or_default()
        };
        let hash = hasher.hash_one(text.as_bytes());
        if let Some(known) = table.find(hash, |index| at(*index) == text.as_bytes()) {
            return *known;
        }
        // Fewer than bytes, which fit.
        let index = u32::try_from(texts.len()).unwrap_or(u32::MAX);
        table.insert_unique(hash, index, |index| hasher.hash_one(at(*index)));
        wire::put_bytes_field(bytes, 4, text.as_bytes());
        let end = bytes.len();
        texts.push(((end - text.len()) as u32, end as u32));
        index
    }

    fn put_refs(&mut self, out: &mut Vec<u8>, packed: &[u8]) {
        nested(out, 1, |out| {
            for (name, value) in unpack(packed) {
                wire::put_varint(out, self.intern(name).into());
                wire::put_varint(out, self.intern(value).into());
            }
        });
    }
}
