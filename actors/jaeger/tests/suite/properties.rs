//! Whatever a batch holds, it is translated as prost reads it.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use proptest::prelude::*;
use prost::Message;
use watershed_jaeger::decode::{Format, decode};
use watershed_thrift::Protocol;

use crate::api::*;

pub fn tag() -> impl Strategy<Value = Tag> {
    // Keys that mean something have tests of their own.
    let key = "k[a-z]{0,3}";
    let value = prop_oneof![
        ".{0,8}".prop_map(|value| text("", &value)),
        ".{120,140}".prop_map(|value| text("", &value)),
        any::<bool>().prop_map(|value| boolean("", value)),
        any::<i64>().prop_map(|value| int("", value)),
        (-1e9..1e9).prop_map(|value| float("", value)),
        prop::collection::vec(any::<u8>(), 0..200).prop_map(|value| binary("", &value)),
    ];
    (key, value).prop_map(|(key, tag)| Tag { key, ..tag })
}

fn tags() -> impl Strategy<Value = Vec<Tag>> {
    prop::collection::vec(tag(), 0..6)
}

pub fn span() -> impl Strategy<Value = Span> {
    let micros = |most: u64| (0..most).prop_map(|micros| micros * 1000);
    let log = (micros(1 << 50), tags()).prop_map(|(at, fields)| Log { timestamp: time(at), fields });
    let ids = (1..u128::MAX, 1..u64::MAX, prop::option::of(1..u64::MAX));
    let scope = prop::option::of("[a-c]");
    (ids, ".{0,20}", micros(1 << 50), micros(1 << 40), tags(), prop::collection::vec(log, 0..3), scope)
        .prop_map(|((trace_id, span_id, parent), operation_name, start, duration, mut tags, logs, scope)| {
            let trace_id = trace_id.to_be_bytes().to_vec();
            let to = |id: u64| SpanRef {
                trace_id: trace_id.clone(),
                span_id: id.to_be_bytes().to_vec(),
                ref_type: CHILD_OF,
            };
            let references = parent.map(to).into_iter().collect();
            tags.extend(scope.map(|scope| text("otel.scope.name", &scope)));
            Span {
                trace_id,
                span_id: span_id.to_be_bytes().to_vec(),
                operation_name,
                references,
                start_time: time(start),
                duration: time(duration),
                tags,
                logs,
                ..Span::default()
            }
        })
}

pub fn batch() -> impl Strategy<Value = PostSpansRequest> {
    let process = ("[a-z]{1,8}", tags()).prop_map(|(service_name, tags)| Process { service_name, tags });
    (prop::collection::vec(span(), 0..6), process).prop_map(|(spans, process)| request(spans, Some(process)))
}

/// What an attribute was as a tag.
fn as_tag(attribute: &opentelemetry_proto::tonic::common::v1::KeyValue) -> Tag {
    let key = &attribute.key;
    match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(value) => text(key, &value),
        Value::BoolValue(value) => boolean(key, value),
        Value::IntValue(value) => int(key, value),
        Value::DoubleValue(value) => float(key, value),
        Value::BytesValue(value) => binary(key, &value),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_batch_is_what_prost_says_it_is(batch in batch()) {
        let read = translate(&batch);
        let batch = batch.batch.unwrap();
        let spans = || read.resource_spans.iter().flat_map(|group| &group.scope_spans);
        prop_assert!(read.resource_spans.len() <= 1);
        prop_assert_eq!(spans().map(|group| group.spans.len()).sum::<usize>(), batch.spans.len());
        for group in spans() {
            let scope = group.scope.clone().unwrap_or_default().name;
            for span in &group.spans {
                let mut written: Vec<Tag> = span.attributes.iter().map(as_tag).collect();
                if !scope.is_empty() {
                    written.push(text("otel.scope.name", &scope));
                }
                let found = batch.spans.iter().find(|other| other.span_id == span.span_id).unwrap();
                prop_assert_eq!(&span.trace_id, &found.trace_id);
                prop_assert_eq!(&span.name, &found.operation_name);
                prop_assert_eq!(span.start_time_unix_nano, nanos(found.start_time));
                prop_assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, nanos(found.duration));
                let parent = found.references.first().map(|parent| parent.span_id.clone());
                prop_assert_eq!(&span.parent_span_id, &parent.unwrap_or_default());
                prop_assert_eq!(&written, &found.tags);
                let logs: Vec<Log> = span
                    .events
                    .iter()
                    .map(|event| Log {
                        timestamp: time(event.time_unix_nano),
                        fields: event.attributes.iter().map(as_tag).collect(),
                    })
                    .collect();
                prop_assert_eq!(&logs, &found.logs);
            }
        }
    }

    #[test]
    fn random_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in [
            Format::Proto,
            Format::Batch(Protocol::Binary),
            Format::EmitBatch(Protocol::Binary),
            Format::EmitBatch(Protocol::Compact),
        ] {
            let _ = decode(format, &bytes, &mut |_| true);
        }
    }

    #[test]
    fn changed_bytes_are_read_or_refused(
        batch in batch(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let mut body = batch.encode_to_vec();
        let at = at.index(body.len());
        body[at] = with;
        let _ = decode(Format::Proto, &body, &mut |_| true);
        for protocol in [Protocol::Binary, Protocol::Compact] {
            let mut body = emit_batch(protocol, batch.batch.as_ref().unwrap());
            let at = at % body.len();
            body[at] = with;
            let _ = decode(Format::EmitBatch(protocol), &body, &mut |_| true);
        }
    }
}
