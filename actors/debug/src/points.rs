//! Metrics in full: data points of the five kinds, buckets, quantiles and exemplars.

use std::fmt;
use std::fmt::Write as _;

use watershed_telemetry::view::{
    Attributes, BucketsView, ExemplarView, ExponentialHistogramPointView, HistogramPointView, MetricData,
    MetricView, NumberPointView, Repeated, SummaryPointView,
};

use crate::detailed::{At, attributes, list};
use crate::text::{Clean, Figure, Hex, Page};

/// What points of all kinds have.
struct Common<'a> {
    attributes: Attributes<'a>,
    start: u64,
    time: u64,
    flags: u32,
}

macro_rules! common {
    ($point:expr) => {
        Common {
            attributes: $point.attributes(),
            start: $point.start_time_unix_nano(),
            time: $point.time_unix_nano(),
            flags: $point.flags(),
        }
    };
}

pub(crate) fn metric(page: &mut Page<'_>, index: usize, metric: &MetricView<'_>) -> fmt::Result {
    writeln!(page, "Metric #{index}\nDescriptor:\n     -> Name: {}", Clean(metric.name()))?;
    writeln!(page, "     -> Description: {}", Clean(metric.description()))?;
    writeln!(page, "     -> Unit: {}", Clean(metric.unit()))?;
    match metric.data() {
        None => writeln!(page, "     -> DataType: Empty")?,
        Some(MetricData::Gauge(_)) => writeln!(page, "     -> DataType: Gauge")?,
        Some(MetricData::Sum(sum)) => {
            writeln!(page, "     -> DataType: Sum\n     -> IsMonotonic: {}", sum.is_monotonic())?;
            temporality(page, sum.aggregation_temporality())?;
        }
        Some(MetricData::Histogram(histogram)) => {
            writeln!(page, "     -> DataType: Histogram")?;
            temporality(page, histogram.aggregation_temporality())?;
        }
        Some(MetricData::ExponentialHistogram(histogram)) => {
            writeln!(page, "     -> DataType: ExponentialHistogram")?;
            temporality(page, histogram.aggregation_temporality())?;
        }
        Some(MetricData::Summary(_)) => writeln!(page, "     -> DataType: Summary")?,
    }
    attributes(page, "     -> Metadata:", "          ", metric.metadata())?;
    page.end();
    match metric.data() {
        None => Ok(()),
        Some(MetricData::Gauge(gauge)) => each(page, gauge.data_points(), number),
        Some(MetricData::Sum(sum)) => each(page, sum.data_points(), number),
        Some(MetricData::Histogram(of)) => each(page, of.data_points(), histogram),
        Some(MetricData::ExponentialHistogram(of)) => each(page, of.data_points(), exponential),
        Some(MetricData::Summary(of)) => each(page, of.data_points(), summary),
    }
}

fn temporality(page: &mut Page<'_>, number: i32) -> fmt::Result {
    match number {
        0 => writeln!(page, "     -> AggregationTemporality: Unspecified"),
        1 => writeln!(page, "     -> AggregationTemporality: Delta"),
        2 => writeln!(page, "     -> AggregationTemporality: Cumulative"),
        other => writeln!(page, "     -> AggregationTemporality: {other}"),
    }
}

fn each<T>(
    page: &mut Page<'_>,
    points: impl Iterator<Item = T>,
    write: fn(&mut Page<'_>, usize, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, point) in points.enumerate() {
        write(page, index, &point)?;
        page.end();
    }
    Ok(())
}

fn number(page: &mut Page<'_>, index: usize, point: &NumberPointView<'_>) -> fmt::Result {
    writeln!(page, "NumberDataPoints #{index}")?;
    common!(point).write(page)?;
    writeln!(page, "Value: {}", Figure(point.value()))?;
    exemplars(page, point.exemplars())
}

fn histogram(page: &mut Page<'_>, index: usize, point: &HistogramPointView<'_>) -> fmt::Result {
    writeln!(page, "HistogramDataPoints #{index}")?;
    common!(point).write(page)?;
    writeln!(page, "Count: {}", point.count())?;
    figures(page, point.sum(), point.min(), point.max())?;
    for (index, bound) in point.explicit_bounds().enumerate() {
        writeln!(page, "ExplicitBounds #{index}: {bound}")?;
    }
    for (index, count) in point.bucket_counts().enumerate() {
        writeln!(page, "Buckets #{index}, Count: {count}")?;
    }
    exemplars(page, point.exemplars())
}

fn exponential(page: &mut Page<'_>, index: usize, point: &ExponentialHistogramPointView<'_>) -> fmt::Result {
    writeln!(page, "ExponentialHistogramDataPoints #{index}")?;
    common!(point).write(page)?;
    writeln!(page, "Count: {}\nScale: {}", point.count(), point.scale())?;
    figures(page, point.sum(), point.min(), point.max())?;
    buckets(page, &point.negative(), |bucket| {
        let (low, high) = (bound(point.scale(), bucket), bound(point.scale(), bucket + 1));
        format!("[{}, {})", -high, -low)
    })?;
    if point.zero_count() > 0 {
        let width = point.zero_threshold();
        let low = if width > 0.0 { -width } else { 0.0 };
        writeln!(page, "Bucket [{low}, {width}], Count: {}", point.zero_count())?;
    }
    buckets(page, &point.positive(), |bucket| {
        format!("({}, {}]", bound(point.scale(), bucket), bound(point.scale(), bucket + 1))
    })?;
    exemplars(page, point.exemplars())
}

fn buckets(page: &mut Page<'_>, run: &BucketsView<'_>, range: impl Fn(i64) -> String) -> fmt::Result {
    for (index, count) in (i64::from(run.offset())..).zip(run.bucket_counts()).filter(|(_, count)| *count > 0)
    {
        writeln!(page, "Bucket {}, Count: {count}", range(index))?;
    }
    Ok(())
}

/// The lower bound of a bucket: `base^index`, where `base = 2^(2^-scale)`.
fn bound(scale: i32, index: i64) -> f64 {
    (index as f64 * (-f64::from(scale)).exp2()).exp2()
}

fn summary(page: &mut Page<'_>, index: usize, point: &SummaryPointView<'_>) -> fmt::Result {
    writeln!(page, "SummaryDataPoints #{index}")?;
    common!(point).write(page)?;
    writeln!(page, "Count: {}\nSum: {}", point.count(), point.sum())?;
    for (index, value) in point.quantile_values().enumerate() {
        writeln!(page, "QuantileValue #{index}: Quantile {}, Value {}", value.quantile(), value.value())?;
    }
    Ok(())
}

fn figures(page: &mut Page<'_>, sum: Option<f64>, min: Option<f64>, max: Option<f64>) -> fmt::Result {
    for (name, value) in [("Sum", sum), ("Min", min), ("Max", max)] {
        if let Some(value) = value {
            writeln!(page, "{name}: {value}")?;
        }
    }
    Ok(())
}

fn exemplars(page: &mut Page<'_>, exemplars: Repeated<'_, ExemplarView<'_>>) -> fmt::Result {
    list(page, "Exemplars:", exemplars, |page, index, exemplar| {
        writeln!(page, "Exemplar #{index}\n     -> Trace ID: {}", Hex(exemplar.trace_id()))?;
        writeln!(page, "     -> Span ID: {}", Hex(exemplar.span_id()))?;
        writeln!(page, "     -> Timestamp: {}", At(exemplar.time_unix_nano()))?;
        writeln!(page, "     -> Value: {}", Figure(exemplar.value()))?;
        attributes(page, "     -> FilteredAttributes:", "          ", exemplar.filtered_attributes())
    })
}

// === impl Common ===

impl Common<'_> {
    fn write(&self, page: &mut Page<'_>) -> fmt::Result {
        attributes(page, "Data point attributes:", "     ", self.attributes)?;
        writeln!(page, "StartTimestamp: {}\nTimestamp: {}", At(self.start), At(self.time))?;
        match self.flags {
            0 => Ok(()),
            // Bit 0 is the only one that is defined.
            flags => {
                writeln!(page, "Flags: {flags}{}", if flags & 1 == 1 { " (no recorded value)" } else { "" })
            }
        }
    }
}
