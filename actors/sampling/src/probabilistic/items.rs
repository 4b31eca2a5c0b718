//! What spans and log records say of their sampling, and where it is written.

use std::borrow::Cow;

use watershed_telemetry::retain::ItemEdit;
use watershed_telemetry::trace_state::{Randomness, Threshold, TraceState};
use watershed_telemetry::view::{Attributes, LogRecordView, SpanView, Value};

use super::Sampler;
use super::rule::{self, Decision, Policy, Rule, Said, Writes};
use super::settings::AttributeSource;

/// The log records' counterparts of `th` and `rv`.
pub(super) const THRESHOLD: &str = "sampling.threshold";
pub(super) const RANDOMNESS: &str = "sampling.randomness";

impl Sampler {
    /// Decides about a span, and writes its `tracestate`.
    pub(super) fn span(&self, span: SpanView<'_>, edit: &mut ItemEdit) -> Decision {
        let state = TraceState::parse(span.trace_state()).ok();
        let said = state.as_ref();
        let said = said.map(|state| Said { randomness: state.randomness(), threshold: state.threshold() });
        let hashed = |seed| hash_id(seed, span.trace_id());
        let own = || Randomness::of_trace_id(span.trace_id());
        let fail_closed = self.settings.fail_closed;
        let decision = self.rule.decide(said, fail_closed, hashed, own, || span_priority(span.attributes()));
        if let (true, Some(mut state), Some(writes)) = (decision.passes, state, decision.writes) {
            if let Rule::Hash { .. } = self.rule {
                // A span without a trace id gets one, too: otelcol's habit.
                state.set_randomness(writes.randomness.unwrap_or(Randomness::MAX));
            }
            if let Some(threshold) = writes.threshold {
                state.set_threshold(threshold);
            }
            state.write(edit.trace_state());
        }
        decision
    }

    /// Decides about a log record, and writes its attributes.
    pub(super) fn log_record(&self, record: LogRecordView<'_>, edit: &mut ItemEdit) -> Decision {
        let said = record_says(record.attributes());
        let hashed = |seed| self.hash_record(seed, record);
        let own = || Randomness::of_trace_id(record.trace_id());
        let priority = || self.record_priority(record.attributes());
        let decision = self.rule.decide(said, self.settings.fail_closed, hashed, own, priority);
        if let (true, Some(Writes { randomness, threshold })) = (decision.passes, decision.writes) {
            if let Some(threshold) = threshold.and_then(Threshold::to_hex) {
                edit.set_attribute(THRESHOLD, threshold.as_str());
            }
            if let Some(randomness) = randomness {
                edit.set_attribute(RANDOMNESS, randomness.to_hex().as_str());
            }
        }
        decision
    }

    fn hash_record(&self, seed: u32, record: LogRecordView<'_>) -> Option<rule::Source> {
        let by_id = match self.settings.attribute_source {
            AttributeSource::TraceId => hash_id(seed, record.trace_id()),
            AttributeSource::Record => None,
        };
        let by_attribute = || {
            let key = Some(self.settings.from_attribute.as_str()).filter(|key| !key.is_empty())?;
            let bytes = hashable(record.attributes().find(key)?.value())?;
            (!bytes.is_empty()).then(|| (rule::hash(seed, &bytes), Policy::Attribute))
        };
        by_id.or_else(by_attribute)
    }

    /// A percentage of the record's own, where it can be one.
    fn record_priority(&self, attributes: Attributes<'_>) -> Option<Threshold> {
        let key = Some(self.settings.sampling_priority.as_str()).filter(|key| !key.is_empty())?;
        let percentage = match attributes.find(key)?.value() {
            Value::Double(percentage) => percentage,
            Value::Int(percentage) => percentage as f64,
            _ => return None,
        };
        Threshold::of_probability(percentage / 100.0, self.settings.sampling_precision)
    }
}

fn hash_id(seed: u32, id: &[u8]) -> Option<rule::Source> {
    Randomness::of_trace_id(id).map(|_| (rule::hash(seed, id), Policy::TraceIdHash))
}

/// `sampling.priority` of a span, as OpenTracing has it: 0 drops it, more keeps it. otelcol takes text, too.
fn span_priority(attributes: Attributes<'_>) -> Option<Threshold> {
    let priority = match attributes.find("sampling.priority")?.value() {
        Value::Int(priority) => priority as f64,
        Value::Double(priority) => priority,
        Value::Str(text) => text.parse().ok().filter(|priority| is_in_range(text, *priority))?,
        _ => return None,
    };
    if priority == 0.0 { Some(Threshold::NEVER) } else { (priority > 0.0).then_some(Threshold::ALWAYS) }
}

/// Go refuses a number that is too large for its type; Rust makes it infinite.
fn is_in_range(text: &str, number: f64) -> bool {
    number.is_finite() || !text.contains(|digit: char| digit.is_ascii_digit())
}

/// `None` if one of the two is malformed. What is no text, or empty, is not there.
pub(super) fn record_says(attributes: Attributes<'_>) -> Option<Said> {
    let text = |key| attributes.find(key).and_then(|value| value.as_str()).filter(|text| !text.is_empty());
    let mut said = Said::default();
    if let Some(text) = text(THRESHOLD) {
        said.threshold = Some(Threshold::parse(text)?);
    }
    if let Some(text) = text(RANDOMNESS) {
        said.randomness = Some(Randomness::parse(text)?);
    }
    Some(said)
}

/// The bytes otelcol hashes: bytes as they are, else the value as text. Lists and maps, which it writes as JSON, count
/// as absent.
fn hashable(value: Value<'_>) -> Option<Cow<'_, [u8]>> {
    let text = |text: String| Some(Cow::Owned(text.into_bytes()));
    match value {
        Value::Str(text) => Some(Cow::Borrowed(text.as_bytes())),
        Value::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
        Value::Bool(value) => text(value.to_string()),
        Value::Int(value) => text(value.to_string()),
        Value::Double(value) => text(double(value)),
        Value::Empty | Value::Array(_) | Value::KvList(_) => None,
    }
}

/// A double as the Go collector writes it: as JavaScript does.
fn double(value: f64) -> String {
    let size = value.abs();
    if value.is_nan() {
        "json: unsupported value: NaN".to_owned()
    } else if value.is_infinite() {
        format!("json: unsupported value: {}Inf", if value > 0.0 { '+' } else { '-' })
    } else if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        if size < 1.0 { text } else { text.replace('e', "e+") }
    } else {
        value.to_string()
    }
}
