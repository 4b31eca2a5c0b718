//! Spans of ten tags in Zipkin's formats: what they cost to be made OTLP, and to be made of it.

use std::hint::black_box;

use watershed_telemetry::Payload;
use watershed_zipkin::{Encoding, Format, Options, decode, encode};

use crate::case::Case;

const SPANS: (usize, &str) = (100, "span");

/// All cases.
pub fn cases() -> Vec<Case> {
    let json = body();
    let payload = read(Format::Json, json.as_bytes());
    let mut proto = Vec::new();
    encode(&payload, Encoding::Proto, "", &mut proto);
    let decoding = |name, format, body: Vec<u8>| {
        let length = body.len();
        Case::new(name, SPANS, move || drop(black_box(read(format, &body)))).bytes(length)
    };
    let encoding = |name, encoding| {
        let (payload, length, mut out) = (payload.clone(), payload.bytes(), Vec::new());
        Case::new(name, SPANS, move || {
            out.clear();
            black_box(encode(&payload, encoding, "", &mut out));
        })
        .bytes(length)
    };
    vec![
        decoding("zipkin: read JSON", Format::Json, json.into_bytes()),
        decoding("zipkin: read protobuf", Format::Proto, proto),
        encoding("zipkin: write JSON", Encoding::Json),
        encoding("zipkin: write protobuf", Encoding::Proto),
    ]
}

fn read(format: Format, body: &[u8]) -> Payload {
    decode(format, body, Options::default(), &mut |_| true).expect("the spans are Zipkin's")
}

/// Spans such as a tracer reports.
fn body() -> String {
    let span = |number: usize| {
        let tags: Vec<_> =
            (0..10).map(|tag| format!(r#""http.tag.{tag}":"value {number} of tag {tag}""#)).collect();
        format!(
            r#"{{"traceId":"463ac35c9f6413ad48485a39{number:08x}","parentId":"a2fb4a1d{number:08x}","id":"b2fb4a1d{number:08x}","kind":"CLIENT","name":"get /api/orders","timestamp":1556604172355737,"duration":1431,"localEndpoint":{{"serviceName":"frontend","ipv4":"192.168.99.1","port":3306}},"remoteEndpoint":{{"serviceName":"backend","ipv4":"192.168.99.2","port":9000}},"annotations":[{{"timestamp":1556604172355800,"value":"sent"}}],"tags":{{{}}}}}"#,
            tags.join(",")
        )
    };
    format!("[{}]", (1..=SPANS.0).map(span).collect::<Vec<_>>().join(","))
}
