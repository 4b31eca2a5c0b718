//! Counters, gauges and histograms under otelcol's names, and their text exposition.
//!
//! A counter is one atomic, shared by the lanes; who counts holds it, so a count costs one addition. Names,
//! labels and help are looked up once, when a stage is built.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use watershed_telemetry::Signal;

/// A registry of metrics. Clones share it.
#[derive(Clone, Default)]
pub struct Metrics {
    families: Arc<DashMap<&'static str, Family>>,
    /// Labels that everything registered through this clone carries.
    base: Vec<(&'static str, Arc<str>)>,
    /// What is registered and not shown yet; `None` in it once everything is.
    pending: Option<Arc<Mutex<Option<Vec<Pending>>>>>,
}

/// A series that is not shown yet.
struct Pending {
    name: &'static str,
    help: &'static str,
    labels: Labels,
    source: Source,
}

/// A count that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

/// One counter a signal, named after its items: `..._spans`, `..._metric_points`, `..._log_records`.
#[derive(Clone, Debug, Default)]
pub struct PerSignal([Counter; 3]);

/// How many of something there are now.
#[derive(Clone, Debug, Default)]
pub struct Level(Arc<AtomicU64>);

/// One of those that a [`Level`] counts, for as long as it is held.
#[derive(Debug)]
pub struct Held(Arc<AtomicU64>);

/// A distribution: how many values lie below each of its bounds, and their sum.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [u64],
    /// One a bound, and one for what lies above all of them.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

/// A value read when it is asked for.
pub type Gauge = Arc<dyn Fn() -> f64 + Send + Sync>;

/// A metric as it stands: all of its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its name.
    pub name: &'static str,
    /// What it says, for people.
    pub help: &'static str,
    /// What its series are.
    pub kind: Kind,
    /// Its series, sorted by their labels.
    pub series: Vec<(Labels, Value)>,
}

/// What the series of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only grow.
    Counter,
    /// They may fall, too.
    Gauge,
    /// They are distributions, which only grow.
    Histogram,
}

/// Labels by name, in the order in which they were given.
pub type Labels = Arc<[(Box<str>, Box<str>)]>;

/// What was read of a series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a level.
    Whole(u64),
    /// Of a gauge, or of a count that is kept elsewhere.
    Real(f64),
    /// Of a histogram.
    Distribution {
        /// Upper bounds, rising, each itself below it.
        bounds: &'static [u64],
        /// How many values lie between a bound and the one before it, and above the last.
        counts: Vec<u64>,
        /// The sum of all values.
        sum: u64,
    },
}

struct Family {
    help: &'static str,
    series: BTreeMap<Labels, Source>,
}

enum Source {
    Counter(Counter),
    Level(Level),
    Histogram(Histogram),
    Gauge(Gauge),
    Count(Gauge),
}

// === impl Metrics ===

impl Metrics {
    /// The same registry; what is registered through this carries one more label.
    #[must_use]
    pub fn scoped(&self, label: &'static str, value: &Arc<str>) -> Self {
        let mut scoped = self.clone();
        scoped.base.push((label, value.clone()));
        scoped
    }

    /// The same registry, for a plan that may not come into force: what is read when it is asked for, and is registered
    /// through this and its clones, takes nobody's place before [`show`](Self::show).
    #[must_use]
    pub fn pending(&self) -> Self {
        Self { pending: Some(Arc::new(Mutex::new(Some(Vec::new())))), ..self.clone() }
    }

    /// Shows what is pending, and from now on what is registered at once.
    pub fn show(&self) {
        let Some(pending) = &self.pending else { return };
        // Locked until all of it is shown: what is registered meanwhile comes after it.
        let mut pending = pending.lock();
        for Pending { name, help, labels, source } in pending.take().into_iter().flatten() {
            self.insert(name, help, labels, source);
        }
    }

    /// The counter of this name and these labels; the same one each time.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        let same = |source: &Source| match source {
            Source::Counter(counter) => Some(counter.clone()),
            _ => None,
        };
        self.shared(name, help, labels, same, || Source::Counter(Counter::default())).unwrap_or_default()
    }

    /// The level of this name and these labels; the same one each time.
    pub fn level(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Level {
        let same = |source: &Source| match source {
            Source::Level(level) => Some(level.clone()),
            _ => None,
        };
        self.shared(name, help, labels, same, || Source::Level(Level::default())).unwrap_or_default()
    }

    /// The histogram of this name and these labels; the same one each time.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        bounds: &'static [u64],
        labels: &[(&str, &str)],
    ) -> Histogram {
        let same = |source: &Source| match source {
            Source::Histogram(histogram) => Some(histogram.clone()),
            _ => None,
        };
        let new = || Source::Histogram(Histogram::new(bounds));
        self.shared(name, help, labels, same, new).unwrap_or_else(|| Histogram::new(bounds))
    }

    /// What is registered under this name and these labels, or else what `new` makes; `None` where it is of
    /// another kind.
    fn shared<T>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        same: impl FnOnce(&Source) -> Option<T>,
        new: impl FnOnce() -> Source,
    ) -> Option<T> {
        let mut family =
            self.families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() });
        same(family.series.entry(self.labels(labels)).or_insert_with(new))
    }

    /// Shows a counter under one more name: what one addition counts may have to be found under several.
    pub fn alias(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)], counter: &Counter) {
        self.register(name, help, labels, Source::Counter(counter.clone()));
    }

    /// One counter a signal; `names` in the order of [`Signal::ALL`].
    pub fn per_signal(
        &self,
        names: [&'static str; 3],
        help: &'static str,
        labels: &[(&str, &str)],
    ) -> PerSignal {
        PerSignal(names.map(|name| self.counter(name, help, labels)))
    }

    /// Registers a gauge; one of the same name and labels is replaced.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)], gauge: Gauge) {
        self.register(name, help, labels, Source::Gauge(gauge));
    }

    /// Registers a count that is kept elsewhere; one of the same name and labels is replaced.
    pub fn count(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)], count: Gauge) {
        self.register(name, help, labels, Source::Count(count));
    }

    /// Forgets what is only read when it is asked for and has this label: what it is read from has ended. Counts that
    /// are kept here stay.
    pub fn forget_read(&self, label: &str, value: &str) {
        let base = self.labels(&[]);
        for mut family in self.families.iter_mut() {
            family.series.retain(|labels, source| {
                let is_read = matches!(source, Source::Gauge(_) | Source::Count(_));
                let ours = labels.starts_with(&base);
                let named = labels.iter().any(|(name, has)| (&**name, &**has) == (label, value));
                !(is_read && ours && named)
            });
        }
    }

    fn register(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)], source: Source) {
        let labels = self.labels(labels);
        let mut pending = self.pending.as_ref().map(|pending| pending.lock());
        match pending.as_deref_mut() {
            Some(Some(pending)) => pending.push(Pending { name, help, labels, source }),
            _ => self.insert(name, help, labels, source),
        }
    }

    fn insert(&self, name: &'static str, help: &'static str, labels: Labels, source: Source) {
        let mut family =
            self.families.entry(name).or_insert_with(|| Family { help, series: BTreeMap::new() });
        family.series.insert(labels, source);
    }

    /// Shows the series of this name and these labels no longer. Who holds it counts on for nobody.
    pub fn forget(&self, name: &str, labels: &[(&str, &str)]) {
        let labels = self.labels(labels);
        if let Some(Some(pending)) = self.pending.as_ref().map(|pending| pending.lock()).as_deref_mut() {
            pending.retain(|pending| pending.name != name || pending.labels != labels);
            return;
        }
        if let Some(mut family) = self.families.get_mut(name) {
            family.series.remove(&labels);
        }
    }

    /// The sum of the counters of this name.
    pub fn total(&self, name: &str) -> u64 {
        let Some(family) = self.families.get(name) else { return 0 };
        let counts = family.series.values().filter_map(|source| match source {
            Source::Counter(counter) => Some(counter.get()),
            _ => None,
        });
        counts.sum()
    }

    /// Every metric as it is now, sorted by name: of what was registered, that which carries all labels of this clone.
    pub fn read(&self) -> Vec<Reading> {
        let base = self.labels(&[]);
        let mut readings: Vec<Reading> = self
            .families
            .iter()
            .filter_map(|family| {
                let ours = family.series.iter().filter(|(labels, _)| labels.starts_with(&base));
                Some(Reading {
                    name: family.key(),
                    help: family.help,
                    kind: family.series.values().next()?.kind(),
                    series: ours.map(|(labels, source)| (labels.clone(), source.read())).collect(),
                })
            })
            .filter(|reading| !reading.series.is_empty())
            .collect();
        readings.sort_unstable_by_key(|reading| reading.name);
        readings
    }

    /// The same in the Prometheus text exposition format 0.0.4.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for Reading { name, help, kind, series } in self.read() {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            // Writing to a String can not fail.
            let help = help.replace('\\', r"\\").replace('\n', r"\n");
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in series {
                let _ = value.render(&mut text, name, &label_text(&labels));
            }
        }
        text
    }

    fn labels(&self, labels: &[(&str, &str)]) -> Labels {
        let base = self.base.iter().map(|(name, value)| (*name, &**value));
        base.chain(labels.iter().copied()).map(|(name, value)| (name.into(), value.into())).collect()
    }
}

/// `{a="b",c="d"}`, escaped as the exposition format asks; empty for no labels.
fn label_text(labels: &[(Box<str>, Box<str>)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let mut text = String::from("{");
    for (index, (name, value)) in labels.iter().enumerate() {
        let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text.push('}');
    text
}

// === impl Source ===

impl Source {
    fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) | Self::Count(_) => Kind::Counter,
            Self::Level(_) | Self::Gauge(_) => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
        }
    }

    fn read(&self) -> Value {
        match self {
            Self::Counter(counter) => Value::Whole(counter.get()),
            Self::Level(level) => Value::Whole(level.get()),
            Self::Histogram(histogram) => histogram.read(),
            Self::Gauge(read) | Self::Count(read) => Value::Real(read()),
        }
    }
}

// === impl Value ===

impl Value {
    fn render(&self, text: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let (bounds, counts, sum) = match self {
            Self::Whole(value) => return writeln!(text, "{name}{labels} {value}"),
            Self::Real(value) => return writeln!(text, "{name}{labels} {value}"),
            Self::Distribution { bounds, counts, sum } => (bounds, counts, sum),
        };
        let inner = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap_or_default();
        let comma = if inner.is_empty() { "" } else { "," };
        let bounds = bounds.iter().map(u64::to_string).chain(std::iter::once("+Inf".to_owned()));
        let mut total = 0;
        for (bound, count) in bounds.zip(counts) {
            total += count;
            writeln!(text, "{name}_bucket{{{inner}{comma}le=\"{bound}\"}} {total}")?;
        }
        writeln!(text, "{name}_sum{labels} {sum}\n{name}_count{labels} {total}")
    }
}

// === impl Counter ===

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Level ===

impl Level {
    /// Counts one more until it is dropped, wherever and however that happens.
    #[must_use]
    pub fn hold(&self) -> Held {
        self.0.fetch_add(1, Ordering::Relaxed);
        Held(self.0.clone())
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Histogram ===

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::default() }))
    }

    /// Records a value.
    pub fn record(&self, value: u64) {
        let Buckets { bounds, counts, sum } = &*self.0;
        if let Some(count) = counts.get(bounds.partition_point(|bound| *bound < value)) {
            count.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Value {
        let Buckets { bounds, counts, sum } = &*self.0;
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Value::Distribution { bounds, counts, sum: sum.load(Ordering::Relaxed) }
    }
}

// === impl PerSignal ===

impl PerSignal {
    /// The counter of `signal`.
    pub fn of(&self, signal: Signal) -> &Counter {
        by_signal(&self.0, signal)
    }

    /// Adds `items` of `signal`.
    pub fn add(&self, signal: Signal, items: usize) {
        self.of(signal).add(items as u64);
    }
}

/// What belongs to `signal`, of one a signal in the order of [`Signal::ALL`].
pub(crate) fn by_signal<T>([traces, metrics, logs]: &[T; 3], signal: Signal) -> &T {
    match signal {
        Signal::Traces => traces,
        Signal::Metrics => metrics,
        Signal::Logs => logs,
    }
}
