//! Zipkin's protobuf: a `ListOfSpans`.
//!
//! Source: `zipkin.proto` of openzipkin/zipkin-api (package `zipkin.proto3`). As protobuf has it, of a scalar that
//! stands twice the last holds, of a message the union, and what is not known is skipped. An address of a wrong length
//! is none, as in Zipkin.

use watershed_telemetry::wire::{Field, Fields, Value as Wire, WireError};

use crate::error::DecodeError;
use crate::sink::Sink;
use crate::span::{Annotation, Endpoint, Ip, Kind, Span, Tag, Text, Value};
use watershed_telemetry::build::NoRoom;

/// Reads all spans of `body` into `sink`. Texts are checked for UTF-8 only if `strict`: what is made of them will be.
pub(crate) fn read<'a>(
    body: &'a [u8],
    sink: &mut Sink<'a, '_>,
    debug: bool,
    strict: bool,
) -> Result<(), DecodeError> {
    let mut reader = Reader { strict };
    let (mut span, mut index) = (Span::default(), 0);
    let mut list = || {
        let mut from = body;
        for field in Fields::new(body) {
            let field = field.map_err(|error| Fault::wire(error, from))?;
            from = after(body, &field);
            if field.number != 1 {
                continue;
            }
            span.clear();
            span.debug = debug;
            reader.span(bytes("", &field)?, &mut span, sink)?;
            sink.push(&span)?;
            index += 1;
        }
        Ok(())
    };
    let result = list();
    result.map_err(|fault: Fault| fault.into_error(body, index))
}

/// Why a list can not be read. One word, so that success costs no more.
struct Fault(Option<Box<Wrong>>);

/// What is wrong with which field, and the address of it.
struct Wrong {
    flaw: String,
    field: &'static str,
    at: usize,
}

struct Reader {
    strict: bool,
}

impl Reader {
    fn span<'a>(
        &mut self,
        message: &'a [u8],
        span: &mut Span<'a>,
        sink: &mut Sink<'a, '_>,
    ) -> Result<(), Fault> {
        const TRACE_ID: &str = ".trace_id";
        const ID: &str = ".id";
        let (mut trace_id, mut id, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let mut from = message;
        for field in Fields::new(message) {
            let field = field.map_err(|error| Fault::wire(error, from))?;
            from = after(message, &field);
            match field.number {
                1 => trace_id = bytes(TRACE_ID, &field)?,
                2 => parent = bytes(".parent_id", &field)?,
                3 => id = bytes(ID, &field)?,
                4 => {
                    span.kind = match varint(".kind", &field)? {
                        1 => Kind::Client,
                        2 => Kind::Server,
                        3 => Kind::Producer,
                        4 => Kind::Consumer,
                        _ => Kind::Unspecified,
                    }
                }
                5 => span.name = self.text(".name", &field)?,
                6 => span.timestamp = fixed64(".timestamp", &field)?,
                7 => span.duration = varint(".duration", &field)?,
                8 => self.endpoint(".local_endpoint", &field, &mut span.local)?,
                9 => self.endpoint(".remote_endpoint", &field, &mut span.remote)?,
                10 => {
                    let annotation = self.annotation(&field)?;
                    sink.keep(&mut span.annotations, annotation)?;
                }
                11 => {
                    let tag = self.tag(&field)?;
                    sink.keep(&mut span.tags, tag)?;
                }
                12 => span.debug |= varint(".debug", &field)? != 0,
                13 => span.shared = varint(".shared", &field)? != 0,
                _ => {}
            }
        }
        let short = trace_id.len() == 8;
        let place = if short { span.trace_id.get_mut(8..) } else { Some(span.trace_id.as_mut_slice()) };
        put_id(place, trace_id).ok_or_else(|| Fault::new(TRACE_ID, "must be 8 or 16 bytes", message))?;
        put_id(Some(&mut span.id), id).ok_or_else(|| Fault::new(ID, "must be 8 bytes", message))?;
        if !parent.is_empty() {
            put_id(Some(&mut span.parent_id), parent)
                .ok_or_else(|| Fault::new(".parent_id", "must be 8 bytes", message))?;
        }
        for (field, is_zero) in [(TRACE_ID, span.trace_id == [0; 16]), (ID, span.id == [0; 8])] {
            if is_zero {
                return Err(Fault::new(field, "must not be all zeros", message));
            }
        }
        Ok(())
    }

    fn endpoint<'a>(
        &mut self,
        name: &'static str,
        field: &Field<'a>,
        endpoint: &mut Endpoint<'a>,
    ) -> Result<(), Fault> {
        for field in messages(name, field)? {
            let field = field?;
            match field.number {
                1 => endpoint.service_name = self.text(name, &field)?,
                2 => {
                    endpoint.ipv4 = <[u8; 4]>::try_from(bytes(name, &field)?).ok().map(|ip| Ip::V4(ip.into()))
                }
                3 => {
                    endpoint.ipv6 =
                        <[u8; 16]>::try_from(bytes(name, &field)?).ok().map(|ip| Ip::V6(ip.into()))
                }
                4 => endpoint.port = u16::try_from(varint(name, &field)? as i32).unwrap_or_default(),
                _ => {}
            }
        }
        Ok(())
    }

    fn annotation<'a>(&mut self, field: &Field<'a>) -> Result<Annotation<'a>, Fault> {
        const NAME: &str = ".annotations";
        let mut annotation = Annotation::default();
        for field in messages(NAME, field)? {
            let field = field?;
            match field.number {
                1 => annotation.timestamp = fixed64(NAME, &field)?,
                2 => annotation.value = self.text(NAME, &field)?,
                _ => {}
            }
        }
        Ok(annotation)
    }

    #[inline]
    fn tag<'a>(&mut self, field: &Field<'a>) -> Result<Tag<'a>, Fault> {
        const NAME: &str = ".tags";
        let entry = bytes(NAME, field)?;
        // As most are: a key and a value, each there once and shorter than 128 bytes.
        if !self.strict
            && let [0x0A, key_len @ ..0x80, rest @ ..] = entry
            && let Some((key, [0x12, value_len @ ..0x80, value @ ..])) =
                rest.split_at_checked(usize::from(*key_len))
            && usize::from(*value_len) == value.len()
        {
            return Ok(Tag { key: Text::Borrowed(key), value: Value::Text(Text::Borrowed(value)) });
        }
        let (mut key, mut value) = (Text::default(), Text::default());
        for field in messages(NAME, field)? {
            let field = field?;
            match field.number {
                1 => key = self.text(NAME, &field)?,
                2 => value = self.text(NAME, &field)?,
                _ => {}
            }
        }
        Ok(Tag { key, value: Value::Text(value) })
    }

    fn text<'a>(&self, name: &'static str, field: &Field<'a>) -> Result<Text<'a>, Fault> {
        let text = bytes(name, field)?;
        if self.strict && std::str::from_utf8(text).is_err() {
            return Err(Fault::new(name, "not valid UTF-8", field.raw));
        }
        Ok(Text::Borrowed(text))
    }
}

/// Copies an id of the length of its place.
fn put_id(place: Option<&mut [u8]>, id: &[u8]) -> Option<()> {
    let place = place.filter(|place| place.len() == id.len())?;
    place.copy_from_slice(id);
    Some(())
}

/// The fields of the message that a field is.
fn messages<'a>(
    name: &'static str,
    field: &Field<'a>,
) -> Result<impl Iterator<Item = Result<Field<'a>, Fault>>, Fault> {
    let message = bytes(name, field)?;
    Ok(Fields::new(message).map(move |inner| inner.map_err(|error| Fault::new(name, error, message))))
}

fn bytes<'a>(name: &'static str, field: &Field<'a>) -> Result<&'a [u8], Fault> {
    field.bytes().ok_or_else(|| Fault::wire_type(name, field))
}

fn varint(name: &'static str, field: &Field<'_>) -> Result<u64, Fault> {
    match field.value {
        Wire::Varint(value) => Ok(value),
        _ => Err(Fault::wire_type(name, field)),
    }
}

fn fixed64(name: &'static str, field: &Field<'_>) -> Result<u64, Fault> {
    match field.value {
        Wire::Fixed64(value) => Ok(value),
        _ => Err(Fault::wire_type(name, field)),
    }
}

/// What follows a field of `message`.
fn after<'a>(message: &'a [u8], field: &Field<'a>) -> &'a [u8] {
    let end = offset(message, field.raw.as_ptr() as usize) + field.raw.len();
    message.get(end..).unwrap_or_default()
}

/// How many bytes of `body` come before an address in it.
fn offset(body: &[u8], at: usize) -> usize {
    at.saturating_sub(body.as_ptr() as usize)
}

impl Fault {
    #[cold]
    fn new(field: &'static str, flaw: impl ToString, at: &[u8]) -> Self {
        Self(Some(Box::new(Wrong { flaw: flaw.to_string(), field, at: at.as_ptr() as usize })))
    }

    #[cold]
    fn wire(error: WireError, at: &[u8]) -> Self {
        Self::new("", error, at)
    }

    #[cold]
    fn wire_type(name: &'static str, field: &Field<'_>) -> Self {
        Self::new(name, "wrong wire type", field.raw)
    }

    fn into_error(self, body: &[u8], span: usize) -> DecodeError {
        match self.0 {
            None => DecodeError::NoRoom,
            Some(wrong) => {
                let Wrong { flaw, field, at } = *wrong;
                DecodeError::Binary { span, field: field.to_owned(), flaw, offset: offset(body, at) }
            }
        }
    }
}

impl From<NoRoom> for Fault {
    fn from(_: NoRoom) -> Self {
        Self(None)
    }
}
