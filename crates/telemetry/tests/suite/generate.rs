//! Strategies for requests: rich in fields, small in size, with every length and depth that makes a difference.

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::oracle::Request;

/// A request of any signal.
pub fn request() -> impl Strategy<Value = Request> {
    prop_oneof![traces(), metrics(), logs()]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c.]{0,9}", 1 => "\\PC{0,20}", 1 => Just("x".repeat(130))]
}

/// Few keys, so that edits meet them, twice in one message at times.
pub fn key() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[a-d]", 1 => text()]
}

fn id(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), len), 1 => Just(vec![0; len]), 1 => Just(Vec::new())]
}

/// As [`any`], which has neither NaN nor infinities.
fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => any::<f64>(),
        1 => prop::sample::select(vec![0.0, -0.0, 1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
    ]
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        4 => text().prop_map(Value::StringValue),
        1 => any::<bool>().prop_map(Value::BoolValue),
        1 => any::<i64>().prop_map(Value::IntValue),
        1 => double().prop_map(Value::DoubleValue),
        1 => vec(any::<u8>(), 0..5).prop_map(Value::BytesValue),
    ];
    let leaf = option::weighted(0.9, leaf).prop_map(|value| AnyValue { value });
    leaf.prop_recursive(3, 8, 3, |inner| {
        let entry = (key(), option::of(inner.clone()));
        let entry = entry.prop_map(|(key, value)| KeyValue { key, value, ..KeyValue::default() });
        prop_oneof![
            vec(inner, 0..3).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(entry, 0..3).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

pub fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let attribute = (key(), option::weighted(0.9, any_value()));
    vec(attribute.prop_map(|(key, value)| KeyValue { key, value, ..KeyValue::default() }), 0..4)
}

fn resource() -> impl Strategy<Value = Option<Resource>> {
    let entity = (text(), text(), vec(text(), 0..3), vec(text(), 0..2)).prop_map(
        |(schema_url, r#type, id_keys, description_keys)| EntityRef {
            schema_url,
            r#type,
            id_keys,
            description_keys,
        },
    );
    option::weighted(
        0.8,
        (attributes(), any::<u32>(), vec(entity, 0..2)).prop_map(
            |(attributes, dropped_attributes_count, entity_refs)| Resource {
                attributes,
                dropped_attributes_count,
                entity_refs,
            },
        ),
    )
}

fn scope() -> impl Strategy<Value = Option<InstrumentationScope>> {
    option::weighted(
        0.8,
        (text(), text(), attributes(), any::<u32>()).prop_map(
            |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
                name,
                version,
                attributes,
                dropped_attributes_count,
            },
        ),
    )
}

fn traces() -> impl Strategy<Value = Request> {
    let scope_spans = (scope(), vec(span(), 0..6), text())
        .prop_map(|(scope, spans, schema_url)| ScopeSpans { scope, spans, schema_url });
    let resource_spans = (resource(), vec(scope_spans, 0..3), text())
        .prop_map(|(resource, scope_spans, schema_url)| ResourceSpans { resource, scope_spans, schema_url });
    vec(resource_spans, 0..3).prop_map(Request::traces)
}

fn span() -> impl Strategy<Value = Span> {
    let event = (any::<u64>(), text(), attributes(), 0..3u32).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    );
    let link = (id(16), id(8), text(), attributes(), 0..3u32, any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    );
    let status = option::of((text(), -1..4i32).prop_map(|(message, code)| Status { message, code }));
    let head = (id(16), id(8), text(), id(8), text(), -1..7i32, any::<[u64; 2]>(), any::<[u32; 4]>());
    (head, attributes(), vec(event, 0..2), vec(link, 0..2), status).prop_map(
        |(
            (trace_id, span_id, trace_state, parent_span_id, name, kind, times, counts),
            attributes,
            events,
            links,
            status,
        )| Span {
            trace_id,
            span_id,
            trace_state,
            parent_span_id,
            flags: counts[0],
            name,
            kind,
            start_time_unix_nano: times[0],
            end_time_unix_nano: times[1],
            attributes,
            dropped_attributes_count: counts[1],
            events,
            dropped_events_count: counts[2],
            links,
            dropped_links_count: counts[3],
            status,
        },
    )
}

fn logs() -> impl Strategy<Value = Request> {
    let log_record = (
        any::<[u64; 2]>(),
        -1..30i32,
        text(),
        option::of(any_value()),
        attributes(),
        any::<[u32; 2]>(),
        id(16),
        id(8),
        text(),
    )
        .prop_map(
            |(times, severity, severity_text, body, attributes, counts, trace_id, span_id, event_name)| {
                LogRecord {
                    time_unix_nano: times[0],
                    observed_time_unix_nano: times[1],
                    severity_number: severity,
                    severity_text,
                    body,
                    attributes,
                    dropped_attributes_count: counts[0],
                    flags: counts[1],
                    trace_id,
                    span_id,
                    event_name,
                }
            },
        );
    let scope_logs = (scope(), vec(log_record, 0..6), text())
        .prop_map(|(scope, log_records, schema_url)| ScopeLogs { scope, log_records, schema_url });
    let resource_logs = (resource(), vec(scope_logs, 0..3), text())
        .prop_map(|(resource, scope_logs, schema_url)| ResourceLogs { resource, scope_logs, schema_url });
    vec(resource_logs, 0..3).prop_map(Request::logs)
}

fn metrics() -> impl Strategy<Value = Request> {
    let scope_metrics = (scope(), vec(metric(), 0..4), text())
        .prop_map(|(scope, metrics, schema_url)| ScopeMetrics { scope, metrics, schema_url });
    let resource_metrics =
        (resource(), vec(scope_metrics, 0..3), text()).prop_map(|(resource, scope_metrics, schema_url)| {
            ResourceMetrics { resource, scope_metrics, schema_url }
        });
    vec(resource_metrics, 0..3).prop_map(Request::metrics)
}

fn metric() -> impl Strategy<Value = Metric> {
    let data = prop_oneof![
        vec(number_point(), 0..4).prop_map(|data_points| Data::Gauge(Gauge { data_points })),
        (vec(number_point(), 0..4), 0..4i32, any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| Data::Sum(Sum {
                data_points,
                aggregation_temporality,
                is_monotonic
            })
        ),
        (vec(histogram_point(), 0..4), 0..4i32).prop_map(|(data_points, aggregation_temporality)| {
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        }),
        (vec(exponential_point(), 0..4), 0..4i32).prop_map(|(data_points, aggregation_temporality)| {
            Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
        }),
        vec(summary_point(), 0..4).prop_map(|data_points| Data::Summary(Summary { data_points })),
    ];
    (text(), text(), text(), attributes(), option::weighted(0.9, data)).prop_map(
        |(name, description, unit, metadata, data)| Metric { name, description, unit, metadata, data },
    )
}

fn number_point() -> impl Strategy<Value = NumberDataPoint> {
    use number_data_point::Value::{AsDouble, AsInt};
    let value = prop_oneof![double().prop_map(AsDouble), any::<i64>().prop_map(AsInt)];
    (attributes(), any::<[u64; 2]>(), exemplars(), any::<u32>(), option::of(value)).prop_map(
        |(attributes, times, exemplars, flags, value)| NumberDataPoint {
            attributes,
            start_time_unix_nano: times[0],
            time_unix_nano: times[1],
            exemplars,
            flags,
            value,
        },
    )
}

fn exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    use exemplar::Value::{AsDouble, AsInt};
    let value = prop_oneof![double().prop_map(AsDouble), any::<i64>().prop_map(AsInt)];
    let exemplar = (attributes(), any::<u64>(), id(8), id(16), option::of(value)).prop_map(
        |(filtered_attributes, time_unix_nano, span_id, trace_id, value)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    );
    vec(exemplar, 0..2)
}

fn histogram_point() -> impl Strategy<Value = HistogramDataPoint> {
    (
        attributes(),
        any::<[u64; 3]>(),
        [option::of(double()), option::of(double()), option::of(double())],
        vec(any::<u64>(), 0..4),
        vec(double(), 0..4),
        exemplars(),
        any::<u32>(),
    )
        .prop_map(|(attributes, whole, real, bucket_counts, explicit_bounds, exemplars, flags)| {
            HistogramDataPoint {
                attributes,
                start_time_unix_nano: whole[0],
                time_unix_nano: whole[1],
                count: whole[2],
                sum: real[0],
                bucket_counts,
                explicit_bounds,
                exemplars,
                flags,
                min: real[1],
                max: real[2],
            }
        })
}

fn exponential_point() -> impl Strategy<Value = ExponentialHistogramDataPoint> {
    let buckets = || {
        let buckets = (any::<i32>(), vec(any::<u64>(), 0..4));
        option::of(buckets.prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }))
    };
    (
        attributes(),
        any::<[u64; 4]>(),
        [option::of(double()), option::of(double()), option::of(double())],
        any::<i32>(),
        buckets(),
        buckets(),
        exemplars(),
        any::<u32>(),
        double(),
    )
        .prop_map(
            |(attributes, whole, real, scale, positive, negative, exemplars, flags, zero_threshold)| {
                ExponentialHistogramDataPoint {
                    attributes,
                    start_time_unix_nano: whole[0],
                    time_unix_nano: whole[1],
                    count: whole[2],
                    sum: real[0],
                    scale,
                    zero_count: whole[3],
                    positive,
                    negative,
                    flags,
                    exemplars,
                    min: real[1],
                    max: real[2],
                    zero_threshold,
                }
            },
        )
}

fn summary_point() -> impl Strategy<Value = SummaryDataPoint> {
    let quantile = [double(), double()].prop_map(|[quantile, value]| ValueAtQuantile { quantile, value });
    (attributes(), any::<[u64; 3]>(), double(), vec(quantile, 0..3), any::<u32>()).prop_map(
        |(attributes, whole, sum, quantile_values, flags)| SummaryDataPoint {
            attributes,
            start_time_unix_nano: whole[0],
            time_unix_nano: whole[1],
            count: whole[2],
            sum,
            quantile_values,
            flags,
        },
    )
}
