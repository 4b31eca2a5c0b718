//! Wire bytes to JSON.

use bytes::Bytes;

use crate::json::binary::{write_base64, write_hex};
use crate::json::plain_len;
use crate::message::{Message, MessageFields};
use crate::schema::{FieldShape, Kind, Number, Presence, Rule};
use crate::validate::{self, Invalid};
use crate::wire::{Field, Value};
use crate::{Payload, Signal};

/// Checks a request as [`Payload::validate`] does, and appends it to `out` as [`encode_payload`] does.
pub fn encode(signal: Signal, request: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    validate::validate(Kind::request(signal), request)?;
    requests(signal, std::iter::once(request), out);
    Ok(())
}

/// Appends all requests of a payload to `out` as one JSON object on one line, two to three times the size.
///
/// Fields come in the order of the wire, those with their default value not at all, nor do unknown fields. What a
/// decoder would merge is merged: fields in several parts, oneofs with several members.
pub fn encode_payload(payload: &Payload, out: &mut Vec<u8>) {
    out.reserve(2 * payload.bytes());
    requests(payload.signal(), payload.requests().iter().map(Bytes::as_ref), out);
}

fn requests<'a>(signal: Signal, requests: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    out.push(b'{');
    // A request has no other field.
    if let Some(list) = Kind::request(signal).field(1) {
        let fields = requests.flat_map(|request| Message::new(request).fields());
        elements(list, fields.filter(|field| field.number == list.number), out);
    }
    out.push(b'}');
}

/// Which of a message's fields need more than a look at the next one.
struct Outline {
    /// Bits by field number: there is more than one of it.
    several: u32,
    /// The last member of the oneof.
    live: Option<u32>,
}

impl Outline {
    fn of(kind: Kind, fields: MessageFields<'_>) -> Self {
        let mut outline = Outline { several: 0, live: None };
        let mut seen = 0;
        for field in fields {
            let Some(shape) = kind.field(field.number) else { continue };
            outline.several |= seen & 1 << shape.number;
            seen |= 1 << shape.number;
            if shape.presence == Presence::OneOf {
                outline.live = Some(shape.number);
            }
        }
        outline
    }
}

/// Recursion ends where validation ended it.
fn object(kind: Kind, message: Message<'_>, out: &mut Vec<u8>) {
    let outline = Outline::of(kind, message.fields());
    let mut done = 0u32;
    let mut fields = message.fields();
    out.push(b'{');
    while let Some(field) = fields.next() {
        let Some(shape) = kind.field(field.number) else { continue };
        let bit = 1 << shape.number;
        if done & bit != 0 {
            continue;
        }
        // The first of its number is written for all of them.
        done |= bit;
        let member = shape.presence == Presence::OneOf;
        if member && outline.live != Some(shape.number) {
            continue;
        }
        match shape.rule {
            Rule::Message(inner) | Rule::Arm(inner) => {
                key(shape, out);
                object(inner, child(kind, message, field, &outline), out);
            }
            Rule::PackedFixed64(form) => {
                array(shape, message.fixed64s(shape.number), out, |bits, out| number(form, bits, out))
            }
            Rule::PackedVarint(form) => {
                array(shape, message.varints(shape.number), out, |bits, out| number(form, bits, out))
            }
            Rule::Texts | Rule::Attributes | Rule::Messages(_) | Rule::List(_) | Rule::Item(_) => {
                let others = fields.filter(|other| other.number == shape.number);
                elements(shape, std::iter::once(field).chain(others), out);
            }
            _ => {
                let last = if outline.several & bit == 0 { None } else { message.last(shape.number) };
                scalar(shape, last.unwrap_or(field.value), out);
            }
        }
    }
    out.push(b'}');
}

/// The message in a singular field, of which `field` is the first.
fn child<'a>(kind: Kind, message: Message<'a>, field: Field<'a>, outline: &Outline) -> Message<'a> {
    let is_member = |number| kind.field(number).is_some_and(|shape| shape.presence == Presence::OneOf);
    if outline.several & 1 << field.number == 0 {
        Message::new(field.bytes().unwrap_or_default())
    } else if is_member(field.number) {
        message.oneof(is_member).map(|(_, live)| live).unwrap_or_default()
    } else {
        message.child(field.number)
    }
}

/// Writes a repeated field of messages or strings.
fn elements<'a>(shape: &FieldShape, fields: impl Iterator<Item = Field<'a>>, out: &mut Vec<u8>) {
    let values = fields.filter_map(|field| field.bytes());
    match shape.rule.kind() {
        Some(Kind::KeyValue) => array(shape, values, out, attribute),
        Some(kind) => array(shape, values, out, |bytes, out| object(kind, Message::new(bytes), out)),
        None => array(shape, values, out, write_text),
    }
}

/// Writes an attribute. Nearly all are a key and a string, each there once and shorter than 128 bytes, which needs no
/// table.
fn attribute(bytes: &[u8], out: &mut Vec<u8>) {
    if let [0x0A, key_len @ 1..0x80, rest @ ..] = bytes
        && let Some((key, value)) = rest.split_at_checked(usize::from(*key_len))
        && let [0x12, value_len @ ..0x80, 0x0A, len @ ..0x80, string @ ..] = value
        && usize::from(*len) == string.len()
        && *value_len == len + 2
    {
        out.extend_from_slice(br#"{"key":"#);
        write_text(key, out);
        out.extend_from_slice(br#","value":{"stringValue":"#);
        write_text(string, out);
        out.extend_from_slice(b"}}");
    } else {
        object(Kind::KeyValue, Message::new(bytes), out);
    }
}

/// Writes a repeated field, unless there is nothing in it.
fn array<T>(
    shape: &FieldShape,
    mut values: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    let Some(first) = values.next() else { return };
    key(shape, out);
    out.push(b'[');
    write(first, out);
    for value in values {
        out.push(b',');
        write(value, out);
    }
    out.push(b']');
}

/// Writes a field of one value, unless it is a default that says nothing.
fn scalar(shape: &FieldShape, value: Value<'_>, out: &mut Vec<u8>) {
    let default = match (value, shape.rule) {
        (Value::Bytes(bytes), _) => bytes.is_empty(),
        // What 32 bits hold is cut to them.
        (
            Value::Varint(bits),
            Rule::Varint(Number::Enum | Number::Int32 | Number::Uint32 | Number::Sint32),
        ) => bits as u32 == 0,
        (Value::Varint(bits) | Value::Fixed64(bits), _) => bits == 0,
        (Value::Fixed32(bits), _) => bits == 0,
        (Value::Group, _) => true,
    };
    if default && shape.presence == Presence::Implicit {
        return;
    }
    key(shape, out);
    match (shape.rule, value) {
        (Rule::Bytes, Value::Bytes(bytes)) => quoted(out, |out| write_base64(bytes, out)),
        (Rule::TraceId | Rule::SpanId, Value::Bytes(bytes)) => quoted(out, |out| write_hex(bytes, out)),
        (_, Value::Bytes(bytes)) => write_text(bytes, out),
        (Rule::Varint(form) | Rule::Fixed64(form), Value::Varint(bits) | Value::Fixed64(bits)) => {
            number(form, bits, out);
        }
        (_, Value::Fixed32(bits)) => number(Number::Uint32, bits.into(), out),
        // No validated field is of another shape.
        _ => out.extend_from_slice(b"null"),
    }
}

fn number(form: Number, bits: u64, out: &mut Vec<u8>) {
    match form {
        Number::Bool if bits == 0 => out.extend_from_slice(b"false"),
        Number::Bool => out.extend_from_slice(b"true"),
        Number::Enum | Number::Int32 => integer(bits as i32, out),
        Number::Uint32 => integer(bits as u32, out),
        Number::Sint32 => integer((bits as u32 >> 1) as i32 ^ -(bits as i32 & 1), out),
        // JavaScript's numbers do not hold these.
        Number::Int64 => quoted(out, |out| integer(bits as i64, out)),
        Number::Uint64 => quoted(out, |out| integer(bits, out)),
        Number::Double => double(f64::from_bits(bits), out),
    }
}

fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The shortest text that reads back as the same number.
fn double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        let name = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        quoted(out, |out| out.extend_from_slice(name.as_bytes()));
    }
}

/// Writes a field's key, after a comma if it is not the object's first.
fn key(shape: &FieldShape, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(shape.key.as_bytes());
}

fn quoted(out: &mut Vec<u8>, inside: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    inside(out);
    out.push(b'"');
}

/// Appends UTF-8 as a JSON string, quotation marks included.
pub fn write_text(mut text: &[u8], out: &mut Vec<u8>) {
    quoted(out, |out| {
        loop {
            let (plain, rest) = text.split_at(plain_len(text));
            out.extend_from_slice(plain);
            let [special, rest @ ..] = rest else { break };
            text = rest;
            let letter = match special {
                b'"' | b'\\' => *special,
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                _ => {
                    out.extend_from_slice(b"\\u00");
                    write_hex(&[*special], out);
                    continue;
                }
            };
            out.extend_from_slice(&[b'\\', letter]);
        }
    });
}
