//! The OTLP messages as a table: the one place that knows field numbers, names and types.
//!
//! Source: `opentelemetry-proto`, `opentelemetry/proto/{collector,common,resource,trace,metrics,logs}/**.proto`.

use crate::Signal;
use crate::wire::WireType;

/// What a field holds, and so what must be true of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// Not in the schema.
    Unknown,
    Varint,
    Fixed64,
    Fixed32,
    /// Must be UTF-8.
    Text,
    Bytes,
    /// 16 bytes, or none.
    TraceId,
    /// 8 bytes, or none.
    SpanId,
    /// Repeated; packed or not.
    PackedFixed64,
    /// Repeated; packed or not.
    PackedVarint,
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
            Rule::Varint => WireType::Varint,
            Rule::Fixed64 => WireType::Fixed64,
            Rule::Fixed32 => WireType::Fixed32,
            _ => WireType::Bytes,
        }
    }

    /// The rule for one value where a packed field comes unpacked.
    const fn unpacked(self) -> Rule {
        match self {
            Rule::PackedFixed64 => Rule::Fixed64,
            Rule::PackedVarint => Rule::Varint,
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

/// One field of a kind of message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldShape {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) rule: Rule,
}

macro_rules! schema {
    ($($kind:ident { $($number:literal $name:ident $rule:expr),* $(,)? })*) => {
        /// A kind of message.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(crate) enum Kind { $($kind),* }

        impl Kind {
            const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The fields, ascending by number.
            pub(crate) const fn fields(self) -> &'static [FieldShape] {
                use {Kind::*, Rule::{Message, Messages, Arm, Attributes, Bytes, Fixed32, Fixed64, Item, List}};
                use Rule::{PackedFixed64, PackedVarint, SpanId, Text, TraceId, Varint};
                match self {
                    $($kind => &[
                        $(FieldShape { number: $number, name: stringify!($name), rule: $rule }),*
                    ],)*
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

    Resource { 1 attributes Attributes, 2 dropped_attributes_count Varint, 3 entity_refs Messages(EntityRef) }
    EntityRef { 1 schema_url Text, 2 type Text, 3 id_keys Text, 4 description_keys Text }
    Scope { 1 name Text, 2 version Text, 3 attributes Attributes, 4 dropped_attributes_count Varint }
    KeyValue { 1 key Text, 2 value Message(AnyValue), 3 key_strindex Varint }
    AnyValue {
        1 string_value Text, 2 bool_value Varint, 3 int_value Varint, 4 double_value Fixed64,
        5 array_value Message(ArrayValue), 6 kvlist_value Message(KeyValueList), 7 bytes_value Bytes,
        8 string_value_strindex Varint,
    }
    ArrayValue { 1 values Messages(AnyValue) }
    KeyValueList { 1 values Messages(KeyValue) }

    Span {
        1 trace_id TraceId, 2 span_id SpanId, 3 trace_state Text, 4 parent_span_id SpanId, 5 name Text,
        6 kind Varint, 7 start_time_unix_nano Fixed64, 8 end_time_unix_nano Fixed64, 9 attributes Attributes,
        10 dropped_attributes_count Varint, 11 events Messages(Event), 12 dropped_events_count Varint,
        13 links Messages(Link), 14 dropped_links_count Varint, 15 status Message(Status), 16 flags Fixed32,
    }
    Event { 1 time_unix_nano Fixed64, 2 name Text, 3 attributes Attributes, 4 dropped_attributes_count Varint }
    Link {
        1 trace_id TraceId, 2 span_id SpanId, 3 trace_state Text, 4 attributes Attributes,
        5 dropped_attributes_count Varint, 6 flags Fixed32,
    }
    Status { 2 message Text, 3 code Varint }

    LogRecord {
        1 time_unix_nano Fixed64, 2 severity_number Varint, 3 severity_text Text, 5 body Message(AnyValue),
        6 attributes Attributes, 7 dropped_attributes_count Varint, 8 flags Fixed32, 9 trace_id TraceId,
        10 span_id SpanId, 11 observed_time_unix_nano Fixed64, 12 event_name Text,
    }

    Metric {
        1 name Text, 2 description Text, 3 unit Text, 5 gauge Arm(Gauge), 7 sum Arm(Sum),
        9 histogram Arm(Histogram), 10 exponential_histogram Arm(ExponentialHistogram), 11 summary Arm(Summary),
        12 metadata Messages(KeyValue),
    }
    Gauge { 1 data_points Item(NumberDataPoint) }
    Sum { 1 data_points Item(NumberDataPoint), 2 aggregation_temporality Varint, 3 is_monotonic Varint }
    Histogram { 1 data_points Item(HistogramDataPoint), 2 aggregation_temporality Varint }
    ExponentialHistogram { 1 data_points Item(ExponentialHistogramDataPoint), 2 aggregation_temporality Varint }
    Summary { 1 data_points Item(SummaryDataPoint) }

    NumberDataPoint {
        2 start_time_unix_nano Fixed64, 3 time_unix_nano Fixed64, 4 as_double Fixed64,
        5 exemplars Messages(Exemplar), 6 as_int Fixed64, 7 attributes Attributes, 8 flags Varint,
    }
    HistogramDataPoint {
        2 start_time_unix_nano Fixed64, 3 time_unix_nano Fixed64, 4 count Fixed64, 5 sum Fixed64,
        6 bucket_counts PackedFixed64, 7 explicit_bounds PackedFixed64, 8 exemplars Messages(Exemplar),
        9 attributes Attributes, 10 flags Varint, 11 min Fixed64, 12 max Fixed64,
    }
    ExponentialHistogramDataPoint {
        1 attributes Attributes, 2 start_time_unix_nano Fixed64, 3 time_unix_nano Fixed64, 4 count Fixed64,
        5 sum Fixed64, 6 scale Varint, 7 zero_count Fixed64, 8 positive Message(Buckets),
        9 negative Message(Buckets), 10 flags Varint, 11 exemplars Messages(Exemplar), 12 min Fixed64,
        13 max Fixed64, 14 zero_threshold Fixed64,
    }
    Buckets { 1 offset Varint, 2 bucket_counts PackedVarint }
    SummaryDataPoint {
        2 start_time_unix_nano Fixed64, 3 time_unix_nano Fixed64, 4 count Fixed64, 5 sum Fixed64,
        6 quantile_values Messages(ValueAtQuantile), 7 attributes Attributes, 8 flags Varint,
    }
    ValueAtQuantile { 1 quantile Fixed64, 2 value Fixed64 }
    Exemplar {
        2 time_unix_nano Fixed64, 3 as_double Fixed64, 4 span_id SpanId, 5 trace_id TraceId, 6 as_int Fixed64,
        7 filtered_attributes Messages(KeyValue),
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
        self.fields().iter().find(|field| field.number == number)
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
