//! What Zipkin has as text and OTLP in parts: events with attributes, and links.
//!
//! Events come as `"name":{attributes}` (specification, "Zipkin: Events"), as `{"name":{attributes}}` (the Python SDK)
//! and as `name|{attributes}|dropped` (otelcol); links as `trace|span|state|{attributes}|dropped` (otelcol). What is
//! not quite one of these is left as the text that it is.

use watershed_telemetry::json::{Fault, JsonFlaw, Lexer, read_hex_id};
use watershed_telemetry::wire::{MAX_DEPTH, put_bytes_field, put_fixed64_field, put_varint_field};

use crate::names;
use crate::span::Annotation;
use crate::wire::{close, open};

/// Appends an event as a field of a span.
pub(crate) fn put_event(out: &mut Vec<u8>, event: &Annotation<'_>) {
    let open = open(out, 11, 1);
    if event.timestamp > 0 {
        put_fixed64_field(out, 1, event.timestamp.saturating_mul(1000));
    }
    let from = out.len();
    if !put_parts(out, &event.value) {
        out.truncate(from);
        put_bytes_field(out, 2, &event.value);
    }
    close(out, open);
}

/// Appends an event's name and attributes, if its text says both.
fn put_parts(out: &mut Vec<u8>, text: &[u8]) -> bool {
    match text {
        [b'"', .., b'}'] | [b'{', b'"', .., b'}'] => put_named(out, text).is_ok(),
        [.., b'0'..=b'9'] => put_piped(out, text).is_some(),
        _ => false,
    }
}

fn put_named(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Fault> {
    let mut lexer = Lexer::new(text);
    let enclosed = lexer.peek() == Some(b'{');
    if enclosed {
        lexer.object()?;
    }
    let Some(name) = lexer.text_key(true)? else {
        return Err(lexer.unexpected(JsonFlaw::Expected("a name")));
    };
    put_bytes_field(out, 2, &name);
    put_attributes(out, 3, 4, &mut lexer)?;
    if enclosed && lexer.text_key(false)?.is_some() {
        return Err(lexer.unexpected(JsonFlaw::Trailing));
    }
    lexer.end()
}

fn put_piped(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    let (name, attributes, dropped) = piped(text)?;
    put_bytes_field(out, 2, name);
    put_attributes_of(out, 3, 4, attributes)?;
    put_count(out, 4, dropped);
    Some(())
}

/// Whether a tag's text is a link.
pub(crate) fn is_link(text: &[u8]) -> bool {
    put_link_parts(&mut Vec::new(), text).is_some()
}

/// Appends a link as a field of a span.
pub(crate) fn put_link(out: &mut Vec<u8>, text: &[u8]) {
    let open = open(out, 13, 1);
    let _ = put_link_parts(out, text);
    close(out, open);
}

fn put_link_parts(out: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    let mut parts = text.splitn(3, |byte| *byte == b'|');
    put_bytes_field(out, 1, &read_hex_id::<16>(parts.next()?)?);
    put_bytes_field(out, 2, &read_hex_id::<8>(parts.next()?)?);
    let (state, attributes, dropped) = piped(parts.next()?)?;
    if !state.is_empty() {
        put_bytes_field(out, 3, state);
    }
    put_attributes_of(out, 4, 5, attributes)?;
    put_count(out, 5, dropped);
    Some(())
}

/// The parts of `text|{attributes}|dropped`.
fn piped(text: &[u8]) -> Option<(&[u8], &[u8], u32)> {
    let end = text.iter().rposition(|byte| *byte == b'|')?;
    let dropped = std::str::from_utf8(text.get(end + 1..)?).ok()?.parse().ok()?;
    let text = text.get(..end)?;
    let start = text.windows(2).position(|pair| pair == b"|{")?;
    Some((text.get(..start)?, text.get(start + 1..)?, dropped))
}

fn put_count(out: &mut Vec<u8>, number: u32, count: u32) {
    if count > 0 {
        put_varint_field(out, number, count.into());
    }
}

fn put_attributes_of(out: &mut Vec<u8>, number: u32, dropped: u32, json: &[u8]) -> Option<()> {
    let mut lexer = Lexer::new(json);
    put_attributes(out, number, dropped, &mut lexer).and_then(|()| lexer.end()).ok()
}

/// Appends the members of an object as attributes; the one that says how many were left out as field `dropped`.
fn put_attributes(out: &mut Vec<u8>, number: u32, dropped: u32, lexer: &mut Lexer<'_>) -> Result<(), Fault> {
    lexer.object()?;
    let mut first = true;
    while let Some(key) = lexer.text_key(first)? {
        first = false;
        if *key == *names::DROPPED_ATTRIBUTES.as_bytes() {
            lexer.peek();
            if let Some(count) = lexer.natural(false).and_then(|count| u32::try_from(count).ok()) {
                put_count(out, dropped, count);
                continue;
            }
        }
        put_member(out, number, &key, lexer, 0)?;
    }
    Ok(())
}

fn put_member(
    out: &mut Vec<u8>,
    number: u32,
    key: &[u8],
    lexer: &mut Lexer<'_>,
    depth: usize,
) -> Result<(), Fault> {
    let member = open(out, number, 1);
    put_bytes_field(out, 1, key);
    put_value(out, 2, lexer, depth)?;
    close(out, member);
    Ok(())
}

/// Appends any value as an `AnyValue`. Recursion ends below [`MAX_DEPTH`], where validation would end it.
fn put_value(out: &mut Vec<u8>, number: u32, lexer: &mut Lexer<'_>, depth: usize) -> Result<(), Fault> {
    // A value is three messages deep, and there are some around it.
    if depth > MAX_DEPTH / 4 {
        return Err(lexer.unexpected(JsonFlaw::Depth));
    }
    let value = open(out, number, 1);
    match lexer.peek() {
        Some(b'"') => put_bytes_field(out, 1, &lexer.text("a string")?),
        Some(b'{') => {
            lexer.object()?;
            let list = open(out, 6, 1);
            let mut first = true;
            while let Some(key) = lexer.text_key(first)? {
                first = false;
                put_member(out, 1, &key, lexer, depth + 1)?;
            }
            close(out, list);
        }
        Some(b'[') => {
            lexer.array()?;
            let list = open(out, 5, 1);
            let mut first = true;
            while lexer.element(first)? {
                first = false;
                put_value(out, 1, lexer, depth + 1)?;
            }
            close(out, list);
        }
        Some(b't') if lexer.literal("true") => put_varint_field(out, 2, 1),
        Some(b'f') if lexer.literal("false") => put_varint_field(out, 2, 0),
        Some(b'n') if lexer.literal("null") => {}
        _ => {
            let number = lexer.number()?;
            let text = std::str::from_utf8(number).unwrap_or_default();
            match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(int), _) => put_varint_field(out, 3, int as u64),
                (_, Ok(double)) => put_fixed64_field(out, 4, double.to_bits()),
                _ => return Err(lexer.unexpected(JsonFlaw::Number)),
            }
        }
    }
    close(out, value);
    Ok(())
}
