//! The protobuf wire format: reading a message field by field, and writing fields.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>. Nothing here knows OTLP.
//!
//! ```
//! use watershed_telemetry::wire::{self, Fields, Value};
//!
//! // ExportTracePartialSuccess { rejected_spans: 3, error_message: "full" }
//! let mut message = Vec::new();
//! wire::put_varint_field(&mut message, 1, 3);
//! wire::put_bytes_field(&mut message, 2, b"full");
//!
//! let fields: Result<Vec<_>, _> = Fields::new(&message).collect();
//! let fields = fields.unwrap();
//! assert_eq!(fields[0].value, Value::Varint(3));
//! assert_eq!(fields[1].value, Value::Bytes(b"full"));
//! ```

use thiserror::Error;

/// The largest legal field number, 2^29 - 1.
pub const MAX_FIELD_NUMBER: u32 = (1 << 29) - 1;

/// How many messages and groups may lie inside one another, the outermost not counted. Protobuf sets no limit;
/// peers stop at 100 (prost, the Go and C++ runtimes).
pub const MAX_DEPTH: usize = 64;

/// How a field's value is laid out: the low three bits of its tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum WireType {
    /// A base-128 varint of 1 to 10 bytes.
    Varint = 0,
    /// Eight bytes, little endian.
    Fixed64 = 1,
    /// A varint length and that many bytes: strings, bytes, messages, packed scalars.
    Bytes = 2,
    /// The start of a (deprecated) group.
    StartGroup = 3,
    /// The end of a group.
    EndGroup = 4,
    /// Four bytes, little endian.
    Fixed32 = 5,
}

/// Why bytes are not a protobuf message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum WireError {
    /// A value or a length reaches past the end.
    #[error("truncated")]
    Truncated,
    /// A varint longer than ten bytes or larger than 2^64 - 1.
    #[error("malformed varint")]
    Varint,
    /// A field number of zero or above [`MAX_FIELD_NUMBER`].
    #[error("illegal field number")]
    FieldNumber,
    /// Wire type 6 or 7.
    #[error("unknown wire type")]
    WireType,
    /// An end-group tag without its start.
    #[error("unmatched end of group")]
    EndGroup,
    /// More than [`MAX_DEPTH`] levels.
    #[error("nested too deeply")]
    Depth,
}

/// A field's value as the wire gives it; its meaning (signedness, text, message) is the schema's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 5.
    Fixed32(u32),
    /// Wire type 2, without its length.
    Bytes(&'a [u8]),
    /// Wire type 3, up to its end; the bytes are in [`Field::raw`].
    Group,
}

/// One field of a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Field<'a> {
    /// The field number, 1 to [`MAX_FIELD_NUMBER`].
    pub number: u32,
    /// The value.
    pub value: Value<'a>,
    /// The whole field as it stands on the wire: tag, length, value.
    pub raw: &'a [u8],
}

impl<'a> Field<'a> {
    /// The value of a length-delimited field.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// The fields of a message in wire order. Yields an error at most once, and nothing after it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `message`, which is without tag and length of its own.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's value, if the field is length-delimited and of that number, and its tag takes one byte.
    #[inline]
    pub(crate) fn next_if(&mut self, number: u32) -> Option<&'a [u8]> {
        let (&tag, rest) = self.rest.split_first()?;
        if tag >= 0x80 || u32::from(tag) != number << 3 | 2 {
            return None;
        }
        let (value, rest) = read_bytes(rest).ok()?;
        self.rest = rest;
        Some(value)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, WireError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match read_field(self.rest, 0) {
            Ok((field, rest)) => {
                self.rest = rest;
                Some(Ok(field))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

/// Calls `each` with number and value of those fields whose bits are set in `wanted`, up to the first field that cannot
/// be read, as [`Fields`] yields them. Only numbers below 64 can be asked for.
///
/// For whole walks: a fraction of an iterator's time, since what is passed over is not looked at, and nothing is carried
/// from field to field but where it ends.
#[inline(always)]
pub(crate) fn walk<'a>(bytes: &'a [u8], wanted: u64, mut each: impl FnMut(u32, Value<'a>)) {
    let mut at = 0;
    while at < bytes.len() {
        // Most fields are text or messages, with one byte of tag and one of length.
        if let Some(&[tag @ 8..0x80, length @ 0..0x80]) = bytes.get(at..).and_then(<[u8]>::first_chunk)
            && tag & 7 == 2
            && let Some(value) = bytes.get(at + 2..at + 2 + usize::from(length))
        {
            if wanted >> (tag >> 3) & 1 == 1 {
                each(u32::from(tag >> 3), Value::Bytes(value));
            }
            at += 2 + value.len();
            continue;
        }
        let (number, value, end) = match short_field(bytes, at) {
            Some(field) => field,
            None => match read_field(&bytes[at..], 0) {
                Ok((field, rest)) => (field.number, field.value, bytes.len() - rest.len()),
                Err(_) => return,
            },
        };
        if number < 64 && wanted >> number & 1 == 1 {
            each(number, value);
        }
        at = end;
    }
}

/// The field at `at`, and where it ends, if it is as most are: its tag in one or two bytes, its length or varint in one.
#[inline(always)]
fn short_field(bytes: &[u8], at: usize) -> Option<(u32, Value<'_>, usize)> {
    let (mut tag, mut at) = (u32::from(*bytes.get(at)?), at + 1);
    if tag >= 0x80 {
        let high = u32::from(*bytes.get(at)?);
        (tag, at) = (tag & 0x7F | high << 7, at + 1);
    }
    // A tag of three bytes gives a number from 1024 on.
    let number = tag >> 3;
    if number == 0 || number >= 1024 {
        return None;
    }
    let first = *bytes.get(at)?;
    match tag & 7 {
        2 if first < 0x80 => {
            let end = at + 1 + usize::from(first);
            Some((number, Value::Bytes(bytes.get(at + 1..end)?), end))
        }
        0 if first < 0x80 => Some((number, Value::Varint(first.into()), at + 1)),
        1 => Some((number, Value::Fixed64(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)), at + 8)),
        5 => Some((number, Value::Fixed32(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)), at + 4)),
        _ => None,
    }
}

/// Reads a varint: the value, and what follows it.
#[inline]
pub fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    match bytes {
        [a, rest @ ..] if *a < 0x80 => Ok((u64::from(*a), rest)),
        [a, b, rest @ ..] if *b < 0x80 => Ok((u64::from(*a & 0x7F) | u64::from(*b) << 7, rest)),
        _ => read_long_varint(bytes),
    }
}

fn read_long_varint(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let mut value = 0;
    let mut rest = bytes;
    for shift in (0..64).step_by(7) {
        let Some((&byte, after)) = rest.split_first() else {
            return Err(WireError::Truncated);
        };
        // The tenth byte holds the 64th bit only.
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7F) << shift;
        rest = after;
        if byte < 0x80 {
            return Ok((value, rest));
        }
    }
    Err(WireError::Varint)
}

/// Reads a tag: the field number, the wire type, and what follows.
#[inline]
pub fn read_tag(bytes: &[u8]) -> Result<(u32, WireType, &[u8]), WireError> {
    let (tag, rest) = read_varint(bytes)?;
    let wire_type = match tag & 7 {
        0 => WireType::Varint,
        1 => WireType::Fixed64,
        2 => WireType::Bytes,
        3 => WireType::StartGroup,
        4 => WireType::EndGroup,
        5 => WireType::Fixed32,
        _ => return Err(WireError::WireType),
    };
    match u32::try_from(tag >> 3) {
        Ok(number @ 1..=MAX_FIELD_NUMBER) => Ok((number, wire_type, rest)),
        _ => Err(WireError::FieldNumber),
    }
}

/// Reads a length-delimited value after its tag: the value, and what follows.
#[inline]
pub fn read_bytes(bytes: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let (length, rest) = read_varint(bytes)?;
    usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)).ok_or(WireError::Truncated)
}

/// Reads one whole field of a message that lies `depth` levels deep: the field, and what follows.
///
/// Inlined, so that a caller pays only for the parts of the field that it uses: a third of a getter's time.
#[inline(always)]
pub(crate) fn read_field(bytes: &[u8], depth: usize) -> Result<(Field<'_>, &[u8]), WireError> {
    let (number, wire_type, rest) = read_tag(bytes)?;
    let (value, rest) = match wire_type {
        WireType::Varint => {
            let (value, rest) = read_varint(rest)?;
            (Value::Varint(value), rest)
        }
        WireType::Fixed64 => {
            let (value, rest) = rest.split_first_chunk().ok_or(WireError::Truncated)?;
            (Value::Fixed64(u64::from_le_bytes(*value)), rest)
        }
        WireType::Bytes => {
            let (value, rest) = read_bytes(rest)?;
            (Value::Bytes(value), rest)
        }
        WireType::Fixed32 => {
            let (value, rest) = rest.split_first_chunk().ok_or(WireError::Truncated)?;
            (Value::Fixed32(u32::from_le_bytes(*value)), rest)
        }
        WireType::StartGroup => (Value::Group, skip_group(rest, number, depth + 1)?),
        WireType::EndGroup => return Err(WireError::EndGroup),
    };
    let raw = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
    Ok((Field { number, value, raw }, rest))
}

/// What follows the group `number`, of which `bytes` is the inside. Recursion ends at [`MAX_DEPTH`].
#[cold]
fn skip_group(mut bytes: &[u8], number: u32, depth: usize) -> Result<&[u8], WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    loop {
        match read_tag(bytes)? {
            (end, WireType::EndGroup, rest) if end == number => return Ok(rest),
            (_, WireType::EndGroup, _) => return Err(WireError::EndGroup),
            _ => bytes = read_field(bytes, depth)?.1,
        }
    }
}

/// The encoded size of a varint in bytes, 1 to 10.
#[inline]
pub const fn varint_len(value: u64) -> usize {
    // Seven bits a byte; zero still takes one.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// The encoded size of a length-delimited field in bytes, tag and length included.
#[inline]
pub const fn bytes_field_len(number: u32, length: usize) -> usize {
    varint_len((number as u64) << 3) + varint_len(length as u64) + length
}

/// Appends a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a tag.
#[inline]
pub fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: WireType) {
    put_varint(out, u64::from(number) << 3 | wire_type as u64);
}

/// Appends a varint field: `int32`, `int64`, `uint32`, `uint64`, `bool` or an enum. Negative numbers are passed
/// sign-extended (`value as u64`).
pub fn put_varint_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, WireType::Varint);
    put_varint(out, value);
}

/// Appends a `fixed64`, `sfixed64` or (as its bits) `double` field.
pub fn put_fixed64_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, WireType::Fixed64);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `fixed32`, `sfixed32` or (as its bits) `float` field.
pub fn put_fixed32_field(out: &mut Vec<u8>, number: u32, value: u32) {
    put_tag(out, number, WireType::Fixed32);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a `string`, `bytes`, message or packed field.
pub fn put_bytes_field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_tag(out, number, WireType::Bytes);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_what_the_fields_are() {
        let rest = [0x0A, 1, b'a', 0x4A, 3, b'a', b'b', b'c', 0x08, 5, 0x7A, 2, 0, 0, 0x52, 9, 0];
        for head in 0..=u16::MAX {
            let all = [&head.to_le_bytes()[..], &rest].concat();
            for bytes in [&all[..], &all[..1], &all[..2], &all[..7]] {
                for wanted in [0, 1, 1 << 1 | 1 << 15, u64::MAX] {
                    let mut found = Vec::new();
                    walk(bytes, wanted, |number, value| found.push((number, value)));
                    let fields = Fields::new(bytes).map_while(Result::ok);
                    let fields = fields.filter(|field| field.number < 64 && wanted >> field.number & 1 == 1);
                    let expected: Vec<_> = fields.map(|field| (field.number, field.value)).collect();
                    assert_eq!(found, expected, "{bytes:x?}, {wanted:x}");
                }
            }
        }
    }
}
