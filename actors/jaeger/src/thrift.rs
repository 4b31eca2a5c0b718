//! Jaeger's Thrift: a `Batch`, alone or as the argument of `emitBatch`.
//!
//! Spans have no length of their own, so they are walked twice: once for where they begin and which scope is theirs,
//! once to be written. Numbers of types are others than protobuf's.

use watershed_telemetry::build::Output;
use watershed_thrift::{Reader, Value as Thrift};

use crate::decode::DecodeError;
use crate::group::Groups;
use crate::span::{
    Draft, Event, Reference, Scope, Value, put_process_tag, put_service, put_span_id, put_text,
};

type Result<T> = std::result::Result<T, DecodeError>;

const NANOS_PER_MICRO: u64 = 1000;

/// A batch whose spans have been found.
pub(crate) struct Batch<'a> {
    process: Option<Reader<'a>>,
    spans: Groups<'a, (), Found<'a>>,
}

/// A span: where it begins, and what the rest of it has to be compared with.
#[derive(Clone)]
struct Found<'a> {
    at: Reader<'a>,
    trace_id: [u8; 16],
    /// Zeros where there is none.
    parent: [u8; 8],
}

// === impl Batch ===

impl<'a> Batch<'a> {
    pub(crate) fn read(
        mut reader: Reader<'a>,
        is_call: bool,
        room: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self> {
        let mut batch = Self { process: None, spans: Groups::new() };
        if !is_call {
            batch.fields(&mut reader, room)?;
            return Ok(batch);
        }
        if reader.message()?.name != b"emitBatch" {
            return Err(DecodeError::Method);
        }
        reader.fields(|reader, id, value| match (id, value) {
            (1, Thrift::Struct) => batch.fields(reader, room),
            _ => Ok(()),
        })?;
        Ok(batch)
    }

    fn fields(&mut self, reader: &mut Reader<'a>, room: &mut dyn FnMut(usize) -> bool) -> Result<()> {
        reader.fields(|reader, id, value| match (id, value) {
            (1, Thrift::Struct) => {
                self.process = Some(reader.clone());
                Ok(())
            }
            (2, Thrift::List(list)) => reader.elements(list, |reader, value| match value {
                Thrift::Struct => {
                    let (found, scope) = find(reader)?;
                    Ok(self.spans.add((&[], ()), scope, found, room)?)
                }
                _ => Ok(()),
            }),
            _ => Ok(()),
        })
    }

    /// Writes what was found as OTLP.
    pub(crate) fn write(self, out: Output<'_>) -> Result<Vec<u8>> {
        let process = self.process;
        self.spans.write(
            out,
            |out, ()| process.iter().try_for_each(|process| write_process(out, process.clone())),
            |out, found| write_span(out, found.clone()),
        )
    }
}

/// Walks over a span.
fn find<'a>(reader: &mut Reader<'a>) -> Result<(Found<'a>, Scope<'a>)> {
    let (at, mut scope) = (reader.clone(), Scope::default());
    let (mut high, mut low, mut parent) = (0, 0, 0);
    reader.fields(|reader, id, value| {
        match (id, value) {
            (1, Thrift::I64(id)) => low = id,
            (2, Thrift::I64(id)) => high = id,
            (4, Thrift::I64(id)) => parent = id,
            (10, Thrift::List(list)) => {
                return reader.elements(list, |reader, value| {
                    read_tag(reader, value, |key, value| {
                        scope.note(key, || Some(value));
                        Ok(())
                    })
                });
            }
            _ => {}
        }
        Ok::<(), DecodeError>(())
    })?;
    Ok((Found { at, trace_id: trace_id(high, low), parent: parent.to_be_bytes() }, scope))
}

fn write_process(out: &mut Output<'_>, process: Reader<'_>) -> Result<()> {
    let mut has_name = false;
    walk_process(process.clone(), |key, _| {
        has_name |= key == Some(b"host.name");
        Ok(())
    })?;
    let resource = out.open(1)?;
    walk_process(process, |key, value| {
        match (key, value) {
            (Some(key), value) => put_process_tag(out, key, value, has_name)?,
            (None, Value::Text(name)) => put_service(out, name)?,
            (None, _) => {}
        }
        Ok(())
    })?;
    Ok(out.close(resource)?)
}

/// Calls `each` with keys and values of a process' tags, and with its service's name, which has no key.
fn walk_process<'a>(
    mut process: Reader<'a>,
    mut each: impl FnMut(Option<&'a [u8]>, Value<'a>) -> Result<()>,
) -> Result<()> {
    process.fields(|reader, id, value| match (id, value) {
        (1, Thrift::Binary(name)) => each(None, Value::Text(name)),
        (2, Thrift::List(list)) => reader
            .elements(list, |reader, value| read_tag(reader, value, |key, value| each(Some(key), value))),
        _ => Ok(()),
    })
}

fn write_span(out: &mut Output<'_>, found: Found<'_>) -> Result<()> {
    let Found { mut at, trace_id, parent } = found;
    let mut draft = Draft::child_of(parent);
    draft.trace_id(out, trace_id)?;
    at.fields(|reader, id, value| {
        match (id, value) {
            (3, Thrift::I64(id)) => put_span_id(out, 2, id.to_be_bytes())?,
            (5, Thrift::Binary(name)) => put_text(out, 5, name)?,
            (6, Thrift::List(list)) => {
                return reader.elements(list, |reader, value| {
                    let reference = read_reference(reader, value)?;
                    // The parent is often said twice.
                    let is_parent = (reference.trace_id, reference.span_id) == (trace_id, parent);
                    if reference.kind == 0 && is_parent {
                        Ok(())
                    } else {
                        Ok(draft.reference(out, reference)?)
                    }
                });
            }
            (7, Thrift::I32(flags)) => draft.flags = u64::from(flags as u32),
            (8, Thrift::I64(time)) => draft.start = nanoseconds(time),
            (9, Thrift::I64(time)) => draft.duration = nanoseconds(time),
            (10, Thrift::List(list)) => {
                return reader.elements(list, |reader, value| {
                    read_tag(reader, value, |key, value| Ok(draft.tag(out, key, value)?))
                });
            }
            (11, Thrift::List(list)) => {
                return reader.elements(list, |reader, value| match value {
                    Thrift::Struct => write_log(out, reader),
                    _ => Ok(()),
                });
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(draft.finish(out)?)
}

fn write_log(out: &mut Output<'_>, reader: &mut Reader<'_>) -> Result<()> {
    let (open, mut event, mut time) = (out.open(11)?, Event::default(), 0);
    reader.fields(|reader, id, value| match (id, value) {
        (1, Thrift::I64(at)) => {
            time = nanoseconds(at);
            Ok(())
        }
        (2, Thrift::List(list)) => reader.elements(list, |reader, value| {
            read_tag(reader, value, |key, value| Ok(event.field(out, key, value)?))
        }),
        _ => Ok::<(), DecodeError>(()),
    })?;
    event.finish(out, time)?;
    Ok(out.close(open)?)
}

fn read_reference<'a>(reader: &mut Reader<'a>, value: Thrift<'a>) -> Result<Reference> {
    let (mut kind, mut high, mut low, mut span) = (0, 0, 0, 0);
    if value == Thrift::Struct {
        reader.fields(|_, id, value| {
            match (id, value) {
                (1, Thrift::I32(number)) => kind = u64::from(number as u32),
                (2, Thrift::I64(id)) => low = id,
                (3, Thrift::I64(id)) => high = id,
                (4, Thrift::I64(id)) => span = id,
                _ => {}
            }
            Ok::<(), DecodeError>(())
        })?;
    }
    Ok(Reference { trace_id: trace_id(high, low), span_id: span.to_be_bytes(), kind })
}

/// Gives `each` key and value of a `Tag`, whose `vType` says which of its values counts.
fn read_tag<'a>(
    reader: &mut Reader<'a>,
    value: Thrift<'a>,
    each: impl FnOnce(&'a [u8], Value<'a>) -> Result<()>,
) -> Result<()> {
    const STRING: i32 = 0;
    const DOUBLE: i32 = 1;
    const BOOL: i32 = 2;
    const LONG: i32 = 3;
    const BINARY: i32 = 4;
    if value != Thrift::Struct {
        return Ok(());
    }
    let (mut key, mut kind) = (&[][..], STRING);
    let (mut text, mut float, mut bit, mut int, mut binary) = (&[][..], 0.0, false, 0, &[][..]);
    reader.fields(|_, id, value| {
        match (id, value) {
            (1, Thrift::Binary(bytes)) => key = bytes,
            (2, Thrift::I32(number)) => kind = number,
            (3, Thrift::Binary(bytes)) => text = bytes,
            (4, Thrift::Double(number)) => float = number,
            (5, Thrift::Bool(value)) => bit = value,
            (6, Thrift::I64(number)) => int = number,
            (7, Thrift::Binary(bytes)) => binary = bytes,
            _ => {}
        }
        Ok::<(), DecodeError>(())
    })?;
    let value = match kind {
        DOUBLE => Value::Double(float),
        BOOL => Value::Bool(bit),
        LONG => Value::Int(int),
        BINARY => Value::Bytes(binary),
        // A type that is not known yet has text at best.
        _ => Value::Text(text),
    };
    each(key, value)
}

fn trace_id(high: i64, low: i64) -> [u8; 16] {
    (u128::from(high as u64) << 64 | u128::from(low as u64)).to_be_bytes()
}

/// Microseconds since 1970, or so many of them; before that is zero.
fn nanoseconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0).saturating_mul(NANOS_PER_MICRO)
}
