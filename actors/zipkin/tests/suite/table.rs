//! Field by field.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use watershed_zipkin::{Format, Options};

use crate::oracle::{attribute, read, read_with, text};

const NO_START: &str = "otel.zipkin.absentField.startTime";

/// The one span of a JSON object that says this beside its ids and a timestamp.
fn span(fields: &str) -> Span {
    span_with(fields, Options::default())
}

fn span_with(fields: &str, options: Options) -> Span {
    let comma = if fields.is_empty() { "" } else { "," };
    let body =
        format!(r#"[{{"traceId":"000000000000000a","id":"000000000000000b","timestamp":1{comma}{fields}}}]"#);
    let mut request = read_with(Format::Json, body.as_bytes(), options).unwrap();
    let mut group = request.resource_spans.remove(0);
    group.scope_spans.remove(0).spans.remove(0)
}

fn tagged(key: &str, value: &str) -> Span {
    span(&format!(r#""tags":{{"{key}":{}}}"#, serde_json::json!(value)))
}

#[test]
fn ids_are_padded_and_of_either_case() {
    let span = span(r#""parentId":"AbC""#);
    assert_eq!(span.trace_id, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
    assert_eq!(
        (span.span_id, span.parent_span_id),
        (vec![0, 0, 0, 0, 0, 0, 0, 11], vec![0, 0, 0, 0, 0, 0, 10, 188])
    );
}

#[test]
fn a_parent_that_is_the_span_itself_or_zero_is_none() {
    for parent in ["b", "0", ""] {
        assert!(span(&format!(r#""parentId":"{parent}""#)).parent_span_id.is_empty(), "{parent:?}");
    }
}

#[test]
fn kinds_have_other_numbers() {
    for (name, kind) in [("CLIENT", 3), ("SERVER", 2), ("PRODUCER", 4), ("CONSUMER", 5), ("INTERNAL", 0)] {
        assert_eq!(span(&format!(r#""kind":"{name}""#)).kind, kind, "{name}");
    }
    assert_eq!(tagged("span.kind", "internal").kind, 1);
    let other = tagged("span.kind", "client");
    assert_eq!((other.kind, other.attributes), (0, vec![text("span.kind", "client")]));
}

#[test]
fn times_are_microseconds() {
    let span = span(r#""duration":2000003"#);
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1000, 2_000_004_000));
    for odd in [r#""3""#, "3.0", "3e0", r#""3.2""#] {
        assert_eq!(self::span(&format!(r#""duration":{odd}"#)).end_time_unix_nano, 4000, "{odd}");
    }
    assert_eq!(self::span(r#""duration":-3"#).end_time_unix_nano, 1000, "as in Zipkin");
}

#[test]
fn a_span_without_a_timestamp_says_so() {
    let body = br#"[{"traceId":"a","id":"b","duration":7}]"#;
    let request = read(Format::Json, body).unwrap();
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (0, 7000));
    assert_eq!(span.attributes, [attribute(NO_START, Value::BoolValue(true))]);
}

#[test]
fn a_status_is_read_from_its_tags() {
    let status = |code, message: &str| Some(Status { code, message: message.into() });
    for (tags, expected) in [
        (r#""error":"""#, status(2, "")),
        (r#""error":"true""#, status(2, "")),
        (r#""error":"no luck""#, status(2, "no luck")),
        (r#""otel.status_code":"ERROR","error":"no luck""#, status(2, "no luck")),
        (
            r#""otel.status_code":"STATUS_CODE_ERROR","otel.status_description":"no","error":"true""#,
            status(2, "no"),
        ),
        (r#""otel.status_code":"OK""#, status(1, "")),
        (r#""otel.status_code":"Ok""#, status(1, "")),
        (r#""error":"","otel.status_code":"OK""#, status(2, "")),
        (r#""otel.status_code":"UNSET""#, None),
    ] {
        let span = span(&format!(r#""tags":{{{tags}}}"#));
        assert_eq!((span.status, span.attributes), (expected, vec![]), "{tags}");
    }
    for (key, value) in [("error", "false"), ("otel.status_code", "other")] {
        let span = tagged(key, value);
        assert_eq!((span.status, span.attributes), (None, vec![text(key, value)]));
    }
}

#[test]
fn endpoints_are_attributes_unless_tags_say_it_already() {
    let ends = r#""localEndpoint":{"ipv4":"1.2.3.4","ipv6":"::1","port":80},
        "remoteEndpoint":{"serviceName":"db","ipv6":"::2","port":70000}"#;
    let expected = vec![
        text("peer.service", "db"),
        text("network.local.address", "1.2.3.4"),
        text("zipkin.local_endpoint.ipv6", "::1"),
        attribute("network.local.port", Value::IntValue(80)),
        text("network.peer.address", "::2"),
    ];
    assert_eq!(span(ends).attributes, expected);
    let told =
        span(&format!(r#"{ends},"tags":{{"peer.service":"x","network.local.address":"y"}}"#)).attributes;
    assert_eq!(told[..2], [text("peer.service", "x"), text("network.local.address", "y")]);
    assert_eq!(told[2..], [&expected[2..]].concat());
}

#[test]
fn debug_and_shared_are_attributes() {
    let both = [
        attribute("zipkin.debug", Value::BoolValue(true)),
        attribute("zipkin.shared", Value::BoolValue(true)),
    ];
    assert_eq!(span(r#""debug":true,"shared":true"#).attributes, both);
    assert_eq!(span(r#""debug":false,"shared":false"#).attributes, []);
    let told = Options { debug: true, ..Options::default() };
    assert_eq!(span_with("", told).attributes, both[..1]);
}

#[test]
fn what_is_unknown_or_null_is_passed_over() {
    let span = span(
        r#""new":[{"a":[1,null]}],"kind":null,"name":null,"localEndpoint":null,"tags":{"a":null,"b":7,"c":true}"#,
    );
    assert_eq!((span.kind, span.name.as_str()), (0, ""));
    assert_eq!(span.attributes, [text("b", "7"), text("c", "true")]);
}

#[test]
fn tags_are_parsed_only_if_told() {
    let tags = r#""tags":{"a":"7","b":"-7","c":"1.50","d":"true","e":"false","f":"99999999999999999999","g":"1.","h":"-","i":"","j":"1e5","k":".5"}"#;
    let parsed = span_with(tags, Options { parse_string_tags: true, ..Options::default() }).attributes;
    assert_eq!(
        parsed,
        [
            attribute("a", Value::IntValue(7)),
            attribute("b", Value::IntValue(-7)),
            attribute("c", Value::DoubleValue(1.5)),
            attribute("d", Value::BoolValue(true)),
            attribute("e", Value::BoolValue(false)),
            text("f", "99999999999999999999"),
            text("g", "1."),
            text("h", "-"),
            text("i", ""),
            text("j", "1e5"),
            text("k", ".5"),
        ]
    );
    assert_eq!(span(tags).attributes[0], text("a", "7"));
}

#[test]
fn escapes_are_read_in_keys_and_values() {
    let span = span(r#""name":"a\"b","tags":{"\u0065rror":"\ud83d\ude00","k\n":"v\\"}"#);
    assert_eq!((span.name.as_str(), span.status.unwrap().message.as_str()), ("a\"b", "😀"));
    assert_eq!(span.attributes, [text("k\n", "v\\")]);
}

#[test]
fn events_with_attributes_are_read_in_all_three_spellings() {
    let list = Value::ArrayValue(ArrayValue {
        values: [Value::IntValue(1), Value::StringValue("x".into())]
            .map(|value| AnyValue { value: Some(value) })
            .to_vec(),
    });
    let map = Value::KvlistValue(KeyValueList { values: vec![text("in", "side")] });
    let event = Event {
        time_unix_nano: 5000,
        name: "cache miss".into(),
        attributes: vec![
            text("key", "a|b"),
            attribute("count", Value::IntValue(-3)),
            attribute("share", Value::DoubleValue(0.5)),
            attribute("hit", Value::BoolValue(false)),
            attribute("list", list),
            attribute("map", map),
            KeyValue { key: "nothing".into(), value: Some(AnyValue { value: None }), ..KeyValue::default() },
        ],
        dropped_attributes_count: 2,
    };
    let attributes =
        r#""key":"a|b","count":-3,"share":0.5,"hit":false,"list":[1,"x"],"map":{"in":"side"},"nothing":null"#;
    for value in [
        format!(r#""cache miss": {{{attributes},"otel.dropped_attributes_count":2}}"#),
        format!(r#"{{"cache miss": {{{attributes},"otel.dropped_attributes_count":2}}}}"#),
        format!("cache miss|{{{attributes}}}|2"),
    ] {
        let annotations = serde_json::json!([{ "timestamp": 5, "value": value }]);
        assert_eq!(
            span(&format!(r#""annotations":{annotations}"#)).events,
            std::slice::from_ref(&event),
            "{value}"
        );
    }
}

#[test]
fn what_only_looks_like_an_event_with_attributes_stays_text() {
    for value in [
        "{}",
        "\"}",
        "\"a\":{",
        "\"a\":{}x}",
        "{\"a\":{},\"b\":{}}",
        "a|b|2",
        "a|{|2",
        "a|{}|-2",
        "|2",
        "\"a\":7}",
    ] {
        let annotations = serde_json::json!([{ "timestamp": 5, "value": value }]);
        let events = span(&format!(r#""annotations":{annotations}"#)).events;
        assert_eq!((events[0].name.as_str(), events[0].attributes.len()), (value, 0));
    }
    let deep = format!("\"a\":{{\"b\":{}{}}}", "[".repeat(60), "]".repeat(60));
    let annotations = serde_json::json!([{ "timestamp": 5, "value": deep }]);
    assert_eq!(span(&format!(r#""annotations":{annotations}"#)).events[0].name, deep);
}

#[test]
fn links_are_read_from_otelcols_tags() {
    let link = "5b8efff798038103d269b633813fc60c|eee19b7ec3c1b174|a=1,b=2|{\"k\":\"v\"}|3";
    let span = tagged("otlp.link.0", link);
    assert!(span.attributes.is_empty());
    let [link] = &span.links[..] else { panic!("{:?}", span.links) };
    assert_eq!((link.trace_id[0], link.span_id[0], link.trace_state.as_str()), (0x5b, 0xee, "a=1,b=2"));
    assert_eq!((&link.attributes[..], link.dropped_attributes_count), (&[text("k", "v")][..], 3));
    for odd in ["", "x|b|c|{}|0", "5b|ee|s|{|0", "5b|ee|s|{}"] {
        let span = tagged("otlp.link.0", odd);
        assert_eq!((span.links.len(), span.attributes), (0, vec![text("otlp.link.0", odd)]));
    }
}

#[test]
fn counts_of_what_was_left_out_are_read() {
    let tags = r#""tags":{"otel.dropped_attributes_count":"1","otel.dropped_events_count":"2","otel.dropped_links_count":"3","w3c.tracestate":"a=1"}"#;
    let span = span(tags);
    assert_eq!(
        (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
        (1, 2, 3)
    );
    assert_eq!((span.trace_state.as_str(), span.attributes.len()), ("a=1", 0));
}

#[test]
fn spans_of_one_service_come_together_however_they_lie() {
    let one = |service: &str, id: usize, scope: &str| {
        format!(
            r#"{{"traceId":"a","id":"{id:x}","localEndpoint":{{"serviceName":"{service}"}},"tags":{{"otel.library.name":"{scope}"}}}}"#
        )
    };
    let spans: Vec<String> =
        (1..=300).map(|id| one(&format!("s{}", id % 20), id, if id % 3 == 0 { "x" } else { "" })).collect();
    let request = read(Format::Json, format!("[{}]", spans.join(",")).as_bytes()).unwrap();
    assert_eq!(request.resource_spans.len(), 20);
    for group in &request.resource_spans {
        assert_eq!(group.scope_spans.len(), 2);
        for scope in &group.scope_spans {
            let ids: Vec<u16> = scope
                .spans
                .iter()
                .map(|span| u16::from_be_bytes([span.span_id[6], span.span_id[7]]))
                .collect();
            assert!(ids.is_sorted() && ids.len() >= 5, "{ids:?}");
        }
    }
}
