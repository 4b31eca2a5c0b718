//! Documents in the Elastic Common Schema: attributes that it knows under its names, all keys nested.
//!
//! Source: opentelemetry-collector-contrib `exporter/elasticsearchexporter`, "ECS mapping mode"; Elastic Common Schema.

use watershed_telemetry::view::{Attributes, LogRecordView, SpanView, Value};

use super::entries::{Entries, Field, Rendered};
use super::json::{self, Out};
use super::layout::{Layouts, Shape};
use super::otel;
use super::route::Route;
use super::{Common, Place};

/// Resource attributes that have another name; those that are said otherwise have none.
fn resource(key: &str) -> Option<&str> {
    Some(match key {
        "service.instance.id" => "service.node.name",
        "deployment.environment" | "deployment.environment.name" => "service.environment",
        "telemetry.sdk.name"
        | "telemetry.sdk.language"
        | "telemetry.sdk.version"
        | "telemetry.distro.name"
        | "telemetry.distro.version" => return None,
        "cloud.platform" => "cloud.service.name",
        "container.image.tags" => "container.image.tag",
        "host.arch" => "host.architecture",
        "process.executable.path" => "process.executable",
        "process.runtime.name" => "service.runtime.name",
        "process.runtime.version" => "service.runtime.version",
        "os.name" => "host.os.name",
        "os.type" => "host.os.platform",
        "os.description" => "host.os.full",
        "os.version" => "host.os.version",
        "k8s.namespace.name" => "kubernetes.namespace",
        "k8s.deployment.name" => "kubernetes.deployment.name",
        "k8s.node.name" => "kubernetes.node.name",
        "k8s.pod.name" => "kubernetes.pod.name",
        "k8s.pod.uid" => "kubernetes.pod.uid",
        "k8s.job.name" => "kubernetes.job.name",
        "k8s.cronjob.name" => "kubernetes.cronjob.name",
        "k8s.statefulset.name" => "kubernetes.statefulset.name",
        "k8s.replicaset.name" => "kubernetes.replicaset.name",
        "k8s.daemonset.name" => "kubernetes.daemonset.name",
        "k8s.container.name" => "kubernetes.container.name",
        "k8s.cluster.name" => "orchestrator.cluster.name",
        key => key,
    })
}

/// Attributes of items that have another name.
fn item(key: &str) -> Option<&str> {
    Some(match key {
        "event.name" => "event.action",
        "exception.message" => "error.message",
        "exception.stacktrace" => "error.stacktrace",
        "exception.type" => "error.type",
        "exception.escaped" => "event.error.exception.handled",
        key => key,
    })
}

// Each writes a document but for its last brace, and says whether the item has attributes that are addressed to us.

pub(super) fn log(
    out: &mut Out,
    layouts: &mut Layouts,
    common: &Common,
    route: &Route,
    log: LogRecordView<'_>,
) -> bool {
    let (mut entries, controls) = entries(route, log.attributes());
    let time = match log.time_unix_nano() {
        0 => log.observed_time_unix_nano(),
        time => time,
    };
    entries.add("@timestamp", Field::Time(time));
    entries.add("trace.id", Field::Hex(log.trace_id()));
    entries.add("span.id", Field::Hex(log.span_id()));
    if log.severity_number() != 0 {
        entries.add("event.severity", Field::Integer(log.severity_number().into()));
    }
    entries.add("log.level", Field::Text(log.severity_text()));
    entries.add("event.action", Field::Text(log.event_name()));
    match log.body().value() {
        Value::Str(message) => entries.add("message", Field::Text(message)),
        body => entries.add("body", Field::Value(body)),
    }
    layouts.write(Shape::Nested, &common.shared, &entries, out);
    controls
}

pub(super) fn span(
    out: &mut Out,
    layouts: &mut Layouts,
    common: &Common,
    route: &Route,
    span: SpanView<'_>,
) -> bool {
    let outline = span.outline();
    let (mut entries, controls) = entries(route, span.attributes());
    entries.add("@timestamp", Field::Time(outline.start_time_unix_nano));
    entries.add("trace.id", Field::Hex(outline.trace_id));
    entries.add("span.id", Field::Hex(span.span_id()));
    entries.add("parent.id", Field::Hex(outline.parent_span_id));
    entries.add("span.name", Field::Text(span.name()));
    entries.add("span.kind", Field::Text(otel::kind(span.kind())));
    entries.add("event.duration", Field::Integer(i64::try_from(outline.duration()).unwrap_or(i64::MAX)));
    entries.add(
        "event.outcome",
        Field::Text(match outline.status.code() {
            1 => "success",
            2 => "failure",
            _ => "unknown",
        }),
    );
    entries.add("message", Field::Text(outline.status.message()));
    let mut links = Out::new();
    for link in span.links() {
        links.push(if links.is_empty() { b'[' } else { b',' });
        json::raw(&mut links, "{\"trace\":{\"id\":");
        json::hex(&mut links, link.trace_id());
        json::raw(&mut links, "},\"span\":{\"id\":");
        json::hex(&mut links, link.span_id());
        json::raw(&mut links, "}}");
    }
    if !links.is_empty() {
        links.push(b']');
        entries.add("span.links", Field::Json(links));
    }
    layouts.write(Shape::Nested, &common.shared, &entries, out);
    controls
}

/// What all documents of a scope have: who sent them, and from where.
pub(super) fn shared(place: &Place<'_>) -> Rendered {
    let [first, last] = place.around.ecs.get_or_init(|| of_resource(place.around.resource.attributes()));
    let mut entries = Entries::default();
    entries.attributes("", place.scope.attributes(), Some);
    let mut shared = first.clone();
    shared.append(&entries.rendered());
    shared.append(last);
    shared
}

/// What a resource says, and what is made of that.
fn of_resource(of: Attributes<'_>) -> [Rendered; 2] {
    let (mut first, mut last) = (Entries::default(), Entries::default());
    first.attributes("", of, resource);
    let text = |key| of.find(key).and_then(|value| value.as_str()).unwrap_or_default();
    // The name is both what the host calls itself and what it is called.
    first.add("host.hostname", Field::Text(text("host.name")));
    agent(&mut last, text);
    last.add("host.os.type", Field::Text(os(text("os.type"), text("os.name"))));
    [first.rendered(), last.rendered()]
}

/// An item's attributes, and the stream that its document goes to.
fn entries<'a>(route: &'a Route, attributes: Attributes<'a>) -> (Entries<'a>, bool) {
    let mut entries = Entries::default();
    let controls = entries.attributes("", attributes, item);
    let [kind, dataset, namespace] = &route.parts;
    entries.add("data_stream.type", Field::Text(kind));
    entries.add("data_stream.dataset", Field::Text(dataset));
    entries.add("data_stream.namespace", Field::Text(namespace));
    (entries, controls)
}

/// `agent.name` is `sdk/language/distribution`, as much of it as is known, and `agent.version` the last one's.
fn agent<'a>(entries: &mut Entries<'a>, text: impl Fn(&'static str) -> &'a str) {
    let (sdk, language) = (text("telemetry.sdk.name"), text("telemetry.sdk.language"));
    let (distro, version) = (text("telemetry.distro.name"), text("telemetry.distro.version"));
    let mut name = if sdk.is_empty() { "otlp" } else { sdk }.to_owned();
    if !distro.is_empty() {
        name = format!("{name}/{}/{distro}", if language.is_empty() { "unknown" } else { language });
    } else if !language.is_empty() {
        name = format!("{name}/{language}");
    }
    let mut quoted = Out::new();
    json::text(&mut quoted, &name);
    entries.add("agent.name", Field::Json(quoted));
    entries.add(
        "agent.version",
        Field::Text(if distro.is_empty() { text("telemetry.sdk.version") } else { version }),
    );
}

/// `host.os.type`, which is one of a few words.
fn os(kind: &str, name: &str) -> &'static str {
    match (kind, name) {
        ("windows", _) => "windows",
        ("linux", _) => "linux",
        ("darwin", _) => "macos",
        ("aix" | "hpux" | "solaris", _) => "unix",
        (_, "Android") => "android",
        (_, "iOS") => "ios",
        _ => "",
    }
}

/// The fields of one document of metrics, of which the values are added by the caller.
pub(super) fn metrics<'a>(route: &'a Route, attributes: Attributes<'a>, time: u64) -> Entries<'a> {
    let (mut entries, _) = entries(route, attributes);
    entries.add("@timestamp", Field::Time(time));
    entries
}
