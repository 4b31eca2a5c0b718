//! What documents cost: what is written, and not the product of all that is in a request.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use watershed_elasticsearch::document::{Bulk, Mode, Scribe};
use watershed_telemetry::Signal;

use super::{payload, plan, scribe};

/// What takes milliseconds where each resource is gone through once, and minutes where each scope does it.
const SOON: Duration = Duration::from_secs(15);

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Writes all documents of logs in pages; how many there are.
fn write(mode: Mode, resource: Vec<Value>, scopes: Vec<Value>, max_bytes: usize) -> usize {
    let text = json!({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": scopes}]});
    let payload = payload(Signal::Logs, &text.to_string());
    let plan = plan(mode);
    let scribe = Scribe { max_bytes, ..scribe(&plan) };
    let (mut from, mut documents, began) = (Some(0), 0, Instant::now());
    while let Some(next) = from {
        let mut bulk = Bulk::default();
        from = scribe.write(&payload, next, &|_| false, &mut bulk);
        documents += bulk.documents.len();
        assert!(began.elapsed() < SOON, "{mode:?}: {documents} documents in {:?}", began.elapsed());
    }
    documents
}

const MODES: [Mode; 5] = [Mode::Otel, Mode::Ecs, Mode::None, Mode::Raw, Mode::Bodymap];

#[test]
fn a_scope_without_records_costs_nothing_of_its_resource() {
    for mode in MODES {
        let large = vec![attribute("large", &"x".repeat(1 << 20))];
        assert_eq!(write(mode, large, vec![json!({}); 50_000], usize::MAX), 0);
    }
}

#[test]
fn a_page_costs_nothing_of_the_pages_before() {
    let scope = json!({"logRecords": [{"body": {"stringValue": "x"}}]});
    for mode in [Mode::Otel, Mode::Ecs, Mode::None] {
        let large = vec![attribute("large", &"x".repeat(100 << 10))];
        assert_eq!(write(mode, large, vec![scope.clone(); 1_000], 150 << 10), 1_000);
    }
}

#[test]
fn what_a_resource_says_again_and_again_costs_no_document_anything() {
    let body = json!({"kvlistValue": {"values": [attribute("a", "b")]}});
    let record = json!({"body": body, "attributes": [attribute("data_stream.namespace", "n")]});
    for mode in MODES {
        let again = vec![attribute("a", "b"); 50_000];
        assert_eq!(write(mode, again, vec![json!({"logRecords": [record]}); 5_000], usize::MAX), 5_000);
    }
}
