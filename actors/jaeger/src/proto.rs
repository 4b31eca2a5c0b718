//! api_v2 in protobuf: `PostSpansRequest { batch: Batch { spans, process } }`.

use watershed_telemetry::build::Output;
use watershed_telemetry::wire::{Field, Fields, Value as Wire, WireError};

use crate::decode::DecodeError;
use crate::group::Groups;
use crate::span::{
    Draft, Event, Reference, Scope, Value, put_process_tag, put_service, put_span_id, put_text, span_id,
    trace_id,
};

type Result<T> = std::result::Result<T, DecodeError>;

/// Spans as their bytes, by process as its bytes.
type Found<'a> = Groups<'a, &'a [u8], &'a [u8]>;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The spans of a request. A span's own process goes before that of its batch.
pub(crate) fn groups<'a>(request: &'a [u8], room: &mut dyn FnMut(usize) -> bool) -> Result<Found<'a>> {
    let mut groups = Groups::new();
    for batch in messages(request, 1) {
        let batch = batch?;
        let process = messages(batch, 2).last().transpose()?.unwrap_or_default();
        for span in messages(batch, 1) {
            let span = span?;
            let (own, scope) = outline(span)?;
            let process = own.unwrap_or(process);
            groups.add((process, process), scope, span, room)?;
        }
    }
    Ok(groups)
}

/// Writes what was found as OTLP.
pub(crate) fn write(groups: Found<'_>, out: Output<'_>) -> Result<Vec<u8>> {
    groups.write(out, |out, process| write_process(out, process), |out, span| write_span(out, span))
}

/// What decides where a span stands: its own process, and its scope.
fn outline(span: &[u8]) -> Result<(Option<&[u8]>, Scope<'_>)> {
    let (mut process, mut scope) = (None, Scope::default());
    for field in Fields::new(span) {
        match field? {
            Field { number: 8, value: Wire::Bytes(tag), .. } => {
                // The key comes first wherever it was written by protobuf's own writers.
                let key = match tag {
                    [0x0A, length, rest @ ..] if *length < 0x80 => rest.get(..usize::from(*length)),
                    _ => {
                        Fields::new(tag).flatten().find(|field| field.number == 1).and_then(|key| key.bytes())
                    }
                };
                scope.note(key.unwrap_or_default(), || read_tag(tag).ok().map(|(_, value)| value));
            }
            Field { number: 10, value: Wire::Bytes(own), .. } => process = Some(own),
            _ => {}
        }
    }
    Ok((process, scope))
}

fn write_process(out: &mut Output<'_>, process: &[u8]) -> Result<()> {
    if process.is_empty() {
        return Ok(());
    }
    let resource = out.open(1)?;
    let has_name =
        messages(process, 2).flatten().any(|tag| read_tag(tag).is_ok_and(|(key, _)| key == b"host.name"));
    for field in Fields::new(process) {
        match pair(field?) {
            (1, Wire::Bytes(name)) => put_service(out, name)?,
            (2, Wire::Bytes(tag)) => {
                let (key, value) = read_tag(tag)?;
                put_process_tag(out, key, value, has_name)?;
            }
            (1 | 2, _) => return Err(WireError::WireType.into()),
            _ => {}
        }
    }
    Ok(out.close(resource)?)
}

fn write_span(out: &mut Output<'_>, span: &[u8]) -> Result<()> {
    let (mut draft, mut sought) = (Draft::default(), false);
    for field in Fields::new(span) {
        match pair(field?) {
            (1, Wire::Bytes(id)) => draft.trace_id(out, trace_id(id)?)?,
            (2, Wire::Bytes(id)) => put_span_id(out, 2, span_id(id)?)?,
            (3, Wire::Bytes(name)) => put_text(out, 5, name)?,
            (4, Wire::Bytes(reference)) => {
                if draft.trace_id == [0; 16] && !std::mem::replace(&mut sought, true) {
                    // Only an odd writer puts the id of the trace behind what has to be compared with it.
                    draft.trace_id = trace_id(messages(span, 1).last().transpose()?.unwrap_or_default())?;
                }
                draft.reference(out, read_reference(reference)?)?;
            }
            (5, Wire::Varint(flags)) => draft.flags = flags,
            (6, Wire::Bytes(time)) => draft.start = nanoseconds(time)?,
            (7, Wire::Bytes(time)) => draft.duration = nanoseconds(time)?,
            (8, Wire::Bytes(tag)) => {
                let (key, value) = read_tag(tag)?;
                draft.tag(out, key, value)?;
            }
            (9, Wire::Bytes(log)) => write_log(out, log)?,
            (1..=9, _) => return Err(WireError::WireType.into()),
            // The process has been seen to; `process_id` and `warnings` belong to Jaeger's own storage.
            _ => {}
        }
    }
    Ok(draft.finish(out)?)
}

fn write_log(out: &mut Output<'_>, log: &[u8]) -> Result<()> {
    let (open, mut event, mut time) = (out.open(11)?, Event::default(), 0);
    for field in Fields::new(log) {
        match pair(field?) {
            (1, Wire::Bytes(bytes)) => time = nanoseconds(bytes)?,
            (2, Wire::Bytes(tag)) => {
                let (key, value) = read_tag(tag)?;
                event.field(out, key, value)?;
            }
            (1 | 2, _) => return Err(WireError::WireType.into()),
            _ => {}
        }
    }
    event.finish(out, time)?;
    Ok(out.close(open)?)
}

fn read_reference(reference: &[u8]) -> Result<Reference> {
    let mut read = Reference::default();
    for field in Fields::new(reference) {
        match pair(field?) {
            (1, Wire::Bytes(id)) => read.trace_id = trace_id(id)?,
            (2, Wire::Bytes(id)) => read.span_id = span_id(id)?,
            (3, Wire::Varint(kind)) => read.kind = kind,
            (1..=3, _) => return Err(WireError::WireType.into()),
            _ => {}
        }
    }
    Ok(read)
}

/// Key and value of a `KeyValue`, whose `v_type` says which of its values counts.
#[inline]
fn read_tag(tag: &[u8]) -> Result<(&[u8], Value<'_>)> {
    const STRING: u64 = 0;
    const BOOL: u64 = 1;
    const INT: u64 = 2;
    const FLOAT: u64 = 3;
    const BINARY: u64 = 4;
    // As most are: a key and a text, each there once and shorter than 128 bytes.
    if let [0x0A, key_len @ ..0x80, rest @ ..] = tag
        && let Some((key, [0x1A, text_len @ ..0x80, text @ ..])) =
            rest.split_at_checked(usize::from(*key_len))
        && usize::from(*text_len) == text.len()
    {
        return Ok((key, Value::Text(text)));
    }
    let (mut key, mut kind) = (&[][..], STRING);
    let (mut text, mut bit, mut int, mut float, mut binary) = (&[][..], false, 0, 0, &[][..]);
    for field in Fields::new(tag) {
        match pair(field?) {
            (1, Wire::Bytes(bytes)) => key = bytes,
            (2, Wire::Varint(number)) => kind = number,
            (3, Wire::Bytes(bytes)) => text = bytes,
            (4, Wire::Varint(number)) => bit = number != 0,
            (5, Wire::Varint(number)) => int = number,
            (6, Wire::Fixed64(bits)) => float = bits,
            (7, Wire::Bytes(bytes)) => binary = bytes,
            (1..=7, _) => return Err(WireError::WireType.into()),
            _ => {}
        }
    }
    let value = match kind {
        BOOL => Value::Bool(bit),
        INT => Value::Int(int as i64),
        FLOAT => Value::Double(f64::from_bits(float)),
        BINARY => Value::Bytes(binary),
        // A type that is not known yet has text at best.
        _ => Value::Text(text),
    };
    Ok((key, value))
}

/// A `Timestamp` or a `Duration`; what lies before 1970, or takes less than no time, is zero.
fn nanoseconds(time: &[u8]) -> Result<u64> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(time) {
        match pair(field?) {
            (1, Wire::Varint(number)) => seconds = number as i64,
            (2, Wire::Varint(number)) => nanos = number as i32,
            (1 | 2, _) => return Err(WireError::WireType.into()),
            _ => {}
        }
    }
    let seconds = i128::from(seconds) * i128::from(NANOS_PER_SECOND);
    Ok(u64::try_from((seconds + i128::from(nanos)).max(0)).unwrap_or(u64::MAX))
}

#[inline(always)]
fn pair(field: Field<'_>) -> (u32, Wire<'_>) {
    (field.number, field.value)
}

/// The occurrences of a message, or the first thing that can not be read.
fn messages(bytes: &[u8], number: u32) -> impl Iterator<Item = std::result::Result<&[u8], WireError>> {
    Fields::new(bytes).filter_map(move |field| match field {
        Ok(field) if field.number == number => Some(field.bytes().ok_or(WireError::WireType)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}
