//! The OTLP messages as a table: the one place that knows field numbers, names and types.
//!
//! Source: `opentelemetry-proto`, `opentelemetry/proto/{collector,common,resource,trace,metrics,logs}/**.proto`.

use crate::Signal;
use crate::wire::WireType;

/// How a number field is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Number {
    Bool,
    /// Open: any `int32`.
    Enum,
    Int32,
    Uint32,
    /// ZigZag on the wire.
    Sint32,
    Int64,
    Uint64,
    Double,
}

/// What a field holds, and so what must be true of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// Not in the schema.
    Unknown,
    Varint(Number),
    Fixed64(Number),
    /// `fixed32`.
    Fixed32,
    /// Must be UTF-8.
    Text,
    /// Repeated text.
    Texts,
    Bytes,
    /// 16 bytes, or none.
    TraceId,
    /// 8 bytes, or none.
    SpanId,
    /// Repeated; packed or not.
    PackedFixed64(Number),
    /// Repeated; packed or not.
    PackedVarint(Number),
    /// A singular message: several occurrences merge.
    Message(Kind),
    /// A repeated message.
    Messages(Kind),
    /// Repeated `KeyValue`: the attributes of this message.
    Attributes,
    /// A repeated message on the way to the items.
    List(Kind),
    /// An arm of the oneof on the way to the items: a later arm supersedes an earlier one of another kind.
    Arm(Kind),
    /// A repeated message that counts: span, data point, log record.
    Item(Kind),
}

impl Rule {
    /// The wire type that writers use.
    const fn wire_type(self) -> WireType {
        match self {
            Rule::Varint(_) => WireType::Varint,
            Rule::Fixed64(_) => WireType::Fixed64,
            Rule::Fixed32 => WireType::Fixed32,
            _ => WireType::Bytes,
        }
    }

    /// The rule for one value where a packed field comes unpacked.
    const fn unpacked(self) -> Rule {
        match self {
            Rule::PackedFixed64(number) => Rule::Fixed64(number),
            Rule::PackedVarint(number) => Rule::Varint(number),
            rule => rule,
        }
    }

    /// The rule under which a field of this wire type is read, if it may be.
    pub(crate) fn under(self, wire_type: WireType) -> Option<Rule> {
        [self, self.unpacked()].into_iter().find(|rule| rule.wire_type() == wire_type)
    }

    /// The kind of message the field holds.
    pub(crate) const fn kind(self) -> Option<Kind> {
        match self {
            Rule::Message(kind) | Rule::Messages(kind) => Some(kind),
            Rule::List(kind) | Rule::Arm(kind) | Rule::Item(kind) => Some(kind),
            Rule::Attributes => Some(Kind::KeyValue),
            _ => None,
        }
    }

    /// Whether an index belongs into the path of such a field.
    pub(crate) const fn is_repeated_message(self) -> bool {
        matches!(self, Rule::Messages(_) | Rule::Attributes | Rule::List(_) | Rule::Item(_))
    }
}

/// What the absence of a field says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// The default value: zero, empty, none.
    Implicit,
    /// Something else than the default value.
    Optional,
    /// As [`Optional`](Self::Optional), and at most one such field of a message is there.
    OneOf,
}

impl Presence {
    /// Where the table says nothing else.
    const fn of(rule: Rule) -> Presence {
        match rule {
            Rule::Message(_) => Presence::Optional,
            Rule::Arm(_) => Presence::OneOf,
            _ => Presence::Implicit,
        }
    }
}

/// One field of a kind of message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldShape {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    /// The name as a key in JSON, `"lowerCamelCase":`.
    pub(crate) key: &'static str,
    pub(crate) presence: Presence,
    pub(crate) rule: Rule,
}

impl FieldShape {
    /// The name in JSON.
    pub(crate) fn json_name(&self) -> &'static str {
        self.key.get(1..self.key.len() - 2).unwrap_or_default()
    }
}

/// The length of [`json_key`].
const fn json_key_len(name: &str) -> usize {
    let (name, mut len, mut at) = (name.as_bytes(), "\"\":".len(), 0);
    while at < name.len() {
        len += (name[at] != b'_') as usize;
        at += 1;
    }
    len
}

/// `"lowerCamelCase":` of a name in `snake_case`.
const fn json_key<const LEN: usize>(name: &str) -> [u8; LEN] {
    let (name, mut key, mut len, mut at) = (name.as_bytes(), [b'"'; LEN], 1, 0);
    while at < name.len() {
        if name[at] == b'_' {
            at += 1;
            key[len] = name[at].to_ascii_uppercase();
        } else {
            key[len] = name[at];
        }
        len += 1;
        at += 1;
    }
    key[LEN - 1] = b':';
    key
}

macro_rules! schema {
    (@presence $rule:expr,) => { Presence::of($rule) };
    (@presence $rule:expr, $presence:ident) => { Presence::$presence };
    (@key $name:expr) => {{
        const KEY: [u8; json_key_len($name)] = json_key($name);
        match std::str::from_utf8(&KEY) {
            Ok(key) => key,
            Err(_) => "",
        }
    }};
    ($($kind:ident { $($number:literal $name:ident $(: $presence:ident)? $rule:expr),* $(,)? })*) => {
        /// A kind of message.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(crate) enum Kind { $($kind),* }

        impl Kind {
            const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The fields, ascending by number.
            pub(crate) const fn fields(self) -> &'static [FieldShape] {
                use {Kind::*, Number::{Bool, Double, Enum, Int32, Int64, Sint32, Uint32, Uint64}};
                use Rule::{Message, Messages, Arm, Attributes, Bytes, Fixed32, Fixed64, Item, List};
                use Rule::{PackedFixed64, PackedVarint, SpanId, Text, Texts, TraceId, Varint};
                match self {
                    $($kind => const { &[
                        $(FieldShape {
                            number: $number,
                            name: stringify!($name),
                            key: schema!(@key stringify!($name)),
                            presence: schema!(@presence $rule, $($presence)?),
                            rule: $rule,
                        }),*
                    ] },)*
                }
            }
        }
    };
}

schema! {
    TracesRequest { 1 resource_spans List(ResourceSpans) }
    ResourceSpans { 1 resource Message(Resource), 2 scope_spans List(ScopeSpans), 3 schema_url Text }
    ScopeSpans { 1 scope Message(Scope), 2 spans Item(Span), 3 schema_url Text }

    MetricsRequest { 1 resource_metrics List(ResourceMetrics) }
    ResourceMetrics { 1 resource Message(Resource), 2 scope_metrics List(ScopeMetrics), 3 schema_url Text }
    ScopeMetrics { 1 scope Message(Scope), 2 metrics List(Metric), 3 schema_url Text }

    LogsRequest { 1 resource_logs List(ResourceLogs) }
    ResourceLogs { 1 resource Message(Resource), 2 scope_logs List(ScopeLogs), 3 schema_url Text }
    ScopeLogs { 1 scope Message(Scope), 2 log_records Item(LogRecord), 3 schema_url Text }

    Resource {
        1 attributes Attributes, 2 dropped_attributes_count Varint(Uint32), 3 entity_refs Messages(EntityRef),
    }
    EntityRef { 1 schema_url Text, 2 type Text, 3 id_keys Texts, 4 description_keys Texts }
    Scope { 1 name Text, 2 version Text, 3 attributes Attributes, 4 dropped_attributes_count Varint(Uint32) }
    KeyValue { 1 key Text, 2 value Message(AnyValue), 3 key_strindex Varint(Int32) }
    AnyValue {
        1 string_value: OneOf Text, 2 bool_value: OneOf Varint(Bool), 3 int_value: OneOf Varint(Int64),
        4 double_value: OneOf Fixed64(Double), 5 array_value: OneOf Message(ArrayValue),
        6 kvlist_value: OneOf Message(KeyValueList), 7 bytes_value: OneOf Bytes,
        8 string_value_strindex: OneOf Varint(Int32),
    }
    ArrayValue { 1 values Messages(AnyValue) }
    KeyValueList { 1 values Messages(KeyValue) }

    Span {
        1 trace_id TraceId, 2 span_id SpanId, 3 trace_state Text, 4 parent_span_id SpanId, 5 name Text,
        6 kind Varint(Enum), 7 start_time_unix_nano Fixed64(Uint64), 8 end_time_unix_nano Fixed64(Uint64),
        9 attributes Attributes, 10 dropped_attributes_count Varint(Uint32), 11 events Messages(Event),
        12 dropped_events_count Varint(Uint32), 13 links Messages(Link),
        14 dropped_links_count Varint(Uint32), 15 status Message(Status), 16 flags Fixed32,
    }
    Event {
        1 time_unix_nano Fixed64(Uint64), 2 name Text, 3 attributes Attributes,
        4 dropped_attributes_count Varint(Uint32),
    }
    Link {
        1 trace_id TraceId, 2 span_id SpanId, 3 trace_state Text, 4 attributes Attributes,
        5 dropped_attributes_count Varint(Uint32), 6 flags Fixed32,
    }
    Status { 2 message Text, 3 code Varint(Enum) }

    LogRecord {
        1 time_unix_nano Fixed64(Uint64), 2 severity_number Varint(Enum), 3 severity_text Text,
        5 body Message(AnyValue), 6 attributes Attributes, 7 dropped_attributes_count Varint(Uint32),
        8 flags Fixed32, 9 trace_id TraceId, 10 span_id SpanId, 11 observed_time_unix_nano Fixed64(Uint64),
        12 event_name Text,
    }

    Metric {
        1 name Text, 2 description Text, 3 unit Text, 5 gauge Arm(Gauge), 7 sum Arm(Sum),
        9 histogram Arm(Histogram), 10 exponential_histogram Arm(ExponentialHistogram),
        11 summary Arm(Summary), 12 metadata Messages(KeyValue),
    }
    Gauge { 1 data_points Item(NumberDataPoint) }
    Sum {
        1 data_points Item(NumberDataPoint), 2 aggregation_temporality Varint(Enum),
        3 is_monotonic Varint(Bool),
    }
    Histogram { 1 data_points Item(HistogramDataPoint), 2 aggregation_temporality Varint(Enum) }
    ExponentialHistogram {
        1 data_points Item(ExponentialHistogramDataPoint), 2 aggregation_temporality Varint(Enum),
    }
    Summary { 1 data_points Item(SummaryDataPoint) }

    NumberDataPoint {
        2 start_time_unix_nano Fixed64(Uint64), 3 time_unix_nano Fixed64(Uint64),
        4 as_double: OneOf Fixed64(Double), 5 exemplars Messages(Exemplar), 6 as_int: OneOf Fixed64(Int64),
        7 attributes Attributes, 8 flags Varint(Uint32),
    }
    HistogramDataPoint {
        2 start_time_unix_nano Fixed64(Uint64), 3 time_unix_nano Fixed64(Uint64), 4 count Fixed64(Uint64),
        5 sum: Optional Fixed64(Double), 6 bucket_counts PackedFixed64(Uint64),
        7 explicit_bounds PackedFixed64(Double), 8 exemplars Messages(Exemplar), 9 attributes Attributes,
        10 flags Varint(Uint32), 11 min: Optional Fixed64(Double), 12 max: Optional Fixed64(Double),
    }
    ExponentialHistogramDataPoint {
        1 attributes Attributes, 2 start_time_unix_nano Fixed64(Uint64), 3 time_unix_nano Fixed64(Uint64),
        4 count Fixed64(Uint64), 5 sum: Optional Fixed64(Double), 6 scale Varint(Sint32),
        7 zero_count Fixed64(Uint64), 8 positive Message(Buckets), 9 negative Message(Buckets),
        10 flags Varint(Uint32), 11 exemplars Messages(Exemplar), 12 min: Optional Fixed64(Double),
        13 max: Optional Fixed64(Double), 14 zero_threshold Fixed64(Double),
    }
    Buckets { 1 offset Varint(Sint32), 2 bucket_counts PackedVarint(Uint64) }
    SummaryDataPoint {
        2 start_time_unix_nano Fixed64(Uint64), 3 time_unix_nano Fixed64(Uint64), 4 count Fixed64(Uint64),
        5 sum Fixed64(Double), 6 quantile_values Messages(ValueAtQuantile), 7 attributes Attributes,
        8 flags Varint(Uint32),
    }
    ValueAtQuantile { 1 quantile Fixed64(Double), 2 value Fixed64(Double) }
    Exemplar {
        2 time_unix_nano Fixed64(Uint64), 3 as_double: OneOf Fixed64(Double), 4 span_id SpanId,
        5 trace_id TraceId, 6 as_int: OneOf Fixed64(Int64), 7 filtered_attributes Messages(KeyValue),
    }
}

impl Kind {
    /// The `Export*ServiceRequest` of a signal.
    pub(crate) const fn request(signal: Signal) -> Kind {
        match signal {
            Signal::Traces => Kind::TracesRequest,
            Signal::Metrics => Kind::MetricsRequest,
            Signal::Logs => Kind::LogsRequest,
        }
    }

    /// The field of that number.
    pub(crate) fn field(self, number: u32) -> Option<&'static FieldShape> {
        FIELDS[self as usize].get(number as usize).copied().flatten()
    }

    /// The rule for a field number; [`Rule::Unknown`] where there is none.
    pub(crate) fn rule(self, number: u32) -> Rule {
        self.field(number).map_or(Rule::Unknown, |field| field.rule)
    }

    /// The field that leads to the items, and what it holds. `None` for items, for messages beside the way, and
    /// for `Metric`, whose way is its live arm.
    pub(crate) fn list(self) -> Option<FieldShape> {
        self.fields().iter().copied().find(|field| matches!(field.rule, Rule::List(_) | Rule::Item(_)))
    }

    /// The number of the field that holds this message's attributes.
    pub(crate) fn attributes(self) -> Option<u32> {
        self.fields().iter().find(|field| field.rule == Rule::Attributes).map(|field| field.number)
    }

    /// The rules by first byte of a field. A byte that is no whole tag, or the tag of no known field under its
    /// wire type, is [`Rule::Unknown`]: the slow path decides.
    #[inline]
    pub(crate) fn rules(self) -> &'static [Rule; 256] {
        &RULES[self as usize]
    }
}

/// The largest field number.
const MAX_NUMBER: usize = 16;

/// The fields by number.
static FIELDS: [[Option<&FieldShape>; MAX_NUMBER + 1]; Kind::ALL.len()] = {
    let mut tables = [[None; MAX_NUMBER + 1]; Kind::ALL.len()];
    let mut kind = 0;
    while kind < tables.len() {
        let fields = Kind::ALL[kind].fields();
        let mut field = 0;
        while field < fields.len() {
            tables[kind][fields[field].number as usize] = Some(&fields[field]);
            field += 1;
        }
        kind += 1;
    }
    tables
};

/// A table a kind: the tag's lookup, the field's lookup and the wire type's check in one load.
static RULES: [[Rule; 256]; Kind::ALL.len()] = {
    let mut tables = [[Rule::Unknown; 256]; Kind::ALL.len()];
    let mut kind = 0;
    while kind < tables.len() {
        let fields = Kind::ALL[kind].fields();
        let mut field = 0;
        while field < fields.len() {
            let FieldShape { number, rule, .. } = fields[field];
            // Field numbers above 15 take two bytes.
            if number < 16 {
                let tag = (number as usize) << 3;
                let unpacked = rule.unpacked();
                tables[kind][tag | unpacked.wire_type() as usize] = unpacked;
                tables[kind][tag | rule.wire_type() as usize] = rule;
            }
            field += 1;
        }
        kind += 1;
    }
    tables
};
