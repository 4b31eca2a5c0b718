//! Samples become points, as OTLP writes them.
//!
//! Field numbers: opentelemetry-proto, `opentelemetry/proto/metrics/v1/metrics.proto`.

use std::borrow::Cow;

use watershed_telemetry::wire::{self, WireType};

use super::output::exemplar_field;
use super::scrape::Scrape;
use super::shape::Role;
use super::{Entry, Kind, Point, Slice};
use crate::scrape::error::Failed;

/// `DataPointFlags`: the series has ended.
const NO_RECORDED_VALUE: u64 = 1;

/// The most buckets of a native histogram that are written out. Spans may claim any distance between them.
const MOST_BUCKETS: usize = 1 << 14;

/// The most characters in the labels of an exemplar, names and values together (OpenMetrics 1.0, "Exemplars").
const LONGEST_EXEMPLAR: usize = 128;

/// The most exemplars of a native histogram.
const MOST_EXEMPLARS: usize = 64;

/// An exemplar as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exemplar<'a> {
    pub(super) labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub(crate) value: f64,
    /// In nanoseconds since 1970; that of its sample where it has none.
    pub(crate) time: Option<u64>,
    /// Characters in its labels, also in those that were not kept.
    length: usize,
}

/// The exemplars of a native histogram, as many as one may have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exemplars<'a> {
    pub(super) kept: Vec<Exemplar<'a>>,
    pub(super) left_out: u64,
}

/// A native histogram of whole counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Native {
    pub(crate) schema: i32,
    pub(crate) zero_threshold: f64,
    pub(crate) zero_count: u64,
    pub(crate) sum: f64,
    pub(crate) positive: Spans,
    pub(crate) negative: Spans,
    pub(crate) created: Option<u64>,
    pub(crate) stale: bool,
}

/// Buckets of one sign: runs of them, and what each bucket counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spans {
    /// How far after the end of the run before, and how many. The first run is told from index 0.
    pub(crate) runs: Vec<(i32, u32)>,
    pub(crate) counts: Vec<u64>,
}

/// What is gathered of a point that takes several series.
#[derive(Debug, Default)]
pub(super) struct Tally {
    time: u64,
    created: Option<u64>,
    count: Option<f64>,
    sum: Option<f64>,
    /// Bounds or quantiles, and what is said of them.
    rows: Vec<(f64, f64)>,
    /// As fields of the point.
    exemplars: Vec<u8>,
    stale: bool,
}

// === impl Point ===

impl Point {
    pub(super) fn new(metric: u32, attributes: Slice, tally: u32) -> Self {
        Self {
            metric,
            attributes,
            seen: 0,
            was: false,
            tracked: false,
            start: 0,
            created: 0,
            created_in: 0,
            last: 0.0,
            start_at: 0,
            tally,
        }
    }
}

// === impl Exemplar ===

impl<'a> Exemplar<'a> {
    /// Adds a label. Of one that is too long nothing more is kept.
    pub(crate) fn label(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        // Labels of nothing are labels, too.
        self.length += (name.chars().count() + value.chars().count()).max(1);
        if self.fits() {
            self.labels.push((name, value));
        }
    }

    /// Whether it is as long as one may be.
    pub(super) fn fits(&self) -> bool {
        self.length <= LONGEST_EXEMPLAR
    }
}

// === impl Exemplars ===

impl<'a> Exemplars<'a> {
    pub(crate) fn push(&mut self, exemplar: Exemplar<'a>) {
        if exemplar.fits() && self.kept.len() < MOST_EXEMPLARS {
            self.kept.push(exemplar);
        } else {
            self.left_out += 1;
        }
    }
}

// === impl Scrape ===

impl Scrape<'_> {
    #[inline]
    pub(super) fn write_number(
        &mut self,
        id: u32,
        value: f64,
        stale: bool,
        time: Option<u64>,
        created: Option<u64>,
        exemplar: Option<&Exemplar<'_>>,
    ) -> Result<(), Failed> {
        if !self.touch(id, time.is_some()) && time.is_none() {
            // Relabelling made one series of two.
            self.counts.duplicates += 1;
            return Ok(());
        }
        let time = time.unwrap_or(self.time);
        let Some(point) = self.series.points.get(id as usize).copied() else { return Ok(()) };
        let kind = self.series.metrics.get(point.metric as usize).map(|metric| metric.kind);
        let start = match kind {
            Some(Kind::Counter) => Some(self.start(id, created, value, time)),
            _ => None,
        };
        let exemplar = exemplar.map(|exemplar| exemplar_field(5, exemplar, time)).unwrap_or_default();
        let series = &mut *self.series;
        let at = point.attributes.at as usize;
        let attributes = series.arena.get(at..at + point.attributes.len as usize).unwrap_or_default();
        let Some(metric) = series.metrics.get_mut(point.metric as usize) else { return Ok(()) };
        let length = 9 * usize::from(start.is_some())
            + if stale { 9 + 2 } else { 9 + 9 }
            + exemplar.len()
            + attributes.len();
        let out = &mut metric.points;
        self.room.reserve(out, length + 11)?;
        wire::put_tag(out, 1, WireType::Bytes);
        wire::put_varint(out, length as u64);
        if let Some(start) = start {
            let start_at = out.len() as u32 + 1;
            wire::put_fixed64_field(out, 2, start);
            if let Some(point) = series.points.get_mut(id as usize) {
                point.start_at = start_at;
            }
        }
        wire::put_fixed64_field(out, 3, time);
        if stale {
            wire::put_varint_field(out, 8, NO_RECORDED_VALUE);
        } else {
            wire::put_fixed64_field(out, 4, value.to_bits());
        }
        out.extend_from_slice(&exemplar);
        out.extend_from_slice(attributes);
        self.counts.points += 1;
        Ok(())
    }

    /// Takes one series of a histogram or a summary.
    pub(super) fn gather(
        &mut self,
        entry: &Entry,
        value: f64,
        stale: bool,
        time: Option<u64>,
        created: Option<u64>,
        exemplar: Option<&Exemplar<'_>>,
    ) -> Result<(), Failed> {
        let id = entry.point;
        let first = self.touch(id, time.is_some());
        let time = time.unwrap_or(self.time);
        let Some(point) = self.series.points.get(id as usize) else { return Ok(()) };
        let Some(tally) = self.series.tallies.get_mut(point.tally as usize) else { return Ok(()) };
        if first {
            tally.reset(time);
            self.tallied.push(id);
        }
        tally.stale |= stale;
        tally.created = created.or(tally.created);
        match entry.role {
            Role::Sum => tally.sum = Some(value),
            Role::Count => tally.count = Some(value),
            _ => {
                self.room.reserve(&mut tally.rows, 1)?;
                tally.rows.push((entry.bound, value));
            }
        }
        if let Some(exemplar) = exemplar {
            let field = exemplar_field(8, exemplar, time);
            self.room.reserve(&mut tally.exemplars, field.len())?;
            tally.exemplars.extend_from_slice(&field);
        }
        Ok(())
    }

    /// Writes the points that took several series.
    pub(super) fn write_tallied(&mut self) -> Result<(), Failed> {
        let mut body = Vec::new();
        for id in std::mem::take(&mut self.tallied) {
            let Some(point) = self.series.points.get(id as usize).copied() else { continue };
            let Some(tally) = self.series.tallies.get_mut(point.tally as usize) else { continue };
            let mut tally = std::mem::take(tally);
            let created = tally.created.or((point.created_in == self.series.scrape).then_some(point.created));
            body.clear();
            self.room.reserve(&mut body, 64 + 24 * tally.rows.len() + tally.exemplars.len())?;
            match tally.count {
                // Specification: "If `_count` is not present, the metric MUST be dropped."
                None if !tally.stale => self.counts.unmapped += 1,
                count => {
                    let count = count.unwrap_or_default();
                    let start = self.start(id, created, count, tally.time);
                    let kind = self.series.metrics.get(point.metric as usize).map(|metric| metric.kind);
                    match kind {
                        _ if tally.stale => wire::put_fixed64_field(&mut body, 3, tally.time),
                        Some(Kind::Summary) => tally.summary(&mut body, start, count),
                        _ => tally.histogram(&mut body, start, count),
                    }
                    self.write(id, &body, tally.stale)?;
                }
            }
            // What most take is used again.
            if let Some(place) = self.series.tallies.get_mut(point.tally as usize)
                && tally.rows.capacity() <= Tally::ROWS
            {
                place.rows = std::mem::take(&mut tally.rows);
            }
        }
        Ok(())
    }

    /// Writes a native histogram. Whether OTLP has a place for it.
    pub(super) fn write_native(
        &mut self,
        id: u32,
        native: &Native,
        time: Option<u64>,
        exemplars: &Exemplars<'_>,
    ) -> Result<bool, Failed> {
        if !(-4..=8).contains(&native.schema) {
            return Ok(false);
        }
        let mut counted = native.zero_count;
        let mut body = Vec::new();
        for (field, spans) in [(8, &native.positive), (9, &native.negative)] {
            let Some(buckets) = spans.dense(native.schema, &mut counted) else { return Ok(false) };
            if !buckets.is_empty() {
                wire::put_bytes_field(&mut body, field, &buckets);
            }
        }
        // A few bytes may stand for thousands of empty buckets.
        self.make(body.len())?;
        if !self.touch(id, time.is_some()) && time.is_none() {
            self.counts.duplicates += 1;
            return Ok(true);
        }
        let time = time.unwrap_or(self.time);
        let start = self.start(id, native.created, counted as f64, time);
        if native.stale {
            body.clear();
        } else {
            wire::put_fixed64_field(&mut body, 4, counted);
            wire::put_fixed64_field(&mut body, 5, native.sum.to_bits());
            wire::put_varint_field(&mut body, 6, zigzag(native.schema));
            wire::put_fixed64_field(&mut body, 7, native.zero_count);
            wire::put_fixed64_field(&mut body, 14, native.zero_threshold.to_bits());
            for exemplar in &exemplars.kept {
                body.extend_from_slice(&exemplar_field(11, exemplar, time));
            }
            self.counts.exemplars += exemplars.left_out;
            if start != 0 {
                wire::put_fixed64_field(&mut body, 2, start);
            }
        }
        wire::put_fixed64_field(&mut body, 3, time);
        self.write(id, &body, native.stale)?;
        Ok(true)
    }

    /// Writes the marker of a point that has gone.
    pub(super) fn write_marker(&mut self, id: u32) -> Result<(), Failed> {
        let mut body = Vec::with_capacity(9);
        wire::put_fixed64_field(&mut body, 3, self.time);
        self.write(id, &body, true)
    }

    /// Writes a point: `body`, its attributes, and whether it says that it has ended.
    fn write(&mut self, id: u32, body: &[u8], stale: bool) -> Result<(), Failed> {
        let series = &mut *self.series;
        let Some(point) = series.points.get(id as usize) else { return Ok(()) };
        let at = point.attributes.at as usize;
        let attributes = series.arena.get(at..at + point.attributes.len as usize).unwrap_or_default();
        let Some(metric) = series.metrics.get_mut(point.metric as usize) else { return Ok(()) };
        if metric.active_in != series.scrape {
            metric.active_in = series.scrape;
            self.active.push(point.metric);
        }
        let length = body.len() + attributes.len() + if stale { 2 } else { 0 };
        let out = &mut metric.points;
        self.room.reserve(out, length + 11)?;
        wire::put_tag(out, 1, WireType::Bytes);
        wire::put_varint(out, length as u64);
        out.extend_from_slice(body);
        out.extend_from_slice(attributes);
        if stale {
            let flags = if matches!(metric.kind, Kind::Histogram | Kind::Exponential) { 10 } else { 8 };
            wire::put_varint_field(out, flags, NO_RECORDED_VALUE);
        }
        self.counts.points += 1;
        Ok(())
    }
}

// === impl Tally ===

impl Tally {
    /// So many rows it keeps room for, from scrape to scrape.
    const ROWS: usize = 32;

    /// What it takes between scrapes, in bytes.
    pub(super) const BYTES: u64 = (size_of::<Self>() + Self::ROWS * size_of::<(f64, f64)>()) as u64;

    fn reset(&mut self, time: u64) {
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        *self = Self { time, rows, ..Self::default() };
    }

    fn times(&self, body: &mut Vec<u8>, start: u64) {
        if start != 0 {
            wire::put_fixed64_field(body, 2, start);
        }
        wire::put_fixed64_field(body, 3, self.time);
    }

    /// A classic histogram: the bound at infinity is understood, and buckets count what is in them alone.
    fn histogram(&mut self, body: &mut Vec<u8>, start: u64, count: f64) {
        self.times(body, start);
        self.rows.retain(|(bound, _)| bound.is_finite());
        if !self.rows.is_sorted_by(|one, next| one.0 < next.0) {
            self.rows.sort_by(|one, other| one.0.total_cmp(&other.0));
            self.rows.dedup_by(|one, before| one.0 == before.0);
        }
        wire::put_fixed64_field(body, 4, whole(count));
        if let Some(sum) = self.sum {
            wire::put_fixed64_field(body, 5, sum.to_bits());
        }
        wire::put_tag(body, 6, WireType::Bytes);
        wire::put_varint(body, 8 * (self.rows.len() as u64 + 1));
        let mut below = 0;
        for cumulated in self.rows.iter().map(|(_, cumulated)| *cumulated).chain([count]) {
            let cumulated = whole(cumulated);
            body.extend_from_slice(&cumulated.saturating_sub(below).to_le_bytes());
            below = below.max(cumulated);
        }
        if !self.rows.is_empty() {
            wire::put_tag(body, 7, WireType::Bytes);
            wire::put_varint(body, 8 * self.rows.len() as u64);
            self.rows.iter().for_each(|(bound, _)| body.extend_from_slice(&bound.to_le_bytes()));
        }
        body.extend_from_slice(&self.exemplars);
    }

    /// A summary; one without a sum has the sum 0, since OTLP can not leave it out.
    fn summary(&mut self, body: &mut Vec<u8>, start: u64, count: f64) {
        self.times(body, start);
        wire::put_fixed64_field(body, 4, whole(count));
        wire::put_fixed64_field(body, 5, self.sum.unwrap_or_default().to_bits());
        for (quantile, value) in &self.rows {
            wire::put_tag(body, 6, WireType::Bytes);
            wire::put_varint(body, 18);
            wire::put_fixed64_field(body, 1, quantile.to_bits());
            wire::put_fixed64_field(body, 2, value.to_bits());
        }
    }
}

// === impl Spans ===

impl Spans {
    /// The same without anything in it, but for the room.
    pub(crate) fn empty(mut self) -> Self {
        self.runs.clear();
        self.counts.clear();
        self
    }

    /// `Buckets` with what lies between the runs filled in, empty without any; `counted` grows by what they count.
    /// `None` if the runs overlap, do not fit the counts, or claim more buckets than are written.
    fn dense(&self, schema: i32, counted: &mut u64) -> Option<Vec<u8>> {
        let Some((first, _)) = self.runs.first() else { return self.counts.is_empty().then(Vec::new) };
        let mut index = i64::from(*first);
        let last = if schema >= 0 { 1024i64 << schema } else { 1024 >> -schema };
        let (mut dense, mut counts) = (Vec::new(), self.counts.iter());
        for (nth, (distance, length)) in self.runs.iter().enumerate() {
            if nth > 0 {
                let gap = usize::try_from(*distance).ok().filter(|gap| *gap <= MOST_BUCKETS)?;
                (0..gap).for_each(|_| dense.push(0));
                index += gap as i64;
            }
            for _ in 0..*length {
                let count = *counts.next()?;
                // What is beyond the largest double is counted nowhere (specification, "Native Histograms").
                if index <= last {
                    *counted = counted.saturating_add(count);
                    wire::put_varint(&mut dense, count);
                }
                index += 1;
                if dense.len() > 10 * MOST_BUCKETS {
                    return None;
                }
            }
            if index - i64::from(*first) > MOST_BUCKETS as i64 {
                return None;
            }
        }
        if counts.next().is_some() {
            return None;
        }
        let mut buckets = Vec::with_capacity(dense.len() + 16);
        // OTLP's buckets are numbered by their lower bounds, Prometheus' by their upper ones.
        wire::put_varint_field(&mut buckets, 1, zigzag(first.checked_sub(1)?));
        wire::put_bytes_field(&mut buckets, 2, &dense);
        Some(buckets)
    }
}

/// `sint32` on the wire.
fn zigzag(value: i32) -> u64 {
    u64::from(((value << 1) ^ (value >> 31)) as u32)
}

/// A count, which the formats write as a float.
fn whole(count: f64) -> u64 {
    // Saturates; what is no number counts nothing.
    count as u64
}
