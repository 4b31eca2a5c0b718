//! Requests of 100 items: what the edge, the processors and the batches do to them.

use std::cell::RefCell;
use std::hint::black_box;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use regex::{Regex, RegexSet};
use watershed_elasticsearch::document::{Bulk, Mode, Plan, Scribe};
use watershed_telemetry::edit::{Action, AttributeEdits, Criteria, Selection, Target, Texts};
use watershed_telemetry::{Payload, Signal, json};
use watershed_testkit::requests::{TraceTemplate, logs, metrics};

use crate::case::Case;

const ITEMS: usize = 100;

/// How many requests make a batch.
const BATCH: usize = 82;

const SPANS: (usize, &str) = (ITEMS, "span");

/// A request of 100 spans of 404 bytes.
pub fn spans() -> Bytes {
    TraceTemplate::new(1, ITEMS).message(0)
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let request = spans();
    let traces = validated(Signal::Traces, &request);
    let mut cases = vec![
        validate("validate: traces", SPANS, Signal::Traces, request.clone()),
        validate("validate: metrics", (ITEMS, "point"), Signal::Metrics, metrics(ITEMS)),
        validate("validate: logs", (ITEMS, "record"), Signal::Logs, logs(ITEMS)),
        Case::new("prost, for comparison: decode traces", SPANS, {
            let request = request.clone();
            move || drop(black_box(ExportTraceServiceRequest::decode(&*request)))
        })
        .bytes(request.len())
        .foreign(),
        on("view: trace id, status, duration", SPANS, &traces, view),
        on("view: the same, one by one", SPANS, &traces, getters),
        on("view: one attribute by key", SPANS, &traces, find),
        on("split in the middle", SPANS, &traces, |payload| payload.clone().split_by_items(ITEMS / 2)),
        on("concatenate 82 requests", (BATCH, "request"), &traces, |payload| {
            Payload::concat((0..BATCH).map(|_| payload.clone()))
        }),
    ];
    cases.extend(edits(&traces));
    cases.extend(texts(&traces));
    cases.extend(documents(&traces));
    cases
}

/// A case that does something to a payload.
fn on<T>(
    name: &'static str,
    items: (usize, &'static str),
    payload: &Payload,
    does: impl Fn(&Payload) -> T + 'static,
) -> Case {
    let payload = payload.clone();
    let bytes = payload.bytes();
    Case::new(name, items, move || drop(black_box(does(&payload)))).bytes(bytes)
}

fn validate(name: &'static str, items: (usize, &'static str), signal: Signal, request: Bytes) -> Case {
    assert_eq!(validated(signal, &request).items(), items.0);
    let bytes = request.len();
    Case::new(name, items, move || drop(black_box(Payload::validate(signal, request.clone())))).bytes(bytes)
}

fn validated(signal: Signal, request: &Bytes) -> Payload {
    Payload::validate(signal, request.clone()).expect("the kit's requests are valid")
}

/// What a sampler looks at.
fn view(payload: &Payload) {
    for span in payload.resources().flat_map(|group| group.scopes()).flat_map(|scope| scope.spans()) {
        let outline = span.outline();
        black_box((outline.trace_id, outline.status.code(), outline.duration()));
    }
}

fn getters(payload: &Payload) {
    for span in payload.resources().flat_map(|group| group.scopes()).flat_map(|scope| scope.spans()) {
        let duration = span.end_time_unix_nano().saturating_sub(span.start_time_unix_nano());
        black_box((span.trace_id(), span.status().code(), duration));
    }
}

fn find(payload: &Payload) {
    for span in payload.resources().flat_map(|group| group.scopes()).flat_map(|scope| scope.spans()) {
        black_box(span.attributes().find("server.address"));
    }
}

fn edits(traces: &Payload) -> Vec<Case> {
    let key = str::to_owned;
    let pattern = |pattern| Regex::new(pattern).expect("it is a pattern");
    let upsert = || Action::Upsert { key: key("deployment.environment.name"), value: "production".into() };
    let delete = |name| Action::Delete { key: key(name) };
    // Those of the end-to-end bench.
    let three = || {
        let update = Action::Update { key: key("url.path"), value: "/".into() };
        vec![upsert(), delete("http.request.method"), update]
    };
    let extract =
        Action::Extract { key: key("http.route"), pattern: pattern("^/api/(?<api_version>v\\d+)/") };
    let edit = |name, edits: AttributeEdits| on(name, SPANS, traces, move |payload| edits.apply(payload));
    let item = |actions| AttributeEdits::new(Target::Item, actions);
    let names = RegexSet::new(["^GET"]).expect("it is a pattern");
    let include = Some(Criteria { span_names: Some(Texts::Matching(names)), ..Criteria::default() });
    vec![
        edit("edit: upsert in the resource", AttributeEdits::new(Target::Resource, vec![upsert()])),
        edit("edit: delete what is not there", item(vec![delete("no.such.key")])),
        edit("edit: upsert", item(vec![upsert()])),
        edit("edit: upsert, delete, update", item(three())),
        edit(
            "edit: upsert, delete, update by the span's name",
            item(three()).only(Selection { include, exclude: None }),
        ),
        edit("edit: hash", item(vec![Action::Hash { key: key("server.address") }])),
        edit("edit: extract", item(vec![extract])),
        edit(
            "edit: delete by pattern",
            item(vec![Action::DeleteMatching { pattern: pattern("^http\\.re") }]),
        ),
    ]
}

/// Bodies of `_bulk`.
fn documents(traces: &Payload) -> Vec<Case> {
    let written = |name, items, payload: &Payload, mode| {
        let bulk = RefCell::new(Bulk::default());
        let plan = Plan { mode, allowed: vec![mode], ..Plan::default() };
        on(name, items, payload, move |payload| {
            let date_suffix = String::new();
            let scribe = Scribe { plan: &plan, mode, date_suffix, max_bytes: 16 << 20 };
            let mut bulk = bulk.borrow_mut();
            bulk.clear();
            scribe.write(payload, 0, &|_| false, &mut bulk)
        })
    };
    let logs = validated(Signal::Logs, &logs(ITEMS));
    let metrics = validated(Signal::Metrics, &metrics(ITEMS));
    vec![
        written("documents: traces", SPANS, traces, Mode::Otel),
        written("documents: logs", (ITEMS, "record"), &logs, Mode::Otel),
        written("documents: metrics", (ITEMS, "point"), &metrics, Mode::Otel),
        written("documents: logs in ECS", (ITEMS, "record"), &logs, Mode::Ecs),
    ]
}

/// JSON, both ways.
fn texts(traces: &Payload) -> Vec<Case> {
    let write = {
        let mut text = Vec::new();
        let payload = traces.clone();
        move || {
            text.clear();
            json::encode_payload(&payload, &mut text);
            black_box(&text);
        }
    };
    let mut text = Vec::new();
    json::encode_payload(traces, &mut text);
    let tree: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    let indented = serde_json::to_vec_pretty(&tree).expect("it was JSON");
    let bytes = text.len();
    vec![
        read("JSON: read traces", SPANS, Signal::Traces, text.clone()),
        read("JSON: read traces, indented", SPANS, Signal::Traces, indented),
        read(
            "JSON: read metrics",
            (ITEMS, "point"),
            Signal::Metrics,
            document(Signal::Metrics, metrics(ITEMS)),
        ),
        read("JSON: read logs", (ITEMS, "record"), Signal::Logs, document(Signal::Logs, logs(ITEMS))),
        Case::new("JSON: write traces", SPANS, write).bytes(bytes),
        Case::new("serde_json, for comparison: read traces into a tree", SPANS, move || {
            drop(black_box(serde_json::from_slice::<serde_json::Value>(&text)));
        })
        .bytes(bytes)
        .foreign(),
    ]
}

fn document(signal: Signal, request: Bytes) -> Vec<u8> {
    let mut text = Vec::new();
    json::encode_payload(&validated(signal, &request), &mut text);
    text
}

fn read(name: &'static str, items: (usize, &'static str), signal: Signal, text: Vec<u8>) -> Case {
    let bytes = text.len();
    assert!(json::decode(signal, &text, &mut |_| true).is_ok(), "what was written can be read");
    Case::new(name, items, move || drop(black_box(json::decode(signal, &text, &mut |_| true)))).bytes(bytes)
}
