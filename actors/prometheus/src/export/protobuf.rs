//! Families as `io.prometheus.client.MetricFamily`, the only format that native histograms have.
//!
//! Source: `prometheus: prompb/io/prometheus/client/metrics.proto`.

use watershed_telemetry::wire;

use super::series::{Classic, Exemplar, Native, Series, State, Summary};
use super::store::Family;
use crate::labels::{underscored, unpack};
use crate::native::{FINEST, Sparse, ZERO_THRESHOLD, put_sint, shift};
use crate::proto::{nested, prefixed, put_double, put_text};
use crate::translate::{Kind, millis};

/// Writes families.
pub(super) struct ProtoWriter<'w> {
    pub(super) out: &'w mut Vec<u8>,
    pub(super) utf8: bool,
    pub(super) timestamps: bool,
}

impl ProtoWriter<'_> {
    pub(super) fn family(&mut self, family: &Family, name: &str) {
        let (utf8, timestamps) = (self.utf8, self.timestamps);
        let kind = match family.kind {
            Kind::Counter => 0,
            Kind::Gauge | Kind::Info | Kind::StateSet => 1,
            Kind::Summary => 2,
            Kind::Unknown => 3,
            Kind::Histogram => 4,
        };
        let mut sparse = Sparse::default();
        prefixed(self.out, |out| {
            put_text(out, 1, name);
            put_text(out, 2, &family.help);
            wire::put_varint_field(out, 3, kind);
            for series in &family.series {
                nested(out, 4, |out| metric(out, family.kind, series, utf8, timestamps, &mut sparse));
            }
            put_text(out, 5, &family.unit);
        });
    }
}

fn metric(out: &mut Vec<u8>, kind: Kind, series: &Series, utf8: bool, timestamps: bool, sparse: &mut Sparse) {
    labels(out, &series.labels, utf8);
    match &series.state {
        State::Number(value) => match kind {
            Kind::Counter => nested(out, 3, |out| {
                put_double(out, 1, *value);
                exemplars(out, 2, series.exemplars.iter().take(1).flatten());
                time(out, 3, series.start);
            }),
            Kind::Unknown => nested(out, 5, |out| put_double(out, 1, *value)),
            _ => nested(out, 2, |out| put_double(out, 1, *value)),
        },
        State::Summary(summary) => nested(out, 4, |out| put_summary(out, summary, series.start)),
        State::Classic(classic) => nested(out, 7, |out| put_classic(out, classic, series)),
        State::Native(native) => nested(out, 7, |out| put_native(out, native, series, sparse)),
    }
    if timestamps {
        wire::put_varint_field(out, 6, millis(series.time) as u64);
    }
}

fn put_summary(out: &mut Vec<u8>, summary: &Summary, start: u64) {
    wire::put_varint_field(out, 1, summary.count);
    put_double(out, 2, summary.sum);
    for (quantile, value) in &summary.quantiles {
        nested(out, 3, |out| {
            put_double(out, 1, *quantile);
            put_double(out, 2, *value);
        });
    }
    time(out, 4, start);
}

fn put_classic(out: &mut Vec<u8>, classic: &Classic, series: &Series) {
    wire::put_varint_field(out, 1, classic.count());
    if let Some(sum) = classic.sum {
        put_double(out, 2, sum);
    }
    for (at, (bound, count)) in classic.buckets.iter().enumerate() {
        nested(out, 3, |out| {
            wire::put_varint_field(out, 1, *count);
            put_double(out, 2, *bound);
            exemplars(out, 3, series.exemplars.get(at).into_iter().flatten());
        });
    }
    time(out, 15, series.start);
}

fn put_native(out: &mut Vec<u8>, native: &Native, series: &Series, sparse: &mut Sparse) {
    wire::put_varint_field(out, 1, native.count);
    put_double(out, 2, native.sum);
    put_sint(out, 5, native.scale.min(FINEST));
    let threshold = if native.zero_threshold > 0.0 { native.zero_threshold } else { ZERO_THRESHOLD };
    put_double(out, 6, threshold);
    wire::put_varint_field(out, 7, native.zero_count);
    let shift = shift(native.scale).unwrap_or_default();
    for (run, spans, deltas) in [(&native.negative, 9, 10), (&native.positive, 12, 13)] {
        if sparse.fill(run.offset, run.counts.iter().copied(), shift).is_some() {
            sparse.write(out, spans, deltas);
        }
    }
    time(out, 15, series.start);
    exemplars(out, 16, series.exemplars.iter().flatten());
}

fn labels(out: &mut Vec<u8>, packed: &[u8], utf8: bool) {
    let escaped = if utf8 { None } else { underscored(unpack(packed)) };
    match escaped {
        None => unpack(packed).for_each(|(name, value)| label(out, name, value)),
        Some(escaped) => escaped.iter().for_each(|(name, value)| label(out, name, value)),
    }
}

fn label(out: &mut Vec<u8>, name: &str, value: &str) {
    nested(out, 1, |out| {
        put_text(out, 1, name);
        put_text(out, 2, value);
    });
}

fn exemplars<'e>(out: &mut Vec<u8>, number: u32, exemplars: impl Iterator<Item = &'e Exemplar>) {
    for exemplar in exemplars {
        nested(out, number, |out| {
            labels(out, &exemplar.labels, true);
            put_double(out, 2, exemplar.value);
            time(out, 3, exemplar.time);
        });
    }
}

/// A `google.protobuf.Timestamp`, unless there is no time.
fn time(out: &mut Vec<u8>, number: u32, nanos: u64) {
    const SECOND: u64 = 1_000_000_000;
    if nanos > 0 {
        nested(out, number, |out| {
            wire::put_varint_field(out, 1, nanos / SECOND);
            wire::put_varint_field(out, 2, nanos % SECOND);
        });
    }
}
