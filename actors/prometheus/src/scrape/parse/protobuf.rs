//! `io.prometheus.client.MetricFamily`, each after its length.
//!
//! Source: prometheus/client_model `io/prometheus/client/metrics.proto`. What text has in several series (the buckets of
//! a classic histogram, the quantiles of a summary) becomes those series here, too: relabelling is written for them.

use std::borrow::Cow;

use watershed_telemetry::wire::{self, Fields, Value, WireError};

use super::{SLICE, number};
use crate::scrape::error::{Failed, Reason};
use crate::scrape::labels::{Labels, MOST, NAME};
use crate::scrape::series::{Exemplar, Exemplars, Native, Scrape, Type};

/// Stands between the parts of a series' text: no name and no label has it.
const GAP: &[u8] = &[0xff];

/// The most buckets of one sign that a native histogram may have, and the most runs of them.
const MOST_BUCKETS: usize = 1 << 14;

/// The largest metric, in bytes: what is read of one without a pause, but for the rows of a classic histogram.
const LARGEST: usize = 1 << 20;

/// Reads an exposition in protobuf. Whatever may be long is read in small steps: families, their metrics, the rows of one.
pub(super) struct Reader<'b> {
    /// Families that are still to come.
    rest: &'b [u8],
    native: bool,
    /// A family of which it is not known yet what it is.
    head: Option<Head<'b>>,
    family: Option<Family<'b>>,
    rows: Option<Rows<'b>>,
    /// Used again for each metric.
    histogram: Native,
}

/// What is known of a family, so far.
struct Head<'b> {
    all: &'b [u8],
    left: Fields<'b>,
    name: &'b [u8],
    help: &'b [u8],
    unit: &'b [u8],
    kind: u64,
}

/// The family whose metrics are read.
struct Family<'b> {
    left: Fields<'b>,
    name: &'b [u8],
    native: bool,
}

/// What all metrics have.
#[derive(Default)]
struct Common<'b> {
    name: &'b [u8],
    /// The labels, as fields.
    labels: Cow<'b, [u8]>,
    time: Option<u64>,
}

/// A classic histogram or a summary: a series for each row, and two more.
struct Rows<'b> {
    common: Common<'b>,
    left: Fields<'b>,
    /// Rows are quantiles, and not buckets.
    summary: bool,
    count: f64,
    sum: f64,
    created: Option<u64>,
    /// There was a bucket at infinity.
    infinite: bool,
}

// === impl Reader ===

impl<'b> Reader<'b> {
    pub(super) fn new(body: &'b [u8], native: bool) -> Self {
        let histogram = Native::default();
        Self { rest: body, native, head: None, family: None, rows: None, histogram }
    }

    pub(super) fn step(&mut self, scrape: &mut Scrape<'_>) -> Result<bool, Failed> {
        let (mut read, made) = (0, scrape.made());
        // What is made of little may be much.
        while read as u64 + scrape.made() - made < SLICE as u64 {
            read += if let Some(rows) = &mut self.rows {
                let read = rows.next(scrape)?;
                if read == 0 {
                    self.rows = None;
                }
                read
            } else if let Some(head) = &mut self.head {
                let read = head.next()?;
                if read == 0 {
                    self.family = Some(head.declare(self.native, scrape)?);
                    self.head = None;
                }
                read
            } else if let Some(family) = &mut self.family {
                let (name, native) = (family.name, family.native);
                match family.left.next() {
                    None => {
                        self.family = None;
                        0
                    }
                    Some(field) => {
                        let field = field.map_err(broken)?;
                        if let (4, Value::Bytes(metric)) = (field.number, field.value) {
                            self.metric(name, metric, native, scrape)?;
                        }
                        field.raw.len()
                    }
                }
            } else if self.rest.is_empty() {
                return Ok(false);
            } else {
                let (family, rest) = wire::read_bytes(self.rest).map_err(broken)?;
                self.head = Some(Head::new(family));
                let read = self.rest.len() - rest.len() - family.len();
                self.rest = rest;
                read
            };
        }
        Ok(true)
    }

    fn metric(
        &mut self,
        name: &'b [u8],
        metric: &'b [u8],
        native: bool,
        scrape: &mut Scrape<'_>,
    ) -> Result<(), Failed> {
        if metric.len() > LARGEST {
            let message = format!("a metric of {} takes more than {LARGEST} bytes", name.escape_ascii());
            return Err(Failed::new(Reason::Limit, message));
        }
        let mut common = Common { name, ..Common::default() };
        let (mut value, mut from, mut end, mut at) = (None, None, 0, 0);
        let mut scattered = Vec::new();
        for field in Fields::new(metric) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, _) => {
                    // Labels mostly stand together; those that do not are put together.
                    if from.is_some() && at != end && scattered.is_empty() {
                        scattered.extend_from_slice(metric.get(from.unwrap_or(0)..end).unwrap_or_default());
                    }
                    if !scattered.is_empty() {
                        scattered.extend_from_slice(field.raw);
                    }
                    from.get_or_insert(at);
                    end = at + field.raw.len();
                }
                (6, Value::Varint(millis)) => common.time = Some(number::nanos_of_millis(millis as i64)),
                (number @ (2 | 3 | 4 | 5 | 7), Value::Bytes(bytes)) => value = Some((number, bytes)),
                _ => {}
            }
            at += field.raw.len();
        }
        common.labels = match (scattered.is_empty(), from) {
            (false, _) => Cow::Owned(scattered),
            (true, Some(from)) => Cow::Borrowed(metric.get(from..end).unwrap_or_default()),
            (true, None) => Cow::Borrowed(&[]),
        };
        match value {
            Some((2 | 3 | 5, message)) => common.number(message, scrape),
            Some((4, summary)) => {
                self.rows = Some(Rows::new(common, summary, true)?);
                Ok(())
            }
            Some((_, histogram)) => self.histogram(common, histogram, native, scrape),
            None => Err(Failed::parse(format!("{} has no value", name.escape_ascii()))),
        }
    }

    fn histogram(
        &mut self,
        common: Common<'b>,
        message: &'b [u8],
        native: bool,
        scrape: &mut Scrape<'_>,
    ) -> Result<(), Failed> {
        let mut read = Histogram::default();
        if native && self.read_native(message, &mut read)? {
            let id = common.native(scrape)?;
            return scrape.native(id, &self.histogram, read.exact, common.time, &read.exemplars);
        }
        self.rows = Some(Rows::new(common, message, false)?);
        Ok(())
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
                (3, Value::Bytes(bytes)) => {
                    if let Some(exemplar) = bucket(bytes)?.exemplar {
                        read.exemplars.push(exemplar);
                    }
                }
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
                    push(&mut native.negative.runs, run(bytes)?)?;
                }
                (12, Value::Bytes(bytes)) => {
                    is_native = true;
                    push(&mut native.positive.runs, run(bytes)?)?;
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

/// What is read of a native histogram on the way.
#[derive(Default)]
struct Histogram<'m> {
    /// Its counts are whole numbers.
    exact: bool,
    exemplars: Exemplars<'m>,
}

// === impl Histogram ===

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

// === impl Head ===

impl<'b> Head<'b> {
    fn new(family: &'b [u8]) -> Self {
        Self { all: family, left: Fields::new(family), name: &[], help: &[], unit: &[], kind: 0 }
    }

    /// Reads on; how many bytes, none at the end. Not in the order of the schema, but of Go's: what is said of a family
    /// may follow its metrics.
    fn next(&mut self) -> Result<usize, Failed> {
        let Some(field) = self.left.next() else { return Ok(0) };
        let field = field.map_err(broken)?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => self.name = bytes,
            (2, Value::Bytes(bytes)) => self.help = bytes,
            (3, Value::Varint(value)) => self.kind = value,
            (5, Value::Bytes(bytes)) => self.unit = bytes,
            _ => {}
        }
        Ok(field.raw.len())
    }

    fn declare(&self, native: bool, scrape: &mut Scrape<'_>) -> Result<Family<'b>, Failed> {
        if self.name.is_empty() {
            return Err(Failed::parse("a metric family has no name"));
        }
        let (kind, native) = match self.kind {
            0 => (Type::Counter, false),
            1 => (Type::Gauge, false),
            2 => (Type::Summary, false),
            3 => (Type::Unknown, false),
            4 => (Type::Histogram, native),
            5 => (Type::GaugeHistogram, false),
            other => return Err(Failed::parse(format!("{other} is no type of a metric family"))),
        };
        let declared = scrape.declare(utf8(self.name)?.as_bytes());
        declared.kind = kind;
        declared.help.clear();
        declared.help.push_str(utf8(self.help)?);
        declared.measure(utf8(self.unit)?)?;
        Ok(Family { left: Fields::new(self.all), name: self.name, native })
    }
}

// === impl Rows ===

impl<'b> Rows<'b> {
    /// `Summary` or `Histogram`.
    fn new(common: Common<'b>, message: &'b [u8], summary: bool) -> Result<Self, Failed> {
        let left = Fields::new(message);
        let mut rows = Self { common, left, summary, count: 0.0, sum: 0.0, created: None, infinite: summary };
        for field in left {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, Value::Varint(value)) => rows.count = value as f64,
                (2, Value::Fixed64(bits)) => rows.sum = f64::from_bits(bits),
                (4, Value::Fixed64(bits)) if f64::from_bits(bits) > 0.0 => rows.count = f64::from_bits(bits),
                (4, Value::Bytes(bytes)) if summary => rows.created = Some(timestamp(bytes)?),
                (15, Value::Bytes(bytes)) if !summary => rows.created = Some(timestamp(bytes)?),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Reads on; how many bytes, none at the end.
    fn next(&mut self, scrape: &mut Scrape<'_>) -> Result<usize, Failed> {
        let Some(field) = self.left.next() else {
            self.end(scrape)?;
            return Ok(0);
        };
        let field = field.map_err(broken)?;
        let Self { common, summary, .. } = self;
        match (field.number, field.value) {
            (3, Value::Bytes(bytes)) if *summary => {
                let [quantile, value] = doubles(bytes)?;
                let id = common.series(b"", Some(("quantile", quantile)), scrape)?;
                scrape.number(id, value, common.time, None, None)?;
            }
            (3, Value::Bytes(bytes)) => {
                let bucket = bucket(bytes)?;
                self.infinite |= bucket.bound == f64::INFINITY;
                let id = common.series(b"_bucket", Some(("le", bucket.bound)), scrape)?;
                scrape.number(id, bucket.count, common.time, None, bucket.exemplar.as_ref())?;
            }
            _ => {}
        }
        Ok(field.raw.len())
    }

    fn end(&self, scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        let Self { common, count, sum, created, .. } = self;
        if !self.infinite {
            let id = common.series(b"_bucket", Some(("le", f64::INFINITY)), scrape)?;
            scrape.number(id, *count, common.time, None, None)?;
        }
        for (suffix, value) in [(&b"_sum"[..], *sum), (b"_count", *count)] {
            let id = common.series(suffix, None, scrape)?;
            scrape.number(id, value, common.time, *created, None)?;
        }
        Ok(())
    }
}

// === impl Common ===

impl Common<'_> {
    /// `Gauge`, `Counter`, `Untyped`.
    fn number(&self, message: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
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
        let id = self.series(b"", None, scrape)?;
        scrape.number(id, value, self.time, created, with.as_ref())
    }

    /// The series of the metric whose name goes on with `suffix`, and whose label is that number.
    fn series(
        &self,
        suffix: &[u8],
        label: Option<(&str, f64)>,
        scrape: &mut Scrape<'_>,
    ) -> Result<u32, Failed> {
        let bits = label.map_or(0, |(_, bound)| bound.to_bits()).to_le_bytes();
        let last: &[u8] = if label.is_some() { &bits } else { &[] };
        let parts = [self.name, suffix, GAP, &*self.labels, GAP, last];
        if let Some(id) = scrape.look(&parts)? {
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
        let parts = [self.name, GAP, GAP, &*self.labels];
        match scrape.look(&parts)? {
            Some(id) => Ok(id),
            None => scrape.add(&parts, self.read(b"")?, true),
        }
    }

    fn read(&self, suffix: &[u8]) -> Result<Labels, Failed> {
        let name = format!("{}{}", utf8(self.name)?, utf8(suffix)?);
        let mut pairs = vec![[NAME, &name]];
        for field in Fields::new(&self.labels) {
            pairs.push(texts(field.map_err(broken)?.bytes().unwrap_or_default())?);
            if pairs.len() > MOST {
                return Err(Failed::new(Reason::Limit, format!("a series has more than {MOST} labels")));
            }
        }
        Labels::distinct(pairs.into_iter().map(<(&str, &str)>::from))
            .map_err(|twice| Failed::parse(format!("the label {twice} stands there twice")))
    }
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
            (1, Value::Bytes(bytes)) => {
                let [name, value] = texts(bytes)?.map(Cow::Borrowed);
                read.label(name, value);
            }
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

/// A byte may be a bucket, and two a run of them: what many times that takes is bounded here.
fn push<T>(to: &mut Vec<T>, more: T) -> Result<(), Failed> {
    if to.len() >= MOST_BUCKETS {
        return Err(Failed::new(Reason::Limit, format!("a histogram has more than {MOST_BUCKETS} buckets")));
    }
    to.push(more);
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
