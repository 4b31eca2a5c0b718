//! The series and samples of a batch, before they are cut into requests.

use std::fmt::Write as _;
use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use watershed_stage::Payload;
use watershed_telemetry::view::{
    ExemplarView, ExponentialHistogramPointView, HistogramPointView, NumberPointView, PointView, Repeated,
    SummaryPointView,
};
use watershed_telemetry::wire;

use crate::labels::{Labels, pack};
use crate::naming::Naming;
use crate::native::{FINEST, Sparse, ZERO_THRESHOLD, put_sint, shift};
use crate::proto::put_double;
use crate::translate::{
    Drops, Kind, Measure, Metric, Reason, Scratch, TARGET_HELP, TARGET_INFO, Translation, Visitor, buckets,
    exemplar_labels, float, is_stale, millis,
};

/// What stands in the place of a value when there is none any more (`prometheus: model/value/value.go`).
pub(super) const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// A range in [`Collected::bytes`].
pub(super) type Range = (u32, u32);

/// What a batch says.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) series: Vec<Series>,
    /// In the order of the batch.
    pub(super) samples: Vec<Sample>,
    pub(super) metrics: Vec<Described>,
    /// There is more in the payload, and it is too much.
    pub(super) is_cut: bool,
    /// Packed labels, texts, and histograms as they are sent.
    bytes: Vec<u8>,
    table: HashTable<u32>,
    /// The exporter's: a series has the same hash, and so the same shard, in every batch.
    hasher: DefaultHashBuilder,
}

pub(super) struct Series {
    hash: u64,
    pub(super) labels: Range,
    /// By which it is dealt to a request. All series of a histogram have the same.
    pub(super) shard: u64,
    pub(super) metric: u32,
}

/// A metric's metadata.
pub(super) struct Described {
    pub(super) name: Range,
    pub(super) help: Range,
    pub(super) unit: Range,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) series: u32,
    /// In milliseconds.
    pub(super) time: i64,
    /// In milliseconds; 0 if unknown.
    pub(super) start: i64,
    pub(super) item: Item,
    /// Whether it stands for the point it is of, which may have more samples.
    pub(super) stands: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Item {
    Value(f64),
    /// A `Histogram` without its time.
    Histogram(Range),
    /// Its value and packed labels.
    Exemplar(f64, Range),
}

/// A walk that collects.
struct Collector<'c> {
    collected: &'c mut Collected,
    naming: &'c Naming,
    /// Whether `_created` is sent.
    created: bool,
    key: Vec<u8>,
    names: Names,
    exemplar: Labels,
    bounds: Vec<(f64, String)>,
    sparse: Sparse,
    metric: u32,
    made: Measure,
}

/// Names of the series of a metric that has several.
#[derive(Default)]
struct Names {
    bucket: String,
    sum: String,
    count: String,
    created: String,
}

/// Where and when a point's samples are.
#[derive(Clone, Copy)]
struct Place<'p> {
    labels: &'p Labels,
    time: i64,
    start: i64,
}

// === impl Collected ===

impl Collected {
    /// Everything in a payload, and what could not be said.
    pub(super) fn new(
        payload: &Payload,
        translation: &Translation,
        created: bool,
        hasher: &DefaultHashBuilder,
        scratch: &mut Scratch,
    ) -> (Self, Drops) {
        let mut collected = Self { hasher: hasher.clone(), ..Self::default() };
        let mut collector = Collector {
            collected: &mut collected,
            naming: &translation.naming,
            created,
            key: Vec::new(),
            names: Names::default(),
            exemplar: Labels::default(),
            bounds: Vec::new(),
            sparse: Sparse::default(),
            metric: 0,
            made: Measure::of(payload),
        };
        let drops = translation.walk(payload, scratch, &mut collector);
        collected.is_cut = collector.made.is_too_much();
        (collected, drops)
    }

    pub(super) fn at(&self, (from, to): Range) -> &[u8] {
        self.bytes.get(from as usize..to as usize).unwrap_or_default()
    }

    pub(super) fn text(&self, range: Range) -> &str {
        std::str::from_utf8(self.at(range)).unwrap_or_default()
    }

    /// Names a series' samples of a class, in this batch and in what is left of it.
    pub(super) fn key(&self, series: u32, class: u8) -> u64 {
        self.series.get(series as usize).map_or(0, |series| series.hash).wrapping_add(class.into())
    }

    /// What it takes in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.capacity()
            + self.series.capacity() * size_of::<Series>()
            + self.samples.capacity() * size_of::<Sample>()
    }

    fn put(&mut self, bytes: &[u8]) -> Range {
        let start = self.end();
        self.bytes.extend_from_slice(bytes);
        (start, self.end())
    }

    fn end(&self) -> u32 {
        // Requests are bounded far below 4 GiB.
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// The series with these labels, packed: its number, and what it is dealt by.
    fn series(&mut self, key: &[u8], metric: u32, shard: Option<u64>) -> (u32, u64) {
        let hash = self.hasher.hash_one(key);
        let Self { series, bytes, table, .. } = self;
        let same = |at: &u32| {
            let found = series
                .get(*at as usize)
                .and_then(|series| bytes.get(series.labels.0 as usize..series.labels.1 as usize));
            found == Some(key)
        };
        if let Some(at) = table.find(hash, same).copied() {
            return (at, series.get(at as usize).map_or(hash, |series| series.shard));
        }
        let at = u32::try_from(series.len()).unwrap_or(u32::MAX);
        let rehash = |at: &u32| series.get(*at as usize).map_or(0, |series| series.hash);
        table.insert_unique(hash, at, rehash);
        let labels = self.put(key);
        let shard = shard.unwrap_or(hash);
        self.series.push(Series { hash, labels, shard, metric });
        (at, shard)
    }
}

// === impl Collector ===

impl Collector<'_> {
    /// Adds a sample to the series of that name; what its series are dealt by.
    fn sample(
        &mut self,
        place: Place<'_>,
        name: &str,
        more: Option<(&str, &str)>,
        item: Item,
        shard: Option<u64>,
    ) -> u64 {
        let (series, shard) = self.series(place, name, more, shard);
        let Place { time, start, .. } = place;
        let stands = false;
        self.collected.samples.push(Sample { series, time, start, item, stands });
        shard
    }

    fn series(
        &mut self,
        place: Place<'_>,
        name: &str,
        more: Option<(&str, &str)>,
        shard: Option<u64>,
    ) -> (u32, u64) {
        let extra = [("__name__", name), more.unwrap_or_default()];
        let extra = if more.is_some() { &extra[..] } else { &extra[..1] };
        pack(place.labels.with(extra), &mut self.key);
        self.made.add(self.key.len());
        self.collected.series(&self.key, self.metric, shard)
    }

    /// Marks the sample that was added first as the one that stands for its point.
    fn stand(&mut self, first: usize) {
        if let Some(sample) = self.collected.samples.get_mut(first) {
            sample.stands = true;
        }
    }

    fn created(&mut self, place: Place<'_>, shard: u64) {
        if self.created && place.start > 0 {
            let name = std::mem::take(&mut self.names.created);
            let seconds = place.start as f64 / 1000.0;
            self.sample(place, &name, None, Item::Value(seconds), Some(shard));
            self.names.created = name;
        }
    }

    fn exemplars<'a>(&mut self, series: u32, exemplars: impl Iterator<Item = ExemplarView<'a>>) {
        for view in exemplars {
            let Some(value) = float(view.value()) else { continue };
            exemplar_labels(self.naming, &view, &mut self.exemplar);
            pack(self.exemplar.iter(), &mut self.key);
            let labels = self.collected.put(&self.key);
            let (time, item) = (millis(view.time_unix_nano()), Item::Exemplar(value, labels));
            self.collected.samples.push(Sample { series, time, start: 0, item, stands: false });
        }
    }

    fn number(
        &mut self,
        metric: &Metric<'_>,
        place: Place<'_>,
        point: &NumberPointView<'_>,
        stale: bool,
    ) -> Result<(), Reason> {
        let value = if stale { STALE } else { float(point.value()).ok_or(Reason::Malformed)? };
        let (series, shard) = self.series(place, metric.name, None, None);
        let Place { time, start, .. } = place;
        let start = if metric.kind == Kind::Counter { start } else { 0 };
        let item = Item::Value(value);
        self.collected.samples.push(Sample { series, time, start, item, stands: true });
        if !stale {
            self.exemplars(series, point.exemplars());
        }
        if metric.kind == Kind::Counter {
            self.created(place, shard);
        }
        Ok(())
    }

    fn classic(
        &mut self,
        place: Place<'_>,
        point: &HistogramPointView<'_>,
        stale: bool,
    ) -> Result<(), Reason> {
        let names = std::mem::take(&mut self.names);
        let done = self.classic_of(&names, place, point, stale);
        self.names = names;
        self.created(place, done?);
        Ok(())
    }

    fn classic_of(
        &mut self,
        names: &Names,
        place: Place<'_>,
        point: &HistogramPointView<'_>,
        stale: bool,
    ) -> Result<u64, Reason> {
        let first = self.collected.samples.len();
        let value = |value: f64| Item::Value(if stale { STALE } else { value });
        let (finite, counts) = match stale {
            // Without a value there are no counts.
            true => (Some(point.explicit_bounds().map(|bound| (bound, 0))), None),
            false => (None, Some(buckets(point)?)),
        };
        let last = stale.then_some((f64::INFINITY, 0));
        let shard = self.sample(place, &names.count, None, value(point.count() as f64), None);
        let all = finite.into_iter().flatten().filter(|(bound, _)| bound.is_finite()).chain(last);
        let exemplars = if stale { Vec::new() } else { by_value(point.exemplars()) };
        let mut exemplars = exemplars.into_iter().peekable();
        for (index, (bound, count)) in all.chain(counts.into_iter().flatten()).enumerate() {
            if self.made.is_too_much() {
                return Err(Reason::Memory);
            }
            let text = self.bound(index, bound);
            let (series, _) = self.series(place, &names.bucket, Some(("le", &text)), Some(shard));
            self.bounds[index].1 = text;
            let Place { time, start, .. } = place;
            let item = value(count as f64);
            self.collected.samples.push(Sample { series, time, start, item, stands: false });
            let lying = std::iter::from_fn(|| exemplars.next_if(|(value, _)| *value <= bound));
            self.exemplars(series, lying.map(|(_, view)| view));
        }
        if stale || point.sum().is_some() {
            let sum = value(point.sum().unwrap_or_default());
            self.sample(place, &names.sum, None, sum, Some(shard));
        }
        self.stand(first);
        Ok(shard)
    }

    /// A bound as text, taken out of where those of the last point lie: most points of a metric have the same.
    fn bound(&mut self, index: usize, bound: f64) -> String {
        if self.bounds.len() <= index {
            self.bounds.resize_with(index + 1, || (f64::NAN, String::new()));
        }
        let Some((last, text)) = self.bounds.get_mut(index) else { return String::new() };
        if last.to_bits() != bound.to_bits() || text.is_empty() {
            *last = bound;
            put_bound(text, bound);
        }
        std::mem::take(text)
    }

    fn native(
        &mut self,
        metric: &Metric<'_>,
        place: Place<'_>,
        point: &ExponentialHistogramPointView<'_>,
        stale: bool,
    ) -> Result<(), Reason> {
        let shift = shift(point.scale()).ok_or(Reason::Scale)?;
        let start = self.collected.end();
        if stale {
            put_double(&mut self.collected.bytes, 3, STALE);
        } else {
            let sum = point.sum().ok_or(Reason::NoSum)?;
            let Collected { bytes: out, .. } = &mut *self.collected;
            let begin = out.len();
            wire::put_varint_field(out, 1, point.count());
            put_double(out, 3, sum);
            put_sint(out, 4, point.scale().min(FINEST));
            let threshold = point.zero_threshold();
            put_double(out, 5, if threshold > 0.0 { threshold } else { ZERO_THRESHOLD });
            wire::put_varint_field(out, 6, point.zero_count());
            for (buckets, spans, deltas) in [(point.negative(), 8, 9), (point.positive(), 11, 12)] {
                if self.sparse.read(&buckets, shift).is_none() {
                    out.truncate(begin);
                    return Err(Reason::Scale);
                }
                self.sparse.write(out, spans, deltas);
            }
        }
        let item = Item::Histogram((start, self.collected.end()));
        let (series, shard) = self.series(place, metric.name, None, None);
        let Place { time, start, .. } = place;
        self.collected.samples.push(Sample { series, time, start, item, stands: true });
        if !stale {
            self.exemplars(series, point.exemplars());
        }
        self.created(place, shard);
        Ok(())
    }

    fn summary(&mut self, metric: &Metric<'_>, place: Place<'_>, point: &SummaryPointView<'_>, stale: bool) {
        let names = std::mem::take(&mut self.names);
        let first = self.collected.samples.len();
        let value = |value: f64| Item::Value(if stale { STALE } else { value });
        let shard = self.sample(place, &names.count, None, value(point.count() as f64), None);
        self.sample(place, &names.sum, None, value(point.sum()), Some(shard));
        let mut text = String::new();
        for quantile in point.quantile_values() {
            if self.made.is_too_much() {
                break;
            }
            put_bound(&mut text, quantile.quantile());
            let more = Some(("quantile", &*text));
            self.sample(place, metric.name, more, value(quantile.value()), Some(shard));
        }
        self.stand(first);
        self.names = names;
        self.created(place, shard);
    }
}

impl Visitor for Collector<'_> {
    fn made(&mut self) -> &mut Measure {
        &mut self.made
    }

    fn metric(&mut self, metric: &Metric<'_>) {
        let base = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        let Names { bucket, sum, count, created } = &mut self.names;
        for (out, name, suffix) in [
            (bucket, metric.name, "_bucket"),
            (sum, metric.name, "_sum"),
            (count, metric.name, "_count"),
            (created, base, "_created"),
        ] {
            out.clear();
            out.push_str(name);
            out.push_str(suffix);
        }
        let Collected { metrics, .. } = &*self.collected;
        self.metric = u32::try_from(metrics.len()).unwrap_or(u32::MAX);
        let described = Described {
            name: self.collected.put(metric.name.as_bytes()),
            help: self.collected.put(metric.help.as_bytes()),
            unit: self.collected.put(metric.unit.as_bytes()),
            kind: metric.kind,
        };
        self.collected.metrics.push(described);
    }

    fn point(&mut self, metric: &Metric<'_>, labels: &Labels, point: &PointView<'_>) -> Result<(), Reason> {
        if metric.delta {
            return Err(Reason::Delta);
        }
        let (time, start) = (millis(point.time_unix_nano()), millis(point.start_time_unix_nano()));
        let place = Place { labels, time, start };
        let stale = is_stale(point);
        match point {
            PointView::Number(point) => self.number(metric, place, point, stale),
            PointView::Histogram(point) => self.classic(place, point, stale),
            PointView::ExponentialHistogram(point) => self.native(metric, place, point, stale),
            PointView::Summary(point) => {
                self.summary(metric, place, point, stale);
                Ok(())
            }
        }
    }

    fn target(&mut self, labels: &Labels, time: u64) {
        self.metric(&Metric {
            name: TARGET_INFO,
            help: TARGET_HELP,
            unit: "",
            kind: Kind::Info,
            delta: false,
        });
        let place = Place { labels, time: millis(time), start: 0 };
        self.sample(place, TARGET_INFO, None, Item::Value(1.0), None);
    }
}

/// Exemplars in the order of their values, for a walk along the buckets. One that is no number lies in none.
fn by_value<'a>(exemplars: Repeated<'a, ExemplarView<'a>>) -> Vec<(f64, ExemplarView<'a>)> {
    let valued = exemplars.filter_map(|view| Some((float(view.value())?, view)));
    let mut valued: Vec<_> = valued.filter(|(value, _)| !value.is_nan()).collect();
    valued.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    valued
}

/// A bound or quantile as otelcol writes it: no exponent, and no fraction where there is none.
fn put_bound(out: &mut String, bound: f64) {
    out.clear();
    if bound.is_infinite() {
        out.push_str(if bound > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        // Writing to a String can not fail.
        let _ = write!(out, "{bound}");
    }
}
