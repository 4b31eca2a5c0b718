//! The one pass over bytes from outside: after it, every other part of the crate may trust the structure.
//!
//! Accepted is what protobuf accepts, less what no OTLP peer sends: a known field of the wrong wire type (protobuf
//! would call it unknown; otelcol and prost refuse it), nesting beyond [`MAX_DEPTH`], ids of a wrong length. Unknown
//! fields and groups pass, as do unpacked scalars, overlong varints, and singular messages in several pieces.
//! Enums are open. An id of length zero is an absent id; an all-zero id is accepted.

use std::fmt::Write as _;

use thiserror::Error;

use crate::schema::{Kind, Rule};
use crate::wire::{self, Fields, MAX_DEPTH, WireError};

/// What is wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[non_exhaustive]
pub enum Flaw {
    /// A value or a length reaches past the end of the message around it.
    #[error("reaches past the end of the message")]
    Truncated,
    /// A varint longer than ten bytes or larger than 2^64 - 1.
    #[error("malformed varint")]
    Varint,
    /// A field number of zero or above 2^29 - 1.
    #[error("illegal field number")]
    FieldNumber,
    /// Wire type 6 or 7, or a known field under another wire type than its own.
    #[error("wrong wire type")]
    WireType,
    /// An end-group tag without its start.
    #[error("unmatched end of group")]
    EndGroup,
    /// More than [`MAX_DEPTH`] messages and groups inside one another.
    #[error("nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// A string that is not UTF-8.
    #[error("not valid UTF-8")]
    Utf8,
    /// A trace id that is neither 16 bytes long nor absent.
    #[error("a trace id must be 16 bytes")]
    TraceId,
    /// A span id that is neither 8 bytes long nor absent.
    #[error("a span id must be 8 bytes")]
    SpanId,
}

impl From<WireError> for Flaw {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Truncated => Flaw::Truncated,
            WireError::Varint => Flaw::Varint,
            WireError::FieldNumber => Flaw::FieldNumber,
            WireError::WireType => Flaw::WireType,
            WireError::EndGroup => Flaw::EndGroup,
            WireError::Depth => Flaw::Depth,
        }
    }
}

/// A request that is not valid OTLP. Its text is one short line, fit for a response to the sender.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{path}: {flaw} (at byte {offset})")]
pub struct Invalid {
    flaw: Flaw,
    path: String,
    offset: usize,
}

impl Invalid {
    /// What is wrong.
    pub fn flaw(&self) -> Flaw {
        self.flaw
    }

    /// The field, as `resource_spans[0].scope_spans[1].spans[3].trace_id`; at most some 250 bytes, then `...`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where the field's tag starts, in bytes from the start of the request.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

/// A flaw, and the offset of the field that has it.
type Fault = (Flaw, usize);

/// Checks a whole message of this kind; returns how many items it holds.
pub(crate) fn validate(kind: Kind, bytes: &[u8]) -> Result<usize, Invalid> {
    let mut items = 0;
    match message(bytes, 0, kind, 0, &mut items) {
        Ok(()) => Ok(items),
        Err((flaw, offset)) => Err(Invalid { flaw, path: locate(kind, bytes, offset), offset }),
    }
}

/// Checks the message at `bytes[pos..]`. Recursion ends at [`MAX_DEPTH`].
///
/// Positions are absolute, so that a fault knows its offset at no cost to the pass that finds none.
fn message(bytes: &[u8], mut pos: usize, kind: Kind, depth: usize, items: &mut usize) -> Result<(), Fault> {
    let rules = kind.rules();
    let items_before = *items;
    let mut live_arm = None;
    while let Some(&byte) = bytes.get(pos) {
        let start = pos;
        let mut rule = rules[usize::from(byte)];
        pos += 1;
        if rule == Rule::Unknown {
            (rule, pos) = unusual(bytes, start, kind, depth).map_err(|flaw| (flaw, start))?;
        }
        match rule {
            Rule::Unknown => continue,
            Rule::Varint(_) => {
                pos = after_varint(bytes, pos).map_err(|flaw| (flaw, start))?;
                continue;
            }
            Rule::Fixed64(_) | Rule::Fixed32 => {
                pos += if rule == Rule::Fixed32 { 4 } else { 8 };
                if pos > bytes.len() {
                    return Err((Flaw::Truncated, start));
                }
                continue;
            }
            _ => {}
        }

        let (body, end) = length_delimited(bytes, pos).map_err(|flaw| (flaw, start))?;
        let value = bytes.get(body..end).unwrap_or_default();
        let flaw = match rule {
            Rule::Text | Rule::Texts => (!is_utf8(value)).then_some(Flaw::Utf8),
            Rule::TraceId => (value.len() != 16 && !value.is_empty()).then_some(Flaw::TraceId),
            Rule::SpanId => (value.len() != 8 && !value.is_empty()).then_some(Flaw::SpanId),
            Rule::PackedFixed64(_) => (value.len() % 8 != 0).then_some(Flaw::Truncated),
            Rule::PackedVarint(_) => varints(value).err(),
            Rule::Attributes if is_plain_attribute(value) => {
                pos = end;
                continue;
            }
            _ => None,
        };
        if let Some(flaw) = flaw {
            return Err((flaw, start));
        }
        if let Some(kind) = rule.kind() {
            if depth == MAX_DEPTH {
                return Err((Flaw::Depth, start));
            }
            match rule {
                Rule::Item(_) => *items += 1,
                // The items of a superseded arm are not there.
                Rule::Arm(arm) if live_arm.replace(arm).is_some_and(|before| before != arm) => {
                    *items = items_before;
                }
                _ => {}
            }
            let upto = bytes.get(..end).unwrap_or_default();
            message(upto, body, kind, depth + 1, items)?;
        }
        pos = end;
    }
    Ok(())
}

/// A field that the table does not settle: its rule and where its value starts, or, for an unknown field,
/// [`Rule::Unknown`] and where it ends.
#[inline(never)]
fn unusual(bytes: &[u8], start: usize, kind: Kind, depth: usize) -> Result<(Rule, usize), Flaw> {
    let field = bytes.get(start..).unwrap_or_default();
    let (number, wire_type, value) = wire::read_tag(field)?;
    let rule = kind.rule(number);
    if rule == Rule::Unknown {
        let (_, rest) = wire::read_field(field, depth)?;
        return Ok((rule, bytes.len() - rest.len()));
    }
    let rule = rule.under(wire_type).ok_or(Flaw::WireType)?;
    Ok((rule, bytes.len() - value.len()))
}

/// The position after the varint at `pos`.
#[inline]
fn after_varint(bytes: &[u8], pos: usize) -> Result<usize, Flaw> {
    match bytes.get(pos) {
        Some(byte) if *byte < 0x80 => Ok(pos + 1),
        _ => {
            let (_, rest) = wire::read_varint(bytes.get(pos..).unwrap_or_default())?;
            Ok(bytes.len() - rest.len())
        }
    }
}

/// The start and the end of the length-delimited value whose length is at `pos`.
#[inline]
fn length_delimited(bytes: &[u8], pos: usize) -> Result<(usize, usize), Flaw> {
    let (length, body) = match bytes.get(pos) {
        Some(&byte) if byte < 0x80 => (u64::from(byte), pos + 1),
        _ => {
            let (length, rest) = wire::read_varint(bytes.get(pos..).unwrap_or_default())?;
            (length, bytes.len() - rest.len())
        }
    };
    if length > (bytes.len() - body) as u64 {
        return Err(Flaw::Truncated);
    }
    Ok((body, body + length as usize))
}

/// Checks a packed run of varints.
fn varints(mut bytes: &[u8]) -> Result<(), Flaw> {
    while !bytes.is_empty() {
        (_, bytes) = wire::read_varint(bytes)?;
    }
    Ok(())
}

/// Whether a `KeyValue` is of the shape that nearly all have: a key, then a string or a small number, each once, in
/// ASCII, shorter than 128 bytes. Then it is valid, and three passes of the table are saved; if not, they decide.
#[inline]
fn is_plain_attribute(attribute: &[u8]) -> bool {
    let [0x0A, key_len, rest @ ..] = attribute else { return false };
    let Some((key, rest)) = rest.split_at_checked(usize::from(*key_len)) else { return false };
    let [0x12, value_len, value @ ..] = rest else { return false };
    if (key_len | value_len) & 0x80 != 0 || usize::from(*value_len) != value.len() || !is_ascii(key) {
        return false;
    }
    match value {
        [0x0A, len, text @ ..] => usize::from(*len) == text.len() && is_ascii(text),
        [0x10 | 0x18, number] => *number < 0x80,
        [0x18, low, high] => *low >= 0x80 && *high < 0x80,
        _ => false,
    }
}

/// Telemetry's strings are short and ASCII: eight bytes at a time settle nearly all of them, without the
/// alignment work of the standard library's check.
#[inline]
fn is_utf8(bytes: &[u8]) -> bool {
    is_ascii(bytes) || std::str::from_utf8(bytes).is_ok()
}

#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let seen = match bytes.last_chunk::<8>() {
        // The last chunk may overlap the one before.
        Some(last) => {
            let (chunks, _) = bytes.as_chunks::<8>();
            chunks.iter().fold(u64::from_le_bytes(*last), |seen, chunk| seen | u64::from_le_bytes(*chunk))
        }
        None => bytes.iter().fold(0, |seen, byte| seen << 8 | u64::from(*byte)),
    };
    seen & HIGH == 0
}

/// The path of the field that starts at `offset`. All before it has been checked.
#[cold]
fn locate(mut kind: Kind, bytes: &[u8], offset: usize) -> String {
    const MAX_PATH: usize = 240;
    let mut path = String::new();
    let mut start = 0;
    let mut end = bytes.len();
    'message: loop {
        if path.len() > MAX_PATH {
            path.push_str("...");
            break;
        }
        let body = bytes.get(start..end).unwrap_or_default();
        let mut pos = start;
        for field in Fields::new(body).map_while(Result::ok) {
            let after = pos + field.raw.len();
            if pos <= offset && offset < after {
                let Some(shape) = kind.field(field.number) else { break };
                separate(&mut path, shape.name);
                if shape.rule.is_repeated_message() {
                    let earlier = Fields::new(bytes.get(start..pos).unwrap_or_default());
                    let index = earlier.flatten().filter(|earlier| earlier.number == field.number).count();
                    let _ = write!(path, "[{index}]");
                }
                match (shape.rule.kind(), field.bytes()) {
                    (Some(inner), Some(value)) if pos < offset => {
                        (kind, start, end) = (inner, after - value.len(), after);
                        continue 'message;
                    }
                    _ => return path,
                }
            }
            pos = after;
        }
        // The field cannot be read whole; its tag may still name it.
        match wire::read_tag(bytes.get(offset..end).unwrap_or_default()) {
            Ok((number, ..)) => match kind.field(number) {
                Some(shape) => separate(&mut path, shape.name),
                None => {
                    separate(&mut path, "");
                    let _ = write!(path, "#{number}");
                }
            },
            Err(_) if path.is_empty() => path.push_str("request"),
            Err(_) => {}
        }
        break;
    }
    path
}

fn separate(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}
