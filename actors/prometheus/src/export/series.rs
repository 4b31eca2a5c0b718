//! A series as it is kept between scrapes: its last value, or the sum of what has come.

use tokio::time::Instant;
use watershed_telemetry::view::{
    BucketsView, ExemplarView, ExponentialHistogramPointView, HistogramPointView, PointView, SummaryPointView,
};

use crate::labels::{Labels, pack};
use crate::naming::Naming;
use crate::native;
use crate::translate::{Reason, buckets, exemplar_labels, float};

/// Buckets a side has at most once they are added up: beyond them it gets coarser.
const BUCKETS: usize = 1024;

/// Exemplars a native histogram keeps.
const EXEMPLARS: usize = 10;

/// One series of a family.
pub(super) struct Series {
    /// Packed.
    pub(super) labels: Box<[u8]>,
    /// Since when it counts, in nanoseconds since the Unix epoch; 0 if unknown.
    pub(super) start: u64,
    /// Of its last point.
    pub(super) time: u64,
    /// When that came.
    pub(super) seen: Instant,
    pub(super) state: State,
    /// By bucket for classic histograms, by age for native ones; one for numbers.
    pub(super) exemplars: Vec<Option<Exemplar>>,
}

pub(super) enum State {
    Number(f64),
    Classic(Classic),
    Native(Box<Native>),
    Summary(Summary),
}

/// A histogram with bounds. Counts are cumulative, the last of them that of the infinite bound.
pub(super) struct Classic {
    pub(super) sum: Option<f64>,
    pub(super) buckets: Vec<(f64, u64)>,
}

pub(super) struct Native {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) scale: i32,
    pub(super) zero_count: u64,
    pub(super) zero_threshold: f64,
    pub(super) positive: Run,
    pub(super) negative: Run,
}

/// Buckets in a row, from an index of OpenTelemetry's on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: i64,
    pub(super) counts: Vec<u64>,
}

pub(super) struct Summary {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) quantiles: Vec<(f64, f64)>,
}

pub(super) struct Exemplar {
    pub(super) value: f64,
    pub(super) time: u64,
    /// Packed.
    pub(super) labels: Box<[u8]>,
}

// === impl Series ===

impl Series {
    pub(super) fn new(labels: Box<[u8]>, point: &PointView<'_>, now: Instant) -> Result<Self, Reason> {
        let state = State::read(point)?;
        let (start, time) = (point.start_time_unix_nano(), point.time_unix_nano());
        Ok(Self { labels, start, time, seen: now, state, exemplars: Vec::new() })
    }

    /// Takes a later point: in the place of the last, or added to it where it says what has come since.
    pub(super) fn update(&mut self, point: &PointView<'_>, delta: bool, now: Instant) -> Result<(), Reason> {
        let (start, time) = (point.start_time_unix_nano(), point.time_unix_nano());
        if time < self.time || (delta && time == self.time) {
            return Err(Reason::Old);
        }
        if delta && start != 0 && start < self.time {
            return Err(Reason::Overlap);
        }
        let next = State::read(point)?;
        let same = self.state.is_like(&next);
        if !same {
            // Other buckets: what was counted in the old ones is over, as after a restart.
            self.exemplars.clear();
        }
        if !delta || !same || !self.state.add(&next) {
            (self.state, self.start) = (next, start);
        }
        (self.time, self.seen) = (time, now);
        Ok(())
    }

    /// Takes the exemplars of its point.
    pub(super) fn exemplify(&mut self, point: &PointView<'_>, naming: &Naming, labels: &mut Labels) {
        let exemplars = match point {
            PointView::Number(point) => point.exemplars(),
            PointView::Histogram(point) => point.exemplars(),
            PointView::ExponentialHistogram(point) => point.exemplars(),
            PointView::Summary(_) => return,
        };
        for exemplar in exemplars {
            if let Some(exemplar) = Exemplar::read(&exemplar, naming, labels) {
                self.keep(exemplar);
            }
        }
    }

    fn keep(&mut self, exemplar: Exemplar) {
        let at = match &self.state {
            State::Number(_) | State::Summary(_) => 0,
            // What is no number lies in no bucket.
            State::Classic(_) if exemplar.value.is_nan() => return,
            State::Classic(classic) => classic
                .buckets
                .partition_point(|(bound, _)| *bound < exemplar.value)
                .min(classic.buckets.len() - 1),
            State::Native(_) => {
                let free = self.exemplars.len().min(EXEMPLARS - 1);
                let oldest = |(_, kept): &(usize, &Option<Exemplar>)| kept.as_ref().map(|kept| kept.time);
                match self.exemplars.len() {
                    EXEMPLARS => self.exemplars.iter().enumerate().min_by_key(oldest).map_or(0, |(at, _)| at),
                    _ => free,
                }
            }
        };
        if self.exemplars.len() <= at {
            self.exemplars.resize_with(at + 1, || None);
        }
        if let Some(place) = self.exemplars.get_mut(at)
            && place.as_ref().is_none_or(|kept| kept.time <= exemplar.time)
        {
            *place = Some(exemplar);
        }
    }

    /// Bytes that it takes in text, or fewer, under a name of so many.
    pub(super) fn text_bytes(&self, name: usize) -> usize {
        /// Suffix, `le`, value, time and what stands between them.
        const REST: usize = 64;
        let lines = match &self.state {
            State::Number(_) => 1,
            State::Classic(classic) => classic.buckets.len() + 2,
            // Spans and differences are longer than the text.
            State::Native(native) => 4 + (native.positive.counts.len() + native.negative.counts.len()) / 4,
            State::Summary(summary) => summary.quantiles.len() + 2,
        };
        let of_exemplars = self.exemplars.iter().flatten().map(|exemplar| exemplar.labels.len() + REST);
        lines * (name + self.labels.len() + REST) + of_exemplars.sum::<usize>()
    }

    /// What it holds in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let of_state = match &self.state {
            State::Number(_) => 0,
            State::Classic(classic) => classic.buckets.capacity() * size_of::<(f64, u64)>(),
            State::Native(native) => {
                let counts = native.positive.counts.capacity() + native.negative.counts.capacity();
                size_of::<Native>() + counts * size_of::<u64>()
            }
            State::Summary(summary) => summary.quantiles.capacity() * size_of::<(f64, f64)>(),
        };
        let of_exemplars = self.exemplars.iter().flatten().map(|exemplar| exemplar.labels.len());
        // The table's entry, and as much again for room to grow.
        2 * (size_of::<Self>() + size_of::<u32>())
            + self.labels.len()
            + of_state
            + self.exemplars.capacity() * size_of::<Option<Exemplar>>()
            + of_exemplars.sum::<usize>()
    }
}

// === impl State ===

impl State {
    fn read(point: &PointView<'_>) -> Result<Self, Reason> {
        Ok(match point {
            PointView::Number(point) => Self::Number(float(point.value()).ok_or(Reason::Malformed)?),
            PointView::Histogram(point) => Self::Classic(Classic::read(point)?),
            PointView::ExponentialHistogram(point) => Self::Native(Box::new(Native::read(point)?)),
            PointView::Summary(point) => Self::Summary(Summary::read(point)),
        })
    }

    /// Whether both count in the same way.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Classic(one), Self::Classic(other)) => one.bounds().eq(other.bounds()),
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }

    /// Adds what has come since to what is [like](State::is_like) it; whether that could be.
    fn add(&mut self, more: &Self) -> bool {
        match (self, more) {
            (Self::Number(sum), Self::Number(more)) => {
                *sum += more;
                true
            }
            (Self::Classic(sum), Self::Classic(more)) => {
                sum.add(more);
                true
            }
            (Self::Native(sum), Self::Native(more)) => sum.add(more),
            _ => false,
        }
    }
}

// === impl Classic ===

impl Classic {
    fn read(point: &HistogramPointView<'_>) -> Result<Self, Reason> {
        Ok(Self { sum: point.sum(), buckets: buckets(point)?.collect() })
    }

    fn bounds(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|(bound, _)| bound.to_bits())
    }

    fn add(&mut self, more: &Self) {
        for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&more.buckets) {
            *count = count.saturating_add(*more);
        }
        self.sum = self.sum.zip(more.sum).map(|(sum, more)| sum + more);
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }
}

// === impl Native ===

impl Native {
    fn read(point: &ExponentialHistogramPointView<'_>) -> Result<Self, Reason> {
        let shift = native::shift(point.scale()).ok_or(Reason::Scale)?;
        let (positive, negative) = (Run::read(&point.positive()), Run::read(&point.negative()));
        // Prometheus counts from the next.
        let fits = |run: &Run| run.ends(shift).is_none_or(|(_, last)| last < i64::from(i32::MAX));
        if !fits(&positive) || !fits(&negative) {
            return Err(Reason::Scale);
        }
        Ok(Self {
            count: point.count(),
            sum: point.sum().ok_or(Reason::NoSum)?,
            scale: point.scale(),
            zero_count: point.zero_count(),
            zero_threshold: point.zero_threshold(),
            positive,
            negative,
        })
    }

    fn add(&mut self, more: &Self) -> bool {
        let mut scale = self.scale.min(more.scale);
        let (positive, negative) = loop {
            let (shift, by) = (self.scale.saturating_sub(scale), more.scale.saturating_sub(scale));
            let (shift, by) = (shift.unsigned_abs().min(63), by.unsigned_abs().min(63));
            let positive = self.positive.sum(shift, &more.positive, by);
            let negative = self.negative.sum(shift, &more.negative, by);
            if let (Some(positive), Some(negative)) = (positive, negative) {
                break (positive, negative);
            }
            scale -= 1;
            if scale < native::COARSEST {
                return false;
            }
        };
        (self.scale, self.positive, self.negative) = (scale, positive, negative);
        self.count = self.count.saturating_add(more.count);
        self.zero_count = self.zero_count.saturating_add(more.zero_count);
        self.zero_threshold = self.zero_threshold.max(more.zero_threshold);
        self.sum += more.sum;
        true
    }
}

// === impl Run ===

impl Run {
    fn read(view: &BucketsView<'_>) -> Self {
        let empty = view.bucket_counts().take_while(|count| *count == 0).count();
        let mut counts: Vec<u64> = view.bucket_counts().skip(empty).collect();
        while counts.last() == Some(&0) {
            counts.pop();
        }
        Self { offset: i64::from(view.offset()) + empty as i64, counts }
    }

    /// First and last index at a resolution that is coarser by `shift`.
    fn ends(&self, shift: u32) -> Option<(i64, i64)> {
        let last = self.offset + self.counts.len() as i64 - 1;
        (!self.counts.is_empty()).then_some((self.offset >> shift, last >> shift))
    }

    /// Both together; `None` where that would be too many buckets.
    fn sum(&self, shift: u32, other: &Self, by: u32) -> Option<Self> {
        let (ours, theirs) = (self.ends(shift), other.ends(by));
        let all = [ours, theirs].into_iter().flatten();
        let Some((first, last)) = all.reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
            return Some(Self::default());
        };
        let length = usize::try_from(last - first + 1).ok().filter(|length| *length <= BUCKETS)?;
        let mut counts = vec![0_u64; length];
        for (run, shift) in [(self, shift), (other, by)] {
            for (index, count) in run.counts.iter().enumerate() {
                let at = ((run.offset + index as i64) >> shift) - first;
                if let Some(sum) = usize::try_from(at).ok().and_then(|at| counts.get_mut(at)) {
                    *sum = sum.saturating_add(*count);
                }
            }
        }
        Some(Self { offset: first, counts })
    }
}

// === impl Summary ===

impl Summary {
    fn read(point: &SummaryPointView<'_>) -> Self {
        let quantiles = point.quantile_values().map(|value| (value.quantile(), value.value()));
        Self { count: point.count(), sum: point.sum(), quantiles: quantiles.collect() }
    }
}

// === impl Exemplar ===

impl Exemplar {
    fn read(view: &ExemplarView<'_>, naming: &Naming, labels: &mut Labels) -> Option<Self> {
        let value = float(view.value())?;
        exemplar_labels(naming, view, labels);
        let mut packed = Vec::new();
        pack(labels.iter(), &mut packed);
        Some(Self { value, time: view.time_unix_nano(), labels: packed.into() })
    }
}
