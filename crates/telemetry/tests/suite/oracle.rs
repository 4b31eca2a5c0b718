//! What prost makes of the bytes, and what the views make of them, in the same terms. Shared with the fuzz target.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value,
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
use prost::Message;
use watershed_telemetry::view::{self, AnyValueView, Attributes, MetricData, Number, Value};
use watershed_telemetry::{Payload, Signal};

/// A decoded request.
#[derive(Clone, Debug)]
pub enum Request {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Request {
    pub fn traces(resource_spans: Vec<ResourceSpans>) -> Self {
        Self::Traces(ExportTraceServiceRequest { resource_spans })
    }

    pub fn metrics(resource_metrics: Vec<ResourceMetrics>) -> Self {
        Self::Metrics(ExportMetricsServiceRequest { resource_metrics })
    }

    pub fn logs(resource_logs: Vec<ResourceLogs>) -> Self {
        Self::Logs(ExportLogsServiceRequest { resource_logs })
    }

    pub fn decode(signal: Signal, bytes: &[u8]) -> Result<Self, prost::DecodeError> {
        match signal {
            Signal::Traces => Message::decode(bytes).map(Self::Traces),
            Signal::Metrics => Message::decode(bytes).map(Self::Metrics),
            Signal::Logs => Message::decode(bytes).map(Self::Logs),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Traces(request) => request.encode_to_vec(),
            Self::Metrics(request) => request.encode_to_vec(),
            Self::Logs(request) => request.encode_to_vec(),
        }
    }

    pub fn signal(&self) -> Signal {
        match self {
            Self::Traces(_) => Signal::Traces,
            Self::Metrics(_) => Signal::Metrics,
            Self::Logs(_) => Signal::Logs,
        }
    }

    pub fn items(&self) -> usize {
        match self {
            Self::Traces(request) => {
                request.resource_spans.iter().flat_map(|r| &r.scope_spans).map(|s| s.spans.len()).sum()
            }
            Self::Logs(request) => {
                request.resource_logs.iter().flat_map(|r| &r.scope_logs).map(|s| s.log_records.len()).sum()
            }
            Self::Metrics(request) => {
                let scopes = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics);
                scopes.flat_map(|s| &s.metrics).map(points).sum()
            }
        }
    }

    /// What the views show of a payload.
    pub fn view(payload: &Payload) -> Self {
        match payload.signal() {
            Signal::Traces => Self::traces(
                payload
                    .resources()
                    .map(|group| ResourceSpans {
                        resource: Some(resource(group.resource())),
                        scope_spans: group
                            .scopes()
                            .map(|group| ScopeSpans {
                                scope: Some(scope(group.scope())),
                                spans: group.spans().map(span).collect(),
                                schema_url: group.schema_url().to_owned(),
                            })
                            .collect(),
                        schema_url: group.schema_url().to_owned(),
                    })
                    .collect(),
            ),
            Signal::Metrics => Self::metrics(
                payload
                    .resources()
                    .map(|group| ResourceMetrics {
                        resource: Some(resource(group.resource())),
                        scope_metrics: group
                            .scopes()
                            .map(|group| ScopeMetrics {
                                scope: Some(scope(group.scope())),
                                metrics: group.metrics().map(metric).collect(),
                                schema_url: group.schema_url().to_owned(),
                            })
                            .collect(),
                        schema_url: group.schema_url().to_owned(),
                    })
                    .collect(),
            ),
            Signal::Logs => Self::logs(
                payload
                    .resources()
                    .map(|group| ResourceLogs {
                        resource: Some(resource(group.resource())),
                        scope_logs: group
                            .scopes()
                            .map(|group| ScopeLogs {
                                scope: Some(scope(group.scope())),
                                log_records: group.log_records().map(log_record).collect(),
                                schema_url: group.schema_url().to_owned(),
                            })
                            .collect(),
                        schema_url: group.schema_url().to_owned(),
                    })
                    .collect(),
            ),
        }
    }

    /// In the terms of the views, which do not tell an absent message from an empty one, and know no dictionary.
    /// Compared as text, since NaN is not equal to itself.
    pub fn normal(mut self) -> String {
        match &mut self {
            Self::Traces(request) => request.resource_spans.iter_mut().for_each(|group| {
                normal_resource(&mut group.resource);
                group.scope_spans.iter_mut().for_each(|group| {
                    normal_scope(&mut group.scope);
                    group.spans.iter_mut().for_each(|span| {
                        span.status.get_or_insert_default();
                        normal_attributes(&mut span.attributes);
                        span.events.iter_mut().for_each(|event| normal_attributes(&mut event.attributes));
                        span.links.iter_mut().for_each(|link| normal_attributes(&mut link.attributes));
                    });
                });
            }),
            Self::Metrics(request) => request.resource_metrics.iter_mut().for_each(|group| {
                normal_resource(&mut group.resource);
                group.scope_metrics.iter_mut().for_each(|group| {
                    normal_scope(&mut group.scope);
                    group.metrics.iter_mut().for_each(normal_metric);
                });
            }),
            Self::Logs(request) => request.resource_logs.iter_mut().for_each(|group| {
                normal_resource(&mut group.resource);
                group.scope_logs.iter_mut().for_each(|group| {
                    normal_scope(&mut group.scope);
                    group.log_records.iter_mut().for_each(|record| {
                        normal_value(record.body.get_or_insert_default());
                        normal_attributes(&mut record.attributes);
                    });
                });
            }),
        }
        format!("{self:#?}")
    }
}

pub fn points(metric: &Metric) -> usize {
    match &metric.data {
        None => 0,
        Some(Data::Gauge(data)) => data.data_points.len(),
        Some(Data::Sum(data)) => data.data_points.len(),
        Some(Data::Histogram(data)) => data.data_points.len(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(Data::Summary(data)) => data.data_points.len(),
    }
}

fn normal_resource(resource: &mut Option<Resource>) {
    normal_attributes(&mut resource.get_or_insert_default().attributes);
}

fn normal_scope(scope: &mut Option<InstrumentationScope>) {
    normal_attributes(&mut scope.get_or_insert_default().attributes);
}

fn normal_attributes(attributes: &mut [KeyValue]) {
    for attribute in attributes {
        attribute.key_strindex = 0;
        normal_value(attribute.value.get_or_insert_default());
    }
}

fn normal_value(value: &mut AnyValue) {
    match &mut value.value {
        Some(any_value::Value::ArrayValue(array)) => array.values.iter_mut().for_each(normal_value),
        Some(any_value::Value::KvlistValue(list)) => normal_attributes(&mut list.values),
        Some(any_value::Value::StringValueStrindex(_)) => value.value = None,
        _ => {}
    }
}

fn normal_metric(metric: &mut Metric) {
    normal_attributes(&mut metric.metadata);
    let exemplars = |exemplars: &mut [Exemplar]| {
        exemplars.iter_mut().for_each(|exemplar| normal_attributes(&mut exemplar.filtered_attributes));
    };
    let numbers = |points: &mut [NumberDataPoint]| {
        for point in points {
            normal_attributes(&mut point.attributes);
            exemplars(&mut point.exemplars);
        }
    };
    match &mut metric.data {
        None => {}
        Some(Data::Gauge(data)) => numbers(&mut data.data_points),
        Some(Data::Sum(data)) => numbers(&mut data.data_points),
        Some(Data::Histogram(data)) => data.data_points.iter_mut().for_each(|point| {
            normal_attributes(&mut point.attributes);
            exemplars(&mut point.exemplars);
        }),
        Some(Data::ExponentialHistogram(data)) => data.data_points.iter_mut().for_each(|point| {
            normal_attributes(&mut point.attributes);
            exemplars(&mut point.exemplars);
            point.positive.get_or_insert_default();
            point.negative.get_or_insert_default();
        }),
        Some(Data::Summary(data)) => {
            data.data_points.iter_mut().for_each(|point| normal_attributes(&mut point.attributes));
        }
    }
}

fn attributes(view: Attributes<'_>) -> Vec<KeyValue> {
    view.map(|attribute| KeyValue {
        key: attribute.key().to_owned(),
        value: Some(any_value(attribute.value())),
        key_strindex: 0,
    })
    .collect()
}

fn any_value(view: AnyValueView<'_>) -> AnyValue {
    let value = match view.value() {
        Value::Empty => None,
        Value::Str(text) => Some(any_value::Value::StringValue(text.to_owned())),
        Value::Bool(value) => Some(any_value::Value::BoolValue(value)),
        Value::Int(value) => Some(any_value::Value::IntValue(value)),
        Value::Double(value) => Some(any_value::Value::DoubleValue(value)),
        Value::Array(values) => {
            Some(any_value::Value::ArrayValue(ArrayValue { values: values.map(any_value).collect() }))
        }
        Value::KvList(values) => {
            Some(any_value::Value::KvlistValue(KeyValueList { values: attributes(values) }))
        }
        Value::Bytes(bytes) => Some(any_value::Value::BytesValue(bytes.to_owned())),
    };
    AnyValue { value }
}

fn resource(view: view::ResourceView<'_>) -> Resource {
    let entity = |view: view::EntityRefView<'_>| EntityRef {
        schema_url: view.schema_url().to_owned(),
        r#type: view.entity_type().to_owned(),
        id_keys: view.id_keys().map(str::to_owned).collect(),
        description_keys: view.description_keys().map(str::to_owned).collect(),
    };
    Resource {
        attributes: attributes(view.attributes()),
        dropped_attributes_count: view.dropped_attributes_count(),
        entity_refs: view.entity_refs().map(entity).collect(),
    }
}

fn scope(view: view::ScopeView<'_>) -> InstrumentationScope {
    InstrumentationScope {
        name: view.name().to_owned(),
        version: view.version().to_owned(),
        attributes: attributes(view.attributes()),
        dropped_attributes_count: view.dropped_attributes_count(),
    }
}

fn span(view: view::SpanView<'_>) -> Span {
    let event = |view: view::EventView<'_>| Event {
        time_unix_nano: view.time_unix_nano(),
        name: view.name().to_owned(),
        attributes: attributes(view.attributes()),
        dropped_attributes_count: view.dropped_attributes_count(),
    };
    let link = |view: view::LinkView<'_>| Link {
        trace_id: view.trace_id().to_owned(),
        span_id: view.span_id().to_owned(),
        trace_state: view.trace_state().to_owned(),
        attributes: attributes(view.attributes()),
        dropped_attributes_count: view.dropped_attributes_count(),
        flags: view.flags(),
    };
    let outline = view.outline();
    assert_eq!(
        (outline.trace_id, outline.parent_span_id, outline.status.code(), outline.status.message()),
        (view.trace_id(), view.parent_span_id(), view.status().code(), view.status().message())
    );
    assert_eq!(
        (outline.start_time_unix_nano, outline.end_time_unix_nano),
        (view.start_time_unix_nano(), view.end_time_unix_nano())
    );
    let fields = view.fields();
    assert_eq!(
        (fields.outline.trace_id, fields.outline.parent_span_id, fields.span_id, fields.trace_state),
        (view.trace_id(), view.parent_span_id(), view.span_id(), view.trace_state())
    );
    assert_eq!(
        (
            fields.name,
            fields.kind,
            fields.flags,
            fields.outline.start_time_unix_nano,
            fields.outline.duration()
        ),
        (view.name(), view.kind(), view.flags(), view.start_time_unix_nano(), outline.duration())
    );
    assert_eq!(
        (fields.outline.status.code(), fields.outline.status.message(), fields.dropped),
        (
            view.status().code(),
            view.status().message(),
            [view.dropped_attributes_count(), view.dropped_events_count(), view.dropped_links_count()]
        )
    );
    assert_eq!(
        (fields.has_events, fields.has_links),
        (view.events().next().is_some(), view.links().next().is_some())
    );
    Span {
        trace_id: view.trace_id().to_owned(),
        span_id: view.span_id().to_owned(),
        trace_state: view.trace_state().to_owned(),
        parent_span_id: view.parent_span_id().to_owned(),
        flags: view.flags(),
        name: view.name().to_owned(),
        kind: view.kind(),
        start_time_unix_nano: view.start_time_unix_nano(),
        end_time_unix_nano: view.end_time_unix_nano(),
        attributes: attributes(view.attributes()),
        dropped_attributes_count: view.dropped_attributes_count(),
        events: view.events().map(event).collect(),
        dropped_events_count: view.dropped_events_count(),
        links: view.links().map(link).collect(),
        dropped_links_count: view.dropped_links_count(),
        status: Some(Status { message: view.status().message().to_owned(), code: view.status().code() }),
    }
}

fn log_record(view: view::LogRecordView<'_>) -> LogRecord {
    LogRecord {
        time_unix_nano: view.time_unix_nano(),
        observed_time_unix_nano: view.observed_time_unix_nano(),
        severity_number: view.severity_number(),
        severity_text: view.severity_text().to_owned(),
        body: Some(any_value(view.body())),
        attributes: attributes(view.attributes()),
        dropped_attributes_count: view.dropped_attributes_count(),
        flags: view.flags(),
        trace_id: view.trace_id().to_owned(),
        span_id: view.span_id().to_owned(),
        event_name: view.event_name().to_owned(),
    }
}

fn metric(view: view::MetricView<'_>) -> Metric {
    let data = view.data().map(|data| match data {
        MetricData::Gauge(view) => {
            Data::Gauge(Gauge { data_points: view.data_points().map(number).collect() })
        }
        MetricData::Sum(view) => Data::Sum(Sum {
            data_points: view.data_points().map(number).collect(),
            aggregation_temporality: view.aggregation_temporality(),
            is_monotonic: view.is_monotonic(),
        }),
        MetricData::Histogram(view) => Data::Histogram(Histogram {
            data_points: view.data_points().map(histogram).collect(),
            aggregation_temporality: view.aggregation_temporality(),
        }),
        MetricData::ExponentialHistogram(view) => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: view.data_points().map(exponential).collect(),
            aggregation_temporality: view.aggregation_temporality(),
        }),
        MetricData::Summary(view) => {
            Data::Summary(Summary { data_points: view.data_points().map(summary).collect() })
        }
    });
    Metric {
        name: view.name().to_owned(),
        description: view.description().to_owned(),
        unit: view.unit().to_owned(),
        metadata: attributes(view.metadata()),
        data,
    }
}

fn number(view: view::NumberPointView<'_>) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(view.attributes()),
        start_time_unix_nano: view.start_time_unix_nano(),
        time_unix_nano: view.time_unix_nano(),
        exemplars: view.exemplars().map(exemplar).collect(),
        flags: view.flags(),
        value: view.value().map(|value| match value {
            Number::Double(value) => number_data_point::Value::AsDouble(value),
            Number::Int(value) => number_data_point::Value::AsInt(value),
        }),
    }
}

fn exemplar(view: view::ExemplarView<'_>) -> Exemplar {
    Exemplar {
        filtered_attributes: attributes(view.filtered_attributes()),
        time_unix_nano: view.time_unix_nano(),
        span_id: view.span_id().to_owned(),
        trace_id: view.trace_id().to_owned(),
        value: view.value().map(|value| match value {
            Number::Double(value) => exemplar::Value::AsDouble(value),
            Number::Int(value) => exemplar::Value::AsInt(value),
        }),
    }
}

fn histogram(view: view::HistogramPointView<'_>) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(view.attributes()),
        start_time_unix_nano: view.start_time_unix_nano(),
        time_unix_nano: view.time_unix_nano(),
        count: view.count(),
        sum: view.sum(),
        bucket_counts: view.bucket_counts().collect(),
        explicit_bounds: view.explicit_bounds().collect(),
        exemplars: view.exemplars().map(exemplar).collect(),
        flags: view.flags(),
        min: view.min(),
        max: view.max(),
    }
}

fn exponential(view: view::ExponentialHistogramPointView<'_>) -> ExponentialHistogramDataPoint {
    let buckets = |view: view::BucketsView<'_>| {
        Some(Buckets { offset: view.offset(), bucket_counts: view.bucket_counts().collect() })
    };
    ExponentialHistogramDataPoint {
        attributes: attributes(view.attributes()),
        start_time_unix_nano: view.start_time_unix_nano(),
        time_unix_nano: view.time_unix_nano(),
        count: view.count(),
        sum: view.sum(),
        scale: view.scale(),
        zero_count: view.zero_count(),
        positive: buckets(view.positive()),
        negative: buckets(view.negative()),
        flags: view.flags(),
        exemplars: view.exemplars().map(exemplar).collect(),
        min: view.min(),
        max: view.max(),
        zero_threshold: view.zero_threshold(),
    }
}

fn summary(view: view::SummaryPointView<'_>) -> SummaryDataPoint {
    let quantile =
        |view: view::QuantileView<'_>| ValueAtQuantile { quantile: view.quantile(), value: view.value() };
    SummaryDataPoint {
        attributes: attributes(view.attributes()),
        start_time_unix_nano: view.start_time_unix_nano(),
        time_unix_nano: view.time_unix_nano(),
        count: view.count(),
        sum: view.sum(),
        quantile_values: view.quantile_values().map(quantile).collect(),
        flags: view.flags(),
    }
}
