//! What is taken out of the bytes is what is taken out of the structs, and nothing else.

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::collection::vec;
use proptest::prelude::*;
use watershed_telemetry::retain::{Element, ItemEdit, Place, Verdict, retain};
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

/// A judge that both sides can ask: one verdict for each remainder of a number that the element holds.
#[derive(Clone, Copy, Debug)]
struct Judge {
    /// Spans by their start, metrics by the length of their names, log records by their time.
    outer: [Verdict; 4],
    /// Events and data points, by their time.
    inner: [Verdict; 4],
}

impl Judge {
    fn outer(&self, number: u64) -> Verdict {
        self.outer[number as usize % 4]
    }

    fn inner(&self, number: u64) -> Verdict {
        self.inner[number as usize % 4]
    }

    fn on_wire(&self, element: Element<'_>, edit: &mut ItemEdit) -> Verdict {
        edit.trace_state().push_str("ot=th:8");
        edit.set_attribute("a", "no");
        edit.set_attribute("new", "x".repeat(130));
        edit.set_attribute("a", "set");
        match element {
            Element::Span(span) => self.outer(span.start_time_unix_nano()),
            Element::Metric(metric) => self.outer(metric.name().len() as u64),
            Element::LogRecord(record) => self.outer(record.time_unix_nano()),
            Element::SpanEvent(_, event) => self.inner(event.time_unix_nano()),
            Element::DataPoint(_, point) => self.inner(point.time_unix_nano()),
        }
    }

    fn span(&self, span: &mut Span) -> bool {
        match self.outer(span.start_time_unix_nano) {
            Verdict::Keep => {}
            Verdict::Drop => return false,
            Verdict::Enter => span.events.retain(|event| self.inner(event.time_unix_nano) != Verdict::Drop),
            Verdict::Edit => {
                span.trace_state = "ot=th:8".to_owned();
                set_attributes(&mut span.attributes);
            }
        }
        true
    }

    fn metric(&self, metric: &mut Metric) -> bool {
        macro_rules! points {
            ($data:expr) => {
                keep(&mut $data.data_points, |point| self.inner(point.time_unix_nano) != Verdict::Drop)
            };
        }
        match (self.outer(metric.name.len() as u64), &mut metric.data) {
            (Verdict::Drop, _) => false,
            (Verdict::Enter, Some(data)) => match data {
                Data::Gauge(data) => points!(data),
                Data::Sum(data) => points!(data),
                Data::Histogram(data) => points!(data),
                Data::ExponentialHistogram(data) => points!(data),
                Data::Summary(data) => points!(data),
            },
            _ => true,
        }
    }

    fn on_structs(&self, request: &mut Request) -> bool {
        match request {
            Request::Traces(request) => keep(&mut request.resource_spans, |group| {
                keep(&mut group.scope_spans, |scope| keep(&mut scope.spans, |span| self.span(span)))
            }),
            Request::Metrics(request) => keep(&mut request.resource_metrics, |group| {
                keep(&mut group.scope_metrics, |scope| keep(&mut scope.metrics, |metric| self.metric(metric)))
            }),
            Request::Logs(request) => keep(&mut request.resource_logs, |group| {
                keep(&mut group.scope_logs, |scope| {
                    keep(&mut scope.log_records, |record| match self.outer(record.time_unix_nano) {
                        Verdict::Drop => false,
                        Verdict::Edit => {
                            set_attributes(&mut record.attributes);
                            true
                        }
                        Verdict::Keep | Verdict::Enter => true,
                    })
                })
            }),
        }
    }
}

/// As `Vec::retain_mut`; false if that took the last one.
fn keep<T>(list: &mut Vec<T>, stays: impl FnMut(&mut T) -> bool) -> bool {
    let before = list.len();
    list.retain_mut(stays);
    !list.is_empty() || before == 0
}

fn set_attributes(attributes: &mut Vec<KeyValue>) {
    for (key, value) in [("a", "set".to_owned()), ("new", "x".repeat(130))] {
        let value = Some(AnyValue { value: Some(Value::StringValue(value)) });
        let set = KeyValue { key: key.to_owned(), value, ..KeyValue::default() };
        let first = attributes.iter().position(|attribute| attribute.key == key);
        attributes.retain({
            let mut index = 0;
            move |attribute| {
                index += 1;
                attribute.key != key || Some(index - 1) == first
            }
        });
        match first {
            Some(index) => attributes[index] = set,
            None => attributes.push(set),
        }
    }
}

fn verdicts() -> impl Strategy<Value = [Verdict; 4]> {
    use Verdict::{Drop, Edit, Enter, Keep};
    let one = || prop_oneof![2 => Just(Keep), 3 => Just(Drop), 3 => Just(Enter), 3 => Just(Edit)];
    prop_oneof![
        4 => [one(), one(), one(), one()],
        1 => Just([Drop; 4]),
        1 => Just([Enter; 4]),
        1 => Just([Keep; 4])
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_oracle(
        request in generate::request(),
        choices in vec(any::<u8>(), 64),
        outer in verdicts(),
        inner in verdicts(),
    ) {
        let signal = request.signal();
        let judge = Judge { outer, inner };
        let bytes = Bytes::from(rearrange(&request.encode(), &mut choices.iter().copied().cycle()));
        let Ok(payload) = Payload::validate(signal, bytes.clone()) else { return Ok(()) };
        let left = retain(&payload, |_, element, edit| judge.on_wire(element, edit));

        let mut expected = Request::decode(signal, &bytes).unwrap();
        let before = expected.encode();
        let stays = judge.on_structs(&mut expected);
        prop_assert_eq!(left.requests().len(), usize::from(stays));
        if expected.encode() == before && before == bytes {
            prop_assert_eq!(left.requests()[0].as_ptr(), bytes.as_ptr(), "nothing changed, yet it was copied");
        }
        prop_assert_eq!(left.bytes(), left.to_bytes().len());
        prop_assert_eq!(left.items(), expected.items());
        let again = Payload::validate(signal, left.to_bytes()).unwrap();
        prop_assert_eq!(again.items(), left.items());
        let found = Request::decode(signal, &left.to_bytes()).unwrap();
        prop_assert_eq!(found.normal(), expected.normal());
    }
}

#[test]
fn a_judge_sees_where_an_element_stands() {
    let span = |name: &str| Span { name: name.to_owned(), ..Span::default() };
    let request = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
        resource_spans: ["r1", "r2"]
            .map(|resource| opentelemetry_proto::tonic::trace::v1::ResourceSpans {
                schema_url: resource.to_owned(),
                scope_spans: ["s1", "s2"]
                    .map(|scope| opentelemetry_proto::tonic::trace::v1::ScopeSpans {
                        schema_url: scope.to_owned(),
                        spans: vec![span("a"), span("b")],
                        scope: None,
                    })
                    .to_vec(),
                resource: None,
            })
            .to_vec(),
    };
    let payload = Payload::validate(Signal::Traces, Request::Traces(request).encode().into()).unwrap();
    let path = |place: &Place<'_>, element: Element<'_>| match element {
        Element::Span(span) => [place.group.schema_url(), place.scope.schema_url(), span.name()].join("/"),
        _ => panic!("a span"),
    };
    let mut left = Vec::new();
    let rest = retain(&payload, |place, element, _| match path(place, element).as_str() {
        "r1/s1/a" | "r1/s2/b" | "r2/s1/a" | "r2/s1/b" => Verdict::Drop,
        _ => Verdict::Keep,
    });
    retain(&rest, |place, element, _| {
        left.push(path(place, element));
        Verdict::Keep
    });
    assert_eq!(left, ["r1/s1/b", "r1/s2/a", "r2/s2/a", "r2/s2/b"]);
}

#[test]
fn what_is_added_to_the_end_of_an_item_outlives_the_next_item() {
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
    let span = |start_time_unix_nano| Span { start_time_unix_nano, ..Span::default() };
    let spans = |spans| {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        Request::Traces(opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
        })
    };
    // Edited, dropped, dropped, edited, dropped.
    let judge = Judge {
        outer: [Verdict::Edit, Verdict::Drop, Verdict::Drop, Verdict::Keep],
        inner: [Verdict::Keep; 4],
    };
    let mut expected = spans([4, 1, 2, 8, 5].map(span).to_vec());
    let payload = Payload::validate(Signal::Traces, expected.encode().into()).unwrap();
    let left = retain(&payload, |_, element, edit| judge.on_wire(element, edit));
    judge.on_structs(&mut expected);
    assert_eq!(left.items(), 2);
    Payload::validate(Signal::Traces, left.to_bytes()).unwrap();
    assert_eq!(Request::decode(Signal::Traces, &left.to_bytes()).unwrap().normal(), expected.normal());
}

#[test]
fn only_the_requests_that_change_are_copied_and_only_the_emptied_go() {
    let log = |severity_number| {
        use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
        let log_records = vec![LogRecord { severity_number, ..LogRecord::default() }];
        let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
        Request::logs(vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }])
    };
    let parts = [log(9), log(1), Request::logs(Vec::new())];
    let parts = parts.map(|part| Payload::validate(Signal::Logs, part.encode().into()).unwrap());
    let payload = Payload::concat(parts).unwrap();
    let below_info = |element: Element<'_>| match element {
        Element::LogRecord(record) if record.severity_number() < 9 => Verdict::Drop,
        _ => Verdict::Keep,
    };
    let left = retain(&payload, |_, element, _| below_info(element));
    assert_eq!((left.items(), left.requests().len()), (1, 2));
    assert_eq!(left.requests()[0].as_ptr(), payload.requests()[0].as_ptr());
    let nothing = retain(&payload.split_requests()[1], |_, element, _| below_info(element));
    assert!(nothing.is_empty() && nothing.requests().is_empty());
}
