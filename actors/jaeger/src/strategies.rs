//! How clients are told to sample: strategies by service, from a file.
//!
//! Source: Jaeger's documentation, "Collector Sampling Configuration" (the file), and api_v2 `sampling.proto`
//! (the answer).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use watershed_telemetry::wire;

/// What Jaeger's clients sample where nobody says anything.
const DEFAULT_PROBABILITY: f64 = 0.001;

/// The strategies of a file, read again when it has changed.
pub(crate) struct Strategies {
    path: PathBuf,
    /// How long what was read is good for; for ever if `None`.
    reload: Option<Duration>,
    read: Mutex<Read>,
}

struct Read {
    table: Table,
    changed: Option<SystemTime>,
    looked: Instant,
}

/// Answers by service.
#[derive(Debug)]
struct Table {
    services: HashMap<String, Answer>,
    default: Answer,
}

/// `SamplingStrategyResponse`, as JSON has it: proto3's, with enums by name and numbers also where they are zero.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    strategy_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    probabilistic_sampling: Option<Probabilistic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limiting_sampling: Option<RateLimiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation_sampling: Option<Operations>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Probabilistic {
    sampling_rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RateLimiting {
    max_traces_per_second: i32,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Operations {
    default_sampling_probability: f64,
    default_lower_bound_traces_per_second: f64,
    per_operation_strategies: Vec<Operation>,
    default_upper_bound_traces_per_second: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    operation: String,
    probabilistic_sampling: Probabilistic,
}

/// The file.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    default_strategy: Option<Entry>,
    #[serde(default)]
    service_strategies: Vec<Entry>,
}

/// What the file says of a service, of an operation, or of all others.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    service: String,
    #[serde(default)]
    operation: String,
    #[serde(rename = "type")]
    kind: Kind,
    param: f64,
    #[serde(default)]
    operation_strategies: Vec<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Probabilistic,
    RateLimiting,
}

// === impl Strategies ===

impl Strategies {
    /// Reads a file.
    pub(crate) fn open(path: &Path, reload: Option<Duration>) -> Result<Self, String> {
        let changed = changed(path);
        let read = Mutex::new(Read { table: Table::read(path)?, changed, looked: Instant::now() });
        Ok(Self { path: path.to_owned(), reload, read })
    }

    /// The answer to a service.
    pub(crate) fn of(&self, service: &str) -> Answer {
        let mut read = self.read.lock();
        if self.reload.is_some_and(|reload| read.looked.elapsed() >= reload) {
            read.looked = Instant::now();
            let changed = changed(&self.path);
            if changed != read.changed {
                read.changed = changed;
                match Table::read(&self.path) {
                    Ok(table) => read.table = table,
                    Err(error) => tracing::warn!(%error, "the strategies stay as they were"),
                }
            }
        }
        read.table.services.get(service).unwrap_or(&read.table.default).clone()
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

// === impl Table ===

impl Table {
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the strategies of {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{} has no strategies: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let default = match file.default_strategy {
            Some(entry) => entry.answer()?,
            None => Answer::probabilistic(DEFAULT_PROBABILITY),
        };
        let mut services = HashMap::new();
        for entry in file.service_strategies {
            let answer = entry.answer()?.under(&default);
            services.insert(entry.service, answer);
        }
        Ok(Self { services, default })
    }
}

// === impl Entry ===

impl Entry {
    fn answer(&self) -> Result<Answer, String> {
        let mut answer = match self.kind {
            Kind::Probabilistic => Answer::probabilistic(self.probability()?),
            Kind::RateLimiting => {
                // As Jaeger's own collector: what is no whole number is cut to one.
                let whole = (0.0..=f64::from(i32::MAX)).contains(&self.param);
                whole
                    .then_some(())
                    .ok_or_else(|| format!("{} is no number of traces a second", self.param))?;
                Answer::rate_limiting(self.param as i32)
            }
        };
        if self.operation_strategies.is_empty() {
            return Ok(answer);
        }
        let default = answer.probabilistic_sampling.map_or(DEFAULT_PROBABILITY, |all| all.sampling_rate);
        let mut operations = Operations::new(default);
        for entry in &self.operation_strategies {
            if entry.kind != Kind::Probabilistic {
                return Err(format!("operation {:?} can be sampled by probability only", entry.operation));
            }
            let probabilistic_sampling = Probabilistic { sampling_rate: entry.probability()? };
            let operation = Operation { operation: entry.operation.clone(), probabilistic_sampling };
            operations.per_operation_strategies.push(operation);
        }
        answer.operation_sampling = Some(operations);
        Ok(answer)
    }

    fn probability(&self) -> Result<f64, String> {
        match self.param {
            param @ 0.0..=1.0 => Ok(param),
            param => Err(format!("{param} is no probability: it must be between 0 and 1")),
        }
    }
}

// === impl Operations ===

impl Operations {
    fn new(default: f64) -> Self {
        Self {
            default_sampling_probability: default,
            default_lower_bound_traces_per_second: 0.0,
            per_operation_strategies: Vec::new(),
            default_upper_bound_traces_per_second: 0.0,
        }
    }
}

// === impl Answer ===

impl Answer {
    fn probabilistic(sampling_rate: f64) -> Self {
        Self {
            strategy_type: "PROBABILISTIC",
            probabilistic_sampling: Some(Probabilistic { sampling_rate }),
            rate_limiting_sampling: None,
            operation_sampling: None,
        }
    }

    fn rate_limiting(max_traces_per_second: i32) -> Self {
        Self {
            strategy_type: "RATE_LIMITING",
            probabilistic_sampling: None,
            rate_limiting_sampling: Some(RateLimiting { max_traces_per_second }),
            operation_sampling: None,
        }
    }

    /// With those operations of the default that the service says nothing of itself.
    fn under(mut self, default: &Self) -> Self {
        let Some(all) = &default.operation_sampling else { return self };
        match (&mut self.operation_sampling, self.probabilistic_sampling) {
            (Some(own), _) => {
                for operation in &all.per_operation_strategies {
                    if own.per_operation_strategies.iter().all(|known| known.operation != operation.operation)
                    {
                        own.per_operation_strategies.push(operation.clone());
                    }
                }
            }
            (own, Some(probability)) => {
                let default_sampling_probability = probability.sampling_rate;
                *own = Some(Operations { default_sampling_probability, ..all.clone() });
            }
            // A service whose traces are counted has no probability to start from.
            (None, None) => {}
        }
        self
    }

    /// In JSON.
    pub(crate) fn json(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// In protobuf.
    pub(crate) fn proto(&self) -> Bytes {
        let mut out = Vec::new();
        if self.rate_limiting_sampling.is_some() {
            wire::put_varint_field(&mut out, 1, 1);
        }
        if let Some(probabilistic) = self.probabilistic_sampling {
            wire::put_bytes_field(&mut out, 2, &probabilistic.proto());
        }
        if let Some(limit) = self.rate_limiting_sampling {
            let mut inner = Vec::new();
            wire::put_varint_field(&mut inner, 1, limit.max_traces_per_second as u64);
            wire::put_bytes_field(&mut out, 3, &inner);
        }
        if let Some(operations) = &self.operation_sampling {
            wire::put_bytes_field(&mut out, 4, &operations.proto());
        }
        out.into()
    }
}

impl Probabilistic {
    fn proto(self) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put_fixed64_field(&mut out, 1, self.sampling_rate.to_bits());
        out
    }
}

impl Operations {
    fn proto(&self) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put_fixed64_field(&mut out, 1, self.default_sampling_probability.to_bits());
        wire::put_fixed64_field(&mut out, 2, self.default_lower_bound_traces_per_second.to_bits());
        for operation in &self.per_operation_strategies {
            let mut inner = Vec::new();
            wire::put_bytes_field(&mut inner, 1, operation.operation.as_bytes());
            wire::put_bytes_field(&mut inner, 2, &operation.probabilistic_sampling.proto());
            wire::put_bytes_field(&mut out, 3, &inner);
        }
        wire::put_fixed64_field(&mut out, 4, self.default_upper_bound_traces_per_second.to_bits());
        out
    }
}

/// The service that a `SamplingStrategyParameters` asks for.
pub(crate) fn asked(parameters: &[u8]) -> Option<String> {
    let fields = wire::Fields::new(parameters).flatten();
    let name = fields.filter(|field| field.number == 1).last()?;
    String::from_utf8(name.bytes()?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FILE: &str = r#"{
        "default_strategy": {
            "type": "probabilistic", "param": 0.5,
            "operation_strategies": [
                { "operation": "/health", "type": "probabilistic", "param": 0.0 },
                { "operation": "/metrics", "type": "probabilistic", "param": 0.0 }
            ]
        },
        "service_strategies": [
            { "service": "foo", "type": "probabilistic", "param": 0.8, "operation_strategies": [
                { "operation": "/health", "type": "probabilistic", "param": 0.2 }
            ]},
            { "service": "bar", "type": "ratelimiting", "param": 5 },
            { "service": "baz", "type": "probabilistic", "param": 1 }
        ]
    }"#;

    fn json(table: &Table, service: &str) -> serde_json::Value {
        serde_json::from_slice(&table.services.get(service).unwrap_or(&table.default).json()).unwrap()
    }

    #[test]
    fn a_service_has_its_own_strategy_and_the_defaults_operations() {
        let table = Table::parse(FILE).unwrap();
        let operations = |probability: f64, all: &[(&str, f64)]| {
            let all: Vec<_> = all
                .iter()
                .map(|(operation, rate)| {
                    serde_json::json!({"operation": operation, "probabilisticSampling": {"samplingRate": rate}})
                })
                .collect();
            serde_json::json!({
                "defaultSamplingProbability": probability,
                "defaultLowerBoundTracesPerSecond": 0.0,
                "perOperationStrategies": all,
                "defaultUpperBoundTracesPerSecond": 0.0,
            })
        };
        let foo = json(&table, "foo");
        assert_eq!(foo["strategyType"], "PROBABILISTIC");
        assert_eq!(foo["probabilisticSampling"]["samplingRate"], 0.8);
        assert_eq!(foo["operationSampling"], operations(0.8, &[("/health", 0.2), ("/metrics", 0.0)]));
        let limited = r#"{"strategyType":"RATE_LIMITING","rateLimitingSampling":{"maxTracesPerSecond":5}}"#;
        assert_eq!(table.services["bar"].json(), limited);
        assert_eq!(
            json(&table, "baz")["operationSampling"],
            operations(1.0, &[("/health", 0.0), ("/metrics", 0.0)])
        );
        assert_eq!(json(&table, "?")["probabilisticSampling"]["samplingRate"], 0.5);
    }

    #[test]
    fn without_a_default_one_trace_in_a_thousand_is_sampled() {
        let table = Table::parse("{}").unwrap();
        assert_eq!(table.default, Answer::probabilistic(0.001));
    }

    #[test]
    fn what_is_no_strategy_is_refused() {
        for (entry, what) in [
            (r#"{"type": "probabilistic", "param": 2}"#, "between 0 and 1"),
            (r#"{"type": "ratelimiting", "param": -1}"#, "traces a second"),
            (r#"{"type": "adaptive", "param": 1}"#, "adaptive"),
            (
                r#"{"type": "probabilistic", "param": 1,
                    "operation_strategies": [{"operation": "x", "type": "ratelimiting", "param": 1}]}"#,
                "by probability only",
            ),
        ] {
            let error = Table::parse(&format!(r#"{{"default_strategy": {entry}}}"#)).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn protobuf_says_the_same() {
        let table = Table::parse(FILE).unwrap();
        let rate = 0.8_f64.to_le_bytes();
        let bytes = table.services["foo"].proto();
        assert_eq!(bytes[..11], [&[0x12, 9, 9], &rate[..]].concat());
        assert_eq!(table.services["bar"].proto(), [8, 1, 0x1A, 2, 8, 5].as_slice());
        assert_eq!(asked(&[0x0A, 3, b'f', b'o', b'o']).as_deref(), Some("foo"));
    }
}
