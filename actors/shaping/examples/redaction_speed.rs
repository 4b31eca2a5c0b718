//! What redaction costs: `cargo run --release -p watershed-shaping --example redaction_speed`.
//!
//! Prints nanoseconds an attribute for requests of 100 spans with eight attributes each, all of them looked at and
//! none with anything to redact; the best of several rounds, since the box is shared.

#![allow(clippy::disallowed_methods)] // A benchmark reads the clock.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use watershed_shaping::redaction::{Rules, Settings};
use watershed_stage::{Metrics, Payload, Signal};
use watershed_telemetry::redact::redact;

const SPANS: usize = 100;

fn main() {
    let texts = [
        ("http.request.method", "GET"),
        ("http.route", "/api/v1/customers/{id}/orders"),
        ("server.address", "orders.example.internal"),
        ("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0esr) Gecko/20100101 Firefox/140.0"),
        ("network.protocol.version", "1.1"),
        ("url.full", "https://orders.example.internal/api/v1/customers/17/orders?page=2&size=50"),
        ("session.id", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ];
    let clean = request(&texts);
    println!("{} attributes, {:.0} bytes a span", texts.len() + 1, clean.bytes() as f64 / SPANS as f64);
    let all = "presets = { email = 'mask', card = 'mask', token = 'mask', phone = 'mask', ip = 'mask', iban = 'mask' }";
    measure("no rule, the walk alone", "", &clean);
    for preset in ["email", "card", "token", "phone", "ip", "iban"] {
        measure(preset, &format!("presets = {{ {preset} = 'mask' }}"), &clean);
    }
    measure("all presets", all, &clean);
    measure("one blocked value", "blocked_values = ['4[0-9]{12}(?:[0-9]{3})?']", &clean);
    let dirty = [texts.as_slice(), &[("user.email", "alice@example.com"), ("client.address", "203.0.113.9")]]
        .concat();
    measure("all presets, two of ten attributes masked", all, &request(&dirty));
}

fn measure(name: &str, settings: &str, payload: &Payload) {
    const RUNS: usize = 50;
    let settings: Settings = toml::from_str(&format!("allow_all_keys = true\n{settings}")).unwrap();
    let rules = Rules::new(&settings, &Metrics::default(), "redaction").unwrap();
    let spans = payload.resources().flat_map(|group| group.scopes()).flat_map(|scope| scope.spans());
    let attributes: usize = spans.map(|span| span.attributes().count()).sum();
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..RUNS {
            black_box(redact(&rules, payload));
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / (RUNS * attributes) as f64);
    }
    println!("{best:8.1} ns an attribute  {name}");
}

fn request(texts: &[(&str, &str)]) -> Payload {
    let pair = |key: &str, value| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let mut attributes: Vec<_> =
        texts.iter().map(|(key, text)| pair(key, Value::StringValue((*text).to_owned()))).collect();
    attributes.push(pair("http.response.status_code", Value::IntValue(200)));
    let span = Span { name: "GET /api/v1/customers/{id}/orders".to_owned(), attributes, ..Span::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span; SPANS], ..ScopeSpans::default() }];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    };
    Payload::validate(Signal::Traces, request.encode_to_vec().into()).unwrap()
}
