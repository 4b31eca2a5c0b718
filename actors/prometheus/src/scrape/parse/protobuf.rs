//! `io.prometheus.client.MetricFamily`, each after its length.
//!
//! Source: prometheus/client_model `io/prometheus/client/metrics.proto`. What text has in several series (the buckets of
//! a classic histogram, the quantiles of a summary) becomes those series here, too: relabelling is written for them.

use std::borrow::Cow;

use watershed_telemetry::wire::{self, Fields, Value, WireError};

use super::{SLICE, number};
use crate::scrape::error::{Failed, Reason};
use crate::scrape::labels::{Labels, MOST, NAME};
use crate::scrape::series::{Exemplar, Native, Scrape, Type};

/// Stands between the parts of a series' text: no name and no label has it.
const GAP: &[u8] = &[0xff];

/// Reads an exposition in protobuf.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
    native: bool,
    /// Used again for each metric.
    scratch: Vec<u8>,
    histogram: Native,
}

/// The most buckets of one sign that a native histogram may have.
const MOST_BUCKETS: usize = 1 << 14;

/// What all metrics have.
#[derive(Clone, Copy, Default)]
struct Common<'m> {
    name: &'m [u8],
    /// The labels, as fields.
    labels: &'m [u8],
    time: Option<u64>,
}

// === impl Reader ===

impl<'b> Reader<'b> {
    pub(super) fn new(body: &'b [u8], native: bool) -> Self {
        Self { rest: body, native, scratch: Vec::new(), histogram: Native::default() }
    }

    pub(super) fn step(&mut self, scrape: &mut Scrape<'_>) -> Result<bool, Failed> {
        let until = self.rest.len().saturating_sub(SLICE);
        while self.rest.len() > until {
            let (family, rest) = wire::read_bytes(self.rest).map_err(broken)?;
            self.rest = rest;
            self.family(family, scrape)?;
        }
        Ok(!self.rest.is_empty())
    }

    fn family(&mut self, family: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        let (mut name, mut help, mut unit, mut kind) = (&b""[..], &b""[..], &b""[..], 0);
        // Not in the order of the schema, but of Go's: what is said of the family may follow its metrics.
        for field in Fields::new(family) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, Value::Bytes(bytes)) => name = bytes,
                (2, Value::Bytes(bytes)) => help = bytes,
                (3, Value::Varint(value)) => kind = value,
                (5, Value::Bytes(bytes)) => unit = bytes,
                _ => {}
            }
        }
        if name.is_empty() {
            return Err(Failed::parse("a metric family has no name"));
        }
        let (kind, native) = match kind {
            0 => (Type::Counter, false),
            1 => (Type::Gauge, false),
            2 => (Type::Summary, false),
            3 => (Type::Unknown, false),
            4 => (Type::Histogram, self.native),
            5 => (Type::GaugeHistogram, false),
            other => return Err(Failed::parse(format!("{other} is no type of a metric family"))),
        };
        let declared = scrape.declare(utf8(name)?.as_bytes());
        declared.kind = kind;
        declared.help.clear();
        declared.help.push_str(utf8(help)?);
        declared.unit.clear();
        declared.unit.push_str(utf8(unit)?);
        for field in Fields::new(family) {
            if let Ok(wire::Field { number: 4, value: Value::Bytes(metric), .. }) = field {
                self.metric(name, metric, native, scrape)?;
            }
        }
        Ok(())
    }

    fn metric(
        &mut self,
        name: &[u8],
        metric: &[u8],
        native: bool,
        scrape: &mut Scrape<'_>,
    ) -> Result<(), Failed> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut common = Common { name, ..Common::default() };
        let (mut value, mut from, mut scattered) = (None, None, false);
        let mut end = 0;
        let mut at = 0;
        for field in Fields::new(metric) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, _) => {
                    scattered |= from.is_some() && at != end;
                    from.get_or_insert(at);
                    end = at + field.raw.len();
                    // Labels mostly stand together; those that do not are put together.
                    if scattered && scratch.is_empty() {
                        scratch.extend_from_slice(labels_before(metric, at));
                    }
                    if scattered {
                        scratch.extend_from_slice(field.raw);
                    }
                }
                (6, Value::Varint(millis)) => common.time = Some(number::nanos_of_millis(millis as i64)),
                (number @ (2 | 3 | 4 | 5 | 7), Value::Bytes(bytes)) => value = Some((number, bytes)),
                _ => {}
            }
            at += field.raw.len();
        }
        common.labels = match (scattered, from) {
            (true, _) => &scratch,
            (false, Some(from)) => metric.get(from..end).unwrap_or_default(),
            (false, None) => &[],
        };
        let read = match value {
            Some((2 | 5, gauge)) => self.number(&common, gauge, scrape),
            Some((3, counter)) => self.number(&common, counter, scrape),
            Some((4, summary)) => self.summary(&common, summary, scrape),
            Some((_, histogram)) => self.histogram(&common, histogram, native, scrape),
            None => Err(Failed::parse(format!("{} has no value", name.escape_ascii()))),
        };
        self.scratch = scratch;
        read
    }

    /// `Gauge`, `Counter`, `Untyped`.
    fn number(&self, common: &Common<'_>, message: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        let (mut value, mut created, mut with) = (0.0, None, None);
        for field in Fields::new(message) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, Value::Fixed64(bits)) => value = f64::from_bits(bits),
                (2, Value::Bytes(bytes)) => with = Some(exemplar(bytes)?),
                (3, Value::Bytes(bytes)) => created = Some(timestamp(bytes)?),
                _ => {}
            }
        }
        let id = common.series(b"", None, scrape)?;
        scrape.number(id, value, common.time, created, with.as_ref())
    }

    fn summary(&self, common: &Common<'_>, message: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        let (mut count, mut sum, mut created) = (0, 0.0, None);
        for field in Fields::new(message) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => count = value,
                (2, Value::Fixed64(bits)) => sum = f64::from_bits(bits),
                (4, Value::Bytes(bytes)) => created = Some(timestamp(bytes)?),
                (3, Value::Bytes(bytes)) => {
                    let [quantile, value] = doubles(bytes)?;
                    let id = common.series(b"", Some(("quantile", quantile)), scrape)?;
                    scrape.number(id, value, common.time, None, None)?;
                }
                _ => {}
            }
        }
        let id = common.series(b"_sum", None, scrape)?;
        scrape.number(id, sum, common.time, created, None)?;
        let id = common.series(b"_count", None, scrape)?;
        scrape.number(id, count as f64, common.time, created, None)
    }

    fn histogram(
        &mut self,
        common: &Common<'_>,
        message: &[u8],
        native: bool,
        scrape: &mut Scrape<'_>,
    ) -> Result<(), Failed> {
        let mut read = Histogram::default();
        if native && self.read_native(message, &mut read)? {
            let id = common.native(scrape)?;
            return scrape.native(id, &self.histogram, read.exact, common.time, &read.exemplars);
        }
        read = Histogram::default();
        let mut infinite = false;
        for field in Fields::new(message) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => read.count = value as f64,
                (2, Value::Fixed64(bits)) => read.sum = f64::from_bits(bits),
                (4, Value::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => read.count = f64::from_bits(bits),
                (15, Value::Bytes(bytes)) => read.created = Some(timestamp(bytes)?),
                (3, Value::Bytes(bytes)) => {
                    let bucket = bucket(bytes)?;
                    infinite |= bucket.bound == f64::INFINITY;
                    let id = common.series(b"_bucket", Some(("le", bucket.bound)), scrape)?;
                    scrape.number(id, bucket.count, common.time, None, bucket.exemplar.as_ref())?;
                }
                _ => {}
            }
        }
        if !infinite {
            let id = common.series(b"_bucket", Some(("le", f64::INFINITY)), scrape)?;
            scrape.number(id, read.count, common.time, None, None)?;
        }
        let id = common.series(b"_sum", None, scrape)?;
        scrape.number(id, read.sum, common.time, read.created, None)?;
        let id = common.series(b"_count", None, scrape)?;
        scrape.number(id, read.count, common.time, read.created, None)
    }

    /// Reads a native histogram. Whether it is one.
    fn read_native<'m>(&mut self, message: &'m [u8], read: &mut Histogram<'m>) -> Result<bool, Failed> {
        let native = &mut self.histogram;
        let (positive, negative) =
            (std::mem::take(&mut native.positive), std::mem::take(&mut native.negative));
        *native = Native { positive: positive.empty(), negative: negative.empty(), ..Native::default() };
        let (mut last_positive, mut last_negative) = (0i64, 0i64);
        let mut is_native = false;
        read.exact = true;
        for field in Fields::new(message) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (2, Value::Fixed64(bits)) => {
                    native.sum = f64::from_bits(bits);
                    native.stale = bits == number::STALE;
                }
                (3, Value::Bytes(bytes)) => read.exemplars.extend(bucket(bytes)?.exemplar),
                (5, Value::Varint(value)) => native.schema = unzigzag(value) as i32,
                (6, Value::Fixed64(bits)) => {
                    native.zero_threshold = f64::from_bits(bits);
                    is_native |= native.zero_threshold > 0.0;
                }
                (7, Value::Varint(value)) => {
                    native.zero_count = value;
                    is_native |= value > 0;
                }
                (8, Value::Fixed64(bits)) => {
                    let value = f64::from_bits(bits);
                    is_native |= value > 0.0;
                    read.whole(value, &mut native.zero_count);
                }
                (9, Value::Bytes(bytes)) => {
                    is_native = true;
                    native.negative.runs.push(run(bytes)?);
                }
                (12, Value::Bytes(bytes)) => {
                    is_native = true;
                    native.positive.runs.push(run(bytes)?);
                }
                (10, value) => deltas(value, &mut last_negative, &mut native.negative.counts)?,
                (13, value) => deltas(value, &mut last_positive, &mut native.positive.counts)?,
                (11, value) => floats(value, &mut read.exact, &mut native.negative.counts)?,
                (14, value) => floats(value, &mut read.exact, &mut native.positive.counts)?,
                (15, Value::Bytes(bytes)) => native.created = Some(timestamp(bytes)?),
                (16, Value::Bytes(bytes)) => read.exemplars.push(exemplar(bytes)?),
                _ => {}
            }
        }
        Ok(is_native)
    }
}

/// What is read of a histogram on the way.
#[derive(Default)]
struct Histogram<'m> {
    count: f64,
    sum: f64,
    created: Option<u64>,
    /// Its counts are whole numbers.
    exact: bool,
    exemplars: Vec<Exemplar<'m>>,
}

impl Histogram<'_> {
    fn whole(&mut self, value: f64, to: &mut u64) {
        // One of a counter; zero is what the other flavour leaves in the field.
        if value != 0.0 {
            *to = value as u64;
            self.exact &= *to as f64 == value;
        }
    }
}

/// A bucket of a classic histogram.
struct Bucket<'m> {
    count: f64,
    bound: f64,
    exemplar: Option<Exemplar<'m>>,
}

// === impl Common ===

impl Common<'_> {
    /// The series of the metric whose name goes on with `suffix`, and whose label is that number.
    fn series(
        &self,
        suffix: &[u8],
        label: Option<(&str, f64)>,
        scrape: &mut Scrape<'_>,
    ) -> Result<u32, Failed> {
        let bits = label.map_or(0, |(_, bound)| bound.to_bits()).to_le_bytes();
        let last: &[u8] = if label.is_some() { &bits } else { &[] };
        let parts = [self.name, suffix, GAP, self.labels, GAP, last];
        if let Some(id) = scrape.find(&parts)? {
            return Ok(id);
        }
        let mut labels = self.read(suffix)?;
        if let Some((name, bound)) = label {
            labels.set(name, number::bound(bound));
        }
        scrape.add(&parts, labels, false)
    }

    /// The series of the metric, as a native histogram.
    fn native(&self, scrape: &mut Scrape<'_>) -> Result<u32, Failed> {
        let parts = [self.name, GAP, GAP, self.labels];
        match scrape.find(&parts)? {
            Some(id) => Ok(id),
            None => scrape.add(&parts, self.read(b"")?, true),
        }
    }

    fn read(&self, suffix: &[u8]) -> Result<Labels, Failed> {
        let name = format!("{}{}", utf8(self.name)?, utf8(suffix)?);
        let mut pairs = vec![[NAME, &name]];
        for field in Fields::new(self.labels) {
            pairs.push(texts(field.map_err(broken)?.bytes().unwrap_or_default())?);
            if pairs.len() > MOST {
                return Err(Failed::new(Reason::Limit, format!("a series has more than {MOST} labels")));
            }
        }
        Labels::distinct(pairs.into_iter().map(<(&str, &str)>::from))
            .map_err(|twice| Failed::parse(format!("the label {twice} stands there twice")))
    }
}

/// The fields of a metric before `at` that are labels: those that stand together at its beginning.
fn labels_before(metric: &[u8], at: usize) -> &[u8] {
    let mut end = 0;
    let mut begin = None;
    let mut from = 0;
    for field in Fields::new(metric.get(..at).unwrap_or_default()).flatten() {
        if field.number == 1 {
            begin.get_or_insert(from);
            end = from + field.raw.len();
        }
        from += field.raw.len();
    }
    metric.get(begin.unwrap_or(0)..end).unwrap_or_default()
}

/// `LabelPair`.
fn texts(message: &[u8]) -> Result<[&str; 2], Failed> {
    let mut texts = [""; 2];
    for field in Fields::new(message) {
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => texts[0] = utf8(bytes)?,
            (2, Value::Bytes(bytes)) => texts[1] = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(texts)
}

/// `Quantile`.
fn doubles(message: &[u8]) -> Result<[f64; 2], Failed> {
    let mut doubles = [0.0; 2];
    for field in Fields::new(message) {
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Fixed64(bits)) => doubles[0] = f64::from_bits(bits),
            (2, Value::Fixed64(bits)) => doubles[1] = f64::from_bits(bits),
            _ => {}
        }
    }
    Ok(doubles)
}

fn bucket(message: &[u8]) -> Result<Bucket<'_>, Failed> {
    let mut read = Bucket { count: 0.0, bound: 0.0, exemplar: None };
    for field in Fields::new(message) {
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Varint(count)) => read.count = count as f64,
            (2, Value::Fixed64(bits)) => read.bound = f64::from_bits(bits),
            (3, Value::Bytes(bytes)) => read.exemplar = Some(exemplar(bytes)?),
            (4, Value::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => read.count = f64::from_bits(bits),
            _ => {}
        }
    }
    Ok(read)
}

fn exemplar(message: &[u8]) -> Result<Exemplar<'_>, Failed> {
    let mut read = Exemplar::default();
    for field in Fields::new(message) {
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => read.labels.push(texts(bytes)?.map(Cow::Borrowed).into()),
            (2, Value::Fixed64(bits)) => read.value = f64::from_bits(bits),
            (3, Value::Bytes(bytes)) => read.time = Some(timestamp(bytes)?),
            _ => {}
        }
    }
    Ok(read)
}

/// `google.protobuf.Timestamp`, in nanoseconds.
fn timestamp(message: &[u8]) -> Result<u64, Failed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(message) {
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Varint(value)) => seconds = u64::try_from(value as i64).unwrap_or(0),
            (2, Value::Varint(value)) => nanos = u64::try_from(value as i64).unwrap_or(0),
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// `BucketSpan`.
fn run(message: &[u8]) -> Result<(i32, u32), Failed> {
    let (mut offset, mut length) = (0, 0);
    for field in Fields::new(message) {
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Varint(value)) => offset = unzigzag(value) as i32,
            (2, Value::Varint(value)) => length = u32::try_from(value).unwrap_or(u32::MAX),
            _ => {}
        }
    }
    Ok((offset, length))
}

/// Counts as differences, packed or not.
fn deltas(value: Value<'_>, last: &mut i64, counts: &mut Vec<u64>) -> Result<(), Failed> {
    let mut add = |value: u64| {
        *last = last.wrapping_add(unzigzag(value));
        let count = u64::try_from(*last).map_err(|_| Failed::parse("a bucket counts less than nothing"))?;
        push(counts, count)
    };
    match value {
        Value::Varint(value) => add(value),
        Value::Bytes(mut packed) => {
            while !packed.is_empty() {
                let (value, rest) = wire::read_varint(packed).map_err(broken)?;
                packed = rest;
                add(value)?;
            }
            Ok(())
        }
        _ => Err(broken(WireError::WireType)),
    }
}

/// Counts as they are, as floats, packed or not.
fn floats(value: Value<'_>, exact: &mut bool, counts: &mut Vec<u64>) -> Result<(), Failed> {
    let mut add = |value: f64| {
        let count = value as u64;
        *exact &= count as f64 == value;
        push(counts, count)
    };
    match value {
        Value::Fixed64(bits) => add(f64::from_bits(bits)),
        Value::Bytes(packed) => {
            let (values, rest) = packed.as_chunks();
            if !rest.is_empty() {
                return Err(broken(WireError::Truncated));
            }
            values.iter().try_for_each(|value| add(f64::from_le_bytes(*value)))
        }
        _ => Err(broken(WireError::WireType)),
    }
}

/// A byte may be a bucket: what eight of it take is bounded here.
fn push(counts: &mut Vec<u64>, count: u64) -> Result<(), Failed> {
    if counts.len() >= MOST_BUCKETS {
        return Err(Failed::new(Reason::Limit, format!("a histogram has more than {MOST_BUCKETS} buckets")));
    }
    counts.push(count);
    Ok(())
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn utf8(text: &[u8]) -> Result<&str, Failed> {
    std::str::from_utf8(text).map_err(|_| Failed::parse("a name or a label is not UTF-8"))
}

fn broken(error: WireError) -> Failed {
    Failed::parse(format!("no metric families: {error}"))
}
