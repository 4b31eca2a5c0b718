//! How long an edit of attributes takes: `cargo run --release -p watershed-telemetry --example edit_speed`.
//!
//! Prints microseconds a span for requests of 100 spans of some 404 bytes, those of the end-to-end bench; the best
//! of several rounds, since the box is shared. A case's name and a number make that one that many times and print
//! nothing, for what counts instructions: `valgrind --tool=callgrind target/release/examples/edit_speed relay 1000`.

#![allow(clippy::disallowed_methods)] // A benchmark reads the clock.
#![allow(clippy::expect_used)] // What it is given is right.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use regex::{Regex, RegexSet};
use watershed_telemetry::edit::{
    Action, AttributeEdits, Conversion, Criteria, Selection, Source, Target, Texts,
};
use watershed_telemetry::{Payload, Signal};

const SPANS: usize = 100;

fn main() {
    let request = request();
    println!("{SPANS} spans, {:.0} bytes a span", request.len() as f64 / SPANS as f64);
    let payload = Payload::validate(Signal::Traces, request).expect("it is valid");
    let key = str::to_owned;
    let pattern = |pattern| Regex::new(pattern).expect("it is a pattern");
    let upsert = || Action::Upsert { key: key("deployment.environment.name"), value: "production".into() };
    let update = || Action::Update { key: key("url.path"), value: "/".into() };
    let delete = || Action::Delete { key: key("http.request.method") };
    let hash = || Action::Hash { key: key("server.address") };
    let copy = || {
        let value = Source::Attribute { key: key("server.address"), default: None };
        Action::Insert { key: key("peer.service"), value }
    };
    let convert = |name, to| Action::Convert { key: key(name), to };
    let cases = [
        ("nothing to do: delete what is not there", vec![Action::Delete { key: key("no.such.key") }]),
        ("upsert a constant", vec![upsert()]),
        ("delete", vec![delete()]),
        ("hash", vec![hash()]),
        ("relay: upsert, delete, update", vec![upsert(), delete(), update()]),
        ("upsert, delete, hash", vec![upsert(), delete(), hash()]),
        ("insert from another attribute", vec![copy()]),
        ("convert an integer to a string", vec![convert("http.response.status_code", Conversion::String)]),
        ("delete by pattern", vec![Action::DeleteMatching { pattern: pattern("^http\\.re") }]),
        (
            "extract",
            vec![Action::Extract { key: key("http.route"), pattern: pattern("^/api/(?<version>v\\d+)/") }],
        ),
    ];
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let [start, runs] = chosen.as_slice() {
        let (_, actions) = cases.into_iter().find(|(name, _)| name.starts_with(start)).expect("it is a case");
        let edits = AttributeEdits::new(Target::Item, actions);
        (0..runs.parse().expect("it is a number"))
            .for_each(|_: usize| drop(black_box(edits.apply(&payload))));
        return;
    }
    for (name, actions) in cases {
        let edits = AttributeEdits::new(Target::Item, actions);
        measure(name, || edits.apply(&payload).bytes());
    }
    let names = |names| Some(Texts::Matching(RegexSet::new([names]).expect("it is a pattern")));
    for (name, pattern) in [("of all spans by name", "^GET"), ("of no span by name", "^POST")] {
        let include = Some(Criteria { span_names: names(pattern), ..Criteria::default() });
        let edits = AttributeEdits::new(Target::Item, vec![upsert(), delete(), update()]);
        let edits = edits.only(Selection { include, exclude: None });
        measure(&format!("upsert, delete, update {name}"), || edits.apply(&payload).bytes());
    }
}

fn measure<T>(name: &str, mut run: impl FnMut() -> T) {
    // Rounds are shorter than a time slice.
    const RUNS: usize = 20;
    let mut best = f64::INFINITY;
    for _ in 0..500 {
        let start = Instant::now();
        for _ in 0..RUNS {
            black_box(run());
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / (RUNS * SPANS) as f64);
    }
    println!("{best:8.4} us a span  {name}");
}

fn request() -> Bytes {
    let text = |key: &str, value: &str| attribute(key, Value::StringValue(value.to_owned()));
    let span = |index: usize| Span {
        trace_id: (index as u128 + 1).to_be_bytes().into(),
        span_id: (index as u64 + 1).to_be_bytes().into(),
        parent_span_id: 7u64.to_be_bytes().into(),
        name: "GET /api/v1/orders/{id}".to_owned(),
        kind: 2,
        start_time_unix_nano: 1_780_000_000_000_000_000,
        end_time_unix_nano: 1_780_000_000_004_000_000,
        attributes: vec![
            text("http.request.method", "GET"),
            text("http.route", "/api/v1/orders/{id}"),
            text("url.path", &format!("/api/v1/orders/{index:08}")),
            attribute("http.response.status_code", Value::IntValue(200)),
            attribute("server.port", Value::IntValue(8_443)),
            text("server.address", "orders.shop.svc.cluster.local"),
            text("user_agent.original", "okhttp/4.12.0"),
            attribute("app.cache.hit", Value::BoolValue(true)),
            attribute("app.cart.total", Value::DoubleValue(19.99)),
        ],
        flags: 0x101,
        ..Span::default()
    };
    let resource = Resource {
        attributes: vec![text("service.name", "orders"), text("service.instance.id", "orders-7f9c5d-abcde")],
        ..Resource::default()
    };
    let scope =
        InstrumentationScope { name: "io.example.http".to_owned(), ..InstrumentationScope::default() };
    let scope_spans =
        ScopeSpans { scope: Some(scope), spans: (0..SPANS).map(span).collect(), ..ScopeSpans::default() };
    let group = ResourceSpans {
        resource: Some(resource),
        scope_spans: vec![scope_spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![group] }.encode_to_vec().into()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
