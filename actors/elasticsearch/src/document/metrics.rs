//! Documents of metrics: the data points of one identity and time are one document, as a time series wants it.
//!
//! Source: opentelemetry-collector-contrib `exporter/elasticsearchexporter` and Elasticsearch's `metrics-otel@mappings`.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use watershed_telemetry::Signal;
use watershed_telemetry::view::{
    Attributes, BucketsView, ExponentialHistogramPointView, HistogramPointView, MetricData, MetricView,
    Number, PointView, SummaryPointView,
};

use super::entries::Field;
use super::json::{self, Maps, Out};
use super::layout::{Layouts, Shape};
use super::route::{self, Route};
use super::{Common, Flaw, Full, Items, Mode, Page, Place, Scribe, ecs};

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: i32 = 2;

/// `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`.
const NO_RECORDED_VALUE: u32 = 1;

/// A data point with a value.
struct Point<'a> {
    item: u32,
    name: &'a str,
    value: Datum<'a>,
    /// The next one of its group.
    next: Option<u32>,
}

enum Datum<'a> {
    Number(Number, bool),
    Histogram(HistogramPointView<'a>),
    Exponential(ExponentialHistogramPointView<'a>),
    Summary(SummaryPointView<'a>),
}

/// Data points that are one document.
struct Group<'a> {
    /// What they agree in, as it is written: a range of the heads.
    head: (usize, usize),
    /// Where that is followed by what else tells them from others.
    key_end: usize,
    attributes: Attributes<'a>,
    time: u64,
    /// Whether the attributes say where it goes.
    controls: bool,
    first: u32,
    last: u32,
    /// Another group with the same hash.
    other: Option<u32>,
}

/// The data points of a scope.
#[derive(Default)]
struct Groups<'a> {
    hasher: RandomState,
    heads: Out,
    groups: Vec<Group<'a>>,
    by_hash: HashMap<u64, u32>,
    points: Vec<Point<'a>>,
    /// Names by group.
    names: HashSet<(u32, &'a str)>,
    flawed: Vec<(u32, Flaw)>,
}

impl Scribe<'_> {
    pub(super) fn metrics(&self, place: &Place<'_>, page: &mut Page<'_>) -> Result<(), Full> {
        let mut groups = Groups::default();
        for metric in place.scopes.metrics() {
            match metric.data() {
                None => {}
                Some(MetricData::Gauge(gauge)) => gauge.data_points().for_each(|point| {
                    let value = point.value().map(|value| Datum::Number(value, false));
                    groups.take(self, place, metric, PointView::Number(point), Ok(value), page.item());
                }),
                Some(MetricData::Sum(sum)) => {
                    let counts = sum.is_monotonic() && sum.aggregation_temporality() == CUMULATIVE;
                    sum.data_points().for_each(|point| {
                        let value = point.value().map(|value| Datum::Number(value, counts));
                        groups.take(self, place, metric, PointView::Number(point), Ok(value), page.item());
                    });
                }
                Some(MetricData::Histogram(histogram)) => {
                    let fits = spans_time(histogram.aggregation_temporality());
                    histogram.data_points().for_each(|point| {
                        let value = fits.map(|()| Some(Datum::Histogram(point)));
                        groups.take(self, place, metric, PointView::Histogram(point), value, page.item());
                    });
                }
                Some(MetricData::ExponentialHistogram(histogram)) => {
                    let fits = spans_time(histogram.aggregation_temporality());
                    histogram.data_points().for_each(|point| {
                        let value = fits.map(|()| Some(Datum::Exponential(point)));
                        let view = PointView::ExponentialHistogram(point);
                        groups.take(self, place, metric, view, value, page.item());
                    });
                }
                Some(MetricData::Summary(summary)) => summary.data_points().for_each(|point| {
                    let value = Ok(Some(Datum::Summary(point)));
                    groups.take(self, place, metric, PointView::Summary(point), value, page.item());
                }),
            }
        }
        for group in &groups.groups {
            let from = page.bulk.points.len();
            page.bulk.points.extend(groups.of(group).map(|point| point.item));
            let items = Items::Several(from as u32, page.bulk.points.len() as u32);
            page.put(items, |out, layouts| {
                self.group(out, layouts, place, &groups, group);
                Ok(false)
            })?;
        }
        let flawed = &groups.flawed;
        flawed.iter().try_for_each(|(item, flaw)| page.put(Items::One(*item), |_, _| Err(*flaw)))
    }

    fn group(
        &self,
        out: &mut Out,
        layouts: &mut Layouts,
        place: &Place<'_>,
        groups: &Groups<'_>,
        group: &Group<'_>,
    ) {
        let mode = place.mode.unwrap_or_default();
        let common = self.common(place, mode);
        let own = group
            .controls
            .then(|| Route::of(self, mode, Signal::Metrics, place.says(Some(group.attributes))));
        let route = own.as_ref().unwrap_or(&common.route);
        out.extend_from_slice(&route.action);
        if mode == Mode::Ecs {
            json::raw(out, "}}\n");
            let mut entries = ecs::metrics(route, group.attributes, group.time);
            for point in groups.of(group) {
                let mut value = Out::new();
                point.value.write(&mut value, has_sum_only(group.attributes));
                entries.add(point.name, Field::Json(value));
            }
            layouts.write(Shape::Nested, &common.shared, &entries, out);
        } else {
            self.otel(out, common, route, groups, group);
        }
        json::raw(out, "}\n");
    }

    fn otel(&self, out: &mut Out, common: &Common, route: &Route, groups: &Groups<'_>, group: &Group<'_>) {
        let sum_only = has_sum_only(group.attributes);
        if !self.plan.opensearch {
            let mut mark = ",\"dynamic_templates\":{";
            for point in groups.of(group) {
                json::raw(out, mark);
                mark = ",";
                json::text(out, &["metrics.", point.name].concat());
                json::raw(out, point.value.template(sum_only));
            }
            out.push(b'}');
        }
        json::raw(out, "}}\n");
        out.extend_from_slice(groups.heads.get(group.head.0..group.head.1).unwrap_or_default());
        out.extend_from_slice(&route.stream);
        let (mut mark, mut hash, mut count) = (",\"metrics\":{", FNV, None);
        for point in groups.of(group) {
            json::raw(out, mark);
            mark = ",";
            json::text(out, point.name);
            out.push(b':');
            point.value.write(out, sum_only);
            count = point.value.count().or(count);
            // A byte that is in no name is between them.
            hash = point.name.bytes().chain([0xFF]).fold(hash, fnv);
        }
        json::raw(out, "},\"_metric_names_hash\":");
        json::hex(out, &hash.to_be_bytes());
        if let Some(count) =
            count.filter(|count| *count > 0 && route::has_hint(group.attributes, "_doc_count"))
        {
            json::integer_field(out, ",\"_doc_count\":", count);
        }
        out.extend_from_slice(&common.tail);
    }
}

/// FNV-1a, 32 bits.
const FNV: u32 = 0x811C_9DC5;

fn fnv(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}

fn spans_time(temporality: i32) -> Result<(), Flaw> {
    if temporality == CUMULATIVE { Err(Flaw::Temporality) } else { Ok(()) }
}

fn has_sum_only(attributes: Attributes<'_>) -> bool {
    route::has_hint(attributes, "aggregate_metric_double")
}

// === impl Groups ===

impl<'a> Groups<'a> {
    /// The points of a group, in order.
    fn of(&self, group: &Group<'_>) -> impl Iterator<Item = &Point<'a>> {
        let point = |index: u32| self.points.get(index as usize);
        std::iter::successors(point(group.first), move |before| point(before.next?))
    }

    /// Finds the group of a point. A point without a value ends here: there is nothing to be kept of it.
    fn take(
        &mut self,
        scribe: &Scribe<'_>,
        place: &Place<'a>,
        metric: MetricView<'a>,
        view: PointView<'a>,
        value: Result<Option<Datum<'a>>, Flaw>,
        item: u32,
    ) {
        let value = match place.mode.and(value) {
            Ok(Some(value)) if view.flags() & NO_RECORDED_VALUE == 0 => value,
            Ok(_) => return,
            Err(flaw) => return self.flawed.push((item, flaw)),
        };
        let group = self.group(scribe, place, metric, view);
        let name = metric.name();
        if !self.names.insert((group, name)) {
            return self.flawed.push((item, Flaw::Twice));
        }
        let index = self.points.len() as u32;
        self.points.push(Point { item, name, value, next: None });
        let Some(group) = self.groups.get_mut(group as usize) else { return };
        if group.first == index {
            return;
        }
        let before = std::mem::replace(&mut group.last, index);
        if let Some(before) = self.points.get_mut(before as usize) {
            before.next = Some(index);
        }
    }

    /// The number of the group of points like this one; a new one begins with the point that comes next.
    fn group(
        &mut self,
        scribe: &Scribe<'_>,
        place: &Place<'a>,
        metric: MetricView<'a>,
        view: PointView<'a>,
    ) -> u32 {
        let start = self.heads.len();
        let attributes = view.attributes();
        let time = view.time_unix_nano();
        let heads = &mut self.heads;
        json::raw(heads, "{\"@timestamp\":");
        json::epoch_millis(heads, time);
        if view.start_time_unix_nano() != 0 {
            json::raw(heads, ",\"start_timestamp\":");
            json::epoch_millis(heads, view.start_time_unix_nano());
        }
        json::text_field(heads, ",\"unit\":", metric.unit());
        let controls = json::attributes(heads, attributes, Maps::Text);
        let end = heads.len();
        if controls {
            let mode = place.mode.unwrap_or_default();
            let route = Route::of(scribe, mode, Signal::Metrics, place.says(Some(attributes)));
            heads.extend_from_slice(&route.action);
            heads.push(has_sum_only(attributes).into());
        }
        let key_end = heads.len();
        let hash = self.hasher.hash_one(heads.get(start..key_end).unwrap_or_default());
        let mut found = self.by_hash.get(&hash).copied();
        while let Some(index) = found {
            let Some(group) = self.groups.get(index as usize) else { break };
            if self.heads.get(group.head.0..group.key_end) == self.heads.get(start..key_end) {
                self.heads.truncate(start);
                return index;
            }
            found = group.other;
        }
        let index = self.groups.len() as u32;
        let other = self.by_hash.insert(hash, index);
        let first = self.points.len() as u32;
        let head = (start, end);
        self.groups.push(Group { head, key_end, attributes, time, controls, first, last: first, other });
        index
    }
}

// === impl Datum ===

impl Datum<'_> {
    /// The dynamic template that knows how to map it, after its field's key.
    fn template(&self, sum_only: bool) -> &'static str {
        match self {
            Self::Number(Number::Int(_), true) => ":\"counter_long\"",
            Self::Number(Number::Int(_), false) => ":\"gauge_long\"",
            Self::Number(Number::Double(_), true) => ":\"counter_double\"",
            Self::Number(Number::Double(_), false) => ":\"gauge_double\"",
            Self::Histogram(_) | Self::Exponential(_) if !sum_only => ":\"histogram\"",
            Self::Summary(_) | Self::Histogram(_) | Self::Exponential(_) => ":\"summary\"",
        }
    }

    /// How many values it stands for, if it is a distribution.
    fn count(&self) -> Option<u64> {
        match self {
            Self::Number(..) => None,
            Self::Histogram(point) => Some(point.count()),
            Self::Exponential(point) => Some(point.count()),
            Self::Summary(point) => Some(point.count()),
        }
    }

    fn write(&self, out: &mut Out, sum_only: bool) {
        match self {
            Self::Number(Number::Int(value), _) => json::integer(out, *value),
            Self::Number(Number::Double(value), _) => json::double(out, finite(*value)),
            Self::Summary(point) => sum(out, point.sum(), point.count()),
            Self::Histogram(point) if sum_only => sum(out, point.sum().unwrap_or(0.0), point.count()),
            Self::Exponential(point) if sum_only => sum(out, point.sum().unwrap_or(0.0), point.count()),
            Self::Histogram(point) => histogram(out, explicit(point)),
            Self::Exponential(point) => histogram(out, exponential(point)),
        }
    }
}

/// What is no number has no place in a numeric field, and would have its whole document refused.
fn finite(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(f64::MIN, f64::MAX) }
}

fn sum(out: &mut Out, sum: f64, count: u64) {
    json::raw(out, "{\"sum\":");
    json::double(out, finite(sum));
    json::raw(out, ",\"value_count\":");
    json::integer(out, count);
    out.push(b'}');
}

/// Values in ascending order, each with how often it is there.
fn histogram(out: &mut Out, values: Vec<(f64, u64)>) {
    json::raw(out, "{\"values\":[");
    for (index, (value, _)) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::double(out, finite(*value));
    }
    json::raw(out, "],\"counts\":[");
    for (index, (_, count)) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::integer(out, *count);
    }
    json::raw(out, "]}");
}

/// The middle of each bucket that holds something. The outermost have no middle: the first is taken for half of its
/// bound if that is positive, the last for its bound.
fn explicit(point: &HistogramPointView<'_>) -> Vec<(f64, u64)> {
    let bounds: Vec<f64> = point.explicit_bounds().collect();
    let counts = point.bucket_counts().enumerate().filter(|(_, count)| *count > 0);
    let middle = |index: usize| {
        let (below, above) = (index.checked_sub(1).and_then(|below| bounds.get(below)), bounds.get(index));
        match (below, above) {
            (None, Some(above)) if *above > 0.0 => above / 2.0,
            (None, Some(above)) => *above,
            (Some(below), Some(above)) => below + (above - below) / 2.0,
            (Some(below), None) => *below,
            // All in one bucket: the mean is what is known.
            (None, None) => point.sum().map_or(0.0, |sum| sum / point.count().max(1) as f64),
        }
    };
    counts.map(|(index, count)| (middle(index), count)).collect()
}

fn exponential(point: &ExponentialHistogramPointView<'_>) -> Vec<(f64, u64)> {
    let scale = point.scale();
    let values = |buckets: BucketsView<'_>, sign: f64| {
        let offset = buckets.offset();
        let counts = buckets.bucket_counts().enumerate().filter(|(_, count)| *count > 0);
        let bound = |index: f64| (index * (-f64::from(scale)).exp2()).exp2();
        let middle = move |index: usize| {
            let index = f64::from(offset) + index as f64;
            sign * (bound(index) + (bound(index + 1.0) - bound(index)) / 2.0)
        };
        counts.map(|(index, count)| (middle(index), count)).collect::<Vec<_>>()
    };
    let mut all = values(point.negative(), -1.0);
    all.reverse();
    if point.zero_count() > 0 {
        all.push((0.0, point.zero_count()));
    }
    all.extend(values(point.positive(), 1.0));
    all
}
