//! A body of Zipkin's as OTLP.

use watershed_telemetry::json::{Fault, JsonFlaw, Lexer};
use watershed_telemetry::{Payload, Signal};

use crate::error::DecodeError;
use crate::sink::Sink;
use crate::{json, proto, v1};
use watershed_telemetry::build::Room;

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// An array of spans in JSON.
    Json,
    /// A `zipkin.proto3.ListOfSpans`.
    Proto,
    /// An array of spans in JSON, of version 1.
    JsonV1,
    /// A list of spans in Thrift's binary protocol, of version 1.
    ThriftV1,
}

/// How bodies are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Tags whose text is that of a number or a flag become one (otelcol's `parse_string_tags`).
    pub parse_string_tags: bool,
    /// All spans are marked as debug, as if each said so itself (`X-B3-Flags: 1`).
    pub debug: bool,
}

/// The spans of a body as one OTLP request. docs/components/zipkin_receiver.md says what becomes what.
///
/// `room(total)` is asked before what is taken here may grow to `total` bytes; on `false` the error is
/// [`DecodeError::NoRoom`]. Time is linear in `body`, and memory, too: at worst some forty times its size, for a span of
/// nothing but empty tags, and in Thrift three hundred times, for one of nothing but empty annotations.
pub fn decode(
    format: Format,
    body: &[u8],
    options: Options,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Payload, DecodeError> {
    match attempt(format, body, options, room, false)? {
        Ok(payload) => Ok(payload),
        // What is wrong with a text is better said of the body than of what was made of it.
        Err(invalid) => {
            drop(attempt(format, body, options, room, true)?);
            Err(DecodeError::Meaning(invalid))
        }
    }
}

fn attempt(
    format: Format,
    body: &[u8],
    options: Options,
    room: &mut dyn FnMut(usize) -> bool,
    strict: bool,
) -> Result<Result<Payload, String>, DecodeError> {
    let request = match format {
        Format::Json | Format::JsonV1 => {
            let mut lexer = Lexer::new(body);
            read_json(format, body, &mut lexer, options, room)
                .map_err(|fault| fault.into_error(body, lexer.pos()))?
        }
        Format::Proto | Format::ThriftV1 => {
            let mut sink =
                Sink::new(Room::new(room), body.len() + body.len() / 4, options.parse_string_tags)?;
            match format {
                Format::Proto => proto::read(body, &mut sink, options.debug, strict)?,
                _ => v1::thrift::read(body, &mut sink, options.debug)?,
            }
            sink.finish()?
        }
    };
    Ok(Payload::validate(Signal::Traces, request).map_err(|invalid| invalid.to_string()))
}

fn read_json<'a>(
    format: Format,
    body: &'a [u8],
    lexer: &mut Lexer<'a>,
    options: Options,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<bytes::Bytes, Fault> {
    if body.starts_with("\u{FEFF}".as_bytes()) {
        return Err(Fault::new(JsonFlaw::ByteOrderMark, 0));
    }
    // All of it at once is faster than string by string, and what is skipped is checked with the rest.
    std::str::from_utf8(body).map_err(|error| Fault::new(JsonFlaw::Utf8, error.valid_up_to()))?;
    let mut room = Room::new(room);
    if body.contains(&b'\\') {
        // Texts without their escapes.
        room.take(body.len())?;
    }
    let mut sink = Sink::new(room, body.len(), options.parse_string_tags)?;
    match format {
        Format::JsonV1 => v1::json::read(lexer, &mut sink, options.debug)?,
        _ => json::read(lexer, &mut sink, options.debug)?,
    }
    Ok(sink.finish()?)
}
