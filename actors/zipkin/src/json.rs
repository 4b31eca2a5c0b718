//! Zipkin's JSON, version 2: an array of spans.
//!
//! Source: `zipkin2-api.yaml` of openzipkin/zipkin-api. Read more widely than it says, as Zipkin's own reader does: ids
//! shorter than they should be and in either case, numbers in quotation marks, unknown keys, `null` for what is absent.

use watershed_telemetry::json::{Fault, JsonFlaw, Lexer, read_hex_id};

use crate::sink::Sink;
use crate::span::{Annotation, Endpoint, Ip, Kind, Span, Tag, Text, Value};

/// Reads all spans of `json`, which is UTF-8, into `sink`.
pub(crate) fn read<'a>(lexer: &mut Lexer<'a>, sink: &mut Sink<'a, '_>, debug: bool) -> Result<(), Fault> {
    let mut span = Span::default();
    elements(lexer, |lexer| {
        span.clear();
        span.debug = debug;
        read_span(lexer, &mut span, sink)?;
        Ok(sink.push(&span)?)
    })?;
    lexer.end()
}

fn read_span<'a>(lexer: &mut Lexer<'a>, span: &mut Span<'a>, sink: &mut Sink<'a, '_>) -> Result<(), Fault> {
    let (mut has_trace_id, mut has_id) = (false, false);
    members(lexer, |lexer, key| match key {
        b"traceId" => within("traceId", trace_id(lexer).map(|id| (span.trace_id, has_trace_id) = (id, true))),
        b"id" => within("id", span_id(lexer, false).map(|id| (span.id, has_id) = (id, true))),
        b"parentId" => within("parentId", span_id(lexer, true).map(|id| span.parent_id = id)),
        b"kind" => within("kind", kind(lexer).map(|kind| span.kind = kind)),
        b"name" => within("name", lexer.text("a string").map(|name| span.name = name)),
        b"timestamp" => within("timestamp", micros(lexer).map(|time| span.timestamp = time)),
        b"duration" => within("duration", micros(lexer).map(|time| span.duration = time)),
        b"localEndpoint" => within("localEndpoint", endpoint(lexer).map(|end| span.local = end)),
        b"remoteEndpoint" => within("remoteEndpoint", endpoint(lexer).map(|end| span.remote = end)),
        b"annotations" => within("annotations", annotations(lexer, &mut span.annotations, sink)),
        b"tags" => within("tags", tags(lexer, &mut span.tags, sink)),
        b"debug" => within("debug", flag(lexer).map(|flag| span.debug |= flag)),
        b"shared" => within("shared", flag(lexer).map(|flag| span.shared = flag)),
        _ => lexer.skip(),
    })?;
    if has_trace_id && has_id {
        return Ok(());
    }
    let what = if has_trace_id { "`id`" } else { "`traceId`" };
    Err(Fault::new(JsonFlaw::Expected(what), lexer.pos().saturating_sub(1)))
}

/// Reads an object, whose members that are not `null` `each` is given.
#[inline]
pub(crate) fn members<'a>(
    lexer: &mut Lexer<'a>,
    mut each: impl FnMut(&mut Lexer<'a>, &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    lexer.object()?;
    let mut first = true;
    while let Some(key) = lexer.text_key(first)? {
        first = false;
        if lexer.peek() == Some(b'n') && lexer.literal("null") {
            continue;
        }
        each(lexer, &key)?;
    }
    Ok(())
}

/// Reads an array, whose elements that are not `null` `each` is given.
#[inline]
pub(crate) fn elements<'a>(
    lexer: &mut Lexer<'a>,
    mut each: impl FnMut(&mut Lexer<'a>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    lexer.array()?;
    let mut index = 0;
    while lexer.element(index == 0)? {
        if lexer.peek() != Some(b'n') || !lexer.literal("null") {
            each(lexer).map_err(|fault| fault.at_index(index))?;
        }
        index += 1;
    }
    Ok(())
}

#[inline]
pub(crate) fn within<T>(name: &'static str, result: Result<T, Fault>) -> Result<T, Fault> {
    result.map_err(|fault| fault.within(name))
}

fn annotations<'a>(
    lexer: &mut Lexer<'a>,
    annotations: &mut Vec<Annotation<'a>>,
    sink: &mut Sink<'a, '_>,
) -> Result<(), Fault> {
    elements(lexer, |lexer| {
        let mut annotation = Annotation::default();
        members(lexer, |lexer, key| match key {
            b"timestamp" => within("timestamp", micros(lexer).map(|time| annotation.timestamp = time)),
            b"value" => within("value", lexer.text("a string").map(|value| annotation.value = value)),
            _ => lexer.skip(),
        })?;
        Ok(sink.keep(annotations, annotation)?)
    })
}

fn tags<'a>(lexer: &mut Lexer<'a>, tags: &mut Vec<Tag<'a>>, sink: &mut Sink<'a, '_>) -> Result<(), Fault> {
    lexer.object()?;
    let mut first = true;
    while let Some(key) = lexer.text_key(first)? {
        first = false;
        let value = match lexer.peek() {
            Some(b'"') => lexer.text("a string")?,
            Some(b'n') if lexer.literal("null") => continue,
            _ => scalar(lexer)?,
        };
        sink.keep(tags, Tag { key, value: Value::Text(value) })?;
    }
    Ok(())
}

/// The text of a number or a flag, where one should be between quotation marks.
fn scalar<'a>(lexer: &mut Lexer<'a>) -> Result<Text<'a>, Fault> {
    match lexer.peek() {
        Some(b'-' | b'0'..=b'9') => lexer.number().map(Text::Borrowed),
        Some(b't') if lexer.literal("true") => Ok(Text::Borrowed(b"true")),
        Some(b'f') if lexer.literal("false") => Ok(Text::Borrowed(b"false")),
        _ => Err(lexer.unexpected(JsonFlaw::Type("a string"))),
    }
}

/// Reads an endpoint. What is no port is none, as in Zipkin.
pub(crate) fn endpoint<'a>(lexer: &mut Lexer<'a>) -> Result<Endpoint<'a>, Fault> {
    let mut endpoint = Endpoint::default();
    members(lexer, |lexer, key| match key {
        b"serviceName" => {
            within("serviceName", lexer.text("a string").map(|name| endpoint.service_name = name))
        }
        b"ipv4" => within("ipv4", ip(lexer).map(|ip| endpoint.ipv4 = ip)),
        b"ipv6" => within("ipv6", ip(lexer).map(|ip| endpoint.ipv6 = ip)),
        b"port" => {
            let port = within("port", micros(lexer));
            port.map(|port| endpoint.port = u16::try_from(port).unwrap_or_default())
        }
        _ => lexer.skip(),
    })?;
    Ok(endpoint)
}

fn ip<'a>(lexer: &mut Lexer<'a>) -> Result<Option<Ip<'a>>, Fault> {
    lexer.text("a string").map(|text| (!text.is_empty()).then_some(Ip::Text(text)))
}

fn kind(lexer: &mut Lexer<'_>) -> Result<Kind, Fault> {
    Ok(match &*lexer.text("a string")? {
        b"CLIENT" => Kind::Client,
        b"SERVER" => Kind::Server,
        b"PRODUCER" => Kind::Producer,
        b"CONSUMER" => Kind::Consumer,
        // A kind of the future, or OpenTelemetry's INTERNAL.
        _ => Kind::Unspecified,
    })
}

/// Whole microseconds; what comes before 1970 is nothing, as in Zipkin.
pub(crate) fn micros(lexer: &mut Lexer<'_>) -> Result<u64, Fault> {
    const WHAT: JsonFlaw = JsonFlaw::Type("a whole number");
    lexer.peek();
    if let Some(number) = lexer.natural(true) {
        return Ok(number);
    }
    let at = lexer.pos();
    let text = match lexer.peek() {
        Some(b'"') => lexer.text("a whole number")?,
        Some(b'-' | b'0'..=b'9') => lexer.number().map(Text::Borrowed)?,
        _ => return Err(lexer.unexpected(WHAT)),
    };
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<f64>().ok());
    // As a float: what is negative becomes zero.
    number.filter(|number| number.is_finite()).map(|number| number as u64).ok_or_else(|| Fault::new(WHAT, at))
}

pub(crate) fn flag(lexer: &mut Lexer<'_>) -> Result<bool, Fault> {
    match lexer.peek() {
        Some(b't') if lexer.literal("true") => Ok(true),
        Some(b'f') if lexer.literal("false") => Ok(false),
        _ => Err(lexer.unexpected(JsonFlaw::Type("true or false"))),
    }
}

/// A trace id: 64 or 128 bits.
pub(crate) fn trace_id(lexer: &mut Lexer<'_>) -> Result<[u8; 16], Fault> {
    id(lexer, "1 to 32 hex digits, not all of them zeros", false)
}

/// A span's id. All zeros, or nothing, is no parent.
pub(crate) fn span_id(lexer: &mut Lexer<'_>, is_parent: bool) -> Result<[u8; 8], Fault> {
    id(lexer, "1 to 16 hex digits, not all of them zeros", is_parent)
}

fn id<const N: usize>(
    lexer: &mut Lexer<'_>,
    what: &'static str,
    may_be_none: bool,
) -> Result<[u8; N], Fault> {
    lexer.peek();
    let at = lexer.pos();
    let text = lexer.text(what)?;
    match read_hex_id(&text) {
        Some(id) if may_be_none || id != [0; N] => Ok(id),
        None if may_be_none && text.is_empty() => Ok([0; N]),
        _ => Err(Fault::new(JsonFlaw::Type(what), at)),
    }
}
