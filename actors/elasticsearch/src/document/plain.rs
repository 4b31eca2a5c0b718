//! Documents in modes `none` and `raw`: the fields of the data model under flat keys; and `bodymap`: a log record's body.
//!
//! Source: opentelemetry-collector-contrib `exporter/elasticsearchexporter`.

use watershed_telemetry::view::{LogRecordView, SpanView, Value};

use super::entries::{Entries, Field, Rendered};
use super::json::{self, Maps, Out};
use super::layout::{Layouts, Shape};
use super::route::is_control;
use super::{Common, Flaw, Mode, Place};

pub(super) fn log(
    out: &mut Out,
    layouts: &mut Layouts,
    common: &Common,
    log: LogRecordView<'_>,
    mode: Mode,
) -> bool {
    let mut entries = Entries::default();
    let time = match log.time_unix_nano() {
        0 => log.observed_time_unix_nano(),
        time => time,
    };
    let controls = entries.attributes(top("Attributes", mode), log.attributes(), Some);
    entries.add("@timestamp", Field::Time(time));
    entries.add("TraceId", Field::Hex(log.trace_id()));
    entries.add("SpanId", Field::Hex(log.span_id()));
    entries.add("TraceFlags", Field::Integer(i64::from(log.flags() & 0xFF)));
    entries.add("SeverityText", Field::Text(log.severity_text()));
    entries.add("SeverityNumber", Field::Integer(log.severity_number().into()));
    entries.add("EventName", Field::Text(log.event_name()));
    entries.add("Body", Field::value(log.body()));
    layouts.write(Shape::Flat, &common.shared, &entries, out);
    controls
}

pub(super) fn span(
    out: &mut Out,
    layouts: &mut Layouts,
    common: &Common,
    span: SpanView<'_>,
    mode: Mode,
) -> bool {
    let mut entries = Entries::default();
    let outline = span.outline();
    let controls = entries.attributes(top("Attributes", mode), span.attributes(), Some);
    let events = top("Events", mode);
    for event in span.events() {
        let path =
            if events.is_empty() { event.name().to_owned() } else { format!("{events}.{}", event.name()) };
        if entries.repeats(path.len(), event.attributes()) {
            entries.attributes(&path, event.attributes(), Some);
        } else {
            entries.add(&path, Field::Map(event.attributes()));
        }
        entries.under(&path, "time", Field::Time(event.time_unix_nano()));
    }
    entries.add("@timestamp", Field::Time(outline.start_time_unix_nano));
    entries.add("EndTimestamp", Field::Time(outline.end_time_unix_nano));
    entries.add("TraceId", Field::Hex(outline.trace_id));
    entries.add("SpanId", Field::Hex(span.span_id()));
    entries.add("ParentSpanId", Field::Hex(outline.parent_span_id));
    entries.add("Name", Field::Text(span.name()));
    entries.add(
        "Kind",
        Field::Text(match span.kind() {
            1 => "SPAN_KIND_INTERNAL",
            2 => "SPAN_KIND_SERVER",
            3 => "SPAN_KIND_CLIENT",
            4 => "SPAN_KIND_PRODUCER",
            5 => "SPAN_KIND_CONSUMER",
            _ => "SPAN_KIND_UNSPECIFIED",
        }),
    );
    entries.add("TraceStatus", Field::Integer(outline.status.code().into()));
    entries.add("TraceStatusDescription", Field::Text(outline.status.message()));
    entries.add("Link", Field::Json(links(span)));
    entries.add("Duration", Field::Integer(i64::try_from(outline.duration() / 1000).unwrap_or(i64::MAX)));
    layouts.write(Shape::Flat, &common.shared, &entries, out);
    controls
}

/// Where a part of an item goes: under its name, or at the top.
fn top(name: &'static str, mode: Mode) -> &'static str {
    if mode == Mode::Raw { "" } else { name }
}

/// What all documents of a scope have.
pub(super) fn shared(place: &Place<'_>) -> Rendered {
    let of_resource = || {
        let mut entries = Entries::default();
        entries.attributes("Resource", place.around.resource.attributes(), Some);
        entries.rendered()
    };
    let mut entries = Entries::default();
    entries.attributes("Scope", place.scope.attributes(), Some);
    entries.add("Scope.name", Field::Text(place.scope.name()));
    entries.add("Scope.version", Field::Text(place.scope.version()));
    let mut shared = place.around.plain.get_or_init(of_resource).clone();
    shared.append(&entries.rendered());
    shared
}

/// The links, as one text.
fn links(span: SpanView<'_>) -> Out {
    let mut out = Out::new();
    for link in span.links() {
        out.push(if out.is_empty() { b'[' } else { b',' });
        json::raw(&mut out, "{\"traceID\":");
        json::hex(&mut out, link.trace_id());
        json::hex_field(&mut out, ",\"spanID\":", link.span_id());
        json::text_field(&mut out, ",\"traceState\":", link.trace_state());
        json::attributes(&mut out, link.attributes(), Maps::Objects);
        out.push(b'}');
    }
    if !out.is_empty() {
        out.push(b']');
        json::quote(&mut out, 0);
    }
    out
}

pub(super) fn body(out: &mut Out, log: LogRecordView<'_>) -> Result<bool, Flaw> {
    let Value::KvList(map) = log.body().value() else { return Err(Flaw::Body) };
    json::object(out, map);
    out.pop();
    Ok(log.attributes().into_iter().any(|attribute| is_control(attribute.key())))
}
