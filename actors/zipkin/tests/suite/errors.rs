//! What is wrong is said, and where.

use watershed_zipkin::Format;

use crate::oracle::read;

#[track_caller]
fn refused(format: Format, body: &[u8], message: &str) {
    assert_eq!(read(format, body).unwrap_err().to_string(), message);
}

#[test]
fn json_is_refused_with_field_line_and_column() {
    let with = |fields: &str| format!("[\n{{\"traceId\":\"a\",\"id\":\"b\",{fields}}}]").into_bytes();
    for (body, message) in [
        (b"".to_vec(), "request: ends too early (line 1, column 1)"),
        (b"{}".to_vec(), "request: must be an array (line 1, column 1)"),
        (b"[{}]".to_vec(), "[0]: expected `traceId` (line 1, column 3)"),
        (b"[{\"traceId\":\"1\"}]".to_vec(), "[0]: expected `id` (line 1, column 16)"),
        (b"[7]".to_vec(), "[0]: must be an object (line 1, column 2)"),
        (b"[] x".to_vec(), "request: nothing may follow the request (line 1, column 4)"),
        (b"[\"\xff\"]".to_vec(), "request: not valid UTF-8 (line 1, column 3)"),
        (
            b"[{\"traceId\":\"0\"}]".to_vec(),
            "[0].traceId: must be 1 to 32 hex digits, not all of them zeros (line 1, column 13)",
        ),
        (
            b"[{\"id\":\"12345678901234567\"}]".to_vec(),
            "[0].id: must be 1 to 16 hex digits, not all of them zeros (line 1, column 8)",
        ),
        (
            with("\"parentId\":\"g\""),
            "[0].parentId: must be 1 to 16 hex digits, not all of them zeros (line 2, column 36)",
        ),
        (with("\"timestamp\":true"), "[0].timestamp: must be a whole number (line 2, column 37)"),
        (with("\"tags\":{\"a\":{}}"), "[0].tags: must be a string (line 2, column 37)"),
        (
            with("\"annotations\":[{},{\"value\":1}]"),
            "[0].annotations[1].value: must be a string (line 2, column 52)",
        ),
        (
            with("\"localEndpoint\":{\"port\":[]}"),
            "[0].localEndpoint.port: must be a whole number (line 2, column 49)",
        ),
        (with("\"debug\":1"), "[0].debug: must be true or false (line 2, column 33)"),
    ] {
        refused(Format::Json, &body, message);
    }
}

#[test]
fn protobuf_is_refused_with_field_and_byte() {
    let whole = b"\x0a\x14\x0a\x08aaaaaaaa\x1a\x08bbbbbbbb".as_slice();
    assert!(read(Format::Proto, whole).is_ok());
    for (more, message) in [
        (b"\x0a".as_slice(), "spans[1]: truncated (at byte 22)"),
        (b"\x08\x01", "spans[1]: wrong wire type (at byte 22)"),
        (b"\x0a\x02\x0a\x00", "spans[1].trace_id: must be 8 or 16 bytes (at byte 24)"),
        (b"\x0a\x03\x1a\x01a", "spans[1].trace_id: must be 8 or 16 bytes (at byte 24)"),
        (b"\x0a\x0a\x0a\x08aaaaaaaa", "spans[1].id: must be 8 bytes (at byte 24)"),
        (b"\x0a\x0a\x0a\x08\0\0\0\0\0\0\0\0", "spans[1].id: must be 8 bytes (at byte 24)"),
        (b"\x0a\x02\x35\x00", "spans[1]: truncated (at byte 24)"),
        (b"\x0a\x02\x30\x00", "spans[1].timestamp: wrong wire type (at byte 24)"),
        (b"\x0a\x03\x5a\x01\x0a", "spans[1].tags: truncated (at byte 26)"),
        (
            b"\x0a\x17\x0a\x08aaaaaaaa\x1a\x08bbbbbbbb\x2a\x01\xff",
            "spans[1].name: not valid UTF-8 (at byte 44)",
        ),
        (
            b"\x0a\x1a\x0a\x08aaaaaaaa\x1a\x08bbbbbbbb\x5a\x04\x0a\x00\x12\xff",
            "spans[1].tags: truncated (at byte 46)",
        ),
    ] {
        refused(Format::Proto, &[whole, more].concat(), message);
    }
}
