//! What a scrape finds: families of series, bounded in number and in bytes, each until nothing has come for a while.
//!
//! It outlives the exporter's incarnations, and is shared with those who are scraped.

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::Mutex;
use tokio::time::Instant;
use watershed_stage::delivery::{Budget, Permit};
use watershed_stage::{ExportError, Payload};
use watershed_telemetry::view::PointView;

use super::series::{Series, State};
use crate::labels::{Labels, pack};
use crate::translate::{
    Drops, Kind, Measure, Metric, Reason, Scratch, TARGET_HELP, TARGET_INFO, Translation, Visitor, is_stale,
};

/// How much is asked of the budget at once, in bytes.
const STEP: u64 = 64 << 10;

/// The longest that families without a series are kept.
const LONGEST: Duration = Duration::from_secs(60);

/// What series there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) series: usize,
    pub(super) bytes: u64,
    /// How long a series is kept without a point.
    pub(super) expiration: Duration,
}

/// All families.
#[derive(Default)]
pub(super) struct Store(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    families: Vec<Family>,
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
    series: usize,
    bytes: u64,
    permit: Option<Permit>,
    swept: Option<Instant>,
}

/// Series of one name.
pub(super) struct Family {
    pub(super) name: Box<str>,
    pub(super) help: Box<str>,
    pub(super) unit: Box<str>,
    pub(super) kind: Kind,
    pub(super) series: Vec<Series>,
    by_labels: HashTable<u32>,
}

/// One export's visit.
struct Filling<'s> {
    inner: &'s mut Inner,
    translation: &'s Translation,
    bounds: Bounds,
    budget: &'s Arc<Budget>,
    now: Instant,
    key: Vec<u8>,
    exemplar: Labels,
    /// The family of the metric whose points come, if there is one; an error where its name is another kind's.
    family: Result<Option<u32>, Reason>,
    made: Measure,
}

// === impl Store ===

impl Store {
    /// Takes every point of a payload; what it does not take, by reason. An error where that is too much at once: some are
    /// taken then, and may be again.
    pub(super) fn fill(
        &self,
        payload: &Payload,
        translation: &Translation,
        scratch: &mut Scratch,
        bounds: Bounds,
        budget: &Arc<Budget>,
    ) -> Result<Drops, ExportError> {
        let mut inner = self.0.lock();
        let now = Instant::now();
        inner.sweep(bounds.expiration, now);
        let inner = &mut *inner;
        let (key, exemplar, made) = (Vec::new(), Labels::default(), Measure::of(payload));
        let mut filling =
            Filling { inner, translation, bounds, budget, now, key, exemplar, family: Ok(None), made };
        let drops = translation.walk(payload, scratch, &mut filling);
        if filling.made.is_too_much() { Err(Measure::too_much()) } else { Ok(drops) }
    }

    /// The names of all families, sorted, without those that nothing has come for lately.
    pub(super) fn names(&self, expiration: Duration) -> Vec<Box<str>> {
        let mut inner = self.0.lock();
        inner.swept = None;
        inner.sweep(expiration, Instant::now());
        let mut names: Vec<_> = inner.families.iter().map(|family| family.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Looks at a family.
    pub(super) fn with<R>(&self, name: &str, look: impl FnOnce(&Family) -> R) -> Option<R> {
        let inner = self.0.lock();
        let at = inner.find(name)?;
        inner.families.get(at as usize).map(look)
    }

    /// How many series there are, and the bytes that they take.
    pub(super) fn size(&self) -> (usize, u64) {
        let inner = self.0.lock();
        (inner.series, inner.bytes)
    }
}

// === impl Inner ===

impl Inner {
    fn find(&self, name: &str) -> Option<u32> {
        let same = |at: &u32| self.families.get(*at as usize).is_some_and(|family| *family.name == *name);
        self.by_name.find(self.hasher.hash_one(name), same).copied()
    }

    /// The family of a metric, if there is one; an error where its name is another kind's.
    fn family(&self, metric: &Metric<'_>) -> Result<Option<u32>, Reason> {
        let Some(at) = self.find(metric.name) else { return Ok(None) };
        let same = self.families.get(at as usize).is_some_and(|family| family.kind == metric.kind);
        if same { Ok(Some(at)) } else { Err(Reason::Conflict) }
    }

    fn add(&mut self, family: Family) -> u32 {
        // Each holds a series, of which there are fewer.
        let at = u32::try_from(self.families.len()).unwrap_or(u32::MAX);
        let hash = self.hasher.hash_one(&*family.name);
        self.families.push(family);
        let (families, hasher) = (&self.families, &self.hasher);
        let rehash = |at: &u32| hasher.hash_one(families.get(*at as usize).map_or("", |family| &family.name));
        self.by_name.insert_unique(hash, at, rehash);
        at
    }

    /// Lets go of what nothing has come for, now and then.
    fn sweep(&mut self, expiration: Duration, now: Instant) {
        let expiration = if expiration.is_zero() { Duration::MAX } else { expiration };
        let often = (expiration / 8).min(LONGEST);
        if self.swept.is_some_and(|at| now.duration_since(at) < often) {
            return;
        }
        self.swept = Some(now);
        let (mut series, mut bytes) = (0, 0);
        for family in &mut self.families {
            let before = family.series.len();
            family.series.retain(|series| now.duration_since(series.seen) <= expiration);
            if family.series.len() < before {
                family.index(&self.hasher);
            }
            series += family.series.len();
            bytes += family.series.iter().map(Series::bytes).sum::<usize>();
        }
        let before = self.families.len();
        self.families.retain(|family| !family.series.is_empty());
        if self.families.len() < before {
            let (families, hasher) = (&self.families, &self.hasher);
            let rehash =
                |at: &u32| hasher.hash_one(families.get(*at as usize).map_or("", |family| &family.name));
            self.by_name.clear();
            for (at, family) in (0_u32..).zip(families) {
                self.by_name.insert_unique(hasher.hash_one(&*family.name), at, rehash);
            }
        }
        bytes += self.families.iter().map(Family::bytes).sum::<usize>();
        (self.series, self.bytes) = (series, bytes as u64);
        if let Some(permit) = &self.permit {
            permit.trim(self.bytes.next_multiple_of(STEP));
        }
    }

    /// Asks for memory for so many bytes more.
    fn grant(&mut self, more: u64, bounds: Bounds, budget: &Arc<Budget>) -> Result<(), Reason> {
        let wanted = self.bytes + more;
        if wanted > bounds.bytes {
            return Err(Reason::Memory);
        }
        let permit = match &mut self.permit {
            // An engine that was started anew has another budget.
            Some(permit) if Arc::ptr_eq(permit.budget(), budget) => permit,
            place => place.insert(budget.try_take(0).map_err(|_| Reason::Memory)?),
        };
        if permit.bytes() < wanted {
            permit.try_cover(wanted.next_multiple_of(STEP)).map_err(|_| Reason::Memory)?;
        }
        Ok(())
    }
}

// === impl Family ===

impl Family {
    fn new(metric: &Metric<'_>) -> Self {
        Self {
            name: metric.name.into(),
            help: metric.help.into(),
            unit: metric.unit.into(),
            kind: metric.kind,
            series: Vec::new(),
            by_labels: HashTable::new(),
        }
    }

    fn find(&self, hash: u64, labels: &[u8]) -> Option<u32> {
        let same = |at: &u32| self.series.get(*at as usize).is_some_and(|series| *series.labels == *labels);
        self.by_labels.find(hash, same).copied()
    }

    fn add(&mut self, hash: u64, series: Series, hasher: &DefaultHashBuilder) {
        let at = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        self.series.push(series);
        let all = &self.series;
        let rehash =
            |at: &u32| hasher.hash_one(all.get(*at as usize).map_or(&[][..], |series| &series.labels));
        self.by_labels.insert_unique(hash, at, rehash);
    }

    fn remove(&mut self, hash: u64, at: u32, hasher: &DefaultHashBuilder) {
        if let Ok(entry) = self.by_labels.find_entry(hash, |other| *other == at) {
            entry.remove();
        }
        self.series.swap_remove(at as usize);
        // The last stands in its place now.
        let last = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        if let Some(moved) = self.series.get(at as usize)
            && let Some(place) =
                self.by_labels.find_mut(hasher.hash_one(&*moved.labels), |other| *other == last)
        {
            *place = at;
        }
    }

    fn index(&mut self, hasher: &DefaultHashBuilder) {
        let series = &self.series;
        let rehash =
            |at: &u32| hasher.hash_one(series.get(*at as usize).map_or(&[][..], |series| &series.labels));
        self.by_labels.clear();
        for (at, series) in (0_u32..).zip(series) {
            self.by_labels.insert_unique(hasher.hash_one(&*series.labels), at, rehash);
        }
    }

    fn bytes(&self) -> usize {
        2 * size_of::<Self>() + self.name.len() + self.help.len() + self.unit.len()
    }
}

// === impl Filling ===

impl Filling<'_> {
    /// Takes a point whose labels lie in `key`.
    fn take(
        &mut self,
        metric: &Metric<'_>,
        point: &Point<'_, '_>,
        more: impl FnOnce(&mut Series, &mut Labels),
    ) -> Result<(), Reason> {
        let known = self.family?;
        let Self { inner, bounds, budget, now, key, exemplar, .. } = self;
        let hash = inner.hasher.hash_one(&**key);
        let Inner { families, hasher, .. } = &mut **inner;
        let family = known.and_then(|at| families.get_mut(at as usize));
        let found = family.and_then(|family| Some((family.find(hash, key)?, family)));
        if let Some((at, family)) = found {
            let Some(series) = family.series.get_mut(at as usize) else { return Ok(()) };
            let before = series.bytes() as u64;
            if point.is_stale() {
                if point.time() < series.time {
                    return Err(Reason::Old);
                }
                family.remove(hash, at, hasher);
                inner.series -= 1;
                inner.bytes = inner.bytes.saturating_sub(before);
                return Ok(());
            }
            point.next(series, metric.delta, *now)?;
            more(series, exemplar);
            let after = series.bytes() as u64;
            inner.bytes = (inner.bytes + after).saturating_sub(before);
            // It has its place, and may have grown: on credit, where it must.
            if let Some(permit) = inner.permit.as_ref().filter(|permit| permit.bytes() < inner.bytes) {
                permit.cover(inner.bytes.next_multiple_of(STEP));
            }
            return Ok(());
        }
        if point.is_stale() {
            return Ok(());
        }
        if inner.series >= bounds.series {
            return Err(Reason::Series);
        }
        let mut series = point.first(key.as_slice().into(), *now)?;
        more(&mut series, exemplar);
        let new = known.is_none().then(|| Family::new(metric));
        let bytes = (series.bytes() + new.as_ref().map_or(0, Family::bytes)) as u64;
        inner.grant(bytes, *bounds, budget)?;
        let at = match (known, new) {
            (None, Some(family)) => inner.add(family),
            (known, _) => known.unwrap_or_default(),
        };
        self.family = Ok(Some(at));
        let Inner { families, hasher, .. } = &mut **inner;
        if let Some(family) = families.get_mut(at as usize) {
            family.add(hash, series, hasher);
            inner.series += 1;
            inner.bytes += bytes;
        }
        Ok(())
    }
}

/// What a series is made of, or made newer by.
enum Point<'p, 'a> {
    View(&'p PointView<'a>),
    /// That there is a target, at a time.
    Target(u64),
}

impl Point<'_, '_> {
    fn is_stale(&self) -> bool {
        matches!(self, Self::View(point) if is_stale(point))
    }

    fn time(&self) -> u64 {
        match self {
            Self::View(point) => point.time_unix_nano(),
            Self::Target(time) => *time,
        }
    }

    fn first(&self, labels: Box<[u8]>, now: Instant) -> Result<Series, Reason> {
        match self {
            Self::View(point) => Series::new(labels, point, now),
            Self::Target(time) => {
                let state = State::Number(1.0);
                Ok(Series { labels, start: 0, time: *time, seen: now, state, exemplars: Vec::new() })
            }
        }
    }

    fn next(&self, series: &mut Series, delta: bool, now: Instant) -> Result<(), Reason> {
        match self {
            Self::View(point) => series.update(point, delta, now),
            Self::Target(time) => {
                (series.time, series.seen) = (series.time.max(*time), now);
                Ok(())
            }
        }
    }
}

impl Visitor for Filling<'_> {
    fn made(&mut self) -> &mut Measure {
        &mut self.made
    }

    fn metric(&mut self, metric: &Metric<'_>) {
        self.family = self.inner.family(metric);
    }

    fn point(&mut self, metric: &Metric<'_>, labels: &Labels, point: &PointView<'_>) -> Result<(), Reason> {
        // A sum that may fall can not be told from its parts: whoever began later would never agree.
        if metric.delta && matches!(metric.kind, Kind::Gauge | Kind::Unknown | Kind::Info | Kind::StateSet) {
            return Err(Reason::Delta);
        }
        // What a bucket or a quantile is told by can not be said twice.
        let own = match metric.kind {
            Kind::Histogram => "le",
            Kind::Summary => "quantile",
            _ => "",
        };
        pack(labels.iter().filter(|(name, _)| *name != own), &mut self.key);
        let naming = &self.translation.naming;
        let more = |series: &mut Series, labels: &mut Labels| series.exemplify(point, naming, labels);
        self.take(metric, &Point::View(point), more)
    }

    fn target(&mut self, labels: &Labels, time: u64) {
        let metric =
            Metric { name: TARGET_INFO, help: TARGET_HELP, unit: "", kind: Kind::Info, delta: false };
        self.family = self.inner.family(&metric);
        pack(labels.iter(), &mut self.key);
        // What it says is said with every point again: one that finds no room is no loss of data.
        let _ = self.take(&metric, &Point::Target(time), |_, _| {});
    }
}
