//! Spans (`trace.proto`).

use crate::message::{Message, Occurrences};
use crate::view::{Attributes, Repeated};
use crate::wire::Value;

view! {
    /// A span (`Span`).
    SpanView {
        /// 16 bytes, or empty if absent.
        trace_id: &'a [u8] = bytes(1);
        /// 8 bytes, or empty if absent.
        span_id: &'a [u8] = bytes(2);
        /// W3C `tracestate`.
        trace_state: &'a str = text(3);
        /// 8 bytes, or empty for a root span.
        parent_span_id: &'a [u8] = bytes(4);
        /// The operation's name.
        name: &'a str = text(5);
        /// `SpanKind`: 0 unspecified, 1 internal, 2 server, 3 client, 4 producer, 5 consumer. Open.
        kind: i32 = int32(6);
        /// Nanoseconds since the Unix epoch.
        start_time_unix_nano: u64 = fixed64(7);
        /// Nanoseconds since the Unix epoch.
        end_time_unix_nano: u64 = fixed64(8);
        /// The span's attributes.
        attributes: Attributes<'a> = attributes(9);
        /// How many attributes the sender left out.
        dropped_attributes_count: u32 = uint32(10);
        /// The span's events.
        events: Repeated<'a, EventView<'a>> = list(11);
        /// How many events the sender left out.
        dropped_events_count: u32 = uint32(12);
        /// The span's links.
        links: Repeated<'a, LinkView<'a>> = list(13);
        /// How many links the sender left out.
        dropped_links_count: u32 = uint32(14);
        /// The outcome; unset if absent.
        status: StatusView<'a> = child(15);
        /// Bits 0-7 W3C trace flags, 0x100 "remote is known", 0x200 "remote".
        flags: u32 = fixed32(16);
    }
}

/// What is decided by, of a span: read together, since each getter walks over the whole span.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanOutline<'a> {
    /// 16 bytes, or empty if absent.
    pub trace_id: &'a [u8],
    /// 8 bytes, or empty for a root span.
    pub parent_span_id: &'a [u8],
    /// Nanoseconds since the Unix epoch.
    pub start_time_unix_nano: u64,
    /// Nanoseconds since the Unix epoch.
    pub end_time_unix_nano: u64,
    /// The outcome; unset if absent.
    pub status: StatusView<'a>,
}

/// All of a span but its lists, for who writes it in another form.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanFields<'a> {
    /// What is most often asked of it.
    pub outline: SpanOutline<'a>,
    /// 8 bytes, or empty if absent.
    pub span_id: &'a [u8],
    /// W3C `tracestate`.
    pub trace_state: &'a str,
    /// The operation's name.
    pub name: &'a str,
    /// As [`SpanView::kind`].
    pub kind: i32,
    /// As [`SpanView::flags`].
    pub flags: u32,
    /// How many attributes, events and links the sender left out.
    pub dropped: [u32; 3],
    /// Whether there are events.
    pub has_events: bool,
    /// Whether there are links.
    pub has_links: bool,
}

impl<'a> SpanView<'a> {
    /// Reads all but the lists in one walk.
    pub fn fields(&self) -> SpanFields<'a> {
        let mut fields = SpanFields::default();
        let mut status = Occurrences::default();
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        // All but the attributes.
        const WANTED: u64 = (1 << 17) - 2 - (1 << 9);
        self.0.walk(WANTED, |number, value| match (number, value) {
            (1, Value::Bytes(id)) => fields.outline.trace_id = id,
            (2, Value::Bytes(id)) => fields.span_id = id,
            (3, Value::Bytes(state)) => fields.trace_state = text(state),
            (4, Value::Bytes(id)) => fields.outline.parent_span_id = id,
            (5, Value::Bytes(name)) => fields.name = text(name),
            (6, Value::Varint(kind)) => fields.kind = kind as i32,
            (7, Value::Fixed64(time)) => fields.outline.start_time_unix_nano = time,
            (8, Value::Fixed64(time)) => fields.outline.end_time_unix_nano = time,
            (10, Value::Varint(count)) => fields.dropped[0] = count as u32,
            (11, Value::Bytes(_)) => fields.has_events = true,
            (12, Value::Varint(count)) => fields.dropped[1] = count as u32,
            (13, Value::Bytes(_)) => fields.has_links = true,
            (14, Value::Varint(count)) => fields.dropped[2] = count as u32,
            (15, value) => status.push(value),
            (16, Value::Fixed32(flags)) => fields.flags = flags,
            _ => {}
        });
        fields.outline.status = self.0.merge(15, status).into();
        fields
    }

    /// Reads what is most often asked of a span in one walk.
    pub fn outline(&self) -> SpanOutline<'a> {
        let mut outline = SpanOutline::default();
        let mut status = Occurrences::default();
        const WANTED: u64 = 1 << 1 | 1 << 4 | 1 << 7 | 1 << 8 | 1 << 15;
        // Where a field begins is known when the length before it is read. Of ids it is known before: that is guessed
        // right, and saves the wait.
        let mut rest = self.0;
        if let Some(id) = rest.strip_id::<16>(1) {
            outline.trace_id = id;
        }
        rest.strip_id::<8>(2);
        if let Some(id) = rest.strip_id::<8>(4) {
            outline.parent_span_id = id;
        }
        rest.walk(WANTED, |number, value| match (number, value) {
            (1, Value::Bytes(id)) => outline.trace_id = id,
            (4, Value::Bytes(id)) => outline.parent_span_id = id,
            (7, Value::Fixed64(time)) => outline.start_time_unix_nano = time,
            (8, Value::Fixed64(time)) => outline.end_time_unix_nano = time,
            (15, value) => status.push(value),
            _ => {}
        });
        outline.status = self.0.merge(15, status).into();
        outline
    }
}

impl SpanOutline<'_> {
    /// From start to end in nanoseconds; 0 where the end comes first.
    pub fn duration(&self) -> u64 {
        self.end_time_unix_nano.saturating_sub(self.start_time_unix_nano)
    }
}

view! {
    /// Something that happened during a span (`Span.Event`).
    EventView {
        /// Nanoseconds since the Unix epoch.
        time_unix_nano: u64 = fixed64(1);
        /// The event's name.
        name: &'a str = text(2);
        /// The event's attributes.
        attributes: Attributes<'a> = attributes(3);
        /// How many attributes the sender left out.
        dropped_attributes_count: u32 = uint32(4);
    }
}

view! {
    /// A pointer to another span (`Span.Link`).
    LinkView {
        /// 16 bytes, or empty if absent.
        trace_id: &'a [u8] = bytes(1);
        /// 8 bytes, or empty if absent.
        span_id: &'a [u8] = bytes(2);
        /// W3C `tracestate`.
        trace_state: &'a str = text(3);
        /// The link's attributes.
        attributes: Attributes<'a> = attributes(4);
        /// How many attributes the sender left out.
        dropped_attributes_count: u32 = uint32(5);
        /// As the span's.
        flags: u32 = fixed32(6);
    }
}

view! {
    /// The outcome of a span (`Status`).
    StatusView {
        /// For developers.
        message: &'a str = text(2);
        /// `StatusCode`: 0 unset, 1 ok, 2 error. Open.
        code: i32 = int32(3);
    }
}
