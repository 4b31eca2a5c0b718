//! Edits do to the bytes what their plain reading does to the structs.

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use watershed_telemetry::edit::{Action, AttributeEdits, AttributeValue, Target};
use watershed_telemetry::wire::put_bytes_field;
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn equal_the_oracles(
        request in generate::request(),
        choices in vec(any::<u8>(), 64),
        target in prop_oneof![Just(Target::Resource), Just(Target::Scope), Just(Target::Item)],
        actions in vec((0..4u8, generate::key(), value()), 0..5),
    ) {
        let signal = request.signal();
        let bytes = Bytes::from(rearrange(&request.encode(), &mut choices.iter().copied().cycle()));
        let Ok(payload) = Payload::validate(signal, bytes.clone()) else { return Ok(()) };
        let actions: Vec<Action> = actions.into_iter().map(|(kind, key, value)| action(kind, key, &value)).collect();
        let edited = AttributeEdits::new(target, actions.clone()).apply(&payload);

        let mut expected = Request::decode(signal, &bytes).unwrap();
        apply(&mut expected, target, &actions);
        let before = Request::decode(signal, &bytes).unwrap();
        if expected.encode() == before.encode() && before.encode() == bytes {
            prop_assert_eq!(edited.requests()[0].as_ptr(), bytes.as_ptr(), "nothing changed, yet it was copied");
        }
        prop_assert_eq!(edited.items(), payload.items());
        prop_assert_eq!(edited.bytes(), edited.to_bytes().len());
        let again = Payload::validate(signal, edited.to_bytes()).unwrap();
        prop_assert_eq!(again.items(), payload.items());
        let found = Request::decode(signal, &edited.to_bytes()).unwrap();
        prop_assert_eq!(found.normal(), expected.normal());
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[a-z]{0,40}".prop_map(Value::StringValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<f64>().prop_map(Value::DoubleValue),
        any::<bool>().prop_map(Value::BoolValue),
    ]
}

fn action(kind: u8, key: String, value: &Value) -> Action {
    let value: AttributeValue = match value {
        Value::StringValue(text) => text.as_str().into(),
        Value::IntValue(value) => (*value).into(),
        Value::DoubleValue(value) => (*value).into(),
        Value::BoolValue(value) => (*value).into(),
        _ => unreachable!(),
    };
    match kind {
        0 => Action::Insert { key, value },
        1 => Action::Update { key, value },
        2 => Action::Upsert { key, value },
        _ => Action::Delete { key },
    }
}

/// The oracle.
fn apply(request: &mut Request, target: Target, actions: &[Action]) {
    let edit =
        |attributes: &mut Vec<KeyValue>| actions.iter().for_each(|action| apply_one(attributes, action));
    macro_rules! groups {
        ($request:expr, $groups:ident, $scopes:ident, $items:ident, $edit_item:expr) => {
            for group in &mut $request.$groups {
                if target == Target::Resource {
                    edit(&mut group.resource.get_or_insert_default().attributes);
                }
                for scope in &mut group.$scopes {
                    match target {
                        Target::Scope => edit(&mut scope.scope.get_or_insert_default().attributes),
                        Target::Item => scope.$items.iter_mut().for_each($edit_item),
                        Target::Resource => {}
                    }
                }
            }
        };
    }
    match request {
        Request::Traces(request) => {
            groups!(request, resource_spans, scope_spans, spans, |span| edit(&mut span.attributes));
        }
        Request::Logs(request) => {
            groups!(request, resource_logs, scope_logs, log_records, |record| edit(&mut record.attributes));
        }
        Request::Metrics(request) => {
            groups!(request, resource_metrics, scope_metrics, metrics, |metric| match &mut metric.data {
                None => {}
                Some(Data::Gauge(data)) => data.data_points.iter_mut().for_each(|p| edit(&mut p.attributes)),
                Some(Data::Sum(data)) => data.data_points.iter_mut().for_each(|p| edit(&mut p.attributes)),
                Some(Data::Histogram(data)) =>
                    data.data_points.iter_mut().for_each(|p| edit(&mut p.attributes)),
                Some(Data::ExponentialHistogram(data)) => {
                    data.data_points.iter_mut().for_each(|p| edit(&mut p.attributes));
                }
                Some(Data::Summary(data)) =>
                    data.data_points.iter_mut().for_each(|p| edit(&mut p.attributes)),
            });
        }
    }
}

fn apply_one(attributes: &mut Vec<KeyValue>, action: &Action) {
    let present = attributes.iter().any(|attribute| attribute.key == action.key());
    match action {
        Action::Delete { key } => attributes.retain(|attribute| attribute.key != *key),
        Action::Insert { key, value } | Action::Upsert { key, value } if !present => {
            let value = Some(AnyValue::decode(value.as_wire()).unwrap());
            attributes.push(KeyValue { key: key.clone(), value, ..KeyValue::default() });
        }
        Action::Insert { .. } => {}
        Action::Update { key, value } | Action::Upsert { key, value } => {
            for attribute in attributes.iter_mut().filter(|attribute| attribute.key == *key) {
                attribute.value = Some(AnyValue::decode(value.as_wire()).unwrap());
            }
        }
    }
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

fn upsert(key: &str, value: impl Into<AttributeValue>) -> Action {
    Action::Upsert { key: key.to_owned(), value: value.into() }
}

#[test]
fn a_missing_resource_or_scope_is_made_only_to_hold_something() {
    let payload = Payload::validate(Signal::Traces, field(1, &field(2, &field(2, b""))).into()).unwrap();
    for target in [Target::Resource, Target::Scope] {
        let same = AttributeEdits::new(target, vec![Action::Delete { key: "k".to_owned() }]).apply(&payload);
        assert_eq!(same.requests()[0].as_ptr(), payload.requests()[0].as_ptr());
        let made = AttributeEdits::new(target, vec![upsert("k", 7)]).apply(&payload);
        let group = made.resources().next().unwrap();
        let attributes = match target {
            Target::Resource => group.resource().attributes(),
            _ => group.scopes().next().unwrap().scope().attributes(),
        };
        assert_eq!(attributes.map(|attribute| attribute.key()).collect::<Vec<_>>(), ["k"]);
        assert_eq!(made.items(), 1);
    }
}

#[test]
fn lengths_grow_over_their_own_width() {
    let payload = Payload::validate(Signal::Logs, field(1, &field(2, &field(2, b""))).into()).unwrap();
    for size in [90, 100, 110, 120, 130, 16_300, 16_390] {
        let text = "x".repeat(size);
        let edits = AttributeEdits::new(Target::Item, vec![upsert("k", text.as_str())]);
        let edited = edits.apply(&payload);
        let edited = Payload::validate(Signal::Logs, edited.to_bytes()).unwrap();
        let record =
            edited.resources().flat_map(|g| g.scopes()).flat_map(|s| s.log_records()).next().unwrap();
        assert_eq!(record.attributes().find("k").and_then(|value| value.as_str()), Some(text.as_str()));
        // The same again changes nothing; and away with it leaves what was there.
        assert_eq!(edits.apply(&edited).requests()[0].as_ptr(), edited.requests()[0].as_ptr());
        let delete = AttributeEdits::new(Target::Item, vec![Action::Delete { key: "k".to_owned() }]);
        assert_eq!(delete.apply(&edited).to_bytes(), payload.to_bytes());
    }
}

#[test]
fn only_the_requests_that_change_are_copied() {
    let with = field(1, &field(1, &field(1, &field(1, b"k"))));
    let parts = [with, field(1, b"")].map(|bytes| Payload::validate(Signal::Logs, bytes.into()).unwrap());
    let payload = Payload::concat(parts).unwrap();
    let edits = AttributeEdits::new(Target::Resource, vec![Action::Delete { key: "k".to_owned() }]);
    let edited = edits.apply(&payload);
    assert_ne!(edited.requests()[0].as_ptr(), payload.requests()[0].as_ptr());
    assert_eq!(edited.requests()[1].as_ptr(), payload.requests()[1].as_ptr());
}

#[test]
fn pieces_beyond_number_cost_no_more_than_their_bytes() {
    let pieces = field(1, &field(1, &field(1, b"k"))).repeat(100_000);
    let payload = Payload::validate(Signal::Logs, field(1, &pieces).into()).unwrap();
    let edited = AttributeEdits::new(Target::Resource, vec![upsert("k", 1)]).apply(&payload);
    let values = edited.resources().flat_map(|group| group.resource().attributes());
    assert_eq!(values.count(), 100_000);
}
