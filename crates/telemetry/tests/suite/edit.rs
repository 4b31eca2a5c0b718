//! Edits do to the bytes what their plain reading does to the structs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;
use regex::Regex;
use sha2::{Digest as _, Sha256};
use watershed_telemetry::edit::{Action, AttributeEdits, AttributeValue, Conversion, Source, Target};
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
        actions in vec(action(), 0..5),
        given in vec(option::of(value()), 2),
    ) {
        let signal = request.signal();
        let bytes = Bytes::from(rearrange(&request.encode(), &mut choices.iter().copied().cycle()));
        let Ok(payload) = Payload::validate(signal, bytes.clone()) else { return Ok(()) };
        let given: Vec<Option<AttributeValue>> = given.iter().map(|value| value.as_ref().map(encode)).collect();
        let edited = AttributeEdits::new(target, actions.clone()).apply_given(&payload, &given);
        let (edited, unconverted) = (edited.payload, edited.unconverted);

        let mut expected = Request::decode(signal, &bytes).unwrap();
        let mut model = Model { given, unconverted: 0 };
        model.apply(&mut expected, target, &actions);
        prop_assert_eq!(unconverted, model.unconverted);
        let before = Request::decode(signal, &bytes).unwrap();
        // What is removed and added again may end where it was.
        let deletes = |action: &Action| matches!(action, Action::Delete { .. } | Action::DeleteMatching { .. });
        let is_same = expected.encode() == before.encode() && before.encode() == bytes;
        if is_same && !actions.iter().any(deletes) {
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
    let leaf = prop_oneof![
        "[a-z]{0,40}".prop_map(Value::StringValue),
        "-?[0-9]{1,3}([.][0-9])?".prop_map(Value::StringValue),
        any::<i64>().prop_map(Value::IntValue),
        any::<f64>().prop_map(Value::DoubleValue),
        any::<bool>().prop_map(Value::BoolValue),
    ];
    let array = |values: Vec<Value>| {
        let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
        Value::ArrayValue(ArrayValue { values })
    };
    prop_oneof![8 => leaf.clone(), 1 => vec(leaf, 0..3).prop_map(array)]
}

fn encode(value: &Value) -> AttributeValue {
    match value {
        Value::StringValue(text) => text.as_str().into(),
        Value::IntValue(value) => (*value).into(),
        Value::DoubleValue(value) => (*value).into(),
        Value::BoolValue(value) => (*value).into(),
        Value::ArrayValue(array) => array.values.iter().flat_map(|value| &value.value).map(encode).collect(),
        _ => unreachable!(),
    }
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        2 => value().prop_map(|value| Source::Value(encode(&value))),
        2 => (generate::key(), option::of(value()))
            .prop_map(|(key, value)| Source::Attribute { key, default: value.as_ref().map(encode) }),
        1 => (0..3usize).prop_map(Source::Given),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let key = generate::key;
    let pattern =
        || prop::sample::select(&["^a", "b|c", "[.x]", ""][..]).prop_map(|p| Regex::new(p).unwrap());
    let groups = prop::sample::select(&["^(?<a>.)(?<e>.*)$", "(?<b>[a-c]+)|(?<c>[.])"][..]);
    let to = prop::sample::select(&[Conversion::Int, Conversion::Double, Conversion::String][..]);
    prop_oneof![
        (key(), source()).prop_map(|(key, value)| Action::Insert { key, value }),
        (key(), source()).prop_map(|(key, value)| Action::Update { key, value }),
        (key(), source()).prop_map(|(key, value)| Action::Upsert { key, value }),
        key().prop_map(|key| Action::Delete { key }),
        pattern().prop_map(|pattern| Action::DeleteMatching { pattern }),
        key().prop_map(|key| Action::Hash { key }),
        pattern().prop_map(|pattern| Action::HashMatching { pattern }),
        (key(), groups).prop_map(|(key, p)| Action::Extract { key, pattern: Regex::new(p).unwrap() }),
        (key(), to).prop_map(|(key, to)| Action::Convert { key, to }),
    ]
}

/// The oracle.
struct Model {
    given: Vec<Option<AttributeValue>>,
    unconverted: u64,
}

impl Model {
    fn apply(&mut self, request: &mut Request, target: Target, actions: &[Action]) {
        let mut edit = |attributes: &mut Vec<KeyValue>| {
            actions.iter().for_each(|action| self.apply_one(attributes, action));
        };
        each(request, target, &mut edit);
    }

    fn apply_one(&mut self, attributes: &mut Vec<KeyValue>, action: &Action) {
        let find = |key: &String| attributes.iter().find(|attribute| attribute.key == *key);
        let decode = |value: &AttributeValue| AnyValue::decode(value.as_wire()).unwrap();
        let source = |source: &Source| match source {
            Source::Value(value) => Some(decode(value)),
            Source::Given(index) => self.given.get(*index)?.as_ref().map(decode),
            Source::Attribute { key, default } => match find(key) {
                Some(found) => Some(found.value.clone().unwrap_or_default()),
                None => default.as_ref().map(decode),
            },
        };
        let is = |action: &Action, found: &str| match action {
            Action::Insert { key, .. } | Action::Update { key, .. } | Action::Upsert { key, .. } => {
                found == key
            }
            Action::Delete { key } | Action::Hash { key } | Action::Convert { key, .. } => found == key,
            Action::DeleteMatching { pattern } | Action::HashMatching { pattern } => pattern.is_match(found),
            Action::Extract { .. } => false,
        };
        let present = attributes.iter().any(|attribute| is(action, &attribute.key));
        match action {
            Action::Insert { key, value } | Action::Upsert { key, value } if !present => {
                if let Some(value) = source(value) {
                    put(attributes, key, value);
                }
            }
            Action::Insert { .. } => {}
            Action::Update { key, value } | Action::Upsert { key, value } => {
                if let Some(value) = source(value)
                    && present
                {
                    put(attributes, key, value);
                }
            }
            Action::Delete { .. } | Action::DeleteMatching { .. } => {
                attributes.retain(|attribute| !is(action, &attribute.key));
            }
            Action::Hash { .. } | Action::HashMatching { .. } => {
                for attribute in attributes.iter_mut().filter(|attribute| is(action, &attribute.key)) {
                    attribute.value = Some(text(hash(attribute.value.as_ref())));
                }
            }
            Action::Extract { key, pattern } => {
                let Some(Value::StringValue(found)) = find(key).and_then(|found| found.value.clone()?.value)
                else {
                    return;
                };
                for found in pattern.captures(&found).iter() {
                    for name in pattern.capture_names().flatten() {
                        put(attributes, name, text(found.name(name).map_or("", |part| part.as_str())));
                    }
                }
            }
            Action::Convert { to, .. } => {
                for attribute in attributes.iter_mut().filter(|attribute| is(action, &attribute.key)) {
                    match convert(attribute.value.as_ref(), *to) {
                        Some(value) => attribute.value = Some(AnyValue { value: Some(value) }),
                        None => self.unconverted += 1,
                    }
                }
            }
        }
    }
}

fn put(attributes: &mut Vec<KeyValue>, key: &str, value: AnyValue) {
    let value = Some(value);
    if attributes.iter().any(|attribute| attribute.key == key) {
        let same = attributes.iter_mut().filter(|attribute| attribute.key == key);
        same.for_each(|attribute| attribute.value.clone_from(&value));
    } else {
        attributes.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
    }
}

fn text(text: impl Into<String>) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.into())) }
}

fn hash(value: Option<&AnyValue>) -> String {
    let bytes = match value.and_then(|value| value.value.as_ref()) {
        None | Some(Value::StringValueStrindex(_)) => return String::new(),
        Some(Value::BytesValue(bytes)) => bytes.clone(),
        Some(Value::BoolValue(value)) => vec![u8::from(*value)],
        Some(Value::IntValue(value)) => value.to_le_bytes().to_vec(),
        Some(Value::DoubleValue(value)) => value.to_le_bytes().to_vec(),
        Some(_) => as_text(value).into_bytes(),
    };
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn convert(value: Option<&AnyValue>, to: Conversion) -> Option<Value> {
    let found = value.and_then(|value| value.value.clone());
    match (to, found) {
        (Conversion::String, _) => Some(Value::StringValue(as_text(value))),
        (Conversion::Int, Some(Value::IntValue(value))) => Some(Value::IntValue(value)),
        (Conversion::Int, Some(Value::BoolValue(value))) => Some(Value::IntValue(i64::from(value))),
        (Conversion::Int, Some(Value::StringValue(text))) => text.parse().ok().map(Value::IntValue),
        (Conversion::Int, Some(Value::DoubleValue(value))) => {
            let whole = value.trunc();
            // Through a type that holds more, so that what does not fit is seen.
            (whole.is_finite() && i64::try_from(whole as i128).is_ok())
                .then_some(Value::IntValue(whole as i64))
        }
        (Conversion::Double, Some(Value::DoubleValue(value))) => Some(Value::DoubleValue(value)),
        (Conversion::Double, Some(Value::IntValue(value))) => Some(Value::DoubleValue(value as f64)),
        (Conversion::Double, Some(Value::BoolValue(value))) => {
            Some(Value::DoubleValue(f64::from(u8::from(value))))
        }
        (Conversion::Double, Some(Value::StringValue(text))) => text.parse().ok().map(Value::DoubleValue),
        _ => None,
    }
}

fn as_text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        None | Some(Value::StringValueStrindex(_)) => String::new(),
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => double(*value),
        Some(Value::BytesValue(bytes)) => STANDARD.encode(bytes),
        Some(Value::ArrayValue(array)) => {
            let values: Vec<String> = array.values.iter().map(|value| json(Some(value))).collect();
            format!("[{}]", values.join(","))
        }
        Some(Value::KvlistValue(list)) => {
            let entry = |entry: &KeyValue| format!("{}:{}", quoted(&entry.key), json(entry.value.as_ref()));
            format!("{{{}}}", list.values.iter().map(entry).collect::<Vec<_>>().join(","))
        }
    }
}

fn double(value: f64) -> String {
    let exponent = value.abs().log10();
    if value == 0.0 || !value.is_finite() || (-6.0..21.0).contains(&exponent) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    if exponent > 0.0 { text.replace('e', "e+") } else { text }
}

fn json(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        None | Some(Value::StringValueStrindex(_)) => "null".to_owned(),
        Some(Value::StringValue(_) | Value::BytesValue(_)) => quoted(&as_text(value)),
        Some(Value::DoubleValue(number)) if !number.is_finite() => quoted(&as_text(value)),
        Some(_) => as_text(value),
    }
}

fn quoted(text: &str) -> String {
    let escape = |char: char| match char {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        '"' | '\\' => format!("\\{char}"),
        '\0'..=' ' if char != ' ' => format!("\\u{:04x}", u32::from(char)),
        char => char.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// Every list of attributes that is the target's.
pub fn each(request: &mut Request, target: Target, edit: &mut impl FnMut(&mut Vec<KeyValue>)) {
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

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

fn upsert(key: &str, value: impl Into<Source>) -> Action {
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
