//! Version 1 in JSON: an array of spans.
//!
//! Source: `zipkin-api.yaml` of openzipkin/zipkin-api. Read as widely as version 2.

use watershed_telemetry::json::{Fault, JsonFlaw, Lexer};

use super::{Event, SpanV1, TagV1, push};
use crate::json::{elements, endpoint, flag, members, micros, span_id, trace_id, within};
use crate::otlp::parsed;
use crate::sink::Sink;
use crate::span::{Text, Value};

/// Reads all spans of `json`, which is UTF-8, into `sink`.
pub(crate) fn read<'a>(lexer: &mut Lexer<'a>, sink: &mut Sink<'a, '_>, debug: bool) -> Result<(), Fault> {
    let mut span = SpanV1::default();
    elements(lexer, |lexer| {
        span.clear();
        span.debug = debug;
        read_span(lexer, &mut span, sink)?;
        Ok(push(&span, sink)?)
    })?;
    lexer.end()
}

fn read_span<'a>(lexer: &mut Lexer<'a>, span: &mut SpanV1<'a>, sink: &mut Sink<'a, '_>) -> Result<(), Fault> {
    members(lexer, |lexer, key| match key {
        b"traceId" => within("traceId", trace_id(lexer).map(|id| span.trace_id = id)),
        b"id" => within("id", span_id(lexer, false).map(|id| span.id = id)),
        b"parentId" => within("parentId", span_id(lexer, true).map(|id| span.parent_id = id)),
        b"name" => within("name", lexer.text("a string").map(|name| span.name = name)),
        b"timestamp" => within("timestamp", micros(lexer).map(|time| span.timestamp = time)),
        b"duration" => within("duration", micros(lexer).map(|time| span.duration = time)),
        b"debug" => within("debug", flag(lexer).map(|flag| span.debug |= flag)),
        b"annotations" => within(
            "annotations",
            elements(lexer, |lexer| {
                let event = event(lexer)?;
                Ok(sink.keep(&mut span.events, event)?)
            }),
        ),
        b"binaryAnnotations" => within(
            "binaryAnnotations",
            elements(lexer, |lexer| {
                let tag = tag(lexer)?;
                Ok(sink.keep(&mut span.tags, tag)?)
            }),
        ),
        _ => lexer.skip(),
    })?;
    for (is_there, what) in [(span.trace_id != [0; 16], "`traceId`"), (span.id != [0; 8], "`id`")] {
        if !is_there {
            return Err(Fault::new(JsonFlaw::Expected(what), lexer.pos().saturating_sub(1)));
        }
    }
    Ok(())
}

fn event<'a>(lexer: &mut Lexer<'a>) -> Result<Event<'a>, Fault> {
    let mut event = Event::default();
    members(lexer, |lexer, key| match key {
        b"timestamp" => within("timestamp", micros(lexer).map(|time| event.timestamp = time)),
        b"value" => within("value", lexer.text("a string").map(|value| event.value = value)),
        b"endpoint" => within("endpoint", endpoint(lexer).map(|end| event.endpoint = Some(end))),
        _ => lexer.skip(),
    })?;
    Ok(event)
}

fn tag<'a>(lexer: &mut Lexer<'a>) -> Result<TagV1<'a>, Fault> {
    let mut tag = TagV1 { key: Text::default(), value: Value::Text(Text::default()), endpoint: None };
    let mut kind = Text::default();
    members(lexer, |lexer, key| match key {
        b"key" => within("key", lexer.text("a string").map(|key| tag.key = key)),
        b"value" => within("value", value(lexer).map(|value| tag.value = value)),
        b"type" => within("type", lexer.text("a string").map(|text| kind = text)),
        b"endpoint" => within("endpoint", endpoint(lexer).map(|end| tag.endpoint = Some(end))),
        _ => lexer.skip(),
    })?;
    // 64-bit numbers are written as text.
    if matches!(&*kind, b"BOOL" | b"I16" | b"I32" | b"I64" | b"DOUBLE")
        && let Some(value) = tag.value.text().and_then(|text| parsed(text))
    {
        tag.value = value;
    }
    Ok(tag)
}

fn value<'a>(lexer: &mut Lexer<'a>) -> Result<Value<'a>, Fault> {
    match lexer.peek() {
        Some(b't' | b'f') => flag(lexer).map(Value::Bool),
        Some(b'-' | b'0'..=b'9') => {
            let number = lexer.number()?;
            let double = || std::str::from_utf8(number).ok()?.parse().ok().map(Value::Double);
            Ok(parsed(number).or_else(double).unwrap_or(Value::Text(Text::Borrowed(number))))
        }
        _ => lexer.text("a string, a number, true or false").map(Value::Text),
    }
}
