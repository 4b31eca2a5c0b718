//! OTLP to api_v2: `PostSpansRequest`s, one for all spans of a resource.

use std::collections::HashMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use watershed_telemetry::Payload;
use watershed_telemetry::build::{NoRoom, Output, Room, Scalar};
use watershed_telemetry::view::{
    AnyValueView, EventView, LinkView, ResourceGroup, ResourceView, ScopeGroup, ScopeView, SpanFields,
    SpanView, StatusView, Value,
};

use crate::span::REF_TYPE;

const PROCESS_TAGS: u32 = 2;
const SPAN_TAGS: u32 = 8;
const LOG_FIELDS: u32 = 2;

/// A request, and what is in it.
pub(crate) struct Request {
    pub(crate) body: Vec<u8>,
    /// Which spans, by their number in the payload, rising.
    pub(crate) spans: Vec<Range<u32>>,
}

/// Spans of a resource, with their numbers.
type Numbered<'a> = (ResourceGroup<'a>, Range<u32>);

/// The requests that say what a payload of spans does. A batch has one process, so there is one for each resource.
///
/// `room(total)` is asked before what is taken here may grow to `total` bytes.
pub fn encode(payload: &Payload, room: &mut dyn FnMut(usize) -> bool) -> Result<Vec<Vec<u8>>, NoRoom> {
    Ok(requests(payload, room)?.into_iter().map(|request| request.body).collect())
}

/// The same, with what is in which of them.
pub(crate) fn requests(
    payload: &Payload,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<Request>, NoRoom> {
    let mut processes: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut batches: Vec<Vec<Numbered<'_>>> = Vec::new();
    let (mut held, mut past) = (0, 0);
    let mut requests = Vec::new();
    for group in payload.resources() {
        let count: usize = group.scopes().map(|scope| scope.spans().count()).sum();
        if count == 0 {
            continue;
        }
        let numbers = past..past + count as u32;
        past = numbers.end;
        let process = with_output(held, room, |out| process(out, group.resource()))?;
        held += process.len();
        let next = batches.len();
        let index = *processes.entry(process).or_insert(next);
        match batches.get_mut(index) {
            Some(groups) => groups.push((group, numbers)),
            None => batches.push(vec![(group, numbers)]),
        }
    }
    let mut by_index: Vec<(usize, Vec<u8>)> =
        processes.into_iter().map(|(process, index)| (index, process)).collect();
    by_index.sort_unstable_by_key(|(index, _)| *index);
    for ((_, process), groups) in by_index.into_iter().zip(batches) {
        let body = with_output(held, room, |out| {
            out.put_message(1, |out| {
                let mut scopes = groups.iter().flat_map(|(group, _)| group.scopes());
                scopes.try_for_each(|scope| spans(out, &scope))?;
                out.put_bytes_field(2, &process)
            })
        })?;
        held += body.len();
        requests.push(Request { body, spans: groups.into_iter().map(|(_, numbers)| numbers).collect() });
    }
    Ok(requests)
}

/// What `write` writes, beside `held` bytes.
fn with_output(
    held: usize,
    room: &mut dyn FnMut(usize) -> bool,
    write: impl FnOnce(&mut Output<'_>) -> Result<(), NoRoom>,
) -> Result<Vec<u8>, NoRoom> {
    let mut room = |total: usize| room(held.saturating_add(total));
    let mut out = Output::new(Room::new(&mut room), 0)?;
    write(&mut out)?;
    out.finish()
}

fn process(out: &mut Output<'_>, resource: ResourceView<'_>) -> Result<(), NoRoom> {
    let service = resource.attributes().find("service.name").and_then(|name| name.as_str());
    out.put_bytes_field(1, service.unwrap_or("unknown_service").as_bytes())?;
    for attribute in resource.attributes() {
        if attribute.key() != "service.name" || service.is_none() {
            tag(out, PROCESS_TAGS, attribute.key(), attribute.value())?;
        }
    }
    count(out, PROCESS_TAGS, "otel.dropped_attributes_count", resource.dropped_attributes_count())
}

fn spans(out: &mut Output<'_>, group: &ScopeGroup<'_>) -> Result<(), NoRoom> {
    let scope = group.scope();
    group.spans().try_for_each(|view| out.put_message(1, |out| span(out, view, &scope)))
}

fn span(out: &mut Output<'_>, span: SpanView<'_>, scope: &ScopeView<'_>) -> Result<(), NoRoom> {
    let SpanFields { outline, span_id, trace_state, name, kind, flags, dropped, has_events, has_links } =
        span.fields();
    let trace_id = outline.trace_id;
    out.put_bytes_field(1, trace_id)?;
    out.put_bytes_field(2, span_id)?;
    out.put_bytes_field(3, name.as_bytes())?;
    if !outline.parent_span_id.is_empty() {
        reference(out, trace_id, outline.parent_span_id, true)?;
    }
    if has_links {
        span.links().try_for_each(|view| link(out, &view))?;
    }
    if flags & 1 != 0 {
        out.put_varint_field(5, 1)?;
    }
    time(out, 6, outline.start_time_unix_nano)?;
    time(out, 7, outline.duration())?;
    for attribute in span.attributes() {
        tag(out, SPAN_TAGS, attribute.key(), attribute.value())?;
    }
    let text = |out: &mut Output<'_>, key, text: &str| match text {
        "" => Ok(()),
        text => scalar(out, SPAN_TAGS, key, Scalar::Text(text)),
    };
    text(out, "span.kind", kind_tag(kind))?;
    text(out, "w3c.tracestate", trace_state)?;
    text(out, "otel.scope.name", scope.name())?;
    text(out, "otel.scope.version", scope.version())?;
    status(out, &outline.status)?;
    let counts = ["otel.dropped_attributes_count", "otel.dropped_events_count", "otel.dropped_links_count"];
    counts.into_iter().zip(dropped).try_for_each(|(key, dropped)| count(out, SPAN_TAGS, key, dropped))?;
    if has_events {
        span.events().try_for_each(|view| out.put_message(9, |out| log(out, &view)))?;
    }
    Ok(())
}

/// Internal spans have no tag, as the specification has it.
fn kind_tag(kind: i32) -> &'static str {
    match kind {
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "",
    }
}

fn status(out: &mut Output<'_>, status: &StatusView<'_>) -> Result<(), NoRoom> {
    let code = match status.code() {
        1 => "OK",
        2 => {
            scalar(out, SPAN_TAGS, "error", Scalar::Bool(true))?;
            "ERROR"
        }
        _ => return Ok(()),
    };
    scalar(out, SPAN_TAGS, "otel.status_code", Scalar::Text(code))?;
    match status.message() {
        "" => Ok(()),
        message => scalar(out, SPAN_TAGS, "otel.status_description", Scalar::Text(message)),
    }
}

fn log(out: &mut Output<'_>, event: &EventView<'_>) -> Result<(), NoRoom> {
    time(out, 1, event.time_unix_nano())?;
    if !event.name().is_empty() && event.attributes().find("event").is_none() {
        scalar(out, LOG_FIELDS, "event", Scalar::Text(event.name()))?;
    }
    for attribute in event.attributes() {
        tag(out, LOG_FIELDS, attribute.key(), attribute.value())?;
    }
    count(out, LOG_FIELDS, "otel.dropped_attributes_count", event.dropped_attributes_count())
}

fn link(out: &mut Output<'_>, link: &LinkView<'_>) -> Result<(), NoRoom> {
    let kind = link.attributes().find(REF_TYPE).and_then(|kind| kind.as_str());
    reference(out, link.trace_id(), link.span_id(), kind == Some("child_of"))
}

fn reference(out: &mut Output<'_>, trace_id: &[u8], span_id: &[u8], is_child: bool) -> Result<(), NoRoom> {
    out.put_message(4, |out| {
        out.put_bytes_field(1, trace_id)?;
        out.put_bytes_field(2, span_id)?;
        if is_child { Ok(()) } else { out.put_varint_field(3, 1) }
    })
}

/// A `Timestamp` or a `Duration`.
fn time(out: &mut Output<'_>, number: u32, nanoseconds: u64) -> Result<(), NoRoom> {
    const SECOND: u64 = 1_000_000_000;
    out.put_message(number, |out| {
        out.put_varint_field(1, nanoseconds / SECOND)?;
        out.put_varint_field(2, nanoseconds % SECOND)
    })
}

/// A tag that says how much was left out, if anything was.
fn count(out: &mut Output<'_>, number: u32, key: &str, count: u32) -> Result<(), NoRoom> {
    if count == 0 { Ok(()) } else { scalar(out, number, key, Scalar::Int(count.into())) }
}

fn tag(out: &mut Output<'_>, number: u32, key: &str, value: AnyValueView<'_>) -> Result<(), NoRoom> {
    match value.value() {
        Value::Str(text) => scalar(out, number, key, Scalar::Text(text)),
        Value::Bool(bit) => scalar(out, number, key, Scalar::Bool(bit)),
        Value::Int(int) => scalar(out, number, key, Scalar::Int(int)),
        Value::Double(double) => scalar(out, number, key, Scalar::Double(double)),
        Value::Bytes(bytes) => scalar(out, number, key, Scalar::Bytes(bytes)),
        Value::Empty => scalar(out, number, key, Scalar::Text("")),
        value @ (Value::Array(_) | Value::KvList(_)) => {
            scalar(out, number, key, Scalar::Text(&json(value).to_string()))
        }
    }
}

fn scalar(out: &mut Output<'_>, number: u32, key: &str, value: Scalar<'_>) -> Result<(), NoRoom> {
    let typed = |out: &mut Output<'_>, kind| out.put_varint_field(2, kind);
    out.put_message(number, |out| {
        out.put_bytes_field(1, key.as_bytes())?;
        match value {
            Scalar::Text(text) => out.put_bytes_field(3, text.as_bytes()),
            Scalar::Bool(bit) => {
                typed(out, 1)?;
                out.put_varint_field(4, bit.into())
            }
            Scalar::Int(int) => {
                typed(out, 2)?;
                out.put_varint_field(5, int as u64)
            }
            Scalar::Double(double) => {
                typed(out, 3)?;
                out.put_fixed64_field(6, double.to_bits())
            }
            Scalar::Bytes(bytes) => {
                typed(out, 4)?;
                out.put_bytes_field(7, bytes)
            }
        }
    })
}

/// A value in JSON, for lists and maps, which tags can not be. Bytes are base64, and what JSON has no number for is
/// `null`.
fn json(value: Value<'_>) -> Json {
    match value {
        Value::Empty => Json::Null,
        Value::Str(text) => text.into(),
        Value::Bool(bit) => bit.into(),
        Value::Int(int) => int.into(),
        Value::Double(double) => double.into(),
        Value::Array(values) => values.map(|value| json(value.value())).collect(),
        Value::KvList(pairs) => {
            pairs.map(|pair| (pair.key().to_owned(), json(pair.value().value()))).collect()
        }
        Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
    }
}
