//! Version 1: spans whose kind, ends and times are said by annotations.
//!
//! A client and the server that it calls may share a span, and report it in one piece or in two. What is reported in
//! one becomes a span for each, as in Zipkin (`V1SpanConverter` of openzipkin/zipkin, to which the OpenTelemetry
//! specification points): the server's is `shared`, and has its own times.

pub(crate) mod json;
pub(crate) mod thrift;

use watershed_telemetry::build::NoRoom;

use crate::sink::Sink;
use crate::span::{Annotation, Endpoint, Kind, Span, Tag, Text, Value};

/// How many services may have a part in one span. What more there are add to the first: no tracer has more than two.
const MOST: usize = 8;

/// A span of version 1. Times are as in [`Span`].
#[derive(Debug, Default)]
pub(crate) struct SpanV1<'a> {
    pub(crate) trace_id: [u8; 16],
    pub(crate) id: [u8; 8],
    pub(crate) parent_id: [u8; 8],
    pub(crate) name: Text<'a>,
    pub(crate) timestamp: u64,
    pub(crate) duration: u64,
    pub(crate) debug: bool,
    pub(crate) events: Vec<Event<'a>>,
    pub(crate) tags: Vec<TagV1<'a>>,
}

/// An annotation: where something happened, too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Event<'a> {
    pub(crate) timestamp: u64,
    pub(crate) value: Text<'a>,
    pub(crate) endpoint: Option<Endpoint<'a>>,
}

/// A binary annotation.
#[derive(Clone, Debug)]
pub(crate) struct TagV1<'a> {
    pub(crate) key: Text<'a>,
    pub(crate) value: Value<'a>,
    pub(crate) endpoint: Option<Endpoint<'a>>,
}

/// The annotations that every RPC or message has: client send and receive, server receive and send, message send and
/// receive, wire send and receive.
#[derive(Default)]
struct Core<'s, 'a> {
    cs: Option<&'s Event<'a>>,
    cr: Option<&'s Event<'a>>,
    sr: Option<&'s Event<'a>>,
    ss: Option<&'s Event<'a>>,
    ms: Option<&'s Event<'a>>,
    mr: Option<&'s Event<'a>>,
    ws: Option<&'s Event<'a>>,
    wr: Option<&'s Event<'a>>,
}

/// The spans that a span becomes.
struct Parts<'s, 'a> {
    source: &'s SpanV1<'a>,
    spans: Vec<Span<'a>>,
}

/// Adds what a span of version 1 means.
pub(crate) fn push<'a>(source: &SpanV1<'a>, sink: &mut Sink<'a, '_>) -> Result<(), NoRoom> {
    let lists = source.events.len() * size_of::<Annotation<'_>>() + source.tags.len() * size_of::<Tag<'_>>();
    // A list that grows is up to twice as large as what is in it.
    sink.beside(2 * lists)?;
    let mut parts = Parts { source, spans: vec![fresh(source)] };
    let core = parts.events();
    parts.times(&core);
    parts.tags(&core);
    parts.spans.iter().try_for_each(|span| sink.push(span))
}

impl SpanV1<'_> {
    /// Forgets everything but the places that were made.
    pub(crate) fn clear(&mut self) {
        let (mut events, mut tags) = (std::mem::take(&mut self.events), std::mem::take(&mut self.tags));
        events.clear();
        tags.clear();
        *self = Self { events, tags, ..Self::default() };
    }
}

fn fresh<'a>(source: &SpanV1<'a>) -> Span<'a> {
    Span {
        trace_id: source.trace_id,
        id: source.id,
        parent_id: source.parent_id,
        name: source.name.clone(),
        debug: source.debug,
        ..Span::default()
    }
}

impl<'s, 'a> Parts<'s, 'a> {
    /// The part of an endpoint's service: one without any is the first to be given it.
    fn of(&mut self, endpoint: Option<&Endpoint<'a>>) -> Option<&mut Span<'a>> {
        let Some(endpoint) = endpoint else { return self.spans.first_mut() };
        let is_of =
            |span: &Span<'_>| span.local.is_empty() || span.local.service_name == endpoint.service_name;
        let index = match self.spans.iter().position(is_of) {
            Some(index) => index,
            None => self.another(),
        };
        let span = self.spans.get_mut(index)?;
        if span.local.is_empty() {
            span.local = endpoint.clone();
        }
        Some(span)
    }

    /// One part more, if there may be.
    fn another(&mut self) -> usize {
        if self.spans.len() == MOST {
            return 0;
        }
        self.spans.push(fresh(self.source));
        self.spans.len() - 1
    }

    /// The part of the second end: even of the same service, where that calls itself, another than the first's.
    fn other(&mut self, is_loop: bool, endpoint: Option<&Endpoint<'a>>) -> Option<&mut Span<'a>> {
        if !is_loop {
            return self.of(endpoint);
        }
        let index = self.another();
        let span = self.spans.get_mut(index)?;
        span.local = endpoint.cloned().unwrap_or_default();
        Some(span)
    }

    /// Takes the annotations that have a meaning, and adds the others to their parts.
    fn events(&mut self) -> Core<'s, 'a> {
        let mut core = Core::default();
        for event in &self.source.events {
            let (place, kind) = match (&*event.value, &event.endpoint) {
                (b"cs", Some(_)) => (&mut core.cs, Some(Kind::Client)),
                (b"cr", Some(_)) => (&mut core.cr, Some(Kind::Client)),
                (b"sr", Some(_)) => (&mut core.sr, Some(Kind::Server)),
                (b"ss", Some(_)) => (&mut core.ss, Some(Kind::Server)),
                (b"ms", Some(_)) => (&mut core.ms, Some(Kind::Producer)),
                (b"mr", Some(_)) => (&mut core.mr, Some(Kind::Consumer)),
                (b"ws", Some(_)) => (&mut core.ws, None),
                (b"wr", Some(_)) => (&mut core.wr, None),
                _ => {
                    self.annotate(event);
                    continue;
                }
            };
            *place = Some(event);
            if let (Some(kind), Some(span)) = (kind, self.of(event.endpoint.as_ref())) {
                span.kind = kind;
            }
        }
        core
    }

    fn annotate(&mut self, event: &Event<'a>) {
        if let Some(span) = self.of(event.endpoint.as_ref()) {
            let annotation = Annotation { timestamp: event.timestamp, value: event.value.clone() };
            span.annotations.push(annotation);
        }
    }

    /// When the parts began, and how long they took.
    fn times(&mut self, core: &Core<'s, 'a>) {
        let source = self.source;
        let began = |begin: Option<&Event<'_>>, end: Option<&Event<'_>>| {
            let whole = source
                .timestamp
                .checked_add(source.duration)
                .filter(|_| source.timestamp > 0 && source.duration > 0);
            begin.is_some() || (end.is_some() && end.map(|end| end.timestamp) == whole)
        };
        // An end that the span's own times lead to says where it began.
        let (has_cs, has_sr) = (began(core.cs, core.cr), began(core.sr, core.ss));
        let start = |begin: Option<&'s Event<'a>>, end: Option<&'s Event<'a>>| match begin {
            Some(begin) => (begin.timestamp, begin.endpoint.as_ref()),
            None => (source.timestamp, end.and_then(|end| end.endpoint.as_ref())),
        };
        let (client, server) = (start(core.cs, core.cr), start(core.sr, core.ss));
        match (has_cs, has_sr) {
            (true, true) => self.both(core, client, server),
            (true, false) if core.cr.is_some() => self.time(client, core.cr),
            (false, true) if core.ss.is_some() => self.time(server, core.ss),
            _ => self.incomplete(core),
        }
        // Before there was a flag, a span without a timestamp was shared: somebody else had begun it.
        let has_no_time = source.timestamp == 0 || (core.ss.is_some() && source.duration == 0);
        if !has_cs
            && has_sr
            && has_no_time
            && let Some(span) = self.of(server.1)
        {
            span.shared = true;
        }
        self.message(core);
    }

    /// A client and its server: each its own times, and both a span even if they are one service.
    fn both(
        &mut self,
        core: &Core<'s, 'a>,
        client: (u64, Option<&'s Endpoint<'a>>),
        server: (u64, Option<&'s Endpoint<'a>>),
    ) {
        self.time(client, core.cr);
        let service = |end: Option<&'s Endpoint<'a>>| end.map(|end| &end.service_name);
        let is_loop = service(client.1) == service(server.1);
        if is_loop && let Some(span) = self.of(client.1) {
            span.kind = Kind::Client;
        }
        if core.cr.is_none()
            && self.source.duration == 0
            && let Some(span) = self.of(client.1)
        {
            span.duration = 0;
        }
        if let Some(span) = self.other(is_loop, server.1) {
            (span.kind, span.shared, span.timestamp) = (Kind::Server, true, server.0);
            span.duration = core.ss.map_or(0, |end| end.timestamp.saturating_sub(server.0));
        }
    }

    /// The times of the part that began so: the span's own, if it has both.
    fn time(&mut self, begin: (u64, Option<&Endpoint<'a>>), end: Option<&Event<'a>>) {
        let SpanV1 { timestamp, duration, .. } = *self.source;
        let Some(span) = self.of(begin.1) else { return };
        (span.timestamp, span.duration) = if timestamp > 0 && duration > 0 {
            (timestamp, duration)
        } else {
            (begin.0, end.map_or(0, |end| end.timestamp.saturating_sub(begin.0)))
        };
    }

    /// A call of which only one end is known, or nothing: what is known of its times.
    fn incomplete(&mut self, core: &Core<'s, 'a>) {
        for span in &mut self.spans {
            let (begin, end) = match span.kind {
                Kind::Client => (core.cs, core.cr),
                Kind::Server => (core.sr, core.ss),
                _ => (None, None),
            };
            if let Some(begin) = begin {
                span.timestamp = begin.timestamp;
            }
            if let Some(end) = end {
                span.annotations.push(Annotation { timestamp: end.timestamp, value: end.value.clone() });
            }
        }
        if self.source.timestamp > 0
            && let Some(span) = self.spans.first_mut()
        {
            (span.timestamp, span.duration) = (self.source.timestamp, self.source.duration);
        }
    }

    /// The times of who sent a message and of who had it.
    fn message(&mut self, core: &Core<'s, 'a>) {
        let begin = |event: &'s Event<'a>| (event.timestamp, event.endpoint.as_ref());
        match (core.ms, core.mr) {
            (None, None) => core.ws.into_iter().chain(core.wr).for_each(|event| self.annotate(event)),
            (Some(sent), None) => self.time(begin(sent), core.ws),
            (None, Some(received)) => match core.wr {
                Some(wire) => self.time((wire.timestamp, received.endpoint.as_ref()), Some(received)),
                None => self.time(begin(received), None),
            },
            (Some(sent), Some(received)) => {
                let consumer = core.wr.map_or(received.timestamp, |wire| wire.timestamp);
                let sent_for = core.ws.map_or(0, |wire| wire.timestamp.saturating_sub(sent.timestamp));
                if let Some(span) = self.of(sent.endpoint.as_ref()) {
                    (span.kind, span.timestamp, span.duration) = (Kind::Producer, sent.timestamp, sent_for);
                }
                let service = |event: &Event<'a>| event.endpoint.as_ref().map(|end| end.service_name.clone());
                let is_loop = service(sent) == service(received);
                if let Some(span) = self.other(is_loop, received.endpoint.as_ref()) {
                    (span.kind, span.timestamp) = (Kind::Consumer, consumer);
                    span.duration = received.timestamp.saturating_sub(consumer);
                }
            }
        }
    }

    /// Adds the tags to their parts; some are the address of the other end.
    fn tags(&mut self, core: &Core<'s, 'a>) {
        let (mut client, mut server, mut broker) = (None, None, None);
        for tag in &self.source.tags {
            let is_address = tag.value == Value::Bool(true) && tag.endpoint.is_some();
            match &*tag.key {
                b"ca" if is_address => client = tag.endpoint.as_ref(),
                b"sa" if is_address => server = tag.endpoint.as_ref(),
                b"ma" if is_address => broker = tag.endpoint.as_ref(),
                // It says only that the span is of this service alone.
                b"lc" if tag.value == Value::Text(Text::default()) => drop(self.of(tag.endpoint.as_ref())),
                _ => {
                    if let Some(span) = self.of(tag.endpoint.as_ref()) {
                        span.tags.push(Tag { key: tag.key.clone(), value: tag.value.clone() });
                    }
                }
            }
        }
        let end = |event: Option<&'s Event<'a>>| event.and_then(|event| event.endpoint.as_ref());
        let (of_client, of_server) = (end(core.cs.or(core.cr)), end(core.sr.or(core.ss)));
        match (client, server) {
            // Nobody says who this is but by saying who the other is.
            (Some(client), Some(server)) if of_client.is_none() && of_server.is_none() => {
                self.remote(Some(client), server.clone());
            }
            (None, Some(server)) if of_client.is_none() && of_server.is_none() => {
                self.remote(None, server.clone());
            }
            (Some(client), None) if of_client.is_none() && of_server.is_none() => {
                self.remote(None, client.clone());
                if let Some(span) = self.of(None) {
                    span.kind = Kind::Server;
                }
            }
            _ => {
                if let (Some(client), Some(own)) = (client, of_server)
                    && client != own
                {
                    let mut client = client.clone();
                    if client.service_name == own.service_name {
                        client.service_name = Text::default();
                    }
                    self.remote_of(Kind::Server, own, client);
                }
                if let (Some(server), Some(own)) = (server, of_client) {
                    self.remote_of(Kind::Client, own, server.clone());
                }
            }
        }
        for (kind, event) in [(Kind::Producer, core.ms), (Kind::Consumer, core.mr)] {
            if let (Some(broker), Some(own)) = (broker, end(event)) {
                self.remote_of(kind, own, broker.clone());
            }
        }
    }

    fn remote(&mut self, own: Option<&Endpoint<'a>>, other: Endpoint<'a>) {
        if let Some(span) = self.of(own) {
            span.remote = other;
        }
    }

    /// Of a service's two parts, where it called itself, the one of this kind.
    fn remote_of(&mut self, kind: Kind, own: &Endpoint<'a>, other: Endpoint<'a>) {
        let is_it = |span: &&mut Span<'_>| span.kind == kind && span.local.service_name == own.service_name;
        if let Some(span) = self.spans.iter_mut().find(is_it) {
            span.remote = other;
        }
    }
}
