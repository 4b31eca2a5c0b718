//! A span in protobuf.

use watershed_telemetry::wire::{put_bytes_field, put_fixed64_field, put_varint_field};

use super::text::put_scalar;
use crate::span::{Endpoint, Ip, Kind, Span, Tag, Value};
use crate::wire::{close, open};

/// Appends a span as an element of a `ListOfSpans`.
pub(super) fn put_span(out: &mut Vec<u8>, span: &Span<'_>) {
    let open = open(out, 1, 2);
    put_bytes_field(out, 1, span.short_trace_id());
    if span.parent_id != [0; 8] {
        put_bytes_field(out, 2, &span.parent_id);
    }
    put_bytes_field(out, 3, &span.id);
    let kind = match span.kind {
        Kind::Unspecified => 0,
        Kind::Client => 1,
        Kind::Server => 2,
        Kind::Producer => 3,
        Kind::Consumer => 4,
    };
    put_varint(out, 4, kind);
    put_text(out, 5, &span.name);
    if span.timestamp > 0 {
        put_fixed64_field(out, 6, span.timestamp);
    }
    put_varint(out, 7, span.duration);
    put_endpoint(out, 8, &span.local);
    put_endpoint(out, 9, &span.remote);
    for annotation in &span.annotations {
        let open = self::open(out, 10, 1);
        put_fixed64_field(out, 1, annotation.timestamp);
        put_text(out, 2, &annotation.value);
        close(out, open);
    }
    for tag in &span.tags {
        put_tag(out, tag);
    }
    put_varint(out, 12, span.debug.into());
    put_varint(out, 13, span.shared.into());
    close(out, open);
}

fn put_tag(out: &mut Vec<u8>, tag: &Tag<'_>) {
    let entry = open(out, 11, 1);
    put_bytes_field(out, 1, &tag.key);
    match &tag.value {
        Value::Text(text) => put_bytes_field(out, 2, text),
        value => {
            let text = open(out, 2, 1);
            put_scalar(value, out);
            close(out, text);
        }
    }
    close(out, entry);
}

fn put_endpoint(out: &mut Vec<u8>, number: u32, endpoint: &Endpoint<'_>) {
    if endpoint.is_empty() {
        return;
    }
    let open = open(out, number, 1);
    put_text(out, 1, &endpoint.service_name);
    for (number, ip) in [(2, &endpoint.ipv4), (3, &endpoint.ipv6)] {
        match ip {
            Some(Ip::V4(ip)) => put_bytes_field(out, number, &ip.octets()),
            Some(Ip::V6(ip)) => put_bytes_field(out, number, &ip.octets()),
            // Only what is read is kept as text.
            Some(Ip::Text(_)) | None => {}
        }
    }
    put_varint(out, 4, endpoint.port.into());
    close(out, open);
}

fn put_text(out: &mut Vec<u8>, number: u32, text: &[u8]) {
    if !text.is_empty() {
        put_bytes_field(out, number, text);
    }
}

fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    if value > 0 {
        put_varint_field(out, number, value);
    }
}
