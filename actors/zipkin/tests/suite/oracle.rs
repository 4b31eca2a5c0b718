//! The translation once more, slowly: from `prost`'s structs to `prost`'s structs, and from them to JSON.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use watershed_zipkin::{DecodeError, Format, Options, decode};

use crate::messages::{Endpoint, ListOfSpans, Span as Zipkin};

/// What the product makes of a body.
pub fn read(format: Format, body: &[u8]) -> Result<ExportTraceServiceRequest, DecodeError> {
    read_with(format, body, Options::default())
}

pub fn read_with(
    format: Format,
    body: &[u8],
    options: Options,
) -> Result<ExportTraceServiceRequest, DecodeError> {
    let payload = decode(format, body, options, &mut |_| true)?;
    let request = ExportTraceServiceRequest::decode(payload.to_bytes()).unwrap();
    let spans = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
    assert_eq!(payload.items(), spans.map(|scope| scope.spans.len()).sum::<usize>());
    Ok(request)
}

pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// What a list is to become.
pub fn expected(list: &ListOfSpans) -> ExportTraceServiceRequest {
    let mut groups: BTreeMap<String, BTreeMap<(String, String), Vec<Span>>> = BTreeMap::new();
    for span in &list.spans {
        let service = span.local_endpoint.clone().unwrap_or_default().service_name;
        let tag = |key: &str| span.tags.get(key).cloned().unwrap_or_default();
        let scope = (tag("otel.scope.name"), tag("otel.scope.version"));
        groups.entry(service).or_default().entry(scope).or_default().push(translated(span));
    }
    let resource_spans = groups.into_iter().map(|(service, scopes)| {
        let resource = (!service.is_empty())
            .then(|| Resource { attributes: vec![text("service.name", &service)], ..Resource::default() });
        let scope_spans = scopes.into_iter().map(|((name, version), spans)| {
            let is_named = !name.is_empty() || !version.is_empty();
            let scope =
                is_named.then(|| InstrumentationScope { name, version, ..InstrumentationScope::default() });
            ScopeSpans { scope, spans, schema_url: String::new() }
        });
        ResourceSpans { resource, scope_spans: scope_spans.collect(), schema_url: String::new() }
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

fn translated(zipkin: &Zipkin) -> Span {
    let mut span = Span {
        trace_id: [vec![0; 16 - zipkin.trace_id.len()], zipkin.trace_id.clone()].concat(),
        span_id: zipkin.id.clone(),
        parent_span_id: zipkin.parent_id.clone(),
        name: zipkin.name.clone(),
        kind: [0, 3, 2, 4, 5][zipkin.kind as usize],
        start_time_unix_nano: zipkin.timestamp * 1000,
        end_time_unix_nano: (zipkin.timestamp + zipkin.duration) * 1000,
        ..Span::default()
    };
    if span.parent_span_id == span.span_id || span.parent_span_id == [0; 8] {
        span.parent_span_id.clear();
    }
    let mut status = Status::default();
    for (key, value) in &zipkin.tags {
        match key.as_str() {
            "otel.scope.name" | "otel.scope.version" => {}
            "error" if value != "false" => {
                status.code = 2;
                if value != "true" {
                    status.message = value.clone();
                }
            }
            "otel.status_code" if value == "OK" => status.code = status.code.max(1),
            "span.kind" if value == "internal" && span.kind == 0 => span.kind = 1,
            "w3c.tracestate" => span.trace_state = value.clone(),
            _ => span.attributes.push(text(key, value)),
        }
    }
    span.status = (status != Status::default()).then_some(status);
    let remote = zipkin.remote_endpoint.clone().unwrap_or_default();
    let mut add = |is_so: bool, attribute: KeyValue| {
        if is_so && !zipkin.tags.contains_key(&attribute.key) {
            span.attributes.push(attribute);
        }
    };
    add(!remote.service_name.is_empty(), text("peer.service", &remote.service_name));
    let local = zipkin.local_endpoint.clone().unwrap_or_default();
    for (endpoint, side, second) in
        [(local, "local", "zipkin.local_endpoint.ipv6"), (remote, "peer", "zipkin.remote_endpoint.ipv6")]
    {
        let [ipv4, ipv6] = addresses(&endpoint);
        let first = ipv4.clone().or(ipv6.clone());
        add(first.is_some(), text(&format!("network.{side}.address"), &first.unwrap_or_default()));
        add(ipv4.is_some() && ipv6.is_some(), text(second, &ipv6.unwrap_or_default()));
        let port = Value::IntValue(endpoint.port.into());
        add(endpoint.port > 0, attribute(&format!("network.{side}.port"), port));
    }
    add(zipkin.timestamp == 0, attribute("otel.zipkin.absentField.startTime", Value::BoolValue(true)));
    add(zipkin.debug, attribute("zipkin.debug", Value::BoolValue(true)));
    add(zipkin.shared, attribute("zipkin.shared", Value::BoolValue(true)));
    let events = zipkin.annotations.iter().map(|annotation| Event {
        time_unix_nano: annotation.timestamp * 1000,
        name: annotation.value.clone(),
        ..Event::default()
    });
    span.events = events.collect();
    span
}

fn addresses(endpoint: &Endpoint) -> [Option<String>; 2] {
    let ipv4 = <[u8; 4]>::try_from(endpoint.ipv4.as_slice()).ok().map(|ip| Ipv4Addr::from(ip).to_string());
    let ipv6 = <[u8; 16]>::try_from(endpoint.ipv6.as_slice()).ok().map(|ip| Ipv6Addr::from(ip).to_string());
    [ipv4, ipv6]
}

/// A list in JSON, as Zipkin would write it.
pub fn json(list: &ListOfSpans) -> serde_json::Value {
    list.spans.iter().map(span_json).collect()
}

fn span_json(span: &Zipkin) -> serde_json::Value {
    let mut json = serde_json::json!({ "traceId": hex(&span.trace_id), "id": hex(&span.id) });
    let mut put = |is_there: bool, key: &str, value: serde_json::Value| {
        if is_there {
            json[key] = value;
        }
    };
    put(!span.parent_id.is_empty(), "parentId", hex(&span.parent_id).into());
    let kind = ["", "CLIENT", "SERVER", "PRODUCER", "CONSUMER"][span.kind as usize];
    put(span.kind > 0, "kind", kind.into());
    put(!span.name.is_empty(), "name", span.name.clone().into());
    put(span.timestamp > 0, "timestamp", span.timestamp.into());
    put(span.duration > 0, "duration", span.duration.into());
    for (key, endpoint) in
        [("localEndpoint", &span.local_endpoint), ("remoteEndpoint", &span.remote_endpoint)]
    {
        put(endpoint.is_some(), key, endpoint_json(&endpoint.clone().unwrap_or_default()));
    }
    let annotations = span.annotations.iter().map(
        |annotation| serde_json::json!({ "timestamp": annotation.timestamp, "value": annotation.value }),
    );
    put(!span.annotations.is_empty(), "annotations", annotations.collect());
    put(!span.tags.is_empty(), "tags", serde_json::json!(span.tags));
    put(span.debug, "debug", true.into());
    put(span.shared, "shared", true.into());
    json
}

fn endpoint_json(endpoint: &Endpoint) -> serde_json::Value {
    let mut json = serde_json::json!({});
    if !endpoint.service_name.is_empty() {
        json["serviceName"] = endpoint.service_name.clone().into();
    }
    for (key, address) in ["ipv4", "ipv6"].into_iter().zip(addresses(endpoint)) {
        if let Some(address) = address {
            json[key] = address.into();
        }
    }
    if endpoint.port > 0 {
        json["port"] = endpoint.port.into();
    }
    json
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
