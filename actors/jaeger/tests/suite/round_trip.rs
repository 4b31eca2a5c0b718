//! OTLP to Jaeger and back: what comes through, and exactly what does not.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status};
use proptest::prelude::*;
use prost::Message;
use watershed_jaeger::decode::Format;
use watershed_jaeger::encode::encode;
use watershed_telemetry::{Payload, Signal};

use crate::api::*;
use crate::properties;

/// What the exporter sends for a request.
fn requests(request: &ExportTraceServiceRequest) -> Vec<PostSpansRequest> {
    let payload = Payload::validate(Signal::Traces, request.encode_to_vec().into()).unwrap();
    let requests = encode(&payload, &mut |_| true).unwrap();
    requests.iter().map(|bytes| PostSpansRequest::decode(&bytes[..]).unwrap()).collect()
}

/// What the receiver makes of what the exporter sends.
fn there_and_back(request: &ExportTraceServiceRequest) -> ExportTraceServiceRequest {
    let sent = requests(request).into_iter();
    let back = sent.map(|request| otlp(Format::Proto, &request.encode_to_vec()).unwrap());
    ExportTraceServiceRequest { resource_spans: back.flat_map(|back| back.resource_spans).collect() }
}

fn of(
    resource: Option<Resource>,
    scope: Option<InstrumentationScope>,
    spans: Vec<OtlpSpan>,
) -> ResourceSpans {
    let scope_spans = vec![ScopeSpans { scope, spans, ..ScopeSpans::default() }];
    ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }
}

fn all(resource_spans: Vec<ResourceSpans>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest { resource_spans }
}

fn service(name: &str) -> Option<Resource> {
    let attributes = vec![string("service.name", name), attribute("n", Value::IntValue(1))];
    Some(Resource { attributes, ..Resource::default() })
}

fn link(span: u8, kind: &str) -> Link {
    let attributes = vec![string("opentracing.ref_type", kind)];
    Link { trace_id: vec![3; 16], span_id: vec![span; 8], attributes, ..Link::default() }
}

/// A span with all that Jaeger can carry.
fn full() -> OtlpSpan {
    OtlpSpan {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        trace_state: "a=b".into(),
        parent_span_id: vec![3; 8],
        flags: 1,
        name: "GET /".into(),
        kind: 3,
        start_time_unix_nano: 1_700_000_000_123_456_789,
        end_time_unix_nano: 1_700_000_001_000_000_001,
        attributes: vec![
            string("text", "a"),
            attribute("bool", Value::BoolValue(true)),
            attribute("int", Value::IntValue(-1)),
            attribute("double", Value::DoubleValue(0.25)),
            attribute("bytes", Value::BytesValue(vec![0, 255])),
        ],
        dropped_attributes_count: 1,
        events: vec![Event {
            time_unix_nano: 1_700_000_000_200_000_001,
            name: "retry".into(),
            attributes: vec![attribute("n", Value::IntValue(1))],
            dropped_attributes_count: 2,
        }],
        dropped_events_count: 3,
        links: vec![link(4, "follows_from"), link(5, "child_of")],
        dropped_links_count: 4,
        status: Some(Status { code: 2, message: "why".into() }),
    }
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "db".into(), version: "2".into(), ..InstrumentationScope::default() })
}

#[test]
fn what_jaeger_can_carry_comes_back_as_it_was() {
    let request = all(vec![of(service("cart"), scope(), vec![full()])]);
    assert_eq!(there_and_back(&request), request);
}

#[test]
fn what_jaeger_cannot_carry_is_lost_in_these_ways() {
    let (list, map) = (
        Value::ArrayValue(ArrayValue {
            values: vec![
                AnyValue { value: Some(Value::IntValue(1)) },
                AnyValue { value: Some(Value::StringValue("a\"b".into())) },
                AnyValue { value: Some(Value::BytesValue(vec![0, 255])) },
                AnyValue { value: Some(Value::DoubleValue(f64::NAN)) },
                AnyValue { value: None },
            ],
        }),
        Value::KvlistValue(KeyValueList { values: vec![string("k", "v")] }),
    );
    let more = |key: &str| vec![string(key, "lost")];
    let span = OtlpSpan {
        kind: 1,
        flags: 0x301,
        attributes: vec![
            attribute("list", list),
            attribute("map", map),
            KeyValue { key: "nothing".into(), value: None, ..KeyValue::default() },
        ],
        links: vec![Link {
            attributes: more("kind"),
            trace_state: "a=b".into(),
            dropped_attributes_count: 1,
            flags: 1,
            ..link(4, "")
        }],
        ..full()
    };
    let scope =
        InstrumentationScope { attributes: more("scope"), dropped_attributes_count: 1, ..scope().unwrap() };
    let mut group = of(service("cart"), Some(scope), vec![span.clone()]);
    group.schema_url = "resource".into();
    group.scope_spans[0].schema_url = "scope".into();

    let lost = OtlpSpan {
        // Internal spans have no tag.
        kind: 0,
        flags: 1,
        // Lists and maps are JSON, and no value is an empty text.
        attributes: vec![
            string("list", r#"[1,"a\"b","AP8=",null,null]"#),
            string("map", r#"{"k":"v"}"#),
            string("nothing", ""),
        ],
        // Of a link the ids are left.
        links: vec![link(4, "follows_from")],
        ..span
    };
    assert_eq!(there_and_back(&all(vec![group])), all(vec![of(service("cart"), self::scope(), vec![lost])]));
}

#[test]
fn a_status_without_an_error_has_no_description_unless_it_is_ok() {
    let status = |code, message: &str| {
        let status = Some(Status { code, message: message.into() });
        let request = all(vec![of(service("cart"), None, vec![OtlpSpan { status, ..full() }])]);
        there_and_back(&request).resource_spans[0].scope_spans[0].spans[0].status.clone()
    };
    assert_eq!(status(1, "fine"), Some(Status { code: 1, message: "fine".into() }));
    assert_eq!(status(0, "hm"), None);
    let tags = |status| {
        let request = all(vec![of(None, None, vec![OtlpSpan { status, kind: 0, ..OtlpSpan::default() }])]);
        requests(&request)[0].batch.clone().unwrap().spans[0].tags.clone()
    };
    let error = Some(Status { code: 2, message: String::new() });
    assert_eq!(tags(error), [boolean("error", true), text("otel.status_code", "ERROR")]);
}

#[test]
fn an_event_is_named_by_its_attribute_if_it_has_one() {
    let event = |name: &str, attributes| {
        let event = Event { name: name.into(), attributes, ..Event::default() };
        let request = all(vec![of(None, None, vec![OtlpSpan { events: vec![event], ..full() }])]);
        requests(&request)[0].batch.clone().unwrap().spans[0].logs[0].fields.clone()
    };
    assert_eq!(event("retry", vec![]), [text("event", "retry")]);
    assert_eq!(event("retry", vec![string("event", "own")]), [text("event", "own")]);
}

#[test]
fn there_is_a_request_for_each_resource_that_has_spans() {
    let spans = |id| vec![OtlpSpan { span_id: vec![id; 8], ..full() }];
    let sent = requests(&all(vec![
        of(service("cart"), scope(), spans(1)),
        of(service("shop"), None, spans(2)),
        of(service("cart"), None, spans(3)),
        of(service("idle"), None, vec![]),
        of(None, None, spans(4)),
    ]));
    let seen: Vec<(String, Vec<u8>)> = sent
        .into_iter()
        .map(|request| {
            let batch = request.batch.unwrap();
            let ids = batch.spans.iter().map(|span| span.span_id[0]).collect();
            (batch.process.unwrap().service_name, ids)
        })
        .collect();
    let expected = [("cart", vec![1, 3]), ("shop", vec![2]), ("unknown_service", vec![4])];
    assert_eq!(seen, expected.map(|(name, ids)| (name.to_owned(), ids)));
}

proptest! {
    #[test]
    fn what_came_from_jaeger_goes_back_as_it_came(batch in properties::batch()) {
        let once = translate(&batch);
        let spans = |request: &ExportTraceServiceRequest| {
            let groups = request.resource_spans.iter().flat_map(|group| &group.scope_spans);
            groups.map(|group| group.spans.len()).sum::<usize>()
        };
        prop_assert_eq!(spans(&once), batch.batch.as_ref().unwrap().spans.len());
        prop_assert_eq!(there_and_back(&once), once);
    }
}
