//! What is refused, and how it is said.

use bytes::Bytes;
use watershed_telemetry::wire::{MAX_DEPTH, put_bytes_field, put_fixed32_field, put_varint_field};
use watershed_telemetry::{Flaw, Invalid, Payload, Signal};

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

/// A request with two scopes of two items each, the last of which is `item`.
fn request(item: &[u8]) -> Vec<u8> {
    let scope = |item: &[u8]| field(2, &[field(2, b""), field(2, item)].concat());
    field(1, &[field(1, b""), scope(b""), scope(item)].concat())
}

fn invalid(signal: Signal, item: &[u8]) -> Invalid {
    let request = request(item);
    let invalid = Payload::validate(signal, Bytes::from(request.clone())).unwrap_err();
    assert!(invalid.offset() < request.len());
    invalid
}

#[test]
fn ids_must_have_their_length_or_be_absent() {
    let span = |number, len| field(number, &[0].repeat(len));
    for (number, len, flaw, name) in [
        (1, 15, Flaw::TraceId, "trace_id"),
        (1, 8, Flaw::TraceId, "trace_id"),
        (2, 16, Flaw::SpanId, "span_id"),
        (4, 7, Flaw::SpanId, "parent_span_id"),
    ] {
        let invalid = invalid(Signal::Traces, &span(number, len));
        assert_eq!(invalid.flaw(), flaw);
        assert_eq!(invalid.path(), format!("resource_spans[0].scope_spans[1].spans[1].{name}"));
    }
    for (number, len) in [(1, 16), (1, 0), (2, 8), (2, 0), (4, 8), (4, 0)] {
        Payload::validate(Signal::Traces, request(&span(number, len)).into()).unwrap();
    }
    let link = field(13, &span(2, 9));
    assert_eq!(
        invalid(Signal::Traces, &link).path(),
        "resource_spans[0].scope_spans[1].spans[1].links[0].span_id"
    );
    assert_eq!(invalid(Signal::Logs, &field(9, b"x")).flaw(), Flaw::TraceId);
    assert_eq!(invalid(Signal::Logs, &field(10, b"x")).flaw(), Flaw::SpanId);
    let exemplar = |id: Vec<u8>| field(5, &field(1, &field(5, &id)));
    let path = "resource_metrics[0].scope_metrics[1].metrics[1].gauge.data_points[0].exemplars[0]";
    assert_eq!(invalid(Signal::Metrics, &exemplar(span(4, 1))).path(), format!("{path}.span_id"));
    assert_eq!(invalid(Signal::Metrics, &exemplar(span(5, 1))).path(), format!("{path}.trace_id"));
}

#[test]
fn the_message_is_one_line_that_names_field_and_byte() {
    let attribute = |value: &[u8]| field(9, &[field(1, b"k"), field(2, value)].concat());
    let span = [attribute(b""), attribute(&field(1, b"\xFF"))].concat();
    let invalid = invalid(Signal::Traces, &span);
    let offset = request(&span).len() - 3;
    assert_eq!(
        invalid.to_string(),
        format!(
            "resource_spans[0].scope_spans[1].spans[1].attributes[1].value.string_value: not valid UTF-8 \
             (at byte {offset})"
        )
    );
}

#[test]
fn every_string_must_be_utf8_and_no_bytes_need_be() {
    // Short, long, and wrong at the seams of an eight-byte check.
    for text in ["\u{e9}", "abcdefg\u{e9}", "abcdefgh\u{20ac}", "0123456789012345678\u{1f600}x"] {
        Payload::validate(Signal::Traces, request(&field(5, text.as_bytes())).into()).unwrap();
        for cut in 1..text.len() {
            if !text.is_char_boundary(cut) {
                let span = field(5, &text.as_bytes()[..cut]);
                assert_eq!(invalid(Signal::Traces, &span).flaw(), Flaw::Utf8, "{text} cut at {cut}");
            }
        }
    }
    for number in [3, 5] {
        assert_eq!(invalid(Signal::Traces, &field(number, b"\xC0\x80")).flaw(), Flaw::Utf8);
    }
    for number in [3, 12] {
        assert_eq!(invalid(Signal::Logs, &field(number, b"\xED\xA0\x80")).flaw(), Flaw::Utf8);
    }
    for number in [1, 2, 3] {
        assert_eq!(invalid(Signal::Metrics, &field(number, b"\xFF")).flaw(), Flaw::Utf8);
    }
    Payload::validate(Signal::Logs, request(&field(5, &field(7, b"\xFF"))).into()).unwrap();
}

#[test]
fn a_known_field_under_another_wire_type_is_refused() {
    let mut span = Vec::new();
    put_varint_field(&mut span, 5, 1);
    let name = invalid(Signal::Traces, &span);
    assert_eq!(
        (name.flaw(), name.path()),
        (Flaw::WireType, "resource_spans[0].scope_spans[1].spans[1].name")
    );
    span.clear();
    put_fixed32_field(&mut span, 7, 1);
    assert_eq!(invalid(Signal::Traces, &span).flaw(), Flaw::WireType);
    // flags, whose tag takes two bytes; a group.
    assert_eq!(invalid(Signal::Traces, &[0x80, 0x01, 0x01]).flaw(), Flaw::WireType);
    assert_eq!(invalid(Signal::Traces, &[0x2B, 0x2C]).flaw(), Flaw::WireType);
}

#[test]
fn what_is_cut_off_is_refused_everywhere() {
    let span = [
        field(1, &[1; 16]),
        field(5, b"name"),
        field(9, &field(1, b"k")),
        vec![0x39, 1, 2, 3, 4, 5, 6, 7, 8],
    ]
    .concat();
    let whole = request(&span);
    for cut in 1..whole.len() {
        let invalid = Payload::validate(Signal::Traces, Bytes::copy_from_slice(&whole[..cut])).unwrap_err();
        assert_eq!((invalid.flaw(), invalid.offset()), (Flaw::Truncated, 0), "at {cut}");
        assert_eq!(invalid.path(), if cut == 0 { "request" } else { "resource_spans" });
    }
    for cut in (1..span.len()).filter(|&cut| ![18, 24, 29].contains(&cut)) {
        assert_eq!(invalid(Signal::Traces, &span[..cut]).flaw(), Flaw::Truncated, "at {cut}");
    }
    assert_eq!(invalid(Signal::Metrics, &field(9, &field(1, &field(6, &[0; 9])))).flaw(), Flaw::Truncated);
    assert_eq!(
        invalid(Signal::Metrics, &field(10, &field(1, &field(8, &field(2, &[0x80]))))).flaw(),
        Flaw::Truncated
    );
}

#[test]
fn malformed_tags_are_refused_and_unknown_fields_pass() {
    for (bytes, flaw) in [
        (&[0x00, 0x00][..], Flaw::FieldNumber),
        (&[0x06], Flaw::WireType),
        (&[0x07], Flaw::WireType),
        (&[0x0C], Flaw::WireType),
        (&[0xA4, 0x06], Flaw::EndGroup),
        (&[0xA3, 0x06, 0xAC, 0x06], Flaw::EndGroup),
        (&[0xA3, 0x06], Flaw::Truncated),
        (&[0xFF; 11], Flaw::Varint),
    ] {
        for signal in Signal::ALL {
            assert_eq!(invalid(signal, bytes).flaw(), flaw, "{bytes:x?}");
        }
    }
    assert_eq!(Payload::validate(Signal::Logs, Bytes::from_static(&[0])).unwrap_err().path(), "request");
    assert!(invalid(Signal::Logs, &[0xA4, 0x06]).path().ends_with("log_records[1].#100"));

    // A group in a group, and each other wire type.
    let unknown = [0xA3, 0x06, 0xAB, 0x06, 0xAC, 0x06, 0xA4, 0x06, 0xA0, 0x06, 1, 0xA2, 0x06, 0];
    for signal in Signal::ALL {
        assert_eq!(
            Payload::validate(signal, request(&unknown).into()).unwrap().bytes(),
            request(&unknown).len()
        );
    }
}

/// A log record's body of that many arrays in one another.
fn nested(arrays: usize) -> Vec<u8> {
    let mut value = Vec::new();
    for _ in 0..arrays {
        value = field(5, &field(1, &value));
    }
    field(5, &value)
}

#[test]
fn nesting_is_bounded() {
    // The body is the fourth message below the request; an array takes two.
    let most = (MAX_DEPTH - 4) / 2;
    Payload::validate(Signal::Logs, request(&nested(most)).into()).unwrap();
    let invalid = invalid(Signal::Logs, &nested(most + 1));
    assert_eq!(invalid.flaw(), Flaw::Depth);
    assert!(invalid.path().ends_with("..."), "{invalid}");
    assert!(invalid.to_string().len() < 400);
    // Groups add to messages: the record is the third, so what is left is all groups may take.
    let groups = |depth| [[0xA3, 0x06].repeat(depth), [0xA4, 0x06].repeat(depth)].concat();
    Payload::validate(Signal::Logs, request(&groups(MAX_DEPTH - 3)).into()).unwrap();
    assert_eq!(self::invalid(Signal::Logs, &groups(MAX_DEPTH - 2)).flaw(), Flaw::Depth);
    assert_eq!(self::invalid(Signal::Logs, &groups(100_000)).flaw(), Flaw::Depth);
    assert_eq!(self::invalid(Signal::Logs, &nested(10_000)).flaw(), Flaw::Depth);
}
