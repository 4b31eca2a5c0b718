//! A writer of OTLP/JSON that shares nothing with ours: from prost's structs, and in every spelling that is allowed.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, EntityRef, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint,
    exemplar, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

use crate::oracle::Request;

/// A field of an object, and whether it may be left out.
type Member = (&'static str, String, bool);

/// Writes, and makes its choices from the bytes it is given.
pub struct Speller<'c>(pub &'c mut dyn Iterator<Item = u8>);

impl Speller<'_> {
    fn choose(&mut self, below: u8) -> u8 {
        self.0.next().unwrap_or_default() % below
    }

    fn space(&mut self) -> &'static str {
        ["", "", "", " ", "\n", "\r\n\t"][usize::from(self.choose(6))]
    }

    /// In any order, with members that say nothing and members that nobody knows.
    fn object(&mut self, members: Vec<Member>) -> String {
        let mut texts = Vec::new();
        for (name, value, default) in members {
            match self.choose(4) {
                0 | 1 if default => {}
                2 if default => texts.push(format!("{}:null", self.key(name))),
                _ => texts.push(format!("{}{}:{}{value}", self.key(name), self.space(), self.space())),
            }
        }
        match self.choose(12) {
            0 => texts.push(r#""unknown":[{"a":[1.5e3,{}],"b":"\"}\ud83d\ude80"},[],true]"#.to_owned()),
            1 => texts.push(r#""traceID":0,"":null,"\u0000":{"name":{"name":-0}}"#.to_owned()),
            _ => {}
        }
        if texts.len() > 1 {
            let (a, b) = (self.choose(255), self.choose(255));
            let len = texts.len();
            texts.swap(usize::from(a) % len, usize::from(b) % len);
        }
        let separator = format!("{},{}", self.space(), self.space());
        format!("{{{}{}}}", self.space(), texts.join(&separator))
    }

    fn key(&mut self, name: &str) -> String {
        match self.choose(12) {
            0 => escaped(name),
            1 => format!("\"{}\"", snake_case(name)),
            _ => format!("\"{name}\""),
        }
    }

    fn list<T>(&mut self, name: &'static str, items: &[T], each: impl Fn(&mut Self, &T) -> String) -> Member {
        let texts: Vec<String> = items.iter().map(|item| each(self, item)).collect();
        (name, format!("[{}{}]", self.space(), texts.join(",")), items.is_empty())
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        value: Option<&T>,
        each: impl Fn(&mut Self, &T) -> String,
    ) -> Member {
        match value {
            Some(value) => (name, each(self, value), false),
            None => (name, "null".to_owned(), true),
        }
    }

    fn string(&mut self, text: &str) -> String {
        match self.choose(6) {
            0 => escaped(text),
            _ => serde_json::to_string(text).unwrap(),
        }
    }

    fn text(&mut self, name: &'static str, text: &str) -> Member {
        (name, self.string(text), text.is_empty())
    }

    fn id(&mut self, name: &'static str, id: &[u8]) -> Member {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = if self.choose(2) == 0 { hex.to_uppercase() } else { hex };
        (name, self.string(&hex), id.is_empty())
    }

    fn base64(&mut self, bytes: &[u8]) -> String {
        let engine = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD][usize::from(self.choose(4))];
        let text = engine.encode(bytes);
        self.string(&text)
    }

    /// Any integer.
    fn whole(&mut self, value: i128) -> String {
        let value = match self.choose(8) {
            0 => format!("{value}.0"),
            1 if value != 0 => format!("{value}00.00e-2"),
            2 if value % 10 == 0 => format!("{}E+1", value / 10),
            _ => value.to_string(),
        };
        if self.choose(2) == 0 { format!("\"{value}\"") } else { value }
    }

    fn integer(&mut self, name: &'static str, value: impl Into<i128>) -> Member {
        let value = value.into();
        (name, self.whole(value), value == 0)
    }

    fn enumeration(&mut self, name: &'static str, value: i32) -> Member {
        let text = self.whole(value.into());
        (name, text.trim_matches('"').to_owned(), value == 0)
    }

    fn double(&mut self, value: f64) -> String {
        if value.is_nan() {
            return "\"NaN\"".to_owned();
        }
        if value.is_infinite() {
            return if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" }.to_owned();
        }
        match self.choose(4) {
            0 => format!("{value}"),
            1 => format!("{value:e}"),
            2 => format!("\"{value:e}\""),
            _ => serde_json::to_string(&value).unwrap(),
        }
    }

    fn attributes(&mut self, name: &'static str, attributes: &[KeyValue]) -> Member {
        self.list(name, attributes, |speller, attribute| {
            let members = vec![
                speller.text("key", &attribute.key),
                speller.optional("value", attribute.value.as_ref(), Self::any_value),
                speller.integer("keyStrindex", attribute.key_strindex),
            ];
            speller.object(members)
        })
    }

    fn any_value(&mut self, value: &AnyValue) -> String {
        let member = match &value.value {
            None => return self.object(Vec::new()),
            Some(Value::StringValue(text)) => ("stringValue", self.string(text)),
            Some(Value::BoolValue(value)) => ("boolValue", value.to_string()),
            Some(Value::IntValue(value)) => ("intValue", self.whole((*value).into())),
            Some(Value::DoubleValue(value)) => ("doubleValue", self.double(*value)),
            Some(Value::BytesValue(bytes)) => ("bytesValue", self.base64(bytes)),
            Some(Value::StringValueStrindex(value)) => ("stringValueStrindex", self.whole((*value).into())),
            Some(Value::ArrayValue(array)) => {
                let values = self.list("values", &array.values, Self::any_value);
                ("arrayValue", self.object(vec![values]))
            }
            Some(Value::KvlistValue(list)) => {
                let values = self.attributes("values", &list.values);
                ("kvlistValue", self.object(vec![values]))
            }
        };
        self.object(vec![(member.0, member.1, false), ("boolValue", "null".to_owned(), true)])
    }

    fn resource(&mut self, resource: &Resource) -> String {
        let members = vec![
            self.attributes("attributes", &resource.attributes),
            self.integer("droppedAttributesCount", resource.dropped_attributes_count),
            self.list("entityRefs", &resource.entity_refs, Self::entity_ref),
        ];
        self.object(members)
    }

    fn entity_ref(&mut self, entity: &EntityRef) -> String {
        let members = vec![
            self.text("schemaUrl", &entity.schema_url),
            self.text("type", &entity.r#type),
            self.list("idKeys", &entity.id_keys, |speller, text| speller.string(text)),
            self.list("descriptionKeys", &entity.description_keys, |speller, text| speller.string(text)),
        ];
        self.object(members)
    }

    fn scope(&mut self, scope: &InstrumentationScope) -> String {
        let members = vec![
            self.text("name", &scope.name),
            self.text("version", &scope.version),
            self.attributes("attributes", &scope.attributes),
            self.integer("droppedAttributesCount", scope.dropped_attributes_count),
        ];
        self.object(members)
    }

    pub fn request(&mut self, request: &Request) -> String {
        macro_rules! request {
            ($request:expr, $groups:ident $groups_name:literal, $scopes:ident $scopes_name:literal,
             $items:ident $items_name:literal, $item:path) => {{
                let groups = self.list($groups_name, &$request.$groups, |speller, group| {
                    let members = vec![
                        speller.optional("resource", group.resource.as_ref(), Self::resource),
                        speller.list($scopes_name, &group.$scopes, |speller, group| {
                            let members = vec![
                                speller.optional("scope", group.scope.as_ref(), Self::scope),
                                speller.list($items_name, &group.$items, $item),
                                speller.text("schemaUrl", &group.schema_url),
                            ];
                            speller.object(members)
                        }),
                        speller.text("schemaUrl", &group.schema_url),
                    ];
                    speller.object(members)
                });
                self.object(vec![groups])
            }};
        }
        match request {
            Request::Traces(request) => request!(
                request, resource_spans "resourceSpans", scope_spans "scopeSpans", spans "spans", Self::span
            ),
            Request::Metrics(request) => request!(
                request, resource_metrics "resourceMetrics", scope_metrics "scopeMetrics", metrics "metrics",
                Self::metric
            ),
            Request::Logs(request) => request!(
                request, resource_logs "resourceLogs", scope_logs "scopeLogs", log_records "logRecords",
                Self::log_record
            ),
        }
    }

    fn span(&mut self, span: &Span) -> String {
        let members = vec![
            self.id("traceId", &span.trace_id),
            self.id("spanId", &span.span_id),
            self.text("traceState", &span.trace_state),
            self.id("parentSpanId", &span.parent_span_id),
            self.integer("flags", span.flags),
            self.text("name", &span.name),
            self.enumeration("kind", span.kind),
            self.integer("startTimeUnixNano", span.start_time_unix_nano),
            self.integer("endTimeUnixNano", span.end_time_unix_nano),
            self.attributes("attributes", &span.attributes),
            self.integer("droppedAttributesCount", span.dropped_attributes_count),
            self.list("events", &span.events, Self::event),
            self.integer("droppedEventsCount", span.dropped_events_count),
            self.list("links", &span.links, Self::link),
            self.integer("droppedLinksCount", span.dropped_links_count),
            self.optional("status", span.status.as_ref(), |speller, status| {
                let members =
                    vec![speller.text("message", &status.message), speller.enumeration("code", status.code)];
                speller.object(members)
            }),
        ];
        self.object(members)
    }

    fn event(&mut self, event: &Event) -> String {
        let members = vec![
            self.integer("timeUnixNano", event.time_unix_nano),
            self.text("name", &event.name),
            self.attributes("attributes", &event.attributes),
            self.integer("droppedAttributesCount", event.dropped_attributes_count),
        ];
        self.object(members)
    }

    fn link(&mut self, link: &Link) -> String {
        let members = vec![
            self.id("traceId", &link.trace_id),
            self.id("spanId", &link.span_id),
            self.text("traceState", &link.trace_state),
            self.attributes("attributes", &link.attributes),
            self.integer("droppedAttributesCount", link.dropped_attributes_count),
            self.integer("flags", link.flags),
        ];
        self.object(members)
    }

    fn log_record(&mut self, record: &LogRecord) -> String {
        let members = vec![
            self.integer("timeUnixNano", record.time_unix_nano),
            self.integer("observedTimeUnixNano", record.observed_time_unix_nano),
            self.enumeration("severityNumber", record.severity_number),
            self.text("severityText", &record.severity_text),
            self.optional("body", record.body.as_ref(), Self::any_value),
            self.attributes("attributes", &record.attributes),
            self.integer("droppedAttributesCount", record.dropped_attributes_count),
            self.integer("flags", record.flags),
            self.id("traceId", &record.trace_id),
            self.id("spanId", &record.span_id),
            self.text("eventName", &record.event_name),
        ];
        self.object(members)
    }

    fn metric(&mut self, metric: &Metric) -> String {
        let temporality = |speller: &mut Self, value| speller.enumeration("aggregationTemporality", value);
        let data = metric.data.as_ref().map(|data| match data {
            Data::Gauge(data) => ("gauge", vec![self.list("dataPoints", &data.data_points, Self::number)]),
            Data::Sum(data) => {
                let monotonic = ("isMonotonic", data.is_monotonic.to_string(), !data.is_monotonic);
                let points = self.list("dataPoints", &data.data_points, Self::number);
                ("sum", vec![points, temporality(self, data.aggregation_temporality), monotonic])
            }
            Data::Histogram(data) => {
                let points = self.list("dataPoints", &data.data_points, Self::histogram);
                ("histogram", vec![points, temporality(self, data.aggregation_temporality)])
            }
            Data::ExponentialHistogram(data) => {
                let points = self.list("dataPoints", &data.data_points, Self::exponential);
                ("exponentialHistogram", vec![points, temporality(self, data.aggregation_temporality)])
            }
            Data::Summary(data) => {
                ("summary", vec![self.list("dataPoints", &data.data_points, Self::summary)])
            }
        });
        let mut members = vec![
            self.text("name", &metric.name),
            self.text("description", &metric.description),
            self.text("unit", &metric.unit),
            self.attributes("metadata", &metric.metadata),
        ];
        if let Some((name, data)) = data {
            members.push((name, self.object(data), false));
        }
        self.object(members)
    }

    fn number(&mut self, point: &NumberDataPoint) -> String {
        use number_data_point::Value::{AsDouble, AsInt};
        let mut members = vec![
            self.attributes("attributes", &point.attributes),
            self.integer("startTimeUnixNano", point.start_time_unix_nano),
            self.integer("timeUnixNano", point.time_unix_nano),
            self.list("exemplars", &point.exemplars, Self::exemplar),
            self.integer("flags", point.flags),
        ];
        match point.value {
            Some(AsDouble(value)) => members.push(("asDouble", self.double(value), false)),
            Some(AsInt(value)) => members.push(("asInt", self.whole(value.into()), false)),
            None => {}
        }
        self.object(members)
    }

    fn exemplar(&mut self, exemplar: &Exemplar) -> String {
        use exemplar::Value::{AsDouble, AsInt};
        let mut members = vec![
            self.attributes("filteredAttributes", &exemplar.filtered_attributes),
            self.integer("timeUnixNano", exemplar.time_unix_nano),
            self.id("spanId", &exemplar.span_id),
            self.id("traceId", &exemplar.trace_id),
        ];
        match exemplar.value {
            Some(AsDouble(value)) => members.push(("asDouble", self.double(value), false)),
            Some(AsInt(value)) => members.push(("asInt", self.whole(value.into()), false)),
            None => {}
        }
        self.object(members)
    }

    fn histogram(&mut self, point: &HistogramDataPoint) -> String {
        let members = vec![
            self.attributes("attributes", &point.attributes),
            self.integer("startTimeUnixNano", point.start_time_unix_nano),
            self.integer("timeUnixNano", point.time_unix_nano),
            self.integer("count", point.count),
            self.optional("sum", point.sum.as_ref(), |speller, value| speller.double(*value)),
            self.list("bucketCounts", &point.bucket_counts, |speller, count| speller.whole((*count).into())),
            self.list("explicitBounds", &point.explicit_bounds, |speller, bound| speller.double(*bound)),
            self.list("exemplars", &point.exemplars, Self::exemplar),
            self.integer("flags", point.flags),
            self.optional("min", point.min.as_ref(), |speller, value| speller.double(*value)),
            self.optional("max", point.max.as_ref(), |speller, value| speller.double(*value)),
        ];
        self.object(members)
    }

    fn exponential(&mut self, point: &ExponentialHistogramDataPoint) -> String {
        let members = vec![
            self.attributes("attributes", &point.attributes),
            self.integer("startTimeUnixNano", point.start_time_unix_nano),
            self.integer("timeUnixNano", point.time_unix_nano),
            self.integer("count", point.count),
            self.optional("sum", point.sum.as_ref(), |speller, value| speller.double(*value)),
            self.integer("scale", point.scale),
            self.integer("zeroCount", point.zero_count),
            self.optional("positive", point.positive.as_ref(), Self::buckets),
            self.optional("negative", point.negative.as_ref(), Self::buckets),
            self.integer("flags", point.flags),
            self.list("exemplars", &point.exemplars, Self::exemplar),
            self.optional("min", point.min.as_ref(), |speller, value| speller.double(*value)),
            self.optional("max", point.max.as_ref(), |speller, value| speller.double(*value)),
            ("zeroThreshold", self.double(point.zero_threshold), point.zero_threshold == 0.0),
        ];
        self.object(members)
    }

    fn buckets(&mut self, buckets: &Buckets) -> String {
        let members = vec![
            self.integer("offset", buckets.offset),
            self.list("bucketCounts", &buckets.bucket_counts, |speller, count| {
                speller.whole((*count).into())
            }),
        ];
        self.object(members)
    }

    fn summary(&mut self, point: &SummaryDataPoint) -> String {
        let members = vec![
            self.attributes("attributes", &point.attributes),
            self.integer("startTimeUnixNano", point.start_time_unix_nano),
            self.integer("timeUnixNano", point.time_unix_nano),
            self.integer("count", point.count),
            ("sum", self.double(point.sum), point.sum == 0.0),
            self.list("quantileValues", &point.quantile_values, |speller, quantile| {
                let members = vec![
                    ("quantile", speller.double(quantile.quantile), quantile.quantile == 0.0),
                    ("value", speller.double(quantile.value), quantile.value == 0.0),
                ];
                speller.object(members)
            }),
            self.integer("flags", point.flags),
        ];
        self.object(members)
    }
}

/// Every character as an escape.
fn escaped(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("\"{units}\"")
}

/// The name as the schema has it.
fn snake_case(name: &str) -> String {
    name.chars().fold(String::new(), |mut snake, letter| {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
        snake
    })
}
