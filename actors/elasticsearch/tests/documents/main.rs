//! Documents against the request they were made of, read by serde_json: by example for each mode, and as a property of
//! any request whatever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../../../../crates/telemetry/tests/suite/generate.rs"]
mod generate;
#[allow(dead_code)]
#[path = "../../../../crates/telemetry/tests/suite/oracle.rs"]
mod oracle;

mod cost;
mod golden;
mod property;

use serde_json::Value;
use watershed_elasticsearch::document::{Bulk, Mode, Plan, Scribe};
use watershed_telemetry::{Payload, Signal, json};

fn payload(signal: Signal, text: &str) -> Payload {
    let request = json::decode(signal, text.as_bytes(), &mut |_| true).unwrap();
    Payload::validate(signal, request.into()).unwrap()
}

fn scribe(plan: &Plan) -> Scribe<'_> {
    Scribe { plan, mode: plan.mode, date_suffix: String::new(), max_bytes: usize::MAX }
}

fn plan(mode: Mode) -> Plan {
    let allowed = vec![Mode::Otel, Mode::Ecs, Mode::None, Mode::Raw, Mode::Bodymap];
    Plan { mode, allowed, ..Plan::default() }
}

fn bulk(plan: &Plan, payload: &Payload) -> Bulk {
    let mut bulk = Bulk::default();
    assert_eq!(scribe(plan).write(payload, 0, &|_| false, &mut bulk), None);
    bulk
}

/// Actions and sources.
fn pairs(bulk: &Bulk) -> Vec<(Value, Value)> {
    let lines: Vec<&[u8]> = bulk.body.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len() % 2, 0);
    let read = |line: &[u8]| {
        assert_eq!(line.last(), Some(&b'\n'));
        serde_json::from_slice(line)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
    };
    lines.chunks(2).map(|pair| (read(pair[0]), read(pair[1]))).collect()
}
