//! A span of Zipkin's as one of OTLP's, in wire bytes.
//!
//! Source: OpenTelemetry specification, "OpenTelemetry to Zipkin Transformation" and "Mapping to non-OTLP", read
//! backwards; where they say nothing, otelcol's names.

use std::io::Write as _;

use watershed_telemetry::wire::{put_bytes_field, put_fixed64_field, put_varint_field};

use crate::annotation;
use crate::names;
use crate::span::{Endpoint, Ip, Kind, Span, Tag, Text, Value};
use crate::wire::{close, open, put_attribute, put_text_attribute};

const NANOS: u64 = 1000;
const STATUS_ERROR: u64 = 2;
const INTERNAL: u64 = 1;

/// What a tag is, beside an attribute.
enum Role<'s, 'a> {
    Attribute,
    /// An attribute that an endpoint would be, too.
    Named(u8),
    Scope(&'s Text<'a>),
    Version(&'s Text<'a>),
    TraceState(&'s Text<'a>),
    Internal,
    Code(u64),
    Description(&'s Text<'a>),
    /// What it says of the failure.
    Error(&'s [u8]),
    Link(&'s Text<'a>),
    Dropped(usize, u64),
}

/// What the tags of a span say that has a field of its own.
#[derive(Default)]
pub(crate) struct Special<'s, 'a> {
    pub(crate) scope: Option<&'s Text<'a>>,
    pub(crate) version: Option<&'s Text<'a>>,
    /// The span takes less, in bytes.
    pub(crate) bound: usize,
    trace_state: &'s [u8],
    kind: u64,
    code: u64,
    message: &'s [u8],
    /// Attributes, events, links.
    dropped: [u64; 3],
    has_links: bool,
    /// Bits of the attributes that are there and that an endpoint would be.
    named: u8,
}

const LOCAL_ADDRESS: u8 = 1;
const LOCAL_PORT: u8 = 2;
const PEER_SERVICE: u8 = 4;
const PEER_ADDRESS: u8 = 8;
const PEER_PORT: u8 = 16;

impl<'s, 'a> Role<'s, 'a> {
    #[inline]
    fn of(tag: &'s Tag<'a>, kind: Kind) -> Self {
        match tag.key.first() {
            Some(b'e' | b'n' | b'o' | b'p' | b's' | b'w') => Self::unusual(tag, kind),
            _ => Self::Attribute,
        }
    }

    fn unusual(tag: &'s Tag<'a>, kind: Kind) -> Self {
        let Some(text) = tag.value.text() else {
            let failed = *tag.key == *names::ERROR.as_bytes() && tag.value == Value::Bool(true);
            return if failed { Self::Error(b"") } else { Self::Attribute };
        };
        let count = || std::str::from_utf8(text).ok()?.parse::<u32>().ok();
        let dropped = |index| count().map(|count| Self::Dropped(index, count.into()));
        let Ok(key) = std::str::from_utf8(&tag.key) else { return Self::Attribute };
        let role = match key {
            names::ERROR => {
                (**text != *b"false").then_some(Self::Error(if **text == *b"true" { b"" } else { text }))
            }
            names::STATUS_CODE => code(text).map(Self::Code),
            names::STATUS_DESCRIPTION => Some(Self::Description(text)),
            names::SPAN_KIND => {
                let internal = kind == Kind::Unspecified && **text == *names::INTERNAL.as_bytes();
                internal.then_some(Self::Internal)
            }
            names::TRACE_STATE => Some(Self::TraceState(text)),
            names::SCOPE_NAME | names::LIBRARY_NAME => Some(Self::Scope(text)),
            names::SCOPE_VERSION | names::LIBRARY_VERSION => Some(Self::Version(text)),
            names::DROPPED_ATTRIBUTES => dropped(0),
            names::DROPPED_EVENTS => dropped(1),
            names::DROPPED_LINKS => dropped(2),
            names::LOCAL_ADDRESS => Some(Self::Named(LOCAL_ADDRESS)),
            names::LOCAL_PORT => Some(Self::Named(LOCAL_PORT)),
            names::PEER_SERVICE => Some(Self::Named(PEER_SERVICE)),
            names::PEER_ADDRESS => Some(Self::Named(PEER_ADDRESS)),
            names::PEER_PORT => Some(Self::Named(PEER_PORT)),
            key if key.starts_with(names::LINK) && annotation::is_link(text) => Some(Self::Link(text)),
            _ => None,
        };
        role.unwrap_or(Self::Attribute)
    }
}

impl<'s, 'a> Special<'s, 'a> {
    pub(crate) fn of(span: &'s Span<'a>) -> Self {
        // Ids, times, status; six attributes of endpoints and three flags with their names.
        let mut special = Self { kind: span.kind as u64, bound: 640 + span.name.len(), ..Self::default() };
        special.bound += bound(&span.local) + bound(&span.remote);
        // JSON takes at most four times as much as attributes.
        special.bound += span.annotations.iter().map(|event| 32 + 4 * event.value.len()).sum::<usize>();
        let mut description: &[u8] = &[];
        for tag in &span.tags {
            special.bound += 32 + tag.key.len() + tag.value.text().map_or(0, |text| text.len());
            match Role::of(tag, span.kind) {
                Role::Attribute => {
                    if let Value::Bytes(bytes) = tag.value {
                        special.bound += bytes.len();
                    }
                }
                Role::Named(bit) => special.named |= bit,
                Role::Scope(name) => special.scope = Some(name),
                Role::Version(version) => special.version = Some(version),
                Role::TraceState(state) => special.trace_state = state,
                Role::Internal => special.kind = INTERNAL,
                // Zipkin takes a span with `error` for failed, whatever else is said.
                Role::Code(code) => special.code = special.code.max(code),
                Role::Description(text) => description = text,
                Role::Error(text) => (special.code, special.message) = (STATUS_ERROR, text),
                Role::Link(text) => {
                    special.bound += 64 + 4 * text.len();
                    special.has_links = true;
                }
                Role::Dropped(index, count) => {
                    if let Some(dropped) = special.dropped.get_mut(index) {
                        *dropped = count;
                    }
                }
            }
        }
        if special.message.is_empty() {
            special.message = description;
        }
        special
    }

    /// Name and version of the scope.
    pub(crate) fn scope(&self) -> (&'s [u8], &'s [u8]) {
        (self.scope.map_or(&[], |name| name), self.version.map_or(&[], |version| version))
    }
}

/// Appends a span as an element of a `ScopeSpans`.
pub(crate) fn put_span(
    out: &mut Vec<u8>,
    span: &Span<'_>,
    special: &Special<'_, '_>,
    parse_string_tags: bool,
) {
    let open = open(out, 2, 2);
    put_bytes_field(out, 1, &span.trace_id);
    put_bytes_field(out, 2, &span.id);
    put_text(out, 3, special.trace_state);
    // Some old tracers have a root span be its own parent.
    if span.parent_id != [0; 8] && span.parent_id != span.id {
        put_bytes_field(out, 4, &span.parent_id);
    }
    put_text(out, 5, &span.name);
    put_count(out, 6, special.kind);
    let start = span.timestamp.saturating_mul(NANOS);
    if start > 0 {
        put_fixed64_field(out, 7, start);
    }
    let end = start.saturating_add(span.duration.saturating_mul(NANOS));
    if end > 0 {
        put_fixed64_field(out, 8, end);
    }
    for tag in &span.tags {
        if !matches!(Role::of(tag, span.kind), Role::Attribute | Role::Named(_)) {
            continue;
        }
        match tag.value.text().filter(|_| parse_string_tags).and_then(|text| parsed(text)) {
            Some(value) => put_attribute(out, 9, &tag.key, &value),
            None => put_attribute(out, 9, &tag.key, &tag.value),
        }
    }
    put_endpoints(out, span, special.named);
    for (is_so, name) in
        [(span.timestamp == 0, names::NO_START), (span.debug, names::DEBUG), (span.shared, names::SHARED)]
    {
        if is_so {
            put_attribute(out, 9, name.as_bytes(), &Value::Bool(true));
        }
    }
    let [attributes, events, links] = special.dropped;
    put_count(out, 10, attributes);
    for event in &span.annotations {
        annotation::put_event(out, event);
    }
    put_count(out, 12, events);
    if special.has_links {
        for tag in &span.tags {
            if let Role::Link(text) = Role::of(tag, span.kind) {
                annotation::put_link(out, text);
            }
        }
    }
    put_count(out, 14, links);
    if special.code > 0 || !special.message.is_empty() {
        let open = self::open(out, 15, 1);
        put_text(out, 2, special.message);
        put_count(out, 3, special.code);
        close(out, open);
    }
    close(out, open);
}

/// What the two ends are, as attributes; those that the tags have already stay as they are.
fn put_endpoints(out: &mut Vec<u8>, span: &Span<'_>, named: u8) {
    let is_free = |bit| named & bit == 0;
    if is_free(PEER_SERVICE) && !span.remote.service_name.is_empty() {
        put_text_attribute(out, 9, names::PEER_SERVICE.as_bytes(), &span.remote.service_name);
    }
    for (endpoint, (address, address_bit), (port, port_bit), second) in [
        (
            &span.local,
            (names::LOCAL_ADDRESS, LOCAL_ADDRESS),
            (names::LOCAL_PORT, LOCAL_PORT),
            names::LOCAL_IPV6,
        ),
        (
            &span.remote,
            (names::PEER_ADDRESS, PEER_ADDRESS),
            (names::PEER_PORT, PEER_PORT),
            names::REMOTE_IPV6,
        ),
    ] {
        if let Some(ip) = endpoint.ipv4.as_ref().or(endpoint.ipv6.as_ref()).filter(|_| is_free(address_bit)) {
            put_ip(out, address, ip);
        }
        if let (Some(_), Some(ip)) = (&endpoint.ipv4, &endpoint.ipv6) {
            put_ip(out, second, ip);
        }
        if endpoint.port > 0 && is_free(port_bit) {
            put_attribute(out, 9, port.as_bytes(), &Value::Int(endpoint.port.into()));
        }
    }
}

fn put_ip(out: &mut Vec<u8>, key: &str, ip: &Ip<'_>) {
    let mut text = [0; 48];
    let mut rest = text.as_mut_slice();
    let address = match ip {
        Ip::Text(text) => return put_text_attribute(out, 9, key.as_bytes(), text),
        Ip::V4(ip) => {
            let mut dot: &[u8] = b"";
            for octet in ip.octets() {
                let _ = rest.write_all(dot).and(rest.write_all(itoa::Buffer::new().format(octet).as_bytes()));
                dot = b".";
            }
            let left = rest.len();
            text.get(..text.len() - left)
        }
        Ip::V6(ip) => {
            let _ = write!(rest, "{ip}");
            let left = rest.len();
            text.get(..text.len() - left)
        }
    };
    put_text_attribute(out, 9, key.as_bytes(), address.unwrap_or_default());
}

/// More than the texts of an endpoint take.
fn bound(endpoint: &Endpoint<'_>) -> usize {
    let ip = |ip: &Option<Ip<'_>>| match ip {
        Some(Ip::Text(text)) => text.len(),
        _ => 0,
    };
    endpoint.service_name.len() + ip(&endpoint.ipv4) + ip(&endpoint.ipv6)
}

/// A text's value, where it is that of a number or a flag (`parse_string_tags`): what otelcol takes for one.
pub(crate) fn parsed(text: &[u8]) -> Option<Value<'static>> {
    match text {
        b"true" => return Some(Value::Bool(true)),
        b"false" => return Some(Value::Bool(false)),
        [b'-' | b'0'..=b'9', .., b'0'..=b'9'] | [b'0'..=b'9'] => {}
        _ => return None,
    }
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let number = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(dot) => (digits.get(..dot)?, digits.get(dot + 1..)?),
        None => (digits, &b""[..]),
    };
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    if whole.len() == digits.len() {
        number.parse().ok().map(Value::Int)
    } else {
        number.parse().ok().filter(|double: &f64| double.is_finite()).map(Value::Double)
    }
}

/// The code of a status by its name, in the specification's spelling and in otelcol's.
fn code(text: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(text).ok()?;
    let name = name.strip_prefix("STATUS_CODE_").unwrap_or(name);
    let names = ["UNSET", "OK", "ERROR"];
    names.iter().position(|known| name.eq_ignore_ascii_case(known)).map(|code| code as u64)
}

fn put_text(out: &mut Vec<u8>, number: u32, text: &[u8]) {
    if !text.is_empty() {
        put_bytes_field(out, number, text);
    }
}

fn put_count(out: &mut Vec<u8>, number: u32, count: u64) {
    if count > 0 {
        put_varint_field(out, number, count);
    }
}
