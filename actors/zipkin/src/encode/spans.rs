//! OTLP's spans as Zipkin's.
//!
//! Source: OpenTelemetry specification, "OpenTelemetry to Zipkin Transformation" and "Mapping to non-OTLP"; where they
//! say nothing, otelcol's names, so that what was read comes back.

use std::borrow::Cow;
use std::net::IpAddr;

use watershed_telemetry::Payload;
use watershed_telemetry::view::{AnyValueView, Attributes, ScopeView, SpanFields, SpanView, Value as Any};

use super::seen::Seen;
use super::text;
use crate::names;
use crate::span::{Annotation, Endpoint, Ip, Kind, Span, Tag, Text, Value};

const NANOS: u64 = 1000;
const STATUS_OK: i32 = 1;
const STATUS_ERROR: i32 = 2;
const INTERNAL: i32 = 1;

/// What may name the other end, the best first (specification, "Zipkin: Remote endpoint").
const RANKED: [&str; 11] = [
    names::PEER_SERVICE,
    "server.address",
    "net.peer.name",
    names::PEER_ADDRESS,
    "server.socket.domain",
    "server.socket.address",
    "net.sock.peer.name",
    "net.sock.peer.addr",
    "peer.hostname",
    "peer.address",
    "db.name",
];

/// Addresses of the other end, and the ports beside them.
const ADDRESSES: [(&str, &str); 4] = [
    (names::PEER_ADDRESS, names::PEER_PORT),
    ("server.socket.address", "server.socket.port"),
    ("net.sock.peer.addr", "net.sock.peer.port"),
    ("net.peer.ip", "net.peer.port"),
];

/// Hands out the spans of a payload one by one, until `put` says that there is an end. Says how many were left out: Zipkin
/// has none without ids.
pub(super) fn each(
    payload: &Payload,
    default_service_name: &str,
    mut put: impl FnMut(&Span<'_>) -> bool,
) -> Option<u64> {
    let mut left_out = 0;
    let mut writer = Writer::default();
    for group in payload.resources() {
        let resource = group.resource().attributes();
        let service = resource.find(names::SERVICE_NAME).and_then(|name| name.as_str());
        let service = service.filter(|name| !name.is_empty()).unwrap_or(default_service_name);
        // There may be very many scopes to one resource.
        let of_resource = tags(resource);
        for scope in group.scopes() {
            let around = Around::new(service, scope.scope(), &of_resource);
            for span in scope.spans() {
                match writer.span(&span, &around) {
                    Some(span) if put(span) => {}
                    Some(_) => return None,
                    None => left_out += 1,
                }
            }
        }
    }
    Some(left_out)
}

/// Attributes that each span repeats, each key once: one that comes again would cost all of them, and be in none.
fn tags<'a>(attributes: Attributes<'a>) -> Tags<'a> {
    let mut seen = Seen::default();
    let tags = attributes.filter(|attribute| {
        ![names::SERVICE_NAME, names::ERROR].contains(&attribute.key()) && seen.insert(attribute.key())
    });
    tags.map(|attribute| (attribute.key(), text::value(attribute.value()))).collect()
}

type Tags<'a> = Vec<(&'a str, Value<'a>)>;

/// What a span is of.
struct Around<'r, 'a> {
    service: &'a str,
    scope: [(&'static str, &'a str); 2],
    /// Of the scope, and of the resource.
    tags: [Cow<'r, [(&'a str, Value<'a>)]>; 2],
}

/// The span at hand, in places that are used again.
#[derive(Default)]
struct Writer<'a> {
    span: Span<'a>,
    seen: Seen<'a>,
    attributes: Vec<(&'a str, AnyValueView<'a>)>,
}

/// The attributes that endpoints and flags are made of: those of [`RANKED`] and of [`ADDRESSES`] by their place there.
#[derive(Default)]
struct Ends<'a> {
    ranked: [Option<AnyValueView<'a>>; RANKED.len()],
    addresses: [Option<AnyValueView<'a>>; ADDRESSES.len()],
    ports: [Option<AnyValueView<'a>>; ADDRESSES.len()],
    has_no_start: bool,
}

impl<'r, 'a> Around<'r, 'a> {
    fn new(service: &'a str, scope: ScopeView<'a>, of_resource: &'r [(&'a str, Value<'a>)]) -> Self {
        let tags = [tags(scope.attributes()).into(), of_resource.into()];
        let scope = [(names::SCOPE_NAME, scope.name()), (names::SCOPE_VERSION, scope.version())];
        Self { service, scope, tags }
    }
}

impl<'a> Writer<'a> {
    fn span(&mut self, view: &SpanView<'a>, around: &Around<'_, 'a>) -> Option<&Span<'a>> {
        self.span.clear();
        self.seen.clear();
        self.attributes.clear();
        self.attributes.extend(view.attributes().map(|attribute| (attribute.key(), attribute.value())));
        let SpanFields { outline, span_id, trace_state, name, kind, dropped, has_events, has_links, .. } =
            view.fields();
        let span = &mut self.span;
        span.trace_id = outline.trace_id.try_into().ok().filter(|id| *id != [0; 16])?;
        span.id = span_id.try_into().ok().filter(|id| *id != [0; 8])?;
        span.parent_id = outline.parent_span_id.try_into().unwrap_or_default();
        span.name = Text::Borrowed(name.as_bytes());
        span.kind = [Kind::Server, Kind::Client, Kind::Producer, Kind::Consumer]
            .into_iter()
            .find(|known| *known as i32 == kind)
            .unwrap_or_default();
        span.local.service_name = Text::Borrowed(around.service.as_bytes());

        let ends = Ends::of(&self.attributes, span);
        ends.put_remote(span);
        let start = outline.start_time_unix_nano;
        span.timestamp = start / NANOS;
        if start > 0 || ends.has_no_start {
            // In Zipkin, what took no time at all has no duration.
            let duration = outline.duration();
            span.duration = if duration > 0 { (duration / NANOS).max(1) } else { 0 };
        }

        let (code, message) = (outline.status.code(), outline.status.message());
        if code == STATUS_ERROR {
            self.tag(names::STATUS_CODE, text("ERROR"));
            self.tag(names::ERROR, text(message));
        } else if code == STATUS_OK {
            self.tag(names::STATUS_CODE, text("OK"));
        }
        if kind == INTERNAL {
            self.tag(names::SPAN_KIND, text(names::INTERNAL));
        }
        for (name, text) in std::iter::once((names::TRACE_STATE, trace_state)).chain(around.scope) {
            if !text.is_empty() {
                self.tag(name, self::text(text));
            }
        }
        let counts = [names::DROPPED_ATTRIBUTES, names::DROPPED_EVENTS, names::DROPPED_LINKS];
        for (name, count) in counts.into_iter().zip(dropped) {
            if count > 0 {
                self.tag(name, Value::Int(count.into()));
            }
        }
        let attributes = std::mem::take(&mut self.attributes);
        for (key, value) in &attributes {
            // Zipkin takes a span with `error` for failed, even with `false`.
            if *key != names::ERROR && !is_said(key, *value, &self.span) {
                self.tag(key, text::value(*value));
            }
        }
        self.attributes = attributes;
        for (key, value) in around.tags.iter().flat_map(|tags| tags.iter()) {
            self.tag(key, value.clone());
        }
        let links = has_links.then(|| view.links()).into_iter().flatten();
        for (index, link) in links.enumerate() {
            let key = format!("{}{index}", names::LINK);
            if !self.seen.contains(&key) {
                let value = Value::Text(text::link(&link));
                self.span.tags.push(Tag { key: Text::Owned(key.into_bytes()), value });
            }
        }
        let events = has_events.then(|| view.events()).into_iter().flatten();
        let annotations = events.map(|event| Annotation {
            timestamp: event.time_unix_nano() / NANOS,
            value: text::event(&event),
        });
        self.span.annotations.extend(annotations);
        Some(&self.span)
    }

    /// Adds a tag, unless there is one of that key: what comes first holds.
    fn tag(&mut self, key: &'a str, value: Value<'a>) {
        if self.seen.insert(key) {
            self.span.tags.push(Tag { key: Text::Borrowed(key.as_bytes()), value });
        }
    }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Text::Borrowed(text.as_bytes()))
}

impl<'a> Ends<'a> {
    /// Looks through the attributes of a span; flags and its own end go into it at once.
    fn of(attributes: &[(&'a str, AnyValueView<'a>)], span: &mut Span<'a>) -> Self {
        let mut ends = Self::default();
        for (key, value) in attributes {
            let value = || *value;
            match key.as_bytes().first() {
                Some(b'd' | b'n' | b'o' | b'p' | b's' | b'z') => {}
                _ => continue,
            }
            match *key {
                names::DEBUG => span.debug = flag(value()),
                names::SHARED => span.shared = flag(value()),
                names::NO_START => ends.has_no_start = flag(value()),
                names::LOCAL_ADDRESS | "net.host.ip" => put_ip(&mut span.local, address(value())),
                names::LOCAL_IPV6 => put_ip(&mut span.local, address(value())),
                names::REMOTE_IPV6 => put_ip(&mut span.remote, address(value())),
                names::LOCAL_PORT | "net.host.port" => {
                    span.local.port = port(value()).unwrap_or(span.local.port)
                }
                key => {
                    for (index, (address, port)) in ADDRESSES.iter().enumerate() {
                        if key == *address {
                            ends.addresses[index] = Some(value());
                        } else if key == *port {
                            ends.ports[index] = Some(value());
                        }
                    }
                    if let Some(index) = RANKED.iter().position(|ranked| key == *ranked) {
                        ends.ranked[index] = Some(value());
                    }
                }
            }
        }
        ends
    }

    /// The other end: what Zipkin draws an arrow to from who calls or sends. Of the others only what was read as such.
    fn put_remote(&self, span: &mut Span<'a>) {
        let is_caller = matches!(span.kind, Kind::Client | Kind::Producer);
        let most = |all: usize| if is_caller { all } else { 1 };
        let mut at = None;
        for (index, value) in self.addresses.iter().enumerate().take(most(ADDRESSES.len())) {
            let ip = value.and_then(address);
            if ip.is_some() && at.is_none() {
                put_ip(&mut span.remote, ip);
                at = Some(index);
            }
        }
        let port = self.ports.get(at.unwrap_or_default()).copied().flatten().and_then(port);
        span.remote.port = port.unwrap_or_default();
        for (key, value) in RANKED.iter().zip(self.ranked).take(most(RANKED.len())) {
            let Some(name) = value.and_then(|value| value.as_str()).filter(|name| !name.is_empty()) else {
                continue;
            };
            let is_address = ADDRESSES.iter().any(|(address, _)| address == key);
            if !(is_address && name.parse::<IpAddr>().is_ok()) {
                span.remote.service_name = Text::Borrowed(name.as_bytes());
            }
            break;
        }
    }
}

/// Whether a span says in a field of its own what an attribute does.
fn is_said(key: &str, value: AnyValueView<'_>, span: &Span<'_>) -> bool {
    let is_at = |endpoint: &Endpoint<'_>| match address(value) {
        Some(IpAddr::V4(ip)) => endpoint.ipv4 == Some(Ip::V4(ip)),
        Some(IpAddr::V6(ip)) => endpoint.ipv6 == Some(Ip::V6(ip)),
        None => false,
    };
    match key {
        names::DEBUG | names::SHARED => flag(value),
        names::NO_START => span.timestamp == 0,
        names::LOCAL_ADDRESS | names::LOCAL_IPV6 => is_at(&span.local),
        names::PEER_ADDRESS | names::REMOTE_IPV6 => is_at(&span.remote),
        names::LOCAL_PORT => port(value) == Some(span.local.port),
        names::PEER_PORT => port(value) == Some(span.remote.port),
        names::PEER_SERVICE => {
            value.as_str().is_some_and(|name| *span.remote.service_name == *name.as_bytes())
        }
        _ => false,
    }
}

fn flag(value: AnyValueView<'_>) -> bool {
    matches!(value.value(), Any::Bool(true))
}

fn address(value: AnyValueView<'_>) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn port(value: AnyValueView<'_>) -> Option<u16> {
    let port = match value.value() {
        Any::Int(port) => u16::try_from(port).ok(),
        Any::Str(port) => port.parse().ok(),
        _ => None,
    };
    port.filter(|port| *port > 0)
}

fn put_ip(endpoint: &mut Endpoint<'_>, ip: Option<IpAddr>) {
    match ip {
        Some(IpAddr::V4(ip)) => endpoint.ipv4 = Some(Ip::V4(ip)),
        Some(IpAddr::V6(ip)) => endpoint.ipv6 = Some(Ip::V6(ip)),
        None => {}
    }
}
