//! Only what is selected is edited, and all else keeps its bytes.

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use regex::{Regex, RegexSet};
use watershed_telemetry::edit::{
    Action, AttributeEdits, AttributeValue, Criteria, Library, Selection, Severity, Target, Texts, Wanted,
};
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

const MARK: &str = "marked";

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn exactly(texts: &[&str]) -> Option<Texts> {
    Some(Texts::Exactly(texts.iter().map(|&text| text.to_owned()).collect()))
}

fn matching(patterns: &[&str]) -> Option<Texts> {
    Some(Texts::Matching(RegexSet::new(patterns).unwrap()))
}

fn wanted(key: &str, wanted: Wanted) -> Vec<(String, Wanted)> {
    vec![(key.to_owned(), wanted)]
}

fn value(value: impl Into<AttributeValue>) -> Wanted {
    Wanted::Exactly(value.into())
}

fn pattern(pattern: &str) -> Wanted {
    Wanted::Matching(Regex::new(pattern).unwrap())
}

fn resource() -> Option<Resource> {
    let attributes = vec![pair("service.name", text("orders")), pair("port", Value::IntValue(80))];
    Some(Resource { attributes, ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "lib".to_owned(), version: "1.2".to_owned(), ..Default::default() })
}

fn attributes() -> Vec<KeyValue> {
    vec![pair("kind", text("a")), pair("size", Value::DoubleValue(1.5)), pair("ok", Value::BoolValue(true))]
}

/// One item of the signal, as rich as the criteria.
fn request(signal: Signal) -> Request {
    let (resource, scope, attributes) = (resource(), scope(), attributes());
    match signal {
        Signal::Traces => {
            let span = Span { name: "GET /".to_owned(), kind: 2, attributes, ..Span::default() };
            let scope_spans = vec![ScopeSpans { scope, spans: vec![span], ..Default::default() }];
            Request::traces(vec![ResourceSpans { resource, scope_spans, ..Default::default() }])
        }
        Signal::Logs => {
            let body = Some(AnyValue { value: Some(text("it broke")) });
            let severity_text = "WARN".to_owned();
            let record =
                LogRecord { body, severity_text, severity_number: 13, attributes, ..Default::default() };
            let scope_logs = vec![ScopeLogs { scope, log_records: vec![record], ..Default::default() }];
            Request::logs(vec![ResourceLogs { resource, scope_logs, ..Default::default() }])
        }
        Signal::Metrics => {
            let data_points = vec![NumberDataPoint { attributes, ..Default::default() }];
            let data = Some(Data::Gauge(Gauge { data_points }));
            let metrics = vec![Metric { name: "cpu".to_owned(), data, ..Default::default() }];
            let scope_metrics = vec![ScopeMetrics { scope, metrics, ..Default::default() }];
            Request::metrics(vec![ResourceMetrics { resource, scope_metrics, ..Default::default() }])
        }
    }
}

/// The signals of which the item is edited.
fn edited(selection: &Selection) -> Vec<Signal> {
    let mark = Action::Insert { key: MARK.to_owned(), value: true.into() };
    let edits = AttributeEdits::new(Target::Item, vec![mark]).only(selection.clone());
    let is_edited = |signal: &Signal| {
        let payload = Payload::validate(*signal, request(*signal).encode().into()).unwrap();
        let edited = edits.apply(&payload);
        let is_same = edited.requests()[0].as_ptr() == payload.requests()[0].as_ptr();
        assert_eq!(is_same, edited.bytes() == payload.bytes(), "nothing changed, yet it was copied");
        !is_same
    };
    Signal::ALL.into_iter().filter(is_edited).collect()
}

#[test]
fn criteria_are_met_or_not() {
    use Signal::{Logs, Metrics, Traces};
    let all = &Signal::ALL[..];
    let none = &[][..];
    let empty = Criteria::default;
    let library = |name: &str, version: Option<&str>| Library {
        name: exactly(&[name]).unwrap(),
        version: version.and_then(|version| exactly(&[version])),
    };
    let severity = |min, match_undefined| Some(Severity { min, match_undefined });
    let array: AttributeValue = ["a".into(), 1.into()].into_iter().collect();
    let cases = [
        (empty(), all),
        (Criteria { services: exactly(&["other", "orders"]), ..empty() }, all),
        (Criteria { services: exactly(&["order"]), ..empty() }, none),
        (Criteria { services: matching(&["^order"]), ..empty() }, all),
        (Criteria { resources: wanted("port", Wanted::Any), ..empty() }, all),
        (Criteria { resources: wanted("port", value(80)), ..empty() }, all),
        (Criteria { resources: wanted("port", value(80.0)), ..empty() }, none),
        (Criteria { resources: wanted("port", value("80")), ..empty() }, none),
        (Criteria { resources: wanted("port", pattern("^8")), ..empty() }, all),
        (Criteria { resources: wanted("absent", Wanted::Any), ..empty() }, none),
        (Criteria { libraries: vec![library("other", None), library("lib", None)], ..empty() }, all),
        (Criteria { libraries: vec![library("lib", Some("1.2"))], ..empty() }, all),
        (Criteria { libraries: vec![library("lib", Some(""))], ..empty() }, none),
        (Criteria { attributes: wanted("kind", value("a")), ..empty() }, all),
        (Criteria { attributes: wanted("kind", value("b")), ..empty() }, none),
        (Criteria { attributes: wanted("kind", value(array)), ..empty() }, none),
        (Criteria { attributes: wanted("size", value(1.5)), ..empty() }, all),
        (Criteria { attributes: wanted("ok", pattern("^true$")), ..empty() }, all),
        (
            Criteria {
                attributes: [wanted("kind", Wanted::Any), wanted("absent", Wanted::Any)].concat(),
                ..empty()
            },
            none,
        ),
        (Criteria { span_names: matching(&["POST", "GET"]), ..empty() }, &[Traces]),
        (Criteria { span_names: exactly(&["GET"]), ..empty() }, none),
        (Criteria { span_kinds: exactly(&["SPAN_KIND_SERVER"]), ..empty() }, &[Traces]),
        (Criteria { span_kinds: exactly(&["SPAN_KIND_CLIENT"]), ..empty() }, none),
        (Criteria { log_bodies: matching(&["broke"]), ..empty() }, &[Logs]),
        (Criteria { log_bodies: exactly(&["broke"]), ..empty() }, none),
        (Criteria { log_severity_texts: exactly(&["WARN"]), ..empty() }, &[Logs]),
        (Criteria { log_severity: severity(13, false), ..empty() }, &[Logs]),
        (Criteria { log_severity: severity(14, true), ..empty() }, none),
        (Criteria { metric_names: exactly(&["cpu"]), ..empty() }, &[Metrics]),
        (Criteria { metric_names: matching(&["^c", "^d"]), services: exactly(&["no"]), ..empty() }, none),
        // Nothing is all of these.
        (Criteria { metric_names: exactly(&["cpu"]), span_names: exactly(&["GET /"]), ..empty() }, none),
    ];
    for (criteria, met) in cases {
        let include = Selection { include: Some(criteria.clone()), exclude: None };
        assert_eq!(edited(&include), met, "include {criteria:?}");
        let exclude = Selection { include: None, exclude: Some(criteria.clone()) };
        let others: Vec<Signal> = Signal::ALL.into_iter().filter(|signal| !met.contains(signal)).collect();
        assert_eq!(edited(&exclude), others, "exclude {criteria:?}");
        // What is included and excluded is excluded.
        let both = Selection { include: Some(criteria.clone()), exclude: Some(criteria) };
        assert_eq!(edited(&both), []);
    }
}

#[test]
fn records_without_severity_are_meant_only_if_said() {
    let records = [0, 1, 17].map(|severity_number| LogRecord { severity_number, ..Default::default() });
    let scope_logs = vec![ScopeLogs { log_records: records.to_vec(), ..Default::default() }];
    let request = Request::logs(vec![ResourceLogs { scope_logs, ..Default::default() }]);
    let payload = Payload::validate(Signal::Logs, request.encode().into()).unwrap();
    for (match_undefined, expected) in [(false, vec![17]), (true, vec![0, 17])] {
        let log_severity = Some(Severity { min: 9, match_undefined });
        let include = Some(Criteria { log_severity, ..Criteria::default() });
        let mark = Action::Insert { key: MARK.to_owned(), value: true.into() };
        let edits = AttributeEdits::new(Target::Item, vec![mark]);
        let edited = edits.only(Selection { include, exclude: None }).apply(&payload);
        let scopes = edited.resources().flat_map(|group| group.scopes());
        let records = scopes.flat_map(|scope| scope.log_records());
        let marked = records.filter(|record| record.attributes().find(MARK).is_some());
        assert_eq!(marked.map(|record| record.severity_number()).collect::<Vec<_>>(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// An item is marked if and only if it has the attribute, however the wire is laid out.
    #[test]
    fn what_has_an_attribute_is_marked(
        request in generate::request(),
        choices in proptest::collection::vec(any::<u8>(), 64),
        key in "[a-d]",
        is_included in any::<bool>(),
    ) {
        let signal = request.signal();
        let bytes = Bytes::from(rearrange(&request.encode(), &mut choices.iter().copied().cycle()));
        let Ok(payload) = Payload::validate(signal, bytes.clone()) else { return Ok(()) };
        let criteria = Some(Criteria { attributes: wanted(&key, Wanted::Any), ..Criteria::default() });
        let selection = match is_included {
            true => Selection { include: criteria, exclude: None },
            false => Selection { include: None, exclude: criteria },
        };
        let mark = Action::Upsert { key: MARK.to_owned(), value: true.into() };
        let edited = AttributeEdits::new(Target::Item, vec![mark]).only(selection).apply(&payload);

        let mut expected = Request::decode(signal, &bytes).unwrap();
        crate::edit::each(&mut expected, Target::Item, &mut |attributes| {
            if attributes.iter().any(|attribute| attribute.key == key) == is_included {
                attributes.push(pair(MARK, Value::BoolValue(true)));
            }
        });
        let found = Request::decode(signal, &edited.to_bytes()).unwrap();
        prop_assert_eq!(found.normal(), expected.normal());
    }
}
