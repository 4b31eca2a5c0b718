//! Metrics (`metrics.proto`).

use crate::count;
use crate::message::Message;
use crate::schema::Kind;
use crate::view::{
    Attributes, ExponentialHistogramPointView, HistogramPointView, NumberPointView, Repeated,
    SummaryPointView,
};

view! {
    /// A metric: a name and its data points (`Metric`).
    MetricView {
        /// The metric's name.
        name: &'a str = text(1);
        /// What it measures.
        description: &'a str = text(2);
        /// The unit, in UCUM.
        unit: &'a str = text(3);
        /// What else is known about the metric; no part of its identity.
        metadata: Attributes<'a> = attributes(12);
    }
}

/// The data of a metric, by kind.
#[derive(Clone, Copy, Debug)]
pub enum MetricData<'a> {
    /// Last values.
    Gauge(GaugeView<'a>),
    /// Sums.
    Sum(SumView<'a>),
    /// Distributions over explicit buckets.
    Histogram(HistogramView<'a>),
    /// Distributions over exponential buckets.
    ExponentialHistogram(ExponentialHistogramView<'a>),
    /// Distributions as quantiles.
    Summary(SummaryView<'a>),
}

impl<'a> MetricView<'a> {
    /// The data points, or `None` if the metric has no data.
    pub fn data(&self) -> Option<MetricData<'a>> {
        let (_, kind, arm) = count::live_arm(Kind::Metric, self.0)?;
        match kind {
            Kind::Gauge => Some(MetricData::Gauge(arm.into())),
            Kind::Sum => Some(MetricData::Sum(arm.into())),
            Kind::Histogram => Some(MetricData::Histogram(arm.into())),
            Kind::ExponentialHistogram => Some(MetricData::ExponentialHistogram(arm.into())),
            Kind::Summary => Some(MetricData::Summary(arm.into())),
            _ => None,
        }
    }
}

view! {
    /// Last values (`Gauge`).
    GaugeView {
        /// The data points.
        data_points: Repeated<'a, NumberPointView<'a>> = list(1);
    }
}

view! {
    /// Sums (`Sum`).
    SumView {
        /// The data points.
        data_points: Repeated<'a, NumberPointView<'a>> = list(1);
        /// `AggregationTemporality`: 0 unspecified, 1 delta, 2 cumulative. Open.
        aggregation_temporality: i32 = int32(2);
        /// Whether the sum only grows.
        is_monotonic: bool = flag(3);
    }
}

view! {
    /// Distributions over explicit buckets (`Histogram`).
    HistogramView {
        /// The data points.
        data_points: Repeated<'a, HistogramPointView<'a>> = list(1);
        /// `AggregationTemporality`: 0 unspecified, 1 delta, 2 cumulative. Open.
        aggregation_temporality: i32 = int32(2);
    }
}

view! {
    /// Distributions over exponential buckets (`ExponentialHistogram`).
    ExponentialHistogramView {
        /// The data points.
        data_points: Repeated<'a, ExponentialHistogramPointView<'a>> = list(1);
        /// `AggregationTemporality`: 0 unspecified, 1 delta, 2 cumulative. Open.
        aggregation_temporality: i32 = int32(2);
    }
}

view! {
    /// Distributions as quantiles (`Summary`).
    SummaryView {
        /// The data points.
        data_points: Repeated<'a, SummaryPointView<'a>> = list(1);
    }
}
