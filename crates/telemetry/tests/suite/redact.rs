//! Redaction does to the bytes what its plain reading does to the structs.

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Exemplar;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use proptest::collection::vec;
use proptest::prelude::*;
use watershed_telemetry::redact::{Fate, Place, Policy, Summary, Verdict, redact};
use watershed_telemetry::wire::{put_bytes_field, put_varint_field};
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

/// A policy by letters, so that what is generated meets all of it.
struct Letters {
    all_types: bool,
    summary: Summary,
}

const SILENT: Letters = Letters { all_types: false, summary: Summary::Silent };

impl Policy for Letters {
    fn entry(&self, key: &str, place: Place) -> Fate {
        match (key, place) {
            ("a", _) => Fate::Ignored,
            ("b", _) => Fate::Blocked,
            ("d", Place::Attribute | Place::Body) => Fate::Deleted,
            _ => Fate::Judged,
        }
    }

    fn blocked(&self, _: &[u8]) -> String {
        "blocked".to_owned()
    }

    fn text(&self, text: &str, key: &str) -> Verdict {
        match text {
            text if text.starts_with("cc") => Verdict::Deleted(text.replace('c', "")),
            // What becomes of a number may depend on its key.
            text if text.contains('5') && key != "c" => Verdict::Replaced("five".to_owned()),
            text if text.contains("bb") => Verdict::Replaced(text.replace("bb", "a longer text")),
            "allowed" => Verdict::Allowed,
            _ => Verdict::Clean,
        }
    }

    fn all_types(&self) -> bool {
        self.all_types
    }

    fn summary(&self) -> Summary {
        self.summary
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn equals_the_oracle(
        request in generate::request(),
        choices in vec(any::<u8>(), 64),
        all_types in any::<bool>(),
    ) {
        let policy = Letters { all_types, ..SILENT };
        let signal = request.signal();
        let bytes = Bytes::from(rearrange(&request.encode(), &mut choices.iter().copied().cycle()));
        let Ok(payload) = Payload::validate(signal, bytes.clone()) else { return Ok(()) };
        let redacted = redact(&policy, &payload);

        let before = Request::decode(signal, &bytes).unwrap();
        let mut expected = before.clone();
        apply(&policy, &mut expected);
        if expected.encode() == before.encode() && before.encode() == bytes {
            prop_assert_eq!(redacted.requests()[0].as_ptr(), bytes.as_ptr(), "nothing changed, yet it was copied");
        }
        let again = Payload::validate(signal, redacted.to_bytes()).unwrap();
        prop_assert_eq!((again.items(), redacted.items()), (payload.items(), payload.items()));
        prop_assert_eq!(redacted.bytes(), redacted.to_bytes().len());
        let found = Request::decode(signal, &redacted.to_bytes()).unwrap();
        prop_assert_eq!(found.normal(), expected.normal());
    }

    /// With summaries, too, what leaves can be read, and telling of it again adds nothing up wrongly.
    #[test]
    fn stays_valid_with_summaries(request in generate::request(), choices in vec(any::<u8>(), 64)) {
        let policy = Letters { summary: Summary::Debug, ..SILENT };
        let signal = request.signal();
        let bytes = Bytes::from(rearrange(&request.encode(), &mut choices.iter().copied().cycle()));
        let Ok(payload) = Payload::validate(signal, bytes) else { return Ok(()) };
        let redacted = Payload::validate(signal, redact(&policy, &payload).to_bytes()).unwrap();
        prop_assert_eq!(redacted.items(), payload.items());
    }
}

// === The oracle ===

fn apply(policy: &Letters, request: &mut Request) {
    let entries = |list: &mut Vec<KeyValue>| entries(policy, list, Place::Attribute);
    let exemplars = |list: &mut Vec<Exemplar>| {
        list.iter_mut().for_each(|exemplar| entries(&mut exemplar.filtered_attributes));
    };
    macro_rules! groups {
        ($request:expr, $groups:ident, $scopes:ident, $items:ident, $edit_item:expr) => {
            for group in &mut $request.$groups {
                group.resource.iter_mut().for_each(|resource| entries(&mut resource.attributes));
                for scope in &mut group.$scopes {
                    scope.scope.iter_mut().for_each(|scope| entries(&mut scope.attributes));
                    scope.$items.iter_mut().for_each($edit_item);
                }
            }
        };
    }
    macro_rules! points {
        ($data:expr) => {
            for point in &mut $data.data_points {
                entries(&mut point.attributes);
                exemplars(&mut point.exemplars);
            }
        };
    }
    match request {
        Request::Traces(request) => groups!(request, resource_spans, scope_spans, spans, |span| {
            entries(&mut span.attributes);
            plain(policy, &mut span.name);
            plain(policy, &mut span.trace_state);
            span.status.iter_mut().for_each(|status| plain(policy, &mut status.message));
            for event in &mut span.events {
                plain(policy, &mut event.name);
                entries(&mut event.attributes);
            }
            for link in &mut span.links {
                plain(policy, &mut link.trace_state);
                entries(&mut link.attributes);
            }
        }),
        Request::Logs(request) => groups!(request, resource_logs, scope_logs, log_records, |record| {
            entries(&mut record.attributes);
            plain(policy, &mut record.severity_text);
            plain(policy, &mut record.event_name);
            if let Some(body) = &mut record.body {
                value(policy, body, "", Place::Body);
            }
        }),
        Request::Metrics(request) => groups!(request, resource_metrics, scope_metrics, metrics, |metric| {
            entries(&mut metric.metadata);
            match &mut metric.data {
                None => {}
                Some(Data::Gauge(data)) => points!(data),
                Some(Data::Sum(data)) => points!(data),
                Some(Data::Histogram(data)) => points!(data),
                Some(Data::ExponentialHistogram(data)) => points!(data),
                Some(Data::Summary(data)) => {
                    data.data_points.iter_mut().for_each(|point| entries(&mut point.attributes));
                }
            }
        }),
    }
}

fn entries(policy: &Letters, list: &mut Vec<KeyValue>, place: Place) {
    list.retain_mut(|entry| match policy.entry(&entry.key, place) {
        Fate::Ignored => true,
        Fate::Deleted => false,
        Fate::Blocked => {
            if let Some(value) = &mut entry.value {
                value.value = Some(Value::StringValue("blocked".to_owned()));
            }
            true
        }
        Fate::Judged => {
            let KeyValue { key, value, .. } = entry;
            let kept = value.as_mut().is_none_or(|value| self::value(policy, value, key, place));
            judge(policy, key, "") && kept
        }
    });
}

/// Whether the entry around the value stays.
fn value(policy: &Letters, any: &mut AnyValue, key: &str, place: Place) -> bool {
    let text = match &any.value {
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::BoolValue(value)) if policy.all_types => value.to_string(),
        Some(Value::DoubleValue(value)) if policy.all_types => value.to_string(),
        _ => String::new(),
    };
    match &mut any.value {
        Some(Value::StringValue(text)) => judge(policy, text, key),
        Some(Value::BytesValue(bytes)) => {
            let mut kept = true;
            let mut out = Vec::new();
            for chunk in bytes.utf8_chunks() {
                let mut text = chunk.valid().to_owned();
                kept &= judge(policy, &mut text, key);
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(chunk.invalid());
            }
            *bytes = out;
            kept
        }
        // All are looked at, even if the first decides.
        Some(Value::ArrayValue(array)) => {
            array.values.iter_mut().fold(true, |kept, element| value(policy, element, key, place) & kept)
        }
        Some(Value::KvlistValue(list)) => {
            let place = if place == Place::Body { place } else { Place::Nested };
            entries(policy, &mut list.values, place);
            true
        }
        scalar => {
            let mut new = text.clone();
            let kept = text.is_empty() || judge(policy, &mut new, key);
            if new != text {
                *scalar = Some(Value::StringValue(new));
            }
            kept
        }
    }
}

fn judge(policy: &Letters, text: &mut String, key: &str) -> bool {
    match policy.text(text, key) {
        Verdict::Clean | Verdict::Allowed => true,
        Verdict::Replaced(new) => {
            *text = new;
            true
        }
        Verdict::Deleted(new) => {
            *text = new;
            false
        }
    }
}

fn plain(policy: &Letters, text: &mut String) {
    judge(policy, text, "");
}

// === What no struct can show ===

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

/// A trace request with one span of these fields.
fn span(fields: &[u8]) -> Payload {
    let request = field(1, &field(2, &field(2, fields)));
    Payload::validate(Signal::Traces, request.into()).unwrap()
}

#[test]
fn what_a_later_field_supersedes_is_redacted_too() {
    let mut number = Vec::new();
    put_varint_field(&mut number, 3, 5);
    // The key comes twice, the value in two pieces, of which the second overrules the first.
    let entry = [
        field(1, b"bb"),
        field(1, b"k"),
        field(2, &field(1, b"xbbx")),
        field(2, &[field(1, b"ybby"), number].concat()),
    ];
    let before = span(&[field(5, b"bb"), field(5, b"GET"), field(9, &entry.concat())].concat());
    let after = redact(&SILENT, &before).to_bytes();
    assert!(!after.windows(2).any(|window| window == b"bb"), "{after:?}");
    let Request::Traces(request) = Request::decode(Signal::Traces, &after).unwrap() else { panic!("traces") };
    let span = &request.resource_spans[0].scope_spans[0].spans[0];
    let value = span.attributes[0].value.as_ref().unwrap().value.clone();
    assert_eq!(
        (&*span.name, &*span.attributes[0].key, value),
        ("GET", "k", Some(Value::StringValue("five".into())))
    );
}

#[test]
fn summaries_count_add_up_and_hold_no_secret() {
    let entry = |key: &str, value: &str| {
        let value = field(2, &field(1, value.as_bytes()));
        field(9, &[field(1, key.as_bytes()), value].concat())
    };
    let count = |key: &str, count: u64| {
        let mut value = Vec::new();
        put_varint_field(&mut value, 3, count);
        field(9, &[field(1, key.as_bytes()), field(2, &value)].concat())
    };
    let fields = [
        entry("redaction.masked.keys", "earlier,bbearlier"),
        count("redaction.masked.count", 2),
        entry("a", "bb"),
        entry("b", "x"),
        entry("k", "bb"),
        entry("bbkey", "x"),
        entry("ok", "allowed"),
        entry("gone", "cc"),
        entry("d", ""),
    ];
    let told = |summary| {
        let redacted = redact(&Letters { summary, ..SILENT }, &span(&fields.concat()));
        let Request::Traces(request) = Request::decode(Signal::Traces, &redacted.to_bytes()).unwrap() else {
            panic!("traces")
        };
        let attributes = request.resource_spans[0].scope_spans[0].spans[0].attributes.clone();
        let told = attributes.into_iter().filter(|attribute| attribute.key.starts_with("redaction."));
        let told = told.map(|attribute| match attribute.value.unwrap().value.unwrap() {
            Value::StringValue(text) => (attribute.key, text),
            Value::IntValue(count) => (attribute.key, count.to_string()),
            other => panic!("{other:?}"),
        });
        told.collect::<Vec<_>>()
    };
    let all = [
        ("redaction.redacted.keys", "d,gone"),
        ("redaction.redacted.count", "2"),
        ("redaction.masked.keys", "a longer textearlier,a longer textkey,b,earlier,k"),
        ("redaction.masked.count", "5"),
        ("redaction.allowed.keys", "ok"),
        ("redaction.allowed.count", "1"),
        ("redaction.ignored.count", "1"),
    ];
    let all = all.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(told(Summary::Debug), all);
    let counts: Vec<_> = all.into_iter().filter(|(key, _)| key.ends_with(".count")).collect();
    assert_eq!(told(Summary::Info), counts);
    // Silent, they are attributes as any other.
    assert_eq!(told(Summary::Silent).len(), 2);
}
