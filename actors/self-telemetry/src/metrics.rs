//! The engine's metrics as OTLP. They are in a registry already, so there is nothing the SDK's instruments could add
//! to reading it, save a limit to the series of each.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use watershed_stage::{Kind, Labels, Reading, Value};

/// The scope of everything that is told.
pub(crate) fn scope(name: &str) -> InstrumentationScope {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    InstrumentationScope { name: name.to_owned(), version, ..InstrumentationScope::default() }
}

/// These readings, of which the counts have grown from `since` to `now`.
pub(crate) fn request(
    readings: Vec<Reading>,
    resource: Resource,
    since: SystemTime,
    now: SystemTime,
) -> ExportMetricsServiceRequest {
    let (since, now) = (nanos(since), nanos(now));
    let metrics = readings.into_iter().map(|reading| metric(reading, since, now)).collect();
    let scope_metrics =
        vec![ScopeMetrics { scope: Some(scope("watershed")), metrics, ..ScopeMetrics::default() }];
    let resource = ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource] }
}

fn metric(reading: Reading, since: u64, now: u64) -> Metric {
    let Reading { name, help, kind, series } = reading;
    let numbers = |series: Vec<(Labels, Value)>| -> Vec<NumberDataPoint> {
        let point = |(labels, value)| {
            let value = match value {
                Value::Whole(value) => Number::AsInt(i64::try_from(value).unwrap_or(i64::MAX)),
                Value::Real(value) => Number::AsDouble(value),
                Value::Distribution { .. } => return None,
            };
            Some(NumberDataPoint {
                attributes: attributes(&labels),
                start_time_unix_nano: if kind == Kind::Gauge { 0 } else { since },
                time_unix_nano: now,
                value: Some(value),
                ..NumberDataPoint::default()
            })
        };
        series.into_iter().filter_map(point).collect()
    };
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match kind {
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers(series) }),
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers(series), aggregation_temporality, is_monotonic: true })
        }
        Kind::Histogram => {
            let point = |(labels, value)| distribution(&labels, value, since, now);
            let data_points = series.into_iter().filter_map(point).collect();
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        }
    };
    Metric { name: name.to_owned(), description: help.to_owned(), data: Some(data), ..Metric::default() }
}

fn distribution(labels: &Labels, value: Value, since: u64, now: u64) -> Option<HistogramDataPoint> {
    let Value::Distribution { bounds, counts, sum } = value else { return None };
    Some(HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: since,
        time_unix_nano: now,
        count: counts.iter().sum(),
        sum: Some(sum as f64),
        bucket_counts: counts,
        explicit_bounds: bounds.iter().map(|bound| *bound as f64).collect(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(name: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) });
    KeyValue { key: name.to_owned(), value, ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use prost::Message as _;
    use watershed_stage::{Metrics, Payload, Signal};

    use super::*;

    #[test]
    fn each_series_is_a_point_under_its_own_name() {
        let metrics = Metrics::default();
        let role = metrics.scoped("role", &"agent".into());
        role.counter("sent", "What was sent.", &[("exporter", "otlp")]).add(3);
        role.gauge("depth", "How deep.", &[], Arc::new(|| 1.5));
        let sizes = role.histogram("sizes", "How large.", &[10, 100], &[]);
        [10, 11, 1000].into_iter().for_each(|size| sizes.record(size));
        metrics.counter("elsewhere", "Of another role.", &[]).add(1);
        let (since, now) = (UNIX_EPOCH + Duration::from_secs(5), UNIX_EPOCH + Duration::from_secs(9));
        let request = request(role.read(), Resource::default(), since, now);

        let told = &request.resource_metrics[0].scope_metrics[0].metrics;
        assert_eq!(told.iter().map(|metric| &*metric.name).collect::<Vec<_>>(), ["depth", "sent", "sizes"]);
        let (Some(Data::Gauge(depth)), Some(Data::Sum(sent))) = (&told[0].data, &told[1].data) else {
            panic!("{told:?}");
        };
        assert_eq!(depth.data_points[0].value, Some(Number::AsDouble(1.5)));
        assert_eq!((sent.is_monotonic, sent.aggregation_temporality), (true, 2));
        let point = &sent.data_points[0];
        assert_eq!(point.value, Some(Number::AsInt(3)));
        assert_eq!(point.attributes, [attribute("role", "agent"), attribute("exporter", "otlp")]);
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5_000_000_000, 9_000_000_000));

        let Some(Data::Histogram(sizes)) = &told[2].data else { panic!("{told:?}") };
        let point = &sizes.data_points[0];
        assert_eq!(
            (&point.bucket_counts[..], &point.explicit_bounds[..]),
            (&[1, 1, 1][..], &[10.0, 100.0][..])
        );
        assert_eq!((point.count, point.sum), (3, Some(1021.0)));

        let payload = Payload::validate(Signal::Metrics, request.encode_to_vec().into()).unwrap();
        assert_eq!(payload.items(), 3);
    }
}
