//! Writing OTLP's small messages, and others whose lengths come last.

use watershed_telemetry::wire::{
    WireType, bytes_field_len, put_bytes_field, put_fixed64_field, put_tag, put_varint, put_varint_field,
    varint_len,
};

use crate::span::Value;

/// A message whose length is not known yet: where its inside starts, and how many bytes there are for the length.
pub(crate) struct Open {
    at: usize,
    width: usize,
}

/// Starts a field with a message in it, whose length will probably take `width` bytes.
pub(crate) fn open(out: &mut Vec<u8>, number: u32, width: usize) -> Open {
    put_tag(out, number, WireType::Bytes);
    out.resize(out.len() + width, 0);
    Open { at: out.len(), width }
}

/// Ends it.
pub(crate) fn close(out: &mut Vec<u8>, Open { at, width }: Open) {
    let mut length = out.len() - at;
    let needed = varint_len(length as u64);
    let to = at - width + needed;
    if needed > width {
        out.resize(to + length, 0);
    }
    if needed != width {
        out.copy_within(at..at + length, to);
        out.truncate(to + length);
    }
    for (place, byte) in (1..=needed).rev().zip(out.iter_mut().skip(at - width)) {
        *byte = length as u8 & 0x7F | if place > 1 { 0x80 } else { 0 };
        length >>= 7;
    }
}

/// Appends a `KeyValue` as field `number`, which is below 16.
#[inline]
pub(crate) fn put_attribute(out: &mut Vec<u8>, number: u32, key: &[u8], value: &Value<'_>) {
    if let Value::Text(text) = value {
        return put_text_attribute(out, number, key, text);
    }
    let length = match value {
        Value::Bool(_) => 2,
        Value::Int(int) => 1 + varint_len(*int as u64),
        Value::Double(_) => 9,
        Value::Text(text) => bytes_field_len(1, text.len()),
        Value::Bytes(bytes) => bytes_field_len(7, bytes.len()),
    };
    put_tag(out, number, WireType::Bytes);
    put_varint(out, (bytes_field_len(1, key.len()) + bytes_field_len(2, length)) as u64);
    put_bytes_field(out, 1, key);
    put_tag(out, 2, WireType::Bytes);
    put_varint(out, length as u64);
    match value {
        Value::Bool(flag) => put_varint_field(out, 2, u64::from(*flag)),
        Value::Int(int) => put_varint_field(out, 3, *int as u64),
        Value::Double(double) => put_fixed64_field(out, 4, double.to_bits()),
        Value::Text(text) => put_bytes_field(out, 1, text),
        Value::Bytes(bytes) => put_bytes_field(out, 7, bytes),
    }
}

/// The same of a text: nearly all are, and short.
#[inline]
pub(crate) fn put_text_attribute(out: &mut Vec<u8>, number: u32, key: &[u8], text: &[u8]) {
    let (key_len, text_len) = (key.len(), text.len());
    if key_len + text_len < 0x80 - 6 {
        out.extend_from_slice(&[
            (number << 3 | WireType::Bytes as u32) as u8,
            (key_len + text_len + 6) as u8,
            0x0A,
            key_len as u8,
        ]);
        out.extend_from_slice(key);
        out.extend_from_slice(&[0x12, text_len as u8 + 2, 0x0A, text_len as u8]);
        out.extend_from_slice(text);
        return;
    }
    let length = bytes_field_len(1, text_len);
    put_tag(out, number, WireType::Bytes);
    put_varint(out, (bytes_field_len(1, key_len) + bytes_field_len(2, length)) as u64);
    put_bytes_field(out, 1, key);
    put_tag(out, 2, WireType::Bytes);
    put_varint(out, length as u64);
    put_bytes_field(out, 1, text);
}
