//! The walk over a payload in Prometheus' terms: names, kinds, labels; what each point becomes is its visitor's affair.
//!
//! Source: opentelemetry-specification `specification/compatibility/prometheus_and_openmetrics.md`.

use std::hash::BuildHasher as _;
use std::rc::Rc;

use hashbrown::{DefaultHashBuilder, HashTable};
use watershed_stage::{Counter, Env, ExportError, Payload};
use watershed_telemetry::view::{
    AnyValueView, ExemplarView, HistogramPointView, MetricData, MetricView, Number, PointView, ResourceView,
    ScopeGroup,
};

use crate::labels::{Labels, Rank};
use crate::naming::{Ending, Naming, Unit};

/// Names that are remembered: more are made again and again.
const NAMES: usize = 10_000;

/// The longest of them, in bytes.
const LONGEST: usize = 512;

/// Metric that says what is known of a target.
pub(crate) const TARGET_INFO: &str = "target_info";

/// What its description says.
pub(crate) const TARGET_HELP: &str = "Target metadata";

const NAMESPACE: &str = "service.namespace";
const NAME: &str = "service.name";
const INSTANCE: &str = "service.instance.id";

/// `DataPointFlags`: there is a point, and no value.
const NO_RECORDED_VALUE: u32 = 1;

/// How telemetry is said in Prometheus' terms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Translation {
    pub(crate) naming: Naming,
    /// Whether a resource's attributes are labels of all its points.
    pub(crate) promote: bool,
    /// Whether points say which scope they are of.
    pub(crate) scopes: bool,
    /// Whether resources become `target_info`.
    pub(crate) targets: bool,
    /// Labels that everything has.
    pub(crate) fixed: Vec<(String, String)>,
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Unknown,
    Info,
    StateSet,
    Histogram,
    Summary,
}

/// A metric in Prometheus' terms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric<'a> {
    pub(crate) name: &'a str,
    pub(crate) help: &'a str,
    /// In words.
    pub(crate) unit: &'a str,
    pub(crate) kind: Kind,
    /// Whether its points say what has come since the last.
    pub(crate) delta: bool,
}

/// Why a point is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It says what has come since the last point, which nobody adds up here.
    Delta,
    /// It does not say since when it counts.
    Temporality,
    /// Nothing of its name can stand in a name.
    Name,
    /// Its buckets are coarser than Prometheus' coarsest, or lie beyond all of them.
    Scale,
    /// A native histogram has to have a sum.
    NoSum,
    /// Its name is that of something of another kind.
    Conflict,
    /// There are as many series as there may be.
    Series,
    /// There is no memory for its series.
    Memory,
    /// There is a newer point.
    Old,
    /// Its time overlaps that of the last one.
    Overlap,
    /// It contradicts itself.
    Malformed,
}

/// Points that were left out, by reason.
#[derive(Debug, Default)]
pub(crate) struct Drops([u64; Reason::ALL.len()]);

/// Counters of them.
pub(crate) struct DropCounters([Counter; Reason::ALL.len()]);

/// Each point is made with the labels of its resource, which may be as large as all points together: payloads may become
/// so many times as large, and this large in any case, but not larger than that, in bytes.
const GROWTH: usize = 64;
const LARGE: usize = 64 << 20;
const LARGEST: usize = 256 << 20;

/// Labels that were made of a payload.
#[derive(Debug)]
pub(crate) struct Measure {
    bytes: usize,
    most: usize,
}

/// What is made of the points.
pub(crate) trait Visitor {
    /// What was made so far.
    fn made(&mut self) -> &mut Measure;

    /// The next points are of this metric.
    fn metric(&mut self, metric: &Metric<'_>);

    /// A point with its labels.
    fn point(&mut self, metric: &Metric<'_>, labels: &Labels, point: &PointView<'_>) -> Result<(), Reason>;

    /// What is known of a target, when its latest point is of that time.
    fn target(&mut self, labels: &Labels, time: u64);
}

/// What is used again from walk to walk.
#[derive(Default)]
pub(crate) struct Scratch {
    labels: Labels,
    names: Names,
}

/// Names that were made.
#[derive(Default)]
struct Names {
    hasher: DefaultHashBuilder,
    table: HashTable<Rc<Made>>,
}

struct Made {
    given: Box<str>,
    unit_given: Box<str>,
    ending: Ending,
    name: String,
    unit: String,
}

// === impl Translation ===

impl Translation {
    /// Shows a visitor every point, unless too much is [made](Visitor::made) of them. What it does not take is counted.
    pub(crate) fn walk(&self, payload: &Payload, scratch: &mut Scratch, visitor: &mut impl Visitor) -> Drops {
        let Scratch { labels, names } = scratch;
        let mut drops = Drops::default();
        let begin = labels.mark();
        for group in payload.resources() {
            labels.rewind(begin);
            self.fixed.iter().for_each(|(name, value)| labels.add(Rank::Fixed, name, value));
            let resource = group.resource();
            let identified = identify(&resource, labels);
            let identity = labels.mark();
            if self.promote {
                for attribute in resource.attributes() {
                    labels.attribute(Rank::Resource, &self.naming, attribute.key(), attribute.value());
                }
            }
            let mut latest = 0;
            for scope in group.scopes() {
                let mark = labels.mark();
                if self.scopes {
                    self.scope(&scope, labels);
                }
                for metric in scope.metrics() {
                    self.metric(&metric, labels, names, visitor, &mut drops, &mut latest);
                }
                labels.rewind(mark);
            }
            labels.rewind(identity);
            if self.targets && identified && latest > 0 {
                self.target(&resource, labels, visitor, latest);
            }
        }
        labels.rewind(begin);
        labels.shrink();
        drops
    }

    fn scope(&self, group: &ScopeGroup<'_>, labels: &mut Labels) {
        let scope = group.scope();
        labels.add(Rank::Scope, "otel_scope_name", scope.name());
        labels.add(Rank::Scope, "otel_scope_version", scope.version());
        labels.add(Rank::Scope, "otel_scope_schema_url", group.schema_url());
        for attribute in scope.attributes() {
            let key = format!("otel_scope_{}", attribute.key());
            // The specification keeps these for what the scope itself says.
            if !["otel_scope_name", "otel_scope_version", "otel_scope_schema_url"].contains(&&*key) {
                labels.attribute(Rank::Scope, &self.naming, &key, attribute.value());
            }
        }
    }

    fn target(
        &self,
        resource: &ResourceView<'_>,
        labels: &mut Labels,
        visitor: &mut impl Visitor,
        time: u64,
    ) {
        let mut any = false;
        for attribute in resource.attributes() {
            if ![NAMESPACE, NAME, INSTANCE].contains(&attribute.key()) {
                labels.attribute(Rank::Attribute, &self.naming, attribute.key(), attribute.value());
                any = true;
            }
        }
        if any {
            labels.seal();
            visitor.target(labels, time);
        }
    }

    fn metric(
        &self,
        view: &MetricView<'_>,
        labels: &mut Labels,
        names: &mut Names,
        visitor: &mut impl Visitor,
        drops: &mut Drops,
        latest: &mut u64,
    ) {
        let Some(data) = view.data() else { return };
        let (kind, ending, temporality) = kind(view, &data);
        let made = names.make(&self.naming, view.name(), view.unit(), ending);
        let metric = Metric {
            name: &made.name,
            help: view.description(),
            unit: &made.unit,
            kind,
            delta: temporality == Temporality::Delta,
        };
        let refused = match temporality {
            _ if made.name.is_empty() => Some(Reason::Name),
            Temporality::Unknown => Some(Reason::Temporality),
            _ => None,
        };
        if refused.is_none() {
            visitor.metric(&metric);
        }
        let mark = labels.mark();
        each(&data, |point| {
            visitor.made().add(labels.bytes());
            if visitor.made().is_too_much() {
                return;
            }
            let taken = match refused {
                Some(reason) => Err(reason),
                None => {
                    for attribute in point.attributes() {
                        labels.attribute(Rank::Attribute, &self.naming, attribute.key(), attribute.value());
                    }
                    labels.seal();
                    visitor.point(&metric, labels, &point)
                }
            };
            labels.rewind(mark);
            *latest = (*latest).max(point.time_unix_nano());
            if let Err(reason) = taken {
                drops.add(reason);
            }
        });
    }
}

/// Adds `job` and `instance`; whether there is one of them.
fn identify(resource: &ResourceView<'_>, labels: &mut Labels) -> bool {
    let (mut namespace, mut name, mut instance) = (None, None, None);
    for attribute in resource.attributes() {
        match attribute.key() {
            NAMESPACE => namespace = namespace.or(Some(attribute.value())),
            NAME => name = name.or(Some(attribute.value())),
            INSTANCE => instance = instance.or(Some(attribute.value())),
            _ => {}
        }
    }
    let is_text = |value: &AnyValueView<'_>| value.as_str() != Some("");
    let before = labels.mark();
    if let Some(name) = name {
        labels.joined(Rank::Identity, "job", namespace.filter(is_text), name);
    }
    if let Some(instance) = instance {
        labels.joined(Rank::Identity, "instance", None, instance);
    }
    labels.mark() != before
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Temporality {
    Unknown,
    Delta,
    Cumulative,
}

fn temporality(number: i32) -> Temporality {
    match number {
        1 => Temporality::Delta,
        2 => Temporality::Cumulative,
        _ => Temporality::Unknown,
    }
}

/// What a metric is, what its name ends with, and since when its points count.
fn kind(metric: &MetricView<'_>, data: &MetricData<'_>) -> (Kind, Ending, Temporality) {
    // What it was before OpenTelemetry had no word for it.
    let gauge = || {
        let told = metric.metadata().find("prometheus.type").and_then(|value| value.as_str());
        match told {
            Some("unknown" | "unkown" | "untyped") => Kind::Unknown,
            Some("info") => Kind::Info,
            Some("stateset") => Kind::StateSet,
            _ => Kind::Gauge,
        }
    };
    match data {
        MetricData::Gauge(_) => {
            let ending = if metric.unit() == "1" { Ending::Ratio } else { Ending::Plain };
            (gauge(), ending, Temporality::Cumulative)
        }
        MetricData::Sum(sum) => {
            let of_sum = temporality(sum.aggregation_temporality());
            match sum.is_monotonic() {
                true => (Kind::Counter, Ending::Total, of_sum),
                false => (gauge(), Ending::Plain, of_sum),
            }
        }
        MetricData::Histogram(data) => {
            (Kind::Histogram, Ending::Plain, temporality(data.aggregation_temporality()))
        }
        MetricData::ExponentialHistogram(data) => {
            (Kind::Histogram, Ending::Plain, temporality(data.aggregation_temporality()))
        }
        MetricData::Summary(_) => (Kind::Summary, Ending::Plain, Temporality::Cumulative),
    }
}

fn each<'a>(data: &MetricData<'a>, mut show: impl FnMut(PointView<'a>)) {
    match data {
        MetricData::Gauge(data) => data.data_points().for_each(|point| show(PointView::Number(point))),
        MetricData::Sum(data) => data.data_points().for_each(|point| show(PointView::Number(point))),
        MetricData::Histogram(data) => data.data_points().for_each(|point| show(PointView::Histogram(point))),
        MetricData::ExponentialHistogram(data) => {
            data.data_points().for_each(|point| show(PointView::ExponentialHistogram(point)));
        }
        MetricData::Summary(data) => data.data_points().for_each(|point| show(PointView::Summary(point))),
    }
}

/// Whether a point says that there is no value any more.
pub(crate) fn is_stale(point: &PointView<'_>) -> bool {
    point.flags() & NO_RECORDED_VALUE != 0
}

/// A number as Prometheus has them all.
pub(crate) fn float(number: Option<Number>) -> Option<f64> {
    number.map(|number| match number {
        Number::Double(value) => value,
        Number::Int(value) => value as f64,
    })
}

/// Nanoseconds as milliseconds.
pub(crate) fn millis(nanos: u64) -> i64 {
    i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX)
}

/// The labels of an exemplar, its trace first, of at most 128 characters together (OpenMetrics 1.0, "Exemplars").
pub(crate) fn exemplar_labels(naming: &Naming, exemplar: &ExemplarView<'_>, labels: &mut Labels) {
    const MOST: usize = 128;
    let mut hex = [0; 32];
    let mut room = MOST;
    labels.clear();
    for (name, id) in [("trace_id", exemplar.trace_id()), ("span_id", exemplar.span_id())] {
        if !id.is_empty() {
            let id = put_hex(id, &mut hex);
            labels.add(Rank::Identity, name, id);
            room = room.saturating_sub(name.len() + id.len());
        }
    }
    for attribute in exemplar.filtered_attributes() {
        let before = labels.mark();
        labels.attribute(Rank::Attribute, naming, attribute.key(), attribute.value());
        match labels.length_since(before).filter(|length| *length <= room) {
            Some(length) => room -= length,
            None => labels.rewind(before),
        }
    }
    labels.seal();
}

fn put_hex<'h>(id: &[u8], hex: &'h mut [u8; 32]) -> &'h str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, out) in id.iter().zip(hex.chunks_exact_mut(2)) {
        out.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    hex.get(..2 * id.len()).and_then(|hex| std::str::from_utf8(hex).ok()).unwrap_or_default()
}

/// Bucket counts and bounds of a point that agree with each other: cumulative counts, each with its upper bound, the
/// last of which is infinite.
pub(crate) fn buckets<'a>(
    point: &HistogramPointView<'a>,
) -> Result<impl Iterator<Item = (f64, u64)> + use<'a>, Reason> {
    let (counts, bounds) = (point.bucket_counts(), point.explicit_bounds());
    let (given, expected) = (counts.clone().count(), bounds.clone().count() + 1);
    if given != expected && (given, expected) != (0, 1) {
        return Err(Reason::Malformed);
    }
    let count = point.count();
    let mut sum = 0_u64;
    let finite = bounds.zip(counts).map(move |(bound, count)| {
        sum = sum.saturating_add(count);
        (bound, sum)
    });
    // An infinite bound of the sender's own is the same bucket.
    let finite = finite.filter(|(bound, _)| bound.is_finite());
    Ok(finite.chain(std::iter::once((f64::INFINITY, count))))
}

// === impl Measure ===

impl Measure {
    /// Nothing so far.
    pub(crate) fn of(payload: &Payload) -> Self {
        Self { bytes: 0, most: payload.bytes().saturating_mul(GROWTH).clamp(LARGE, LARGEST) }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether it is more than may be. Then nothing more is made.
    pub(crate) fn is_too_much(&self) -> bool {
        self.bytes > self.most
    }

    /// What a payload is of which it is.
    pub(crate) fn too_much() -> ExportError {
        ExportError::TooMuch { reason: "its points repeat too much of their resource".into() }
    }
}

// === impl Names ===

impl Names {
    fn make(&mut self, naming: &Naming, given: &str, unit: &str, ending: Ending) -> Rc<Made> {
        let hash =
            |given: &str, unit: &str, ending: Ending| self.hasher.hash_one((given, unit, ending as u8));
        let at = hash(given, unit, ending);
        let same =
            |made: &Rc<Made>| *made.given == *given && *made.unit_given == *unit && made.ending == ending;
        if let Some(made) = self.table.find(at, same) {
            return made.clone();
        }
        let words = Unit::read(unit);
        let mut name = String::new();
        naming.metric(given, &words, ending, &mut name);
        let made =
            Rc::new(Made { given: given.into(), unit_given: unit.into(), ending, name, unit: words.text() });
        if given.len() + unit.len() > LONGEST {
            return made;
        }
        if self.table.len() >= NAMES {
            self.table.clear();
        }
        let rehash = |made: &Rc<Made>| hash(&made.given, &made.unit_given, made.ending);
        self.table.insert_unique(at, made.clone(), rehash);
        made
    }
}

// === impl Reason ===

impl Reason {
    pub(crate) const ALL: [Reason; 11] = [
        Self::Delta,
        Self::Temporality,
        Self::Name,
        Self::Scale,
        Self::NoSum,
        Self::Conflict,
        Self::Series,
        Self::Memory,
        Self::Old,
        Self::Overlap,
        Self::Malformed,
    ];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Temporality => "temporality",
            Self::Name => "name",
            Self::Scale => "scale",
            Self::NoSum => "no_sum",
            Self::Conflict => "type_conflict",
            Self::Series => "series_limit",
            Self::Memory => "memory",
            Self::Old => "old",
            Self::Overlap => "overlap",
            Self::Malformed => "malformed",
        }
    }
}

// === impl Drops ===

impl Drops {
    pub(crate) fn add(&mut self, reason: Reason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// All of them but what something newer stands for.
    pub(crate) fn lost(&self) -> u64 {
        self.iter().filter(|(reason, _)| *reason != Reason::Old).map(|(_, count)| count).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// What was left out and why, for people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (reason, count) in self.iter().filter(|(reason, _)| *reason != Reason::Old) {
            text.push_str(if text.is_empty() { "points left out: " } else { ", " });
            text.push_str(&format!("{count} {}", reason.text()));
        }
        text
    }
}

// === impl DropCounters ===

impl DropCounters {
    pub(crate) fn new(env: &Env) -> Self {
        Self(Reason::ALL.map(|reason| {
            env.metrics.counter(
                "watershed_prometheus_dropped_points",
                "Points that a Prometheus exporter left out, by reason.",
                &[("exporter", &env.id), ("reason", reason.text())],
            )
        }))
    }

    pub(crate) fn count(&self, drops: &Drops) {
        for (counter, count) in self.0.iter().zip(drops.0).filter(|(_, count)| *count > 0) {
            counter.add(count);
        }
    }
}
