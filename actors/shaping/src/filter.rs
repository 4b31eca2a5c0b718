//! `filter`: drops what a condition is true of.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use watershed_ottl::{Condition, Undecided};
use watershed_stage::{
    Context, Counter, Env, Error, Failure, KeyError, Outlet, Payload, PerSignal, Processor, Signal,
};
use watershed_telemetry::retain::{Element, Place, Verdict, retain};

use crate::filter_paths::{About, Path};

/// Drops spans, span events, metrics, data points and log records.
pub(crate) struct Filter {
    id: Arc<str>,
    error_mode: ErrorMode,
    conditions: Conditions,
    filtered: PerSignal,
    /// When it was last said that a condition cannot be decided.
    warned: Option<Instant>,
}

/// Settings of `filter`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What happens where a condition is neither true nor false, as `IsMatch` of a list.
    error_mode: ErrorMode,
    /// Conditions on traces.
    traces: Traces,
    /// Conditions on metrics.
    metrics: Metrics,
    /// Conditions on logs.
    logs: Logs,
    /// The form before conditions, which is not read.
    #[schemars(skip)]
    spans: Option<toml::Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ErrorMode {
    /// The condition counts as false, and a warning is logged.
    #[default]
    Ignore,
    /// The condition counts as false.
    Silent,
    /// The message is rejected.
    Propagate,
}

/// Conditions on traces.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Traces {
    /// Spans of which one of these is true are dropped.
    span: Vec<String>,
    /// Events of spans of which one of these is true are dropped. The span stays.
    spanevent: Vec<String>,
}

/// Conditions on metrics.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Metrics {
    /// Metrics of which one of these is true are dropped.
    metric: Vec<String>,
    /// Data points of which one of these is true are dropped, and metrics that lose the last one.
    datapoint: Vec<String>,
    /// The form before conditions, which is not read.
    #[schemars(skip)]
    include: Option<toml::Value>,
    /// The form before conditions, which is not read.
    #[schemars(skip)]
    exclude: Option<toml::Value>,
}

/// Conditions on logs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Logs {
    /// Log records of which one of these is true are dropped.
    log_record: Vec<String>,
    /// The form before conditions, which is not read.
    #[schemars(skip)]
    include: Option<toml::Value>,
    /// The form before conditions, which is not read.
    #[schemars(skip)]
    exclude: Option<toml::Value>,
}

type List = Vec<Condition<Path>>;

struct Conditions {
    span: List,
    span_event: List,
    metric: List,
    data_point: List,
    log_record: List,
    span_events_dropped: Counter,
}

// === impl Settings ===

impl Settings {
    fn lists(&self) -> [(&'static str, About, &[String]); 5] {
        [
            ("traces.span", About::Span, &self.traces.span),
            ("traces.spanevent", About::SpanEvent, &self.traces.spanevent),
            ("metrics.metric", About::Metric, &self.metrics.metric),
            ("metrics.datapoint", About::DataPoint, &self.metrics.datapoint),
            ("logs.log_record", About::LogRecord, &self.logs.log_record),
        ]
    }

    fn old_form(&self) -> impl Iterator<Item = KeyError> {
        let old = [
            ("spans", &self.spans, "traces.span", r#"attributes["http.route"] == "/health""#),
            ("metrics.include", &self.metrics.include, "metrics.metric", r#"not IsMatch(name, "^app\\.")"#),
            ("metrics.exclude", &self.metrics.exclude, "metrics.metric", r#"name == "app.debug""#),
            ("logs.include", &self.logs.include, "logs.log_record", "severity_number < SEVERITY_NUMBER_WARN"),
            ("logs.exclude", &self.logs.exclude, "logs.log_record", "severity_number < SEVERITY_NUMBER_WARN"),
        ];
        old.into_iter().filter(|(_, value, ..)| value.is_some()).map(|(key, _, instead, example)| {
            let message = format!(
                "`include` and `exclude` are not read: list under `{instead}` what to drop, as '{example}'"
            );
            KeyError::new(key, message)
        })
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors: Vec<KeyError> = self.old_form().collect();
        let lists = self.lists();
        if errors.is_empty() && lists.iter().all(|(.., conditions)| conditions.is_empty()) {
            let message = "without a condition nothing is dropped: write some under `traces.span`, \
                           `traces.spanevent`, `metrics.metric`, `metrics.datapoint` or `logs.log_record`";
            errors.push(KeyError::new("", message));
        }
        for (key, about, conditions) in lists {
            for (index, condition) in conditions.iter().enumerate() {
                if let Err(error) = Condition::parse(condition, &about) {
                    errors.push(KeyError::new(format!("{key}.{index}"), error.to_string()));
                }
            }
        }
        errors
    }
}

// === impl Conditions ===

impl Conditions {
    fn new(settings: &Settings) -> Self {
        let [span, span_event, metric, data_point, log_record] = settings.lists().map(|(_, about, list)| {
            // Those that do not parse were refused by `check`.
            list.iter().filter_map(|condition| Condition::parse(condition, &about).ok()).collect()
        });
        let span_events_dropped = Counter::default();
        Self { span, span_event, metric, data_point, log_record, span_events_dropped }
    }

    /// Whether there is anything to ask of a signal.
    fn concern(&self, signal: Signal) -> bool {
        match signal {
            Signal::Traces => !(self.span.is_empty() && self.span_event.is_empty()),
            Signal::Metrics => !(self.metric.is_empty() && self.data_point.is_empty()),
            Signal::Logs => !self.log_record.is_empty(),
        }
    }

    /// The conditions on an element, and those on what it is made of.
    fn on(&self, element: Element<'_>) -> (&List, Option<&List>) {
        match element {
            Element::Span(_) => (&self.span, Some(&self.span_event)),
            Element::SpanEvent(..) => (&self.span_event, None),
            Element::Metric(_) => (&self.metric, Some(&self.data_point)),
            Element::DataPoint(..) => (&self.data_point, None),
            Element::LogRecord(_) => (&self.log_record, None),
        }
    }

    /// The first condition that could not be decided is kept in `undecided`; it counts as false.
    fn judge(&self, place: &Place<'_>, element: Element<'_>, undecided: &mut Option<Undecided>) -> Verdict {
        let (conditions, inner) = self.on(element);
        for condition in conditions {
            match condition.holds(&|path| path.value(place, element)) {
                Ok(true) => {
                    // They are no items, which the payload counts.
                    self.span_events_dropped.add(matches!(element, Element::SpanEvent(..)).into());
                    return Verdict::Drop;
                }
                Ok(false) => {}
                Err(error) => {
                    undecided.get_or_insert(error);
                }
            }
        }
        if inner.is_some_and(|inner| !inner.is_empty()) { Verdict::Enter } else { Verdict::Keep }
    }

    /// What is left, and why a condition could not be decided.
    fn apply(&self, payload: &Payload) -> (Payload, Option<Undecided>) {
        let mut undecided = None;
        let left = retain(payload, |place, element, _| self.judge(place, element, &mut undecided));
        (left, undecided)
    }
}

// === impl Filter ===

impl Processor for Filter {
    type Settings = Settings;

    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure> {
        let names = [
            "otelcol_processor_filter_spans_filtered",
            "otelcol_processor_filter_datapoints_filtered",
            "otelcol_processor_filter_logs_filtered",
        ];
        let labels = [("filter", &*env.id)];
        let filtered = env.metrics.per_signal(names, "Items the filter dropped.", &labels);
        let mut conditions = Conditions::new(settings);
        conditions.span_events_dropped = env.metrics.counter(
            "watershed_processor_filter_span_events_filtered",
            "Events the filter took out of spans.",
            &labels,
        );
        Ok(Self { id: env.id.clone(), error_mode: settings.error_mode, conditions, filtered, warned: None })
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        if !self.conditions.concern(payload.signal()) {
            outlet.send(payload);
            return Ok(());
        }
        let (left, undecided) = self.conditions.apply(&payload);
        match (undecided, self.error_mode) {
            (Some(error), ErrorMode::Propagate) => return Err(Error::reject(error.to_string())),
            (Some(error), ErrorMode::Ignore) if self.may_warn() => {
                tracing::warn!(processor = %self.id, %error, "a condition can not be decided and counts as false");
            }
            _ => {}
        }
        self.filtered.add(payload.signal(), payload.items().saturating_sub(left.items()));
        outlet.send(left);
        Ok(())
    }
}

impl Filter {
    /// At most one line a second: what is true of one message is true of the next.
    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let quiet = self.warned.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if quiet {
            self.warned = Some(now);
        }
        quiet
    }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
