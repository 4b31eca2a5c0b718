//! A span of Jaeger's as one of OTLP's, written field by field as it comes.
//!
//! Most tags are attributes. Some say what OTLP has fields for; these are kept until the span ends, since protobuf's
//! fields may stand in any order.

use std::borrow::Cow;

use watershed_telemetry::build::{NoRoom, Output};

use crate::decode::DecodeError;

const RESOURCE_ATTRIBUTES: u32 = 1;
const SPAN_ATTRIBUTES: u32 = 9;
const EVENT_ATTRIBUTES: u32 = 3;

/// A tag's value. Text of protobuf is to be UTF-8, and is found out if it is not; that of Thrift need not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
}

/// The library that made a span, by its tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope<'a> {
    name: &'a [u8],
    version: &'a [u8],
}

/// A span another one refers to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reference {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    /// 0 for `CHILD_OF`, 1 for `FOLLOWS_FROM`.
    pub(crate) kind: u64,
}

/// What is known of a span that is being written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Draft<'a> {
    /// Ids are zeros where they are not known.
    pub(crate) trace_id: [u8; 16],
    pub(crate) parent: [u8; 8],
    /// Nanoseconds since 1970.
    pub(crate) start: u64,
    /// Nanoseconds.
    pub(crate) duration: u64,
    /// 1 sampled, 2 debug.
    pub(crate) flags: u64,
    kind: u64,
    /// Whether the tag `error` is true.
    is_error: bool,
    code: Option<u64>,
    description: Option<&'a [u8]>,
    http_status: Option<i64>,
    http_message: &'a [u8],
    trace_state: &'a [u8],
    /// Of attributes, events and links.
    dropped: [u32; 3],
}

/// What an event is called, and how much of it was left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Event<'a> {
    name: Option<&'a [u8]>,
    dropped: u32,
}

// === impl Scope ===

impl<'a> Scope<'a> {
    /// Notes a tag if it is about the scope. The first that says something holds.
    #[inline]
    pub(crate) fn note(&mut self, key: &[u8], value: impl FnOnce() -> Option<Value<'a>>) {
        let slot = match key {
            b"otel.scope.name" | b"otel.library.name" => &mut self.name,
            b"otel.scope.version" | b"otel.library.version" => &mut self.version,
            _ => return,
        };
        if slot.is_empty()
            && let Some(Value::Text(text)) = value()
        {
            *slot = text;
        }
    }

    pub(crate) fn write(&self, out: &mut Output<'_>) -> Result<(), NoRoom> {
        if *self == Self::default() {
            return Ok(());
        }
        out.put_message(1, |out| {
            put_text(out, 1, self.name)?;
            put_text(out, 2, self.version)
        })
    }
}

// === impl Draft ===

impl<'a> Draft<'a> {
    /// A span whose parent is known.
    pub(crate) fn child_of(parent: [u8; 8]) -> Self {
        Self { parent, ..Self::default() }
    }

    /// Writes a tag, or notes it.
    pub(crate) fn tag(&mut self, out: &mut Output<'_>, key: &[u8], value: Value<'a>) -> Result<(), NoRoom> {
        match (key, value) {
            (b"span.kind", Value::Text(text)) => match kind(text) {
                0 => {}
                kind => {
                    self.kind = kind;
                    return Ok(());
                }
            },
            (b"error", Value::Bool(true)) => {
                self.is_error = true;
                return Ok(());
            }
            (b"otel.status_code", Value::Text(text)) => {
                if let Some(code) = code(text) {
                    self.code = Some(code);
                    return Ok(());
                }
            }
            (b"otel.status_description", Value::Text(text)) if self.description.is_none() => {
                self.description = Some(text);
                return Ok(());
            }
            (b"w3c.tracestate", Value::Text(text)) if self.trace_state.is_empty() => {
                self.trace_state = text;
                return Ok(());
            }
            (
                b"otel.scope.name" | b"otel.scope.version" | b"otel.library.name" | b"otel.library.version",
                Value::Text(_),
            ) => return Ok(()),
            (b"otel.dropped_attributes_count", value) if dropped(&mut self.dropped[0], value) => {
                return Ok(());
            }
            (b"otel.dropped_events_count", value) if dropped(&mut self.dropped[1], value) => return Ok(()),
            (b"otel.dropped_links_count", value) if dropped(&mut self.dropped[2], value) => return Ok(()),
            (b"http.status_code", Value::Int(status)) => self.http_status = Some(status),
            (b"http.status_code", Value::Text(text)) => {
                self.http_status = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            }
            (b"http.status_message", Value::Text(text)) => self.http_message = text,
            _ => {}
        }
        put_attribute(out, SPAN_ATTRIBUTES, key, value)
    }

    /// Writes the id of the trace.
    pub(crate) fn trace_id(&mut self, out: &mut Output<'_>, id: [u8; 16]) -> Result<(), NoRoom> {
        self.trace_id = id;
        put_trace_id(out, 1, id)
    }

    /// Writes a reference. The first to a span of the same trace whose child this is makes that the parent, unless one
    /// is known; any other is a link.
    pub(crate) fn reference(&mut self, out: &mut Output<'_>, to: Reference) -> Result<(), NoRoom> {
        if to.kind == 0 && self.parent == [0; 8] && to.trace_id == self.trace_id {
            self.parent = to.span_id;
            return Ok(());
        }
        let open = out.open(13)?;
        put_trace_id(out, 1, to.trace_id)?;
        put_span_id(out, 2, to.span_id)?;
        let kind: &[u8] = if to.kind == 0 { b"child_of" } else { b"follows_from" };
        put_attribute(out, 4, REF_TYPE.as_bytes(), Value::Text(kind))?;
        out.close(open)
    }

    /// Writes what was noted.
    pub(crate) fn finish(self, out: &mut Output<'_>) -> Result<(), NoRoom> {
        put_span_id(out, 4, self.parent)?;
        put_text(out, 3, self.trace_state)?;
        if self.kind != 0 {
            out.put_varint_field(6, self.kind)?;
        }
        if self.start != 0 {
            out.put_fixed64_field(7, self.start)?;
        }
        let end = self.start.saturating_add(self.duration);
        if end != 0 {
            out.put_fixed64_field(8, end)?;
        }
        for (number, count) in [10, 12, 14].into_iter().zip(self.dropped).filter(|(_, count)| *count != 0) {
            out.put_varint_field(number, count.into())?;
        }
        if self.flags & 1 != 0 {
            out.put_fixed32_field(16, 1)?;
        }
        self.status(out)
    }

    /// The tag `error` has the last word, then `otel.status_code`, then what HTTP's status says.
    fn status(&self, out: &mut Output<'_>) -> Result<(), NoRoom> {
        const ERROR: u64 = 2;
        let (code, message) = match (self.is_error, self.code) {
            (true, _) => (ERROR, self.description.unwrap_or(self.http_message)),
            (false, Some(code)) => (code, self.description.unwrap_or_default()),
            (false, None) => {
                // That it describes nothing is no reason to lose it.
                if let Some(description) = self.description {
                    let key = b"otel.status_description";
                    put_attribute(out, SPAN_ATTRIBUTES, key, Value::Text(description))?;
                }
                match self.http_status {
                    Some(500..=599) => (ERROR, self.http_message),
                    Some(400..=499) if self.kind == CLIENT => (ERROR, self.http_message),
                    _ => return Ok(()),
                }
            }
        };
        let open = out.open(15)?;
        put_text(out, 2, message)?;
        out.put_varint_field(3, code)?;
        out.close(open)
    }
}

// === impl Event ===

impl<'a> Event<'a> {
    /// Writes a field of a log, or notes it.
    pub(crate) fn field(&mut self, out: &mut Output<'_>, key: &[u8], value: Value<'a>) -> Result<(), NoRoom> {
        match (key, value) {
            (b"event", Value::Text(name)) if self.name.is_none() => {
                self.name = Some(name);
                Ok(())
            }
            (b"otel.dropped_attributes_count", value) if dropped(&mut self.dropped, value) => Ok(()),
            _ => put_attribute(out, EVENT_ATTRIBUTES, key, value),
        }
    }

    /// Writes what was noted, and when it happened: nanoseconds since 1970.
    pub(crate) fn finish(self, out: &mut Output<'_>, time: u64) -> Result<(), NoRoom> {
        if time != 0 {
            out.put_fixed64_field(1, time)?;
        }
        put_text(out, 2, self.name.unwrap_or_default())?;
        if self.dropped != 0 {
            out.put_varint_field(4, self.dropped.into())?;
        }
        Ok(())
    }
}

/// The attribute of a link that says what kind of reference it was.
pub(crate) const REF_TYPE: &str = "opentracing.ref_type";

const CLIENT: u64 = 3;

/// Writes a tag of a process; `has_name` says whether it names its host as OpenTelemetry does.
pub(crate) fn put_process_tag(
    out: &mut Output<'_>,
    key: &[u8],
    value: Value<'_>,
    has_name: bool,
) -> Result<(), NoRoom> {
    let key = if key == b"hostname" && !has_name { b"host.name" } else { key };
    put_attribute(out, RESOURCE_ATTRIBUTES, key, value)
}

/// Writes the name of a process' service.
pub(crate) fn put_service(out: &mut Output<'_>, name: &[u8]) -> Result<(), NoRoom> {
    if name.is_empty() {
        return Ok(());
    }
    put_attribute(out, RESOURCE_ATTRIBUTES, b"service.name", Value::Text(name))
}

#[inline]
fn put_attribute(out: &mut Output<'_>, number: u32, key: &[u8], value: Value<'_>) -> Result<(), NoRoom> {
    let open = out.open(number)?;
    put_text(out, 1, key)?;
    let inner = out.open(2)?;
    match value {
        Value::Text(text) => out.put_bytes_field(1, &utf8(text))?,
        Value::Bool(bit) => out.put_varint_field(2, bit.into())?,
        Value::Int(number) => out.put_varint_field(3, number as u64)?,
        Value::Double(number) => out.put_fixed64_field(4, number.to_bits())?,
        Value::Bytes(bytes) => out.put_bytes_field(7, bytes)?,
    }
    out.close(inner)?;
    out.close(open)
}

/// Writes a text, unless it is empty.
pub(crate) fn put_text(out: &mut Output<'_>, number: u32, text: &[u8]) -> Result<(), NoRoom> {
    if text.is_empty() { Ok(()) } else { out.put_bytes_field(number, &utf8(text)) }
}

/// Text with what is no UTF-8 replaced: it is better to have than nothing, and nobody else would take it as it is.
#[inline]
fn utf8(text: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(text) {
        Ok(_) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(String::from_utf8_lossy(text).into_owned().into_bytes()),
    }
}

/// The id of a trace; eight bytes are the lower half of one.
pub(crate) fn trace_id(bytes: &[u8]) -> Result<[u8; 16], DecodeError> {
    let mut id = [0; 16];
    match bytes.len() {
        0 => {}
        8 => id[8..].copy_from_slice(bytes),
        16 => id.copy_from_slice(bytes),
        _ => return Err(DecodeError::TraceId),
    }
    Ok(id)
}

/// The id of a span.
pub(crate) fn span_id(bytes: &[u8]) -> Result<[u8; 8], DecodeError> {
    match bytes {
        [] => Ok([0; 8]),
        _ => bytes.try_into().map_err(|_| DecodeError::SpanId),
    }
}

fn put_trace_id(out: &mut Output<'_>, number: u32, id: [u8; 16]) -> Result<(), NoRoom> {
    if id == [0; 16] { Ok(()) } else { out.put_bytes_field(number, &id) }
}

pub(crate) fn put_span_id(out: &mut Output<'_>, number: u32, id: [u8; 8]) -> Result<(), NoRoom> {
    if id == [0; 8] { Ok(()) } else { out.put_bytes_field(number, &id) }
}

/// `SpanKind` by the tag; zero if it is none.
fn kind(text: &[u8]) -> u64 {
    match text {
        b"internal" => 1,
        b"server" => 2,
        b"client" => CLIENT,
        b"producer" => 4,
        b"consumer" => 5,
        _ => 0,
    }
}

/// `StatusCode` by the tag.
fn code(text: &[u8]) -> Option<u64> {
    if text.eq_ignore_ascii_case(b"ok") {
        Some(1)
    } else if text.eq_ignore_ascii_case(b"error") {
        Some(2)
    } else {
        None
    }
}

/// Takes a count, if it is one.
fn dropped(slot: &mut u32, value: Value<'_>) -> bool {
    let Value::Int(count) = value else { return false };
    u32::try_from(count).map(|count| *slot = count).is_ok()
}
