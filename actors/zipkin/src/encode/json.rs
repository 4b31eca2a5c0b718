//! A span in JSON.

use std::io::Write as _;

use watershed_telemetry::json::{write_hex, write_text};

use super::text::{put_integer, put_scalar};
use crate::span::{Endpoint, Ip, Kind, Span, Tag, Value};

/// Appends a span; what is absent is not written.
pub(super) fn put_span(out: &mut Vec<u8>, span: &Span<'_>) {
    out.extend_from_slice(b"{\"traceId\":\"");
    write_hex(span.short_trace_id(), out);
    if span.parent_id != [0; 8] {
        out.extend_from_slice(b"\",\"parentId\":\"");
        write_hex(&span.parent_id, out);
    }
    out.extend_from_slice(b"\",\"id\":\"");
    write_hex(&span.id, out);
    out.push(b'"');
    let kind = match span.kind {
        Kind::Unspecified => None,
        Kind::Client => Some("CLIENT"),
        Kind::Server => Some("SERVER"),
        Kind::Producer => Some("PRODUCER"),
        Kind::Consumer => Some("CONSUMER"),
    };
    if let Some(kind) = kind {
        out.extend_from_slice(b",\"kind\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.push(b'"');
    }
    if !span.name.is_empty() {
        out.extend_from_slice(b",\"name\":");
        write_text(&span.name, out);
    }
    for (key, time) in [("timestamp", span.timestamp), ("duration", span.duration)] {
        if time > 0 {
            put_key(key, out);
            put_integer(time, out);
        }
    }
    for (key, endpoint) in [("localEndpoint", &span.local), ("remoteEndpoint", &span.remote)] {
        if !endpoint.is_empty() {
            put_key(key, out);
            put_endpoint(out, endpoint);
        }
    }
    if !span.annotations.is_empty() {
        out.extend_from_slice(b",\"annotations\":");
        let mut mark = b'[';
        for annotation in &span.annotations {
            out.push(mark);
            out.extend_from_slice(b"{\"timestamp\":");
            put_integer(annotation.timestamp, out);
            out.extend_from_slice(b",\"value\":");
            write_text(&annotation.value, out);
            out.push(b'}');
            mark = b',';
        }
        out.push(b']');
    }
    if !span.tags.is_empty() {
        out.extend_from_slice(b",\"tags\":");
        let mut mark = b'{';
        for tag in &span.tags {
            out.push(mark);
            put_tag(out, tag);
            mark = b',';
        }
        out.push(b'}');
    }
    for (key, flag) in [("debug", span.debug), ("shared", span.shared)] {
        if flag {
            put_key(key, out);
            out.extend_from_slice(b"true");
        }
    }
    out.push(b'}');
}

fn put_key(key: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_tag(out: &mut Vec<u8>, tag: &Tag<'_>) {
    write_text(&tag.key, out);
    out.push(b':');
    match &tag.value {
        Value::Text(text) => write_text(text, out),
        value => {
            out.push(b'"');
            put_scalar(value, out);
            out.push(b'"');
        }
    }
}

fn put_endpoint(out: &mut Vec<u8>, endpoint: &Endpoint<'_>) {
    let from = out.len();
    if !endpoint.service_name.is_empty() {
        put_key("serviceName", out);
        write_text(&endpoint.service_name, out);
    }
    for (key, ip) in [("ipv4", &endpoint.ipv4), ("ipv6", &endpoint.ipv6)] {
        let Some(ip) = ip else { continue };
        put_key(key, out);
        out.push(b'"');
        let _ = match ip {
            // Only what is read is kept as text.
            Ip::Text(_) => Ok(()),
            Ip::V4(ip) => write!(out, "{ip}"),
            Ip::V6(ip) => write!(out, "{ip}"),
        };
        out.push(b'"');
    }
    if endpoint.port > 0 {
        put_key("port", out);
        put_integer(endpoint.port, out);
    }
    if let Some(comma) = out.get_mut(from) {
        *comma = b'{';
    }
    out.push(b'}');
}
