//! Values as text: as they are where they are text, as JSON where they hold others.

use watershed_telemetry::json::{write_base64, write_hex, write_text};
use watershed_telemetry::view::{AnyValueView, Attributes, EventView, LinkView, Value as Any};

use crate::names;
use crate::span::{Text, Value};

/// An attribute's value as a tag's.
pub(super) fn value<'a>(any: AnyValueView<'a>) -> Value<'a> {
    match any.value() {
        Any::Str(text) => Value::Text(Text::Borrowed(text.as_bytes())),
        Any::Bool(flag) => Value::Bool(flag),
        Any::Int(int) => Value::Int(int),
        Any::Double(double) => Value::Double(double),
        Any::Empty => Value::Text(Text::default()),
        Any::Bytes(bytes) => {
            let mut text = Vec::new();
            write_base64(bytes, &mut text);
            Value::Text(text.into())
        }
        Any::Array(_) | Any::KvList(_) => {
            let mut text = Vec::new();
            put_json(any, &mut text);
            Value::Text(text.into())
        }
    }
}

/// An event as an annotation's text: `"name":{attributes}` (specification, "Zipkin: Events"), or its name alone.
pub(super) fn event<'a>(event: &EventView<'a>) -> Text<'a> {
    let (name, dropped) = (event.name(), event.dropped_attributes_count());
    let mut attributes = event.attributes();
    if dropped == 0 && attributes.next().is_none() {
        return Text::Borrowed(name.as_bytes());
    }
    let mut text = Vec::with_capacity(64);
    write_text(name.as_bytes(), &mut text);
    text.push(b':');
    put_object(event.attributes(), dropped, &mut text);
    text.into()
}

/// A link as a tag's text (otelcol's).
pub(super) fn link(link: &LinkView<'_>) -> Text<'static> {
    let mut text = Vec::with_capacity(64);
    write_hex(link.trace_id(), &mut text);
    text.push(b'|');
    write_hex(link.span_id(), &mut text);
    text.push(b'|');
    text.extend_from_slice(link.trace_state().as_bytes());
    text.push(b'|');
    put_object(link.attributes(), 0, &mut text);
    text.push(b'|');
    put_integer(link.dropped_attributes_count(), &mut text);
    text.into()
}

/// Appends attributes as an object; where some were left out, how many.
fn put_object(attributes: Attributes<'_>, dropped: u32, out: &mut Vec<u8>) {
    out.push(b'{');
    let from = out.len();
    for attribute in attributes {
        put_key(attribute.key(), from, out);
        put_json(attribute.value(), out);
    }
    if dropped > 0 {
        put_key(names::DROPPED_ATTRIBUTES, from, out);
        put_integer(dropped, out);
    }
    out.push(b'}');
}

fn put_key(key: &str, from: usize, out: &mut Vec<u8>) {
    if out.len() > from {
        out.push(b',');
    }
    write_text(key.as_bytes(), out);
    out.push(b':');
}

/// Recursion ends where validation ended it.
fn put_json(any: AnyValueView<'_>, out: &mut Vec<u8>) {
    match any.value() {
        Any::Empty => out.extend_from_slice(b"null"),
        Any::Array(values) => {
            out.push(b'[');
            for (index, value) in values.enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put_json(value, out);
            }
            out.push(b']');
        }
        Any::KvList(members) => put_object(members, 0, out),
        Any::Bytes(_) | Any::Str(_) => match value(any) {
            Value::Text(text) => write_text(&text, out),
            _ => out.extend_from_slice(b"null"),
        },
        Any::Double(double) if !double.is_finite() => {
            write_text(
                if double.is_nan() {
                    b"NaN"
                } else if double > 0.0 {
                    b"Infinity"
                } else {
                    b"-Infinity"
                },
                out,
            );
        }
        Any::Bool(_) | Any::Int(_) | Any::Double(_) => put_scalar(&value(any), out),
    }
}

/// Appends what a tag's value says, without quotation marks.
pub(super) fn put_scalar(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => out.extend_from_slice(text),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(int) => put_integer(*int, out),
        Value::Double(double) if double.is_nan() => out.extend_from_slice(b"NaN"),
        Value::Double(f64::INFINITY) => out.extend_from_slice(b"Infinity"),
        Value::Double(f64::NEG_INFINITY) => out.extend_from_slice(b"-Infinity"),
        Value::Double(double) => out.extend_from_slice(ryu::Buffer::new().format_finite(*double).as_bytes()),
        Value::Bytes(bytes) => write_base64(bytes, out),
    }
}

pub(super) fn put_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
