//! JSON and back, against prost, `serde_json` and a second writer.

use proptest::prelude::*;
use serde_json::Value;
use watershed_telemetry::json::{self, JsonError, JsonFlaw};
use watershed_telemetry::wire::{MAX_DEPTH, put_bytes_field};
use watershed_telemetry::{Flaw, Payload, Signal};

use crate::generate;
use crate::json_spell::Speller;
use crate::mutate::rearrange;
use crate::oracle::Request;

/// For each property; generating a request is most of the time it takes.
const CASES: u32 = 600;

pub fn decode(signal: Signal, json: &str) -> Result<Vec<u8>, JsonError> {
    json::decode(signal, json.as_bytes(), &mut |_| true)
}

pub fn encode(signal: Signal, request: &[u8]) -> String {
    let mut out = Vec::new();
    json::encode(signal, request, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// What prost reads, as text, since NaN is not equal to itself.
fn prost(signal: Signal, request: &[u8]) -> String {
    format!("{:?}", Request::decode(signal, request).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_request_comes_back_byte_for_byte(request in generate::request()) {
        let (signal, bytes) = (request.signal(), request.encode());
        let json = encode(signal, &bytes);
        prop_assert!(!json.contains('\n'));
        prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", json);
        let again = decode(signal, &json).unwrap();
        prop_assert_eq!(&again, &bytes, "{}", json);
        prop_assert_eq!(encode(signal, &again), json);
    }

    #[test]
    fn what_prost_merges_is_merged(
        request in generate::request(),
        choices in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let signal = request.signal();
        let bytes = rearrange(&request.encode(), &mut choices.iter().copied().cycle());
        // Rearranged text may no longer be UTF-8.
        let mut json = Vec::new();
        if json::encode(signal, &bytes, &mut json).is_ok() {
            let json = String::from_utf8(json).unwrap();
            let again = decode(signal, &json).unwrap();
            prop_assert_eq!(prost(signal, &again), prost(signal, &bytes), "{}", json);
            prop_assert_eq!(encode(signal, &again), json);
        }
    }

    #[test]
    fn every_spelling_of_a_request_says_the_same(
        request in generate::request(),
        choices in proptest::collection::vec(any::<u8>(), 97),
    ) {
        let (signal, expected) = (request.signal(), request.encode());
        // Prost does not write a negative zero where zero is the default.
        let request = Request::decode(signal, &expected).unwrap();
        let json = Speller(&mut choices.iter().copied().cycle()).request(&request);
        let bytes = decode(signal, &json).map_err(|error| TestCaseError::fail(format!("{error}\n{json}")))?;
        prop_assert_eq!(prost(signal, &bytes), prost(signal, &expected), "{}", json);
    }

    #[test]
    fn damaged_json_is_refused_or_read_but_never_panics(
        request in generate::request(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..6u8), 1..4),
    ) {
        let signal = request.signal();
        let mut json = encode(signal, &request.encode()).into_bytes();
        for (index, value, how) in damage {
            let index = index.index(json.len());
            match how {
                0 => json[index] = value,
                1 => json[index] = b"{}[]\",:\\0e.-n"[usize::from(value) % 13],
                2 => json.insert(index, b"{}[]\",:\\0e.-n"[usize::from(value) % 13]),
                3 => drop(json.remove(index)),
                4 => drop(json.drain(index..(index + usize::from(value)).min(json.len()))),
                _ => json.truncate(index + 1),
            }
            if json.is_empty() {
                json.push(b'{');
            }
        }
        match json::decode(signal, &json, &mut |_| true) {
            Ok(bytes) => {
                // Without looking at numbers that nobody knows, which may be beyond its own range.
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_ok());
                if let Err(invalid) = Payload::validate(signal, bytes.into()) {
                    prop_assert!(matches!(invalid.flaw(), Flaw::TraceId | Flaw::SpanId), "{}", invalid);
                }
            }
            Err(error) => {
                prop_assert!(error.offset() <= json.len());
                prop_assert!(error.to_string().len() < 450, "{}", error);
            }
        }
    }
}

const DOCUMENTS: [(Signal, &str); 3] = [
    (Signal::Traces, include_str!("../data/json/traces.json")),
    (Signal::Metrics, include_str!("../data/json/metrics.json")),
    (Signal::Logs, include_str!("../data/json/logs.json")),
];

/// The documents hold every field, in the form in which we write it.
#[test]
fn documents_with_every_field_come_back_as_they_are() {
    for (signal, document) in DOCUMENTS {
        let bytes = decode(signal, document).unwrap();
        let again: Value = serde_json::from_str(&encode(signal, &bytes)).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(document).unwrap());
        let prost = Request::decode(signal, &bytes).unwrap();
        assert_eq!(prost.encode().len(), bytes.len(), "prost knows every field, too");
        assert!(Payload::validate(signal, bytes.into()).unwrap().items() > 0);
    }
}

/// The examples of `opentelemetry-proto` are not ours to keep a copy of: `WATERSHED_PROTO_EXAMPLES` names the
/// directory `examples` of a checkout.
#[test]
fn the_examples_of_the_specification_are_read_whole() {
    let Some(directory) = std::env::var_os("WATERSHED_PROTO_EXAMPLES") else {
        eprintln!("skipped: WATERSHED_PROTO_EXAMPLES is not set");
        return;
    };
    let examples = [("trace", 1), ("metrics", 4), ("logs", 1), ("events", 1)];
    for ((name, items), signal) in examples.into_iter().zip(Signal::ALL.into_iter().chain([Signal::Logs])) {
        let path = std::path::Path::new(&directory).join(format!("{name}.json"));
        let text = std::fs::read_to_string(path).unwrap();
        let bytes = decode(signal, &text).unwrap();
        let payload = Payload::validate(signal, bytes.clone().into()).unwrap();
        assert_eq!(payload.items(), items, "{name}");
        // All that the example says is there, as prost sees it, however it is spelled.
        let again = decode(signal, &encode(signal, &bytes)).unwrap();
        assert_eq!(prost(signal, &again), prost(signal, &bytes));
        let (given, ours) = (leaves(&text), leaves(&encode(signal, &bytes)));
        let lost: Vec<_> = given.iter().filter(|leaf| !ours.contains(leaf)).collect();
        assert!(lost.is_empty(), "{name}: {lost:?}");
    }
}

/// The paths and values of a document, numbers and what is written in either case made alike, defaults left out.
fn leaves(text: &str) -> Vec<String> {
    fn walk(path: String, value: &Value, leaves: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, value)| walk(format!("{path}.{name}"), value, leaves));
            }
            Value::Array(elements) => {
                let indexed = elements.iter().enumerate();
                indexed.for_each(|(index, value)| walk(format!("{path}[{index}]"), value, leaves));
            }
            Value::Number(number) if number.as_f64() == Some(0.0) => {}
            Value::Number(number) => leaves.push(format!("{path}={:?}", number.as_f64())),
            Value::String(text) => leaves.push(format!("{path}={}", text.to_lowercase())),
            value => leaves.push(format!("{path}={value}")),
        }
    }
    let mut leaves = Vec::new();
    walk(String::new(), &serde_json::from_str(text).unwrap(), &mut leaves);
    leaves
}

#[test]
fn several_requests_are_one_object() {
    let (signal, document) = DOCUMENTS[0];
    let part = Payload::validate(signal, decode(signal, document).unwrap().into()).unwrap();
    let whole = Payload::concat([part.clone(), part.clone()]).unwrap();
    let mut json = Vec::new();
    json::encode_payload(&whole, &mut json);
    assert_eq!(String::from_utf8(json).unwrap(), encode(signal, &whole.to_bytes()));
    let bytes = decode(signal, &encode(signal, &whole.to_bytes())).unwrap();
    assert_eq!(bytes, whole.to_bytes());
    for signal in Signal::ALL {
        assert_eq!(encode(signal, b""), "{}");
        assert!(decode(signal, "{}").unwrap().is_empty());
    }
    assert!(json::encode(Signal::Logs, &[0x0A], &mut Vec::new()).is_err());
}

#[test]
fn nesting_ends_where_that_of_the_wire_ends() {
    let log = |body: &str| {
        format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{body}}}]}}]}}]}}"#)
    };
    let arrays = |depth: usize| {
        let (open, close) = (r#"{"arrayValue":{"values":["#.repeat(depth), "]}}".repeat(depth));
        log(&format!("{open}{{}}{close}"))
    };
    // The body is the fourth message below the request; an array takes two.
    let most = (MAX_DEPTH - 4) / 2;
    let bytes = decode(Signal::Logs, &arrays(most)).unwrap();
    Payload::validate(Signal::Logs, bytes.clone().into()).unwrap();
    assert_eq!(encode(Signal::Logs, &bytes), arrays(most));
    for depth in [most + 1, 100_000] {
        let error = decode(Signal::Logs, &arrays(depth)).unwrap_err();
        assert_eq!(error.flaw(), JsonFlaw::Depth);
        assert!(error.path().ends_with("..."), "{error}");
        assert!(error.to_string().len() < 450);
    }
    for (open, close) in [("[", "]"), (r#"{"":"#, "}")] {
        let unknown = |depth: usize| format!(r#"{{"x":{}1{}}}"#, open.repeat(depth), close.repeat(depth));
        assert!(decode(Signal::Logs, &unknown(MAX_DEPTH)).unwrap().is_empty());
        for depth in [MAX_DEPTH + 1, 100_000] {
            assert_eq!(decode(Signal::Logs, &unknown(depth)).unwrap_err().flaw(), JsonFlaw::Depth);
        }
    }
}

/// Lengths of one, two and three bytes in one another, as prost would write them.
#[test]
fn lengths_are_as_short_as_they_can_be() {
    for len in [0, 1, 110, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_370, 16_384, 2_100_000] {
        let mut expected = Vec::new();
        put_bytes_field(&mut expected, 1, "\u{e9}".repeat(len).as_bytes());
        for number in [5, 2, 2, 1] {
            let inside = std::mem::take(&mut expected);
            put_bytes_field(&mut expected, number, b"");
            put_bytes_field(&mut expected, number, &inside);
            if number == 5 {
                // The body is singular.
                expected = expected.split_off(2);
            }
        }
        let text = "\u{e9}".repeat(len);
        let json = format!(
            r#"{{"resourceLogs":[{{}},{{"scopeLogs":[{{}},{{"logRecords":[{{}},{{"body":{{"stringValue":"{text}"}}}}]}}]}}]}}"#
        );
        assert_eq!(decode(Signal::Logs, &json).unwrap(), expected, "{len}");
    }
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    // Numbers grow on the wire, escapes need a place beside it.
    let counts = vec!["0"; 10_000].join(",");
    let point = format!(r#"{{"bucketCounts":[{counts}]}}"#);
    let name = "\\n".repeat(10_000);
    let json = format!(
        r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"{name}","histogram":{{"dataPoints":[{point}]}}}}]}}]}}]}}"#
    );
    let mut asked = Vec::new();
    let mut decode = |limit: usize| {
        asked.clear();
        let room = &mut |total| {
            asked.push(total);
            total <= limit
        };
        (json::decode(Signal::Metrics, json.as_bytes(), room), asked.clone())
    };
    let (bytes, asked) = decode(usize::MAX);
    let bytes = bytes.unwrap();
    assert!(bytes.len() > 90_000 && bytes.capacity() < bytes.len() + 100);
    assert!(asked.is_sorted() && asked[0] >= json.len() / 2, "{asked:?}");
    let most = asked[asked.len() - 1];
    assert!((bytes.len() + 10_000..2 * bytes.len()).contains(&most), "{asked:?}");
    for limit in [0, json.len(), most - 1] {
        let (error, asked) = decode(limit);
        assert_eq!(error.unwrap_err().flaw(), JsonFlaw::NoRoom);
        assert!(asked[..asked.len() - 1].iter().all(|total| *total <= limit));
    }
}
