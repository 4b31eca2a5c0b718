//! The way back: what OTLP becomes, and what is lost by going there and back.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value as Json, json};
use watershed_telemetry::{Payload, Signal};
use watershed_zipkin::{Encoding, Format, Options, decode, encode};

use crate::messages::{Endpoint, ListOfSpans};
use crate::oracle::{attribute, read, text};
use crate::properties::list;

fn request(
    resource: Vec<KeyValue>,
    scope: Option<InstrumentationScope>,
    spans: Vec<Span>,
) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { scope, spans, schema_url: "s".into() }];
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, schema_url: "r".into() }],
    }
}

fn body(request: &ExportTraceServiceRequest, encoding: Encoding) -> (Vec<u8>, u64) {
    let payload = Payload::validate(Signal::Traces, request.encode_to_vec().into()).unwrap();
    let mut out = Vec::new();
    let left_out = encode(&payload, encoding, "nobody", &mut out);
    (out, left_out)
}

/// The one span that a span becomes, in JSON; protobuf must mean the same.
fn written_of(request: &ExportTraceServiceRequest) -> Json {
    let (json, proto) = (body(request, Encoding::Json).0, body(request, Encoding::Proto).0);
    assert_eq!(read(Format::Json, &json).unwrap(), read(Format::Proto, &proto).unwrap());
    ListOfSpans::decode(&*proto).unwrap();
    let spans: Json = serde_json::from_slice(&json).unwrap();
    spans[0].clone()
}

fn plain() -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        start_time_unix_nano: 1000,
        end_time_unix_nano: 3000,
        ..Span::default()
    }
}

fn written(span: Span) -> Json {
    written_of(&request(vec![text("service.name", "shop")], None, vec![span]))
}

fn with(attributes: Vec<KeyValue>) -> Json {
    written(Span { attributes, ..plain() })
}

#[test]
fn a_span_is_written_field_by_field() {
    let span = Span {
        parent_span_id: vec![3; 8],
        name: "get \"x\"".into(),
        kind: 3,
        end_time_unix_nano: 4_999_999,
        trace_state: "a=1".into(),
        attributes: vec![
            text("t", "v"),
            attribute("i", Value::IntValue(-7)),
            attribute("d", Value::DoubleValue(0.5)),
            attribute("b", Value::BoolValue(true)),
            attribute("y", Value::BytesValue(vec![1, 2])),
            KeyValue { key: "n".into(), value: None, ..KeyValue::default() },
            attribute(
                "l",
                Value::ArrayValue(ArrayValue {
                    values: [
                        Value::StringValue("a\n".into()),
                        Value::DoubleValue(f64::NAN),
                        Value::IntValue(1),
                    ]
                    .map(|value| AnyValue { value: Some(value) })
                    .to_vec(),
                }),
            ),
            attribute("m", Value::KvlistValue(KeyValueList { values: vec![text("k", "v")] })),
        ],
        dropped_attributes_count: 1,
        dropped_events_count: 2,
        dropped_links_count: 3,
        status: Some(Status { code: 2, message: "no luck".into() }),
        ..plain()
    };
    let scope = InstrumentationScope {
        name: "lib".into(),
        version: "1".into(),
        attributes: vec![text("of", "scope")],
        ..InstrumentationScope::default()
    };
    let resource = vec![text("service.name", "shop"), text("service.namespace", "eu"), text("t", "hidden")];
    assert_eq!(
        written_of(&request(resource, Some(scope), vec![span])),
        json!({
            "traceId": "01010101010101010101010101010101", "parentId": "0303030303030303", "id": "0202020202020202",
            "kind": "CLIENT", "name": "get \"x\"", "timestamp": 1, "duration": 4998,
            "localEndpoint": { "serviceName": "shop" },
            "tags": {
                "t": "v", "i": "-7", "d": "0.5", "b": "true", "y": "AQI=", "n": "", "l": "[\"a\\n\",\"NaN\",1]",
                "m": "{\"k\":\"v\"}", "w3c.tracestate": "a=1", "otel.status_code": "ERROR", "error": "no luck",
                "otel.dropped_attributes_count": "1", "otel.dropped_events_count": "2",
                "otel.dropped_links_count": "3", "otel.scope.name": "lib", "otel.scope.version": "1",
                "of": "scope", "service.namespace": "eu",
            },
        })
    );
}

#[test]
fn what_is_empty_is_not_written() {
    let span = Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Span::default() };
    assert_eq!(
        written_of(&request(vec![], None, vec![span])),
        json!({ "traceId": "01".repeat(16), "id": "02".repeat(8), "localEndpoint": { "serviceName": "nobody" } })
    );
}

#[test]
fn kinds_and_statuses_are_written() {
    for (number, kind) in [(2, "SERVER"), (3, "CLIENT"), (4, "PRODUCER"), (5, "CONSUMER")] {
        assert_eq!(written(Span { kind: number, ..plain() })["kind"], kind);
    }
    assert_eq!(written(Span { kind: 1, ..plain() })["tags"], json!({ "span.kind": "internal" }));
    let status = |code, message: &str| {
        written(Span { status: Some(Status { code, message: message.into() }), ..plain() })
    };
    assert_eq!(status(1, "")["tags"], json!({ "otel.status_code": "OK" }));
    assert_eq!(status(2, "")["tags"], json!({ "otel.status_code": "ERROR", "error": "" }));
    assert_eq!(status(0, "lost")["tags"], Json::Null);
    assert_eq!(with(vec![attribute("error", Value::BoolValue(false))])["tags"], Json::Null);
}

#[test]
fn short_times_are_not_nothing() {
    let lasting =
        |nanos: u64| written(Span { end_time_unix_nano: 1000 + nanos, ..plain() })["duration"].clone();
    assert_eq!(
        [lasting(0), lasting(1), lasting(999), lasting(1999)],
        [Json::Null, json!(1), json!(1), json!(1)]
    );
    assert_eq!(
        written(Span { end_time_unix_nano: 1, ..plain() })["duration"],
        Json::Null,
        "it ends before it starts"
    );
}

#[test]
fn the_other_end_is_the_best_that_is_known() {
    let remote = |kind, attributes: &[(&str, &str)]| {
        let attributes = attributes.iter().map(|(key, value)| text(key, value)).collect();
        written(Span { kind, attributes, ..plain() })["remoteEndpoint"].clone()
    };
    for (attributes, expected) in [
        (
            &[("db.name", "d"), ("peer.service", "p"), ("server.address", "s")][..],
            json!({ "serviceName": "p" }),
        ),
        (&[("db.name", "d"), ("server.address", "s")], json!({ "serviceName": "s" })),
        (&[("db.name", "d"), ("network.peer.address", "1.2.3.4")], json!({ "ipv4": "1.2.3.4" })),
        (
            &[("net.peer.name", "n"), ("network.peer.address", "::1"), ("network.peer.port", "80")],
            json!({ "serviceName": "n", "ipv6": "::1", "port": 80 }),
        ),
        (&[("net.sock.peer.addr", "/tmp/x"), ("db.name", "d")], json!({ "serviceName": "/tmp/x" })),
        (
            &[("server.socket.address", "1.2.3.4"), ("server.socket.port", "5")],
            json!({ "ipv4": "1.2.3.4", "port": 5 }),
        ),
        (&[("db.name", "d")], json!({ "serviceName": "d" })),
        (&[], Json::Null),
    ] {
        assert_eq!(remote(3, attributes), expected, "{attributes:?}");
        assert_eq!(remote(4, attributes), expected, "{attributes:?}");
    }
    assert_eq!(
        remote(2, &[("server.address", "me"), ("network.peer.address", "1.2.3.4")]),
        json!({ "ipv4": "1.2.3.4" })
    );
}

#[test]
fn what_only_ranks_stays_a_tag() {
    let span = with(vec![
        text("server.address", "s"),
        text("network.local.address", "no address"),
        text("peer.service", "p"),
    ]);
    assert_eq!(span["tags"], json!({ "server.address": "s", "network.local.address": "no address" }));
}

#[test]
fn of_a_key_that_stands_twice_the_nearest_holds() {
    let span = Span {
        attributes: vec![text("a", "1"), text("a", "2"), text("otel.status_code", "own")],
        status: Some(Status { code: 1, ..Status::default() }),
        ..plain()
    };
    let resource = vec![text("a", "3"), text("b", "4"), text("service.name", "x")];
    let (json, _) = body(&request(resource, None, vec![span]), Encoding::Json);
    let text = String::from_utf8(json).unwrap();
    assert!(text.contains(r#""tags":{"otel.status_code":"OK","a":"1","b":"4"}"#), "{text}");
    let many = (0..300).map(|number| super::oracle::text(&format!("k{}", number % 150), "v")).collect();
    assert_eq!(with(many)["tags"].as_object().unwrap().len(), 150);
}

#[test]
fn spans_without_ids_are_left_out_and_counted() {
    let spans =
        vec![plain(), Span { trace_id: vec![], ..plain() }, Span { span_id: vec![0; 8], ..plain() }, plain()];
    for encoding in [Encoding::Json, Encoding::Proto] {
        let (body, left_out) = body(&request(vec![], None, spans.clone()), encoding);
        let format = if encoding == Encoding::Json { Format::Json } else { Format::Proto };
        let read = read(format, &body).unwrap();
        assert_eq!((read.resource_spans[0].scope_spans[0].spans.len(), left_out), (2, 2));
    }
}

/// The round trip from OTLP, and what docs/components/zipkin.md says is lost by it.
#[test]
fn what_otlp_loses_on_its_way_through_zipkin() {
    let events = vec![
        Event { time_unix_nano: 2000, name: "plain".into(), ..Event::default() },
        Event {
            time_unix_nano: 2500,
            name: "a \"b\"".into(),
            attributes: vec![
                text("k", "v"),
                attribute("n", Value::IntValue(1)),
                attribute("d", Value::DoubleValue(1.0)),
            ],
            dropped_attributes_count: 4,
        },
    ];
    let links = vec![Link {
        trace_id: vec![4; 16],
        span_id: vec![5; 8],
        trace_state: "x=|y".into(),
        attributes: vec![text("k", "v|{")],
        dropped_attributes_count: 6,
        flags: 1,
    }];
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        trace_state: "a=1".into(),
        name: "n".into(),
        kind: 3,
        start_time_unix_nano: 1_000_999,
        end_time_unix_nano: 3_000_000,
        attributes: vec![
            text("peer.service", "p"),
            attribute("network.peer.port", Value::IntValue(80)),
            attribute("i", Value::IntValue(7)),
            attribute("list", Value::ArrayValue(ArrayValue::default())),
        ],
        events: events.clone(),
        links: links.clone(),
        dropped_attributes_count: 1,
        dropped_events_count: 2,
        dropped_links_count: 3,
        status: Some(Status { code: 2, message: "m".into() }),
        flags: 1,
    };
    let scope = InstrumentationScope {
        name: "lib".into(),
        version: "1".into(),
        attributes: vec![text("s", "v")],
        ..InstrumentationScope::default()
    };
    let resource = vec![text("service.name", "shop"), text("host.name", "h")];
    let sent = request(resource, Some(scope), vec![span.clone()]);
    // Resource and scope: their attributes are the spans'. Their schemas and dropped counts are gone.
    let kept_scope =
        InstrumentationScope { name: "lib".into(), version: "1".into(), ..InstrumentationScope::default() };
    let mut kept = request(
        vec![text("service.name", "shop")],
        Some(kept_scope),
        vec![Span {
            // Times: below a microsecond.
            start_time_unix_nano: 1_000_000,
            end_time_unix_nano: 2_999_000,
            // Attributes: what is not text.
            attributes: vec![
                text("i", "7"),
                text("list", "[]"),
                text("s", "v"),
                text("host.name", "h"),
                text("peer.service", "p"),
                attribute("network.peer.port", Value::IntValue(80)),
            ],
            events: vec![events[0].clone(), Event { time_unix_nano: 2000, ..events[1].clone() }],
            // Flags.
            links: vec![Link { flags: 0, ..links[0].clone() }],
            flags: 0,
            ..span
        }],
    );
    kept.resource_spans[0].schema_url.clear();
    kept.resource_spans[0].scope_spans[0].schema_url.clear();
    for (encoding, format) in [(Encoding::Json, Format::Json), (Encoding::Proto, Format::Proto)] {
        assert_eq!(read(format, &body(&sent, encoding).0).unwrap(), kept);
    }
}

/// What a list is after the way through OTLP.
fn settled(mut list: ListOfSpans) -> ListOfSpans {
    for span in &mut list.spans {
        // 64 bits are as good as 128 with zeros before them.
        if span.trace_id.len() == 16 && span.trace_id[..8] == [0; 8] {
            span.trace_id.drain(..8);
        }
        if span.parent_id == span.id || span.parent_id == [0; 8] {
            span.parent_id.clear();
        }
        // Every span has a service.
        let local = span.local_endpoint.get_or_insert_default();
        if local.service_name.is_empty() {
            local.service_name = "nobody".into();
        }
        if span.remote_endpoint == Some(Endpoint::default()) {
            span.remote_endpoint = None;
        }
        // That it failed is one thing, and how is another.
        let failed = span.tags.get("error").is_some_and(|error| error != "false");
        if failed {
            span.tags.insert("otel.status_code".into(), "ERROR".into());
            if span.tags["error"] == "true" {
                span.tags.insert("error".into(), String::new());
            }
        } else {
            span.tags.remove("error");
        }
        span.tags.retain(|key, value| {
            !(value.is_empty()
                && matches!(&**key, "otel.scope.name" | "otel.scope.version" | "w3c.tracestate"))
        });
    }
    list
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn zipkin_comes_back_as_it_was(list in list()) {
        // Tags that are ends as well are tested by themselves.
        let mut list = list;
        let ends = ["peer.service", "network.peer.address", "network.local.port", "span.kind", "otel.status_code"];
        list.spans.iter_mut().for_each(|span| span.tags.retain(|key, _| !ends.contains(&&**key)));
        for encoding in [Encoding::Json, Encoding::Proto] {
            let payload = decode(Format::Proto, &list.encode_to_vec(), Options::default(), &mut |_| true).unwrap();
            let mut out = Vec::new();
            prop_assert_eq!(encode(&payload, encoding, "nobody", &mut out), 0);
            let sorted = |list: ListOfSpans| -> BTreeMap<Vec<u8>, Vec<_>> {
                let mut spans = BTreeMap::<Vec<u8>, Vec<_>>::new();
                for span in list.spans {
                    spans.entry([&span.trace_id[..], &span.id].concat()).or_default().push(span);
                }
                spans
            };
            let back = if encoding == Encoding::Json {
                let payload = decode(Format::Json, &out, Options::default(), &mut |_| true).unwrap();
                let mut out = Vec::new();
                encode(&payload, Encoding::Proto, "nobody", &mut out);
                ListOfSpans::decode(&*out).unwrap()
            } else {
                ListOfSpans::decode(&*out).unwrap()
            };
            prop_assert_eq!(sorted(back), sorted(settled(list.clone())));
        }
    }
}
