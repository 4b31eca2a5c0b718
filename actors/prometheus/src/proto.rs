//! Messages under construction.

use watershed_telemetry::wire::{self, WireType};

/// Appends a message whose inside `write` appends: its length is put before it once it is known.
pub(crate) fn nested(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    wire::put_tag(out, number, WireType::Bytes);
    prefixed(out, write);
}

/// Appends what `write` appends behind its length.
pub(crate) fn prefixed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    let more = wire::varint_len(length as u64) - 1;
    if more > 0 {
        // Most are short; the rest move once a level.
        out.resize(out.len() + more, 0);
        out.copy_within(at + 1..at + 1 + length, at + 1 + more);
    }
    let mut rest = length;
    for byte in out.iter_mut().skip(at).take(more + 1) {
        *byte = (rest & 0x7F) as u8 | 0x80;
        rest >>= 7;
    }
    if let Some(last) = out.get_mut(at + more) {
        *last &= 0x7F;
    }
}

/// Appends a `double` field, zero included.
pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    wire::put_fixed64_field(out, number, value.to_bits());
}

/// Appends a `string` field unless it is empty.
pub(crate) fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        wire::put_bytes_field(out, number, text.as_bytes());
    }
}
