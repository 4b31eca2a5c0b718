//! Documents of logs, spans and their events as Elasticsearch's templates for OpenTelemetry want them.
//!
//! Source: opentelemetry-collector-contrib `exporter/elasticsearchexporter` (its description of documents), and the
//! mappings `*-otel@mappings` of Elasticsearch.

use watershed_telemetry::Signal;
use watershed_telemetry::view::{
    AnyValueView, Attributes, EventView, LinkView, LogRecordView, SpanView, Value,
};

use super::json::{self, Maps, Out};
use super::route::Route;
use super::{Common, Place};

/// `,"resource":{...},"scope":{...}`.
pub(super) fn tail(place: &Place<'_>) -> Out {
    let maps = if place.signal == Signal::Metrics { Maps::Text } else { Maps::Objects };
    let (around, scope) = (&place.around, place.scope);
    let of_resource = || {
        let mut out = Out::new();
        object(&mut out, ",\"resource\":{", |out| {
            json::text_field(out, ",\"schema_url\":", around.group.schema_url());
            json::attributes(out, around.resource.attributes(), maps);
            dropped(out, around.resource.dropped_attributes_count());
        });
        out
    };
    let mut out = around.tail.get_or_init(of_resource).clone();
    object(&mut out, ",\"scope\":{", |out| {
        json::text_field(out, ",\"name\":", scope.name());
        json::text_field(out, ",\"version\":", scope.version());
        json::text_field(out, ",\"schema_url\":", place.scopes.schema_url());
        json::attributes(out, scope.attributes(), maps);
        dropped(out, scope.dropped_attributes_count());
    });
    out
}

/// Writes an object of which every field begins with a comma, unless there is none.
fn object(out: &mut Out, key: &str, write: impl FnOnce(&mut Out)) {
    let start = out.len();
    json::raw(out, key);
    let first = out.len();
    write(out);
    if out.len() == first {
        out.truncate(start);
    } else {
        out.remove(first);
        out.push(b'}');
    }
}

fn dropped(out: &mut Out, count: u32) {
    json::integer_field(out, ",\"dropped_attributes_count\":", count);
}

// Each writes a document but for its last brace, and says whether the item has attributes that are addressed to us.

pub(super) fn log(out: &mut Out, common: &Common, route: &Route, log: LogRecordView<'_>) -> bool {
    let (time, observed) = (log.time_unix_nano(), log.observed_time_unix_nano());
    json::raw(out, "{\"@timestamp\":");
    json::epoch_millis(out, if time == 0 { observed } else { time });
    if observed != 0 {
        json::raw(out, ",\"observed_timestamp\":");
        json::epoch_millis(out, observed);
    }
    out.extend_from_slice(&route.stream);
    json::text_field(out, ",\"severity_text\":", log.severity_text());
    json::integer_field(out, ",\"severity_number\":", log.severity_number());
    json::hex_field(out, ",\"trace_id\":", log.trace_id());
    json::hex_field(out, ",\"span_id\":", log.span_id());
    let attributes = log.attributes();
    let mut name = log.event_name();
    if name.is_empty() {
        name = attributes.find("event.name").and_then(|name| name.as_str()).unwrap_or_default();
    }
    json::text_field(out, ",\"event_name\":", name);
    body(out, log.body());
    let controls = json::attributes(out, attributes, Maps::Objects);
    dropped(out, log.dropped_attributes_count());
    out.extend_from_slice(&common.tail);
    controls
}

/// Text where it is a scalar; otherwise an object, or an array of objects, which is all that the mapping takes.
fn body(out: &mut Out, body: AnyValueView<'_>) {
    let of = body.value();
    match of {
        Value::Empty => return,
        Value::KvList(map) => {
            json::raw(out, ",\"body\":{\"structured\":");
            json::object(out, map);
        }
        Value::Array(mut elements) => {
            json::raw(out, ",\"body\":{\"structured\":");
            if elements.all(|element| matches!(element.value(), Value::KvList(_))) {
                json::value(out, of);
            } else {
                json::raw(out, "{\"value\":");
                json::value(out, of);
                out.push(b'}');
            }
        }
        _ => {
            json::raw(out, ",\"body\":{\"text\":");
            json::as_text(out, of);
        }
    }
    out.push(b'}');
}

pub(super) fn span(out: &mut Out, common: &Common, route: &Route, span: SpanView<'_>) -> bool {
    let outline = span.outline();
    json::raw(out, "{\"@timestamp\":");
    json::epoch_millis(out, outline.start_time_unix_nano);
    out.extend_from_slice(&route.stream);
    json::hex_field(out, ",\"trace_id\":", outline.trace_id);
    json::hex_field(out, ",\"span_id\":", span.span_id());
    json::hex_field(out, ",\"parent_span_id\":", outline.parent_span_id);
    json::text_field(out, ",\"trace_state\":", span.trace_state());
    json::text_field(out, ",\"name\":", span.name());
    json::raw(out, ",\"kind\":\"");
    json::raw(out, kind(span.kind()));
    json::raw(out, "\",\"duration\":");
    json::integer(out, outline.duration());
    let controls = json::attributes(out, span.attributes(), Maps::Objects);
    dropped(out, span.dropped_attributes_count());
    json::integer_field(out, ",\"dropped_events_count\":", span.dropped_events_count());
    links(out, span);
    json::integer_field(out, ",\"dropped_links_count\":", span.dropped_links_count());
    json::raw(
        out,
        match outline.status.code() {
            1 => ",\"status\":{\"code\":\"Ok\"",
            2 => ",\"status\":{\"code\":\"Error\"",
            _ => ",\"status\":{\"code\":\"Unset\"",
        },
    );
    json::text_field(out, ",\"message\":", outline.status.message());
    out.push(b'}');
    out.extend_from_slice(&common.tail);
    controls
}

/// `SpanKind` as the collector's data model calls it.
pub(super) fn kind(kind: i32) -> &'static str {
    match kind {
        1 => "Internal",
        2 => "Server",
        3 => "Client",
        4 => "Producer",
        5 => "Consumer",
        _ => "Unspecified",
    }
}

fn links(out: &mut Out, span: SpanView<'_>) {
    let start = out.len();
    for link in span.links() {
        json::raw(out, if out.len() == start { ",\"links\":[{\"trace_id\":" } else { ",{\"trace_id\":" });
        self::link(out, link);
    }
    if out.len() > start {
        out.push(b']');
    }
}

fn link(out: &mut Out, link: LinkView<'_>) {
    json::hex(out, link.trace_id());
    json::hex_field(out, ",\"span_id\":", link.span_id());
    json::text_field(out, ",\"trace_state\":", link.trace_state());
    json::attributes(out, link.attributes(), Maps::Objects);
    dropped(out, link.dropped_attributes_count());
    out.push(b'}');
}

pub(super) fn event(
    out: &mut Out,
    common: &Common,
    route: &Route,
    span: SpanView<'_>,
    event: EventView<'_>,
) -> bool {
    json::raw(out, "{\"@timestamp\":");
    json::epoch_millis(out, event.time_unix_nano());
    out.extend_from_slice(&route.stream);
    json::hex_field(out, ",\"trace_id\":", span.trace_id());
    json::hex_field(out, ",\"span_id\":", span.span_id());
    json::text_field(out, ",\"event_name\":", event.name());
    let start = out.len();
    let controls = json::attributes(out, event.attributes(), Maps::Objects);
    name(out, start, event.name(), event.attributes());
    dropped(out, event.dropped_attributes_count());
    out.extend_from_slice(&common.tail);
    controls
}

/// Adds an event's name to its attributes, where they have none: it used to be found there.
fn name(out: &mut Out, start: usize, name: &str, attributes: Attributes<'_>) {
    if name.is_empty() || attributes.find("event.name").is_some() {
        return;
    }
    if out.len() > start {
        out.pop();
    } else {
        json::raw(out, ",\"attributes\":{");
    }
    json::text_field(
        out,
        if out.last() == Some(&b'{') { "\"event.name\":" } else { ",\"event.name\":" },
        name,
    );
    out.push(b'}');
}
