//! The same spans as other tracers send them.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use serde_json::json;

use crate::wire::{put_bytes, put_fixed64, put_uint};

/// What spans are sent as in place of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Jaeger's api_v2 over gRPC.
    Jaeger,
    /// Zipkin's protobuf over HTTP/1.1.
    Zipkin,
    /// Zipkin's JSON over HTTP/1.1.
    ZipkinJson,
}

impl Foreign {
    /// Where it is sent.
    pub fn path(self) -> &'static str {
        match self {
            Foreign::Jaeger => "/jaeger.api_v2.CollectorService/PostSpans",
            Foreign::Zipkin | Foreign::ZipkinJson => "/api/v2/spans",
        }
    }

    /// What it says it is.
    pub fn media(self) -> &'static str {
        match self {
            Foreign::Jaeger => "application/grpc",
            Foreign::Zipkin => "application/x-protobuf",
            Foreign::ZipkinJson => "application/json",
        }
    }

    /// A request (no frame) of the spans of another, which are of one resource and scope.
    pub(super) fn write(self, request: &ExportTraceServiceRequest) -> Vec<u8> {
        let group = &request.resource_spans[0];
        let scope = &group.scope_spans[0];
        let resource = group.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        let (service, rest): (Vec<_>, Vec<_>) = resource.iter().partition(|pair| pair.key == "service.name");
        let service = service.first().map_or_else(String::new, |name| text(name.value.as_ref()));
        let about = scope.scope.iter().flat_map(|scope| {
            [("otel.scope.name", scope.name.clone()), ("otel.scope.version", scope.version.clone())]
        });
        let about: Vec<_> = about.collect();
        let around = Around { service: &service, resource: &rest, scope: &about };
        match self {
            Foreign::Jaeger => jaeger(&scope.spans, &around),
            Foreign::Zipkin => zipkin(&scope.spans, &around),
            Foreign::ZipkinJson => zipkin_json(&scope.spans, &around),
        }
    }
}

/// What spans have in common.
struct Around<'a> {
    service: &'a str,
    /// Of the resource, what is not the service's name.
    resource: &'a [&'a KeyValue],
    /// Name and version, as tags.
    scope: &'a [(&'static str, String)],
}

/// `PostSpansRequest { batch: Batch { spans, process } }`.
fn jaeger(spans: &[Span], around: &Around<'_>) -> Vec<u8> {
    let (mut batch, mut process, mut request) = (Vec::new(), Vec::new(), Vec::new());
    for span in spans {
        put_bytes(&mut batch, 1, &jaeger_span(span, around));
    }
    put_bytes(&mut process, 1, around.service.as_bytes());
    for pair in around.resource {
        put_bytes(&mut process, 2, &jaeger_tag(&pair.key, pair.value.as_ref()));
    }
    put_bytes(&mut batch, 2, &process);
    put_bytes(&mut request, 1, &batch);
    request
}

fn jaeger_span(span: &Span, around: &Around<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &span.trace_id);
    put_bytes(&mut out, 2, &span.span_id);
    put_bytes(&mut out, 3, span.name.as_bytes());
    if !span.parent_span_id.is_empty() {
        let mut parent = Vec::new();
        put_bytes(&mut parent, 1, &span.trace_id);
        put_bytes(&mut parent, 2, &span.parent_span_id);
        put_bytes(&mut out, 4, &parent);
    }
    put_uint(&mut out, 5, 1);
    put_bytes(&mut out, 6, &time(span.start_time_unix_nano));
    put_bytes(&mut out, 7, &time(span.end_time_unix_nano - span.start_time_unix_nano));
    for pair in &span.attributes {
        put_bytes(&mut out, 8, &jaeger_tag(&pair.key, pair.value.as_ref()));
    }
    for (key, value) in around.scope.iter().cloned().chain([("span.kind", "server".to_owned())]) {
        put_bytes(&mut out, 8, &jaeger_tag(key, Some(&AnyValue { value: Some(Value::StringValue(value)) })));
    }
    if let Some(status) = &span.status {
        let failed = AnyValue { value: Some(Value::BoolValue(true)) };
        put_bytes(&mut out, 8, &jaeger_tag("error", Some(&failed)));
        let why = AnyValue { value: Some(Value::StringValue(status.message.clone())) };
        put_bytes(&mut out, 8, &jaeger_tag("otel.status_description", Some(&why)));
    }
    for event in &span.events {
        let mut log = Vec::new();
        put_bytes(&mut log, 1, &time(event.time_unix_nano));
        let name = AnyValue { value: Some(Value::StringValue(event.name.clone())) };
        put_bytes(&mut log, 2, &jaeger_tag("event", Some(&name)));
        for pair in &event.attributes {
            put_bytes(&mut log, 2, &jaeger_tag(&pair.key, pair.value.as_ref()));
        }
        put_bytes(&mut out, 9, &log);
    }
    out
}

/// A `KeyValue`.
fn jaeger_tag(key: &str, value: Option<&AnyValue>) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, key.as_bytes());
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::BoolValue(flag)) => {
            put_uint(&mut out, 2, 1);
            put_uint(&mut out, 4, u64::from(*flag));
        }
        Some(Value::IntValue(int)) => {
            put_uint(&mut out, 2, 2);
            put_uint(&mut out, 5, *int as u64);
        }
        Some(Value::DoubleValue(double)) => {
            put_uint(&mut out, 2, 3);
            put_fixed64(&mut out, 6, double.to_bits());
        }
        _ => put_bytes(&mut out, 3, text(value).as_bytes()),
    }
    out
}

/// A `Timestamp` or a `Duration`.
fn time(nanos: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_uint(&mut out, 1, nanos / 1_000_000_000);
    put_uint(&mut out, 2, nanos % 1_000_000_000);
    out
}

/// `ListOfSpans`. The span's id stands behind the trace's, where it is numbered.
fn zipkin(spans: &[Span], around: &Around<'_>) -> Vec<u8> {
    let mut list = Vec::new();
    for span in spans {
        let (mut out, mut endpoint) = (Vec::new(), Vec::new());
        put_bytes(&mut out, 1, &span.trace_id);
        put_bytes(&mut out, 3, &span.span_id);
        if !span.parent_span_id.is_empty() {
            put_bytes(&mut out, 2, &span.parent_span_id);
        }
        put_uint(&mut out, 4, 2);
        put_bytes(&mut out, 5, span.name.as_bytes());
        put_fixed64(&mut out, 6, span.start_time_unix_nano / 1_000);
        put_uint(&mut out, 7, (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000);
        put_bytes(&mut endpoint, 1, around.service.as_bytes());
        put_bytes(&mut out, 8, &endpoint);
        for event in &span.events {
            let mut annotation = Vec::new();
            put_fixed64(&mut annotation, 1, event.time_unix_nano / 1_000);
            put_bytes(&mut annotation, 2, happened(event).as_bytes());
            put_bytes(&mut out, 10, &annotation);
        }
        for (key, value) in zipkin_tags(span, around) {
            let mut tag = Vec::new();
            put_bytes(&mut tag, 1, key.as_bytes());
            put_bytes(&mut tag, 2, value.as_bytes());
            put_bytes(&mut out, 11, &tag);
        }
        put_bytes(&mut list, 1, &out);
    }
    list
}

/// An array of spans; the span's id stands behind the trace's, as above.
fn zipkin_json(spans: &[Span], around: &Around<'_>) -> Vec<u8> {
    let spans = spans.iter().map(|span| {
        let mut ids = format!(r#""traceId":"{}","id":"{}""#, hex(&span.trace_id), hex(&span.span_id));
        if !span.parent_span_id.is_empty() {
            ids.push_str(&format!(r#","parentId":"{}""#, hex(&span.parent_span_id)));
        }
        let tags: serde_json::Map<_, _> =
            zipkin_tags(span, around).map(|(key, value)| (key, value.into())).collect();
        let annotation =
            |event: &Event| json!({ "timestamp": event.time_unix_nano / 1_000, "value": happened(event) });
        let rest = json!({
            "kind": "SERVER",
            "name": span.name,
            "timestamp": span.start_time_unix_nano / 1_000,
            "duration": (span.end_time_unix_nano - span.start_time_unix_nano) / 1_000,
            "localEndpoint": { "serviceName": around.service },
            "annotations": span.events.iter().map(annotation).collect::<Vec<_>>(),
            "tags": tags,
        });
        format!("{{{ids},{}", &rest.to_string()[1..])
    });
    format!("[{}]", spans.collect::<Vec<_>>().join(",")).into_bytes()
}

fn zipkin_tags<'a>(span: &'a Span, around: &'a Around<'_>) -> impl Iterator<Item = (String, String)> + 'a {
    let attributes = span.attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref())));
    let scope = around.scope.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    let failed = span.status.iter().map(|status| ("error".to_owned(), status.message.clone()));
    attributes.chain(scope).chain(failed)
}

/// An event as the specification has it in Zipkin.
fn happened(event: &Event) -> String {
    let attributes: serde_json::Map<_, _> =
        event.attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()).into())).collect();
    format!("{}:{}", json!(event.name), serde_json::Value::Object(attributes))
}

/// A value as a tag without types has it.
fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(int)) => int.to_string(),
        Some(Value::DoubleValue(double)) => double.to_string(),
        Some(Value::ArrayValue(list)) => {
            let values: Vec<_> = list.values.iter().map(|value| text(Some(value))).collect();
            json!(values).to_string()
        }
        _ => String::new(),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
