//! Version 1 in Thrift: a list of spans in the binary protocol, without a message around it.
//!
//! Source: `thrift/zipkinCore.thrift` of openzipkin/zipkin-api.

use watershed_telemetry::build::NoRoom;
use watershed_thrift::{Error, Kind, List, Protocol, Reader, Value as Thrift};

use super::{Event, SpanV1, TagV1, push};
use crate::error::DecodeError;
use crate::sink::Sink;
use crate::span::{Endpoint, Ip, Text, Value};

/// The types of binary annotations that have a meaning; the others are bytes.
const BOOL: i32 = 0;
const I16: i32 = 2;
const I32: i32 = 3;
const I64: i32 = 4;
const DOUBLE: i32 = 5;
const STRING: i32 = 6;

/// Why a list can not be read.
enum Fault {
    NoRoom,
    Thrift(Error),
    /// A field, and what is wrong with it.
    Wrong(&'static str, &'static str),
}

/// Reads all spans of `body` into `sink`.
pub(crate) fn read<'a>(body: &'a [u8], sink: &mut Sink<'a, '_>, debug: bool) -> Result<(), DecodeError> {
    let wrong = |span, field: &str, flaw: String, offset| DecodeError::Binary {
        span,
        field: field.into(),
        flaw,
        offset,
    };
    let list = body.split_first_chunk().and_then(|(head, rest)| {
        let [12, a, b, c, d] = *head else { return None };
        let len = usize::try_from(i32::from_be_bytes([a, b, c, d])).ok()?;
        // Each span takes a byte at least.
        (len <= rest.len()).then_some((List { element: Kind::Struct, len }, rest))
    });
    let Some((list, rest)) = list else {
        return Err(wrong(0, "", "expected a list of structs in Thrift's binary protocol".into(), 0));
    };
    let mut reader = Reader::new(Protocol::Binary, rest);
    let (mut span, mut index) = (SpanV1::default(), 0);
    let result = reader.elements(list, |reader, _| {
        span.clear();
        span.debug = debug;
        read_span(reader, &mut span, sink)?;
        push(&span, sink)?;
        index += 1;
        Ok(())
    });
    let offset = body.len() - reader.rest().len();
    match result {
        Ok(()) if reader.rest().is_empty() => Ok(()),
        Ok(()) => Err(wrong(index, "", "nothing may follow the list".into(), offset)),
        Err(Fault::NoRoom) => Err(DecodeError::NoRoom),
        Err(Fault::Thrift(error)) => Err(wrong(index, "", error.to_string(), offset)),
        Err(Fault::Wrong(field, flaw)) => Err(wrong(index, field, flaw.into(), offset)),
    }
}

fn read_span<'a>(
    reader: &mut Reader<'a>,
    span: &mut SpanV1<'a>,
    sink: &mut Sink<'a, '_>,
) -> Result<(), Fault> {
    let (mut high, mut low) = (0, 0);
    reader.fields(|reader, id, value| {
        match (id, value) {
            (1, Thrift::I64(id)) => low = id,
            (12, Thrift::I64(id)) => high = id,
            (3, Thrift::Binary(name)) => span.name = text(".name", name)?,
            (4, Thrift::I64(id)) => span.id = id.to_be_bytes(),
            (5, Thrift::I64(id)) => span.parent_id = id.to_be_bytes(),
            (6, Thrift::List(list @ List { element: Kind::Struct, .. })) => {
                reader.elements(list, |reader, _| {
                    let event = event(reader)?;
                    Ok::<_, Fault>(sink.keep(&mut span.events, event)?)
                })?
            }
            (8, Thrift::List(list @ List { element: Kind::Struct, .. })) => {
                reader.elements(list, |reader, _| {
                    let tag = tag(reader)?;
                    Ok::<_, Fault>(sink.keep(&mut span.tags, tag)?)
                })?
            }
            (9, Thrift::Bool(debug)) => span.debug |= debug,
            // What comes before 1970 is nothing, as in Zipkin.
            (10, Thrift::I64(time)) => span.timestamp = time.try_into().unwrap_or_default(),
            (11, Thrift::I64(time)) => span.duration = time.try_into().unwrap_or_default(),
            _ => {}
        }
        Ok::<_, Fault>(())
    })?;
    span.trace_id = (i128::from(high) << 64 | i128::from(low as u64)).to_be_bytes();
    for (is_zero, field) in [(span.trace_id == [0; 16], ".trace_id"), (span.id == [0; 8], ".id")] {
        if is_zero {
            return Err(Fault::Wrong(field, "must be there, and not zero"));
        }
    }
    Ok(())
}

fn event<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, Fault> {
    let mut event = Event::default();
    reader.fields(|reader, id, value| {
        match (id, value) {
            (1, Thrift::I64(time)) => event.timestamp = time.try_into().unwrap_or_default(),
            (2, Thrift::Binary(value)) => event.value = text(".annotations.value", value)?,
            (3, Thrift::Struct) => event.endpoint = Some(endpoint(reader)?),
            _ => {}
        }
        Ok::<_, Fault>(())
    })?;
    Ok(event)
}

fn tag<'a>(reader: &mut Reader<'a>) -> Result<TagV1<'a>, Fault> {
    let (mut key, mut bytes, mut kind, mut end): (_, &[u8], _, _) = (Text::default(), &[], STRING, None);
    reader.fields(|reader, id, value| {
        match (id, value) {
            (1, Thrift::Binary(name)) => key = text(".binary_annotations.key", name)?,
            (2, Thrift::Binary(value)) => bytes = value,
            (3, Thrift::I32(value)) => kind = value,
            (4, Thrift::Struct) => end = Some(endpoint(reader)?),
            _ => {}
        }
        Ok::<_, Fault>(())
    })?;
    Ok(TagV1 { key, value: value(kind, bytes).unwrap_or(Value::Bytes(bytes)), endpoint: end })
}

/// What bytes say that are of this type.
fn value(kind: i32, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match kind {
        BOOL => Value::Bool(*bytes.first()? != 0),
        I16 => Value::Int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        I32 => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        I64 => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
        DOUBLE => Value::Double(f64::from_be_bytes(bytes.try_into().ok()?)),
        STRING => Value::Text(Text::Borrowed(std::str::from_utf8(bytes).ok()?.as_bytes())),
        _ => return None,
    })
}

fn endpoint<'a>(reader: &mut Reader<'a>) -> Result<Endpoint<'a>, Fault> {
    let mut endpoint = Endpoint::default();
    reader.fields(|_, id, value| {
        match (id, value) {
            (1, Thrift::I32(ip)) => endpoint.ipv4 = (ip != 0).then(|| Ip::V4((ip as u32).into())),
            (2, Thrift::I16(port)) => endpoint.port = port as u16,
            (3, Thrift::Binary(name)) => endpoint.service_name = text(".endpoint.service_name", name)?,
            (4, Thrift::Binary(ip)) => {
                endpoint.ipv6 = <[u8; 16]>::try_from(ip).ok().map(|ip| Ip::V6(ip.into()))
            }
            _ => {}
        }
        Ok::<_, Fault>(())
    })?;
    Ok(endpoint)
}

fn text<'a>(field: &'static str, text: &'a [u8]) -> Result<Text<'a>, Fault> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(Text::Borrowed(text)),
        Err(_) => Err(Fault::Wrong(field, "not valid UTF-8")),
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Thrift(error)
    }
}

impl From<NoRoom> for Fault {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}
