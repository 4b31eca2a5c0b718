//! What is wrong, and what is only odd.

use prost::Message;
use watershed_jaeger::decode::{DecodeError, Format, decode};
use watershed_thrift::{Message as Call, Protocol, Purpose, Value, Writer};

use crate::api::*;

#[test]
fn ids_have_their_lengths() {
    let read = |span| otlp(Format::Proto, &request(vec![span], None).encode_to_vec());
    assert_eq!(read(Span { trace_id: vec![1; 15], ..span(1) }), Err(DecodeError::TraceId));
    assert_eq!(read(Span { span_id: vec![1; 9], ..span(1) }), Err(DecodeError::SpanId));
    let short = read(Span { trace_id: vec![1; 8], ..span(1) }).unwrap();
    assert_eq!(only_span(&short).trace_id, [[0; 8], [1; 8]].concat(), "the lower half");
}

#[test]
fn a_field_of_another_type_than_its_own_is_refused() {
    for body in [&[0x08, 1][..], &[0x0A, 2, 0x08, 1], &[0x0A, 4, 0x0A, 2, 0x42, 200], &[0xFF]] {
        assert!(matches!(otlp(Format::Proto, body), Err(DecodeError::Wire(_))), "{body:?}");
    }
}

#[test]
fn only_calls_of_emit_batch_are_for_us() {
    let mut writer = Writer::new(Protocol::Compact);
    writer.message(Call { name: b"emitZipkinBatch", purpose: Purpose::Oneway, sequence: 1 });
    writer.structure(|_| {});
    assert_eq!(otlp(Format::EmitBatch(Protocol::Compact), &writer.into_bytes()), Err(DecodeError::Method));
}

#[test]
fn text_of_thrift_need_not_be_utf8() {
    let mut writer = Writer::new(Protocol::Binary);
    writer.structure(|writer| {
        writer.field(1, Value::Struct);
        writer.structure(|writer| writer.field(1, Value::Binary(b"caf\xE9")));
        writer.field(
            2,
            Value::List(watershed_thrift::List { element: watershed_thrift::Kind::Struct, len: 1 }),
        );
        writer.structure(|writer| writer.field(5, Value::Binary(b"\xFF")));
    });
    let read = otlp(Format::Batch(Protocol::Binary), &writer.into_bytes()).unwrap();
    assert_eq!(only_span(&read).name, "\u{FFFD}");
    assert_eq!(
        read.resource_spans[0].resource.clone().unwrap().attributes,
        [string("service.name", "caf\u{FFFD}")]
    );
}

#[test]
fn nothing_is_made_of_nothing() {
    assert_eq!(otlp(Format::Proto, &[]).unwrap().resource_spans, []);
    let only_process = request(vec![], Some(Process { service_name: "a".into(), tags: vec![] }));
    assert_eq!(translate(&only_process).resource_spans, []);
}

#[test]
fn memory_is_asked_for_before_it_is_taken() {
    let spans: Vec<Span> = (0..100).map(span).collect();
    let body = request(spans, None).encode_to_vec();
    let mut asked = 0;
    let bytes = decode(Format::Proto, &body, &mut |total| {
        asked = asked.max(total);
        true
    });
    assert!(asked >= bytes.unwrap().len(), "{asked}");
    assert!(matches!(decode(Format::Proto, &body, &mut |total| total < asked), Err(DecodeError::NoRoom(_))));
    assert!(matches!(decode(Format::Proto, &body, &mut |_| false), Err(DecodeError::NoRoom(_))));
}
