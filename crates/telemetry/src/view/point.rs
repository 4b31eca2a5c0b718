//! Data points of the five kinds (`metrics.proto`).
//!
//! Times are nanoseconds since the Unix epoch. Flag 1 says that no value was recorded: all but attributes and
//! times is then to be ignored.

use crate::message::Message;
use crate::schema::Kind;
use crate::view::{Attributes, Repeated};
use crate::wire::Value;

/// What the points of all kinds have.
macro_rules! each {
    ($point:expr, $get:ident) => {
        match $point {
            PointView::Number(point) => point.$get(),
            PointView::Histogram(point) => point.$get(),
            PointView::ExponentialHistogram(point) => point.$get(),
            PointView::Summary(point) => point.$get(),
        }
    };
}

/// The value of a number data point or an exemplar.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Number {
    /// `as_double`
    Double(f64),
    /// `as_int`
    Int(i64),
}

impl Number {
    /// The last of the two fields.
    fn of(message: Message<'_>, double: u32, int: u32) -> Option<Number> {
        let (field, _) = message.oneof(|number| number == double || number == int)?;
        match field.value {
            Value::Fixed64(bits) if field.number == double => Some(Number::Double(f64::from_bits(bits))),
            Value::Fixed64(bits) => Some(Number::Int(bits as i64)),
            _ => None,
        }
    }
}

/// A point of any kind.
#[derive(Clone, Copy, Debug)]
pub enum PointView<'a> {
    /// Of a gauge or a sum.
    Number(NumberPointView<'a>),
    /// Of a histogram.
    Histogram(HistogramPointView<'a>),
    /// Of an exponential histogram.
    ExponentialHistogram(ExponentialHistogramPointView<'a>),
    /// Of a summary.
    Summary(SummaryPointView<'a>),
}

impl<'a> PointView<'a> {
    pub(crate) fn new(kind: Kind, message: Message<'a>) -> Option<Self> {
        Some(match kind {
            Kind::NumberDataPoint => Self::Number(message.into()),
            Kind::HistogramDataPoint => Self::Histogram(message.into()),
            Kind::ExponentialHistogramDataPoint => Self::ExponentialHistogram(message.into()),
            Kind::SummaryDataPoint => Self::Summary(message.into()),
            _ => return None,
        })
    }

    /// The point's attributes.
    pub fn attributes(&self) -> Attributes<'a> {
        each!(self, attributes)
    }

    /// The start of the interval; 0 if unknown.
    pub fn start_time_unix_nano(&self) -> u64 {
        each!(self, start_time_unix_nano)
    }

    /// When the value was current.
    pub fn time_unix_nano(&self) -> u64 {
        each!(self, time_unix_nano)
    }

    /// `DataPointFlags`.
    pub fn flags(&self) -> u32 {
        each!(self, flags)
    }
}

view! {
    /// A point of a gauge or a sum (`NumberDataPoint`).
    NumberPointView {
        /// The point's attributes.
        attributes: Attributes<'a> = attributes(7);
        /// The start of the interval; 0 if unknown.
        start_time_unix_nano: u64 = fixed64(2);
        /// When the value was current.
        time_unix_nano: u64 = fixed64(3);
        /// Samples that went into the value.
        exemplars: Repeated<'a, ExemplarView<'a>> = list(5);
        /// `DataPointFlags`.
        flags: u32 = uint32(8);
    }
}

impl NumberPointView<'_> {
    /// The value.
    pub fn value(&self) -> Option<Number> {
        Number::of(self.0, 4, 6)
    }
}

view! {
    /// A point of a histogram (`HistogramDataPoint`).
    HistogramPointView {
        /// The point's attributes.
        attributes: Attributes<'a> = attributes(9);
        /// The start of the interval; 0 if unknown.
        start_time_unix_nano: u64 = fixed64(2);
        /// When the value was current.
        time_unix_nano: u64 = fixed64(3);
        /// How many values were recorded.
        count: u64 = fixed64(4);
        /// Their sum.
        sum: Option<f64> = optional_double(5);
        /// How many values fell into each bucket: none, or one more than there are bounds.
        bucket_counts: impl Iterator<Item = u64> + Clone + use<'a> = fixed64s(6);
        /// The upper, inclusive bounds of the buckets but the last, ascending.
        explicit_bounds: impl Iterator<Item = f64> + Clone + use<'a> = doubles(7);
        /// Samples that went into the value.
        exemplars: Repeated<'a, ExemplarView<'a>> = list(8);
        /// `DataPointFlags`.
        flags: u32 = uint32(10);
        /// The smallest value.
        min: Option<f64> = optional_double(11);
        /// The largest value.
        max: Option<f64> = optional_double(12);
    }
}

view! {
    /// A point of an exponential histogram (`ExponentialHistogramDataPoint`).
    ExponentialHistogramPointView {
        /// The point's attributes.
        attributes: Attributes<'a> = attributes(1);
        /// The start of the interval; 0 if unknown.
        start_time_unix_nano: u64 = fixed64(2);
        /// When the value was current.
        time_unix_nano: u64 = fixed64(3);
        /// How many values were recorded.
        count: u64 = fixed64(4);
        /// Their sum.
        sum: Option<f64> = optional_double(5);
        /// The resolution: buckets grow by a factor of `2^(2^-scale)`.
        scale: i32 = sint32(6);
        /// How many values were zero, or within the threshold of it.
        zero_count: u64 = fixed64(7);
        /// The buckets of positive values.
        positive: BucketsView<'a> = child(8);
        /// The buckets of negative values, by absolute value.
        negative: BucketsView<'a> = child(9);
        /// `DataPointFlags`.
        flags: u32 = uint32(10);
        /// Samples that went into the value.
        exemplars: Repeated<'a, ExemplarView<'a>> = list(11);
        /// The smallest value.
        min: Option<f64> = optional_double(12);
        /// The largest value.
        max: Option<f64> = optional_double(13);
        /// The width of the zero bucket, to either side.
        zero_threshold: f64 = double(14);
    }
}

view! {
    /// A run of exponential buckets (`ExponentialHistogramDataPoint.Buckets`).
    BucketsView {
        /// The index of the first bucket.
        offset: i32 = sint32(1);
        /// How many values fell into each bucket.
        bucket_counts: impl Iterator<Item = u64> + Clone + use<'a> = varints(2);
    }
}

view! {
    /// A point of a summary (`SummaryDataPoint`).
    SummaryPointView {
        /// The point's attributes.
        attributes: Attributes<'a> = attributes(7);
        /// The start of the interval; 0 if unknown.
        start_time_unix_nano: u64 = fixed64(2);
        /// When the value was current.
        time_unix_nano: u64 = fixed64(3);
        /// How many values were recorded.
        count: u64 = fixed64(4);
        /// Their sum.
        sum: f64 = double(5);
        /// The quantiles.
        quantile_values: Repeated<'a, QuantileView<'a>> = list(6);
        /// `DataPointFlags`.
        flags: u32 = uint32(8);
    }
}

view! {
    /// A quantile (`SummaryDataPoint.ValueAtQuantile`).
    QuantileView {
        /// Which, 0.0 to 1.0; 0 is the minimum, 1 the maximum.
        quantile: f64 = double(1);
        /// The value there.
        value: f64 = double(2);
    }
}

view! {
    /// A sample that went into a data point (`Exemplar`).
    ExemplarView {
        /// The attributes that the aggregation dropped.
        filtered_attributes: Attributes<'a> = attributes(7);
        /// When it was recorded.
        time_unix_nano: u64 = fixed64(2);
        /// 8 bytes, or empty if absent.
        span_id: &'a [u8] = bytes(4);
        /// 16 bytes, or empty if absent.
        trace_id: &'a [u8] = bytes(5);
    }
}

impl ExemplarView<'_> {
    /// The value.
    pub fn value(&self) -> Option<Number> {
        Number::of(self.0, 3, 6)
    }
}
