//! What the paths of conditions mean: names to fields, and fields to values out of the bytes.

use watershed_ottl::{Key, Names, Value};
use watershed_telemetry::retain::{Element, Place};
use watershed_telemetry::view::{
    self, AnyValueView, Attributes, MetricData, MetricView, Number, PointView, SpanView,
};

/// What a list of conditions is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Span,
    SpanEvent,
    Metric,
    DataPoint,
    LogRecord,
}

/// A field, and what it is indexed with.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    field: Field,
    keys: Vec<Key>,
}

/// Paths, and the fields they mean.
type Table = &'static [(&'static str, Field)];

macro_rules! fields {
    ($($table:ident { $($name:literal $field:ident),* $(,)? })*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field { $($($field),*),* }

        $(const $table: Table = &[$(($name, Field::$field)),*];)*
    };
}

fields! {
    AROUND {
        "resource.attributes" ResourceAttributes, "resource.schema_url" ResourceSchemaUrl,
        "scope.name" ScopeName, "scope.version" ScopeVersion, "scope.attributes" ScopeAttributes,
        "scope.schema_url" ScopeSchemaUrl,
    }
    SPAN {
        "name" SpanName, "kind" SpanKind, "status.code" StatusCode, "status.message" StatusMessage,
        "attributes" SpanAttributes, "trace_state" TraceState, "start_time_unix_nano" SpanStart,
        "end_time_unix_nano" SpanEnd, "dropped_attributes_count" SpanDroppedAttributes,
    }
    SPAN_EVENT { "name" EventName, "attributes" EventAttributes, "time_unix_nano" EventTime }
    METRIC {
        "name" MetricName, "description" MetricDescription, "unit" MetricUnit, "type" MetricType,
        "aggregation_temporality" Temporality, "is_monotonic" IsMonotonic,
    }
    DATA_POINT {
        "attributes" PointAttributes, "value_int" ValueInt, "value_double" ValueDouble, "count" PointCount,
        "sum" PointSum, "flags" PointFlags, "start_time_unix_nano" PointStart, "time_unix_nano" PointTime,
    }
    LOG_RECORD {
        "severity_number" SeverityNumber, "severity_text" SeverityText, "body" Body, "attributes" LogAttributes,
        "event_name" LogEventName, "time_unix_nano" LogTime, "observed_time_unix_nano" LogObserved,
        "flags" LogFlags,
    }
}

impl Field {
    fn is_map(self) -> bool {
        use Field::{EventAttributes, LogAttributes, PointAttributes, ResourceAttributes, ScopeAttributes};
        matches!(self, ResourceAttributes | ScopeAttributes | Field::SpanAttributes)
            || matches!(self, EventAttributes | PointAttributes | LogAttributes)
    }
}

impl About {
    /// The element's own name and fields, and those of what it is a part of.
    fn tables(self) -> (&'static str, Table, Option<(&'static str, Table)>) {
        match self {
            Self::Span => ("span", SPAN, None),
            Self::SpanEvent => ("spanevent", SPAN_EVENT, Some(("span", SPAN))),
            Self::Metric => ("metric", METRIC, None),
            Self::DataPoint => ("datapoint", DATA_POINT, Some(("metric", METRIC))),
            Self::LogRecord => ("log", LOG_RECORD, None),
        }
    }

    fn field(self, name: &str) -> Option<Field> {
        let (own, fields, outer) = self.tables();
        let find = |fields: Table, name: &str| {
            fields.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
        };
        let under = |prefix: &str| name.strip_prefix(prefix)?.strip_prefix('.');
        if let Some((prefix, fields)) = outer
            && let Some(name) = under(prefix)
        {
            return find(fields, name);
        }
        let scope = under("instrumentation_scope").map(|name| format!("scope.{name}"));
        find(AROUND, scope.as_deref().unwrap_or(name)).or_else(|| find(fields, under(own).unwrap_or(name)))
    }

    /// All paths, for errors.
    fn known(self) -> String {
        let (_, fields, outer) = self.tables();
        let names = |fields: Table| fields.iter().map(|(name, _)| (*name).to_owned());
        let outer = outer.map(|(prefix, fields)| names(fields).map(move |name| format!("{prefix}.{name}")));
        let all = names(fields).chain(outer.into_iter().flatten()).chain(names(AROUND));
        all.collect::<Vec<_>>().join(", ")
    }
}

impl Names for About {
    type Path = Path;

    fn path(&self, name: &str, keys: &[Key]) -> Result<Path, String> {
        let field = self.field(name).ok_or_else(|| format!("known are {}", self.known()))?;
        match (keys, field.is_map()) {
            ([], true) | ([Key::Index(_), ..], true) => {
                return Err(format!("it is a map: write {name}[\"key\"]"));
            }
            ([_, ..], false) if field != Field::Body => return Err("it takes no key".to_owned()),
            _ => {}
        }
        Ok(Path { field, keys: keys.to_vec() })
    }

    fn constant(&self, name: &str) -> Option<i64> {
        let lists: [(&str, i64, &[&str]); 5] = [
            ("SPAN_KIND_", 0, &["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]),
            ("STATUS_CODE_", 0, &["UNSET", "OK", "ERROR"]),
            ("METRIC_DATA_TYPE_", 0, &METRIC_TYPES),
            ("AGGREGATION_TEMPORALITY_", 0, &["UNSPECIFIED", "DELTA", "CUMULATIVE"]),
            ("FLAG_", 0, &["NONE", "NO_RECORDED_VALUE"]),
        ];
        let plain = lists.iter().find_map(|(prefix, first, names)| {
            let name = name.strip_prefix(prefix)?;
            Some(first + names.iter().position(|known| *known == name)? as i64)
        });
        plain.or_else(|| severity(name.strip_prefix("SEVERITY_NUMBER_")?))
    }
}

const METRIC_TYPES: [&str; 6] = ["NONE", "GAUGE", "SUM", "HISTOGRAM", "EXPONENTIAL_HISTOGRAM", "SUMMARY"];

/// `INFO` is 9, `INFO2` is 10, and so on: four of each.
fn severity(name: &str) -> Option<i64> {
    const LEVELS: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];
    if name == "UNSPECIFIED" {
        return Some(0);
    }
    let level = name.trim_end_matches(['2', '3', '4']);
    let step = match name.strip_prefix(level)? {
        "" => 0,
        step => step.parse::<i64>().ok().filter(|step| *step <= 4)? - 1,
    };
    Some(4 * LEVELS.iter().position(|known| *known == level)? as i64 + 1 + step)
}

impl Path {
    /// The value of an element's field.
    pub(crate) fn value<'a>(&self, place: &Place<'a>, element: Element<'a>) -> Value<'a> {
        use Field::{
            ResourceAttributes, ResourceSchemaUrl, ScopeAttributes, ScopeName, ScopeSchemaUrl, ScopeVersion,
        };
        match self.field {
            ResourceAttributes => return self.attribute(place.group.resource().attributes()),
            ResourceSchemaUrl => return Value::Str(place.group.schema_url()),
            ScopeName => return Value::Str(place.scope.scope().name()),
            ScopeVersion => return Value::Str(place.scope.scope().version()),
            ScopeAttributes => return self.attribute(place.scope.scope().attributes()),
            ScopeSchemaUrl => return Value::Str(place.scope.schema_url()),
            _ => {}
        }
        match element {
            Element::Span(span) => self.of_span(span),
            Element::SpanEvent(span, event) => match self.field {
                Field::EventName => Value::Str(event.name()),
                Field::EventAttributes => self.attribute(event.attributes()),
                Field::EventTime => Value::Int(event.time_unix_nano() as i64),
                _ => self.of_span(span),
            },
            Element::Metric(metric) => self.of_metric(metric),
            Element::DataPoint(metric, point) => match self.field {
                Field::PointAttributes => self.attribute(point.attributes()),
                Field::PointFlags => Value::Int(point.flags().into()),
                Field::PointStart => Value::Int(point.start_time_unix_nano() as i64),
                Field::PointTime => Value::Int(point.time_unix_nano() as i64),
                Field::ValueInt | Field::ValueDouble | Field::PointCount | Field::PointSum => {
                    self.of_point(point)
                }
                _ => self.of_metric(metric),
            },
            Element::LogRecord(record) => match self.field {
                Field::SeverityNumber => Value::Int(record.severity_number().into()),
                Field::SeverityText => Value::Str(record.severity_text()),
                Field::Body => self.indexed(record.body(), &self.keys),
                Field::LogAttributes => self.attribute(record.attributes()),
                Field::LogEventName => Value::Str(record.event_name()),
                Field::LogTime => Value::Int(record.time_unix_nano() as i64),
                Field::LogObserved => Value::Int(record.observed_time_unix_nano() as i64),
                Field::LogFlags => Value::Int(record.flags().into()),
                _ => Value::Nil,
            },
        }
    }

    fn of_span<'a>(&self, span: SpanView<'a>) -> Value<'a> {
        match self.field {
            Field::SpanName => Value::Str(span.name()),
            Field::SpanKind => Value::Int(span.kind().into()),
            Field::StatusCode => Value::Int(span.status().code().into()),
            Field::StatusMessage => Value::Str(span.status().message()),
            Field::SpanAttributes => self.attribute(span.attributes()),
            Field::TraceState => Value::Str(span.trace_state()),
            Field::SpanStart => Value::Int(span.start_time_unix_nano() as i64),
            Field::SpanEnd => Value::Int(span.end_time_unix_nano() as i64),
            Field::SpanDroppedAttributes => Value::Int(span.dropped_attributes_count().into()),
            _ => Value::Nil,
        }
    }

    fn of_metric<'a>(&self, metric: MetricView<'a>) -> Value<'a> {
        let temporality = |temporality: i32| Value::Int(temporality.into());
        match (self.field, metric.data()) {
            (Field::MetricName, _) => Value::Str(metric.name()),
            (Field::MetricDescription, _) => Value::Str(metric.description()),
            (Field::MetricUnit, _) => Value::Str(metric.unit()),
            (Field::MetricType, data) => Value::Int(match data {
                None => 0,
                Some(MetricData::Gauge(_)) => 1,
                Some(MetricData::Sum(_)) => 2,
                Some(MetricData::Histogram(_)) => 3,
                Some(MetricData::ExponentialHistogram(_)) => 4,
                Some(MetricData::Summary(_)) => 5,
            }),
            (Field::IsMonotonic, Some(MetricData::Sum(sum))) => Value::Bool(sum.is_monotonic()),
            (Field::Temporality, Some(MetricData::Sum(sum))) => temporality(sum.aggregation_temporality()),
            (Field::Temporality, Some(MetricData::Histogram(data))) => {
                temporality(data.aggregation_temporality())
            }
            (Field::Temporality, Some(MetricData::ExponentialHistogram(data))) => {
                temporality(data.aggregation_temporality())
            }
            _ => Value::Nil,
        }
    }

    /// As in otelcol, a number of the other type reads as zero.
    fn of_point<'a>(&self, point: PointView<'a>) -> Value<'a> {
        use Field::{PointCount, PointSum, ValueDouble, ValueInt};
        match (self.field, point) {
            (ValueInt, PointView::Number(point)) => match point.value() {
                Some(Number::Int(value)) => Value::Int(value),
                _ => Value::Int(0),
            },
            (ValueDouble, PointView::Number(point)) => match point.value() {
                Some(Number::Double(value)) => Value::Double(value),
                _ => Value::Double(0.0),
            },
            (PointCount, PointView::Histogram(point)) => Value::Int(point.count() as i64),
            (PointCount, PointView::ExponentialHistogram(point)) => Value::Int(point.count() as i64),
            (PointCount, PointView::Summary(point)) => Value::Int(point.count() as i64),
            (PointSum, PointView::Histogram(point)) => Value::Double(point.sum().unwrap_or_default()),
            (PointSum, PointView::ExponentialHistogram(point)) => {
                Value::Double(point.sum().unwrap_or_default())
            }
            (PointSum, PointView::Summary(point)) => Value::Double(point.sum()),
            _ => Value::Nil,
        }
    }

    fn attribute<'a>(&self, attributes: Attributes<'a>) -> Value<'a> {
        match self.keys.split_first() {
            Some((Key::Name(key), rest)) => {
                attributes.find(key).map_or(Value::Nil, |value| self.indexed(value, rest))
            }
            _ => Value::Nil,
        }
    }

    fn indexed<'a>(&self, mut value: AnyValueView<'a>, keys: &[Key]) -> Value<'a> {
        for key in keys {
            let inner = match (value.value(), key) {
                (view::Value::KvList(map), Key::Name(key)) => map.find(key),
                (view::Value::Array(mut list), Key::Index(index)) => list.nth(*index),
                _ => None,
            };
            match inner {
                Some(inner) => value = inner,
                None => return Value::Nil,
            }
        }
        match value.value() {
            view::Value::Empty => Value::Nil,
            view::Value::Str(text) => Value::Str(text),
            view::Value::Bool(value) => Value::Bool(value),
            view::Value::Int(value) => Value::Int(value),
            view::Value::Double(value) => Value::Double(value),
            view::Value::Bytes(bytes) => Value::Bytes(bytes),
            view::Value::Array(_) => Value::Opaque("a list"),
            view::Value::KvList(_) => Value::Opaque("a map"),
        }
    }
}
