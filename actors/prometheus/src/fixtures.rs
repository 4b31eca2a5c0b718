//! Metrics for tests, in prost's types.
#![allow(clippy::unwrap_used)]

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, Sum, Summary, SummaryDataPoint, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use watershed_stage::delivery::Budget;
use watershed_stage::{Env, Extensions, Metrics, Payload, Shelf, Signal, Tracing};

pub(crate) fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let value = |text: &str| AnyValue { value: Some(any_value::Value::StringValue(text.into())) };
    let pair = |(key, text): &(&str, &str)| KeyValue {
        key: (*key).into(),
        value: Some(value(text)),
        ..Default::default()
    };
    pairs.iter().map(pair).collect()
}

pub(crate) fn resource(pairs: &[(&str, &str)]) -> ResourceMetrics {
    let resource = Resource { attributes: attributes(pairs), ..Default::default() };
    ResourceMetrics { resource: Some(resource), ..Default::default() }
}

pub(crate) fn payload(resource_metrics: Vec<ResourceMetrics>) -> Payload {
    let request = ExportMetricsServiceRequest { resource_metrics };
    Payload::validate(Signal::Metrics, request.encode_to_vec().into()).unwrap()
}

pub(crate) fn metric(name: &str, unit: &str, description: &str, data: Data) -> Metric {
    let (name, unit, description) = (name.into(), unit.into(), description.into());
    Metric { name, unit, description, metadata: Vec::new(), data: Some(data) }
}

pub(crate) fn number(value: f64, start: u64, time: u64) -> NumberDataPoint {
    NumberDataPoint {
        start_time_unix_nano: start,
        time_unix_nano: time,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..Default::default()
    }
}

pub(crate) fn labelled(point: NumberDataPoint, pairs: &[(&str, &str)]) -> NumberDataPoint {
    NumberDataPoint { attributes: attributes(pairs), ..point }
}

pub(crate) fn gauge(data_points: Vec<NumberDataPoint>) -> Data {
    Data::Gauge(Gauge { data_points })
}

pub(crate) fn sum(temporality: i32, is_monotonic: bool, data_points: Vec<NumberDataPoint>) -> Data {
    Data::Sum(Sum { data_points, aggregation_temporality: temporality, is_monotonic })
}

/// A sum of one point.
pub(crate) fn sum_of(temporality: i32, is_monotonic: bool) -> Data {
    sum(temporality, is_monotonic, vec![number(1.0, 1, 2)])
}

pub(crate) fn histogram(temporality: i32, data_points: Vec<HistogramDataPoint>) -> Data {
    Data::Histogram(Histogram { data_points, aggregation_temporality: temporality })
}

pub(crate) fn classic(bounds: &[f64], counts: &[u64], sum: Option<f64>) -> HistogramDataPoint {
    HistogramDataPoint {
        time_unix_nano: 2,
        count: counts.iter().sum(),
        sum,
        bucket_counts: counts.to_vec(),
        explicit_bounds: bounds.to_vec(),
        ..Default::default()
    }
}

pub(crate) fn exponential(temporality: i32, data_points: Vec<ExponentialHistogramDataPoint>) -> Data {
    Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality: temporality })
}

/// Two zeros and these positive values.
pub(crate) fn native(
    scale: i32,
    offset: i32,
    counts: &[u64],
    sum: Option<f64>,
) -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        time_unix_nano: 2,
        count: counts.iter().sum::<u64>() + 2,
        sum,
        scale,
        zero_count: 2,
        positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
        ..Default::default()
    }
}

pub(crate) fn summary(quantiles: Vec<(f64, f64)>) -> Data {
    let value = |(quantile, value)| ValueAtQuantile { quantile, value };
    let quantile_values = quantiles.into_iter().map(value).collect();
    let point =
        SummaryDataPoint { time_unix_nano: 2, count: 4, sum: 10.0, quantile_values, ..Default::default() };
    Data::Summary(Summary { data_points: vec![point] })
}

/// What a stage is built with, of which nothing matters but the memory.
pub(crate) fn env(budget: u64) -> Env {
    Env {
        id: "prometheus".into(),
        pipeline: None,
        lane: 0,
        copies: 1,
        budget: Budget::new(budget),
        metrics: Metrics::default(),
        tracing: Tracing::default(),
        extensions: Extensions::default(),
        shelf: Shelf::default(),
        notes: None,
        ends: std::sync::Arc::default(),
    }
}
