//! Settings that kinds share, under otelcol's keys and with its defaults.
//!
//! Source: opentelemetry-collector `exporter/exporterhelper`, `processor/batchprocessor`.

mod retry;

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use tokio::time::Instant;

use crate::registry::{KeyError, Settings};

pub use retry::{CircuitBreakerSettings, RetrySettings};

/// A length of time as Go writes it: `200ms`, `1.5s`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

/// A size in bytes: a number, or one with a unit (`4MiB`, `512kB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// An exporter's queue (`sending_queue`).
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Without a queue a message waits only for a free sender, and refuses if there is none.
    pub enabled: bool,
    /// How many exports may be in flight at once, over all lanes.
    pub num_consumers: usize,
    /// Whether fewer are in flight while the destination fails or slows down.
    pub adaptive_concurrency: bool,
    /// How many items are sent in a second at most, over all lanes and to all of several destinations together: what has
    /// gathered while a destination was away comes to it no faster. Any number unless told.
    pub items_per_second: Option<u64>,
    /// The bound, in units of `sizer`. Where messages are merged, a request is a batch of the least size.
    pub queue_size: usize,
    /// What `queue_size` counts.
    pub sizer: Sizer,
    /// otelcol's spelling of `on_full = "block"`.
    pub block_on_overflow: bool,
    /// Whether an "ok" to the sender depends on this exporter. By default, one of several exporters of a
    /// pipeline is required under `ack = "delivered"` and optional under `ack = "accepted"`.
    pub required: Option<bool>,
    /// What happens when the queue is full.
    pub on_full: Option<OnFull>,
    /// Merging of messages before they are sent.
    pub batch: Option<BatchSettings>,
    /// The extension that keeps the queue on disk. There it is bounded by that extension's `max_size`; what
    /// `queue_size` bounds is the part of it that is in memory.
    pub storage: Option<String>,
}

/// What happens to a message that meets a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// It is refused, and its sender may try again.
    Refuse,
    /// It waits for room, and what is behind it in its pipeline waits too. Only where the exporter is required:
    /// an optional one goes without.
    Block,
    /// This exporter goes without it, counted. Only where the exporter is not required.
    Drop,
}

/// What a size counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sizer {
    /// Messages.
    Requests,
    /// Spans, data points, log records.
    Items,
    /// Bytes on the wire.
    Bytes,
}

/// How messages are merged before they are sent (`sending_queue.batch`).
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSettings {
    /// How long a message may wait for company. It waits less where the exporter is idle and its sender waits.
    pub flush_timeout: Interval,
    /// A batch of this size is sent at once.
    pub min_size: usize,
    /// No batch is larger; 0 is no bound but that of 4 MiB.
    pub max_size: usize,
    /// What the sizes count: `items` or `bytes`.
    pub sizer: Sizer,
    /// What keeps messages apart.
    pub partition: PartitionSettings,
}

/// What keeps messages out of each other's batches (`sending_queue.batch.partition`).
#[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PartitionSettings {
    /// Keys of request metadata: only messages that agree in all their values are merged. The receiver has to keep
    /// them (`include_metadata`).
    pub metadata_keys: Vec<String>,
    /// How many batches may be forming at once; beyond them the oldest is sent as it is.
    pub metadata_cardinality_limit: usize,
}

/// As good as never, and still within the range of any clock.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `wait` from `now`, where a setting or a destination chose the wait, and may have chosen the end of time.
pub(crate) fn later(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}

// === impl Interval ===

impl Interval {
    /// An interval of `ms` milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// An interval of `s` seconds.
    pub const fn secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }

    /// The interval, unless it is zero.
    pub fn positive(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let (whole, fraction) = decimal(number)
                .ok_or_else(|| format!("{text:?} is not a duration: write it like \"200ms\" or \"1m30s\""))?;
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, next) = tail.split_at(unit_end);
            let nanos: u128 = match unit {
                "ns" => 1,
                // Both of Unicode's micro signs, as in Go.
                "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
                "ms" => 1_000_000,
                "s" => SECOND,
                "m" => 60 * SECOND,
                "h" => 3600 * SECOND,
                "" => {
                    return Err(format!(
                        "{text:?} has no unit: use ns, us, ms, s, m or h, as in \"{text}s\""
                    ));
                }
                _ => return Err(format!("{text:?} has an unknown unit {unit:?}: use ns, us, ms, s, m or h")),
            };
            total = total.saturating_add(nanoseconds(whole, fraction, nanos));
            rest = next;
        }
        if text.is_empty() {
            return Err("an empty text is not a duration: write it like \"200ms\"".into());
        }
        let seconds =
            u64::try_from(total / SECOND).map_err(|_| format!("{text:?} is too long for a duration"))?;
        Ok(Self(Duration::new(seconds, (total % SECOND) as u32)))
    }
}

/// A second in nanoseconds.
const SECOND: u128 = 1_000_000_000;

/// The digits before and behind the point.
fn decimal(number: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let some = !whole.is_empty() || !fraction.is_empty();
    (some && !fraction.contains('.')).then_some((whole, fraction))
}

/// So many units of so many nanoseconds, exactly; what is less than a nanosecond is cut off.
fn nanoseconds(whole: &str, fraction: &str, unit: u128) -> u128 {
    // Digits only, so nothing but their number can be wrong.
    let whole = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(u128::MAX) };
    let (mut tenths, mut scale) = (0, unit);
    for digit in fraction.bytes() {
        tenths += scale * u128::from(digit - b'0');
        scale /= 10;
    }
    whole.saturating_mul(unit).saturating_add(tenths / 10)
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl serde::Serialize for Interval {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_zero() {
            serializer.serialize_str("0s")
        } else {
            serializer.collect_str(&format_args!("{:?}", self.0))
        }
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration" })
    }
}

// === impl ByteSize ===

impl ByteSize {
    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 =
            number.parse().map_err(|_| format!("{text:?} is not a size: write it like \"4MiB\""))?;
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            other => {
                return Err(format!(
                    "{text:?} has an unknown unit {other:?}: use B, KiB, MiB, GiB, kB, MB or GB"
                ));
            }
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number of bytes, or a size like \"4MiB\"")
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size can not be negative"))
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl serde::Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "size".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "format": "size" })
    }
}

// === impl QueueSettings ===

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            num_consumers: 10,
            adaptive_concurrency: true,
            items_per_second: None,
            queue_size: 1000,
            sizer: Sizer::Requests,
            block_on_overflow: false,
            required: None,
            on_full: None,
            batch: None,
            storage: None,
        }
    }
}

impl Settings for QueueSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.num_consumers == 0 {
            errors.push(KeyError::new("num_consumers", "must be positive"));
        }
        if self.queue_size == 0 {
            errors.push(KeyError::new("queue_size", "must be positive"));
        }
        if self.items_per_second == Some(0) {
            errors.push(KeyError::new("items_per_second", "must be positive; leave it out for any number"));
        }
        if self.block_on_overflow && self.on_full.is_some_and(|on_full| on_full != OnFull::Block) {
            errors.push(KeyError::new(
                "on_full",
                "contradicts `block_on_overflow = true`: keep one of the two",
            ));
        }
        if self.required == Some(true) && self.on_full == Some(OnFull::Drop) {
            errors.push(KeyError::new(
                "on_full",
                "a required exporter can not drop: use \"refuse\" or \"block\"",
            ));
        }
        if let Some(batch) = &self.batch {
            errors.extend(batch.check().into_iter().map(|error| error.under("batch")));
            let comparable = batch.sizer == self.sizer && batch.sizer != Sizer::Requests;
            if comparable && batch.min_size > self.queue_size {
                errors.push(KeyError::new("batch.min_size", "must be less than or equal to `queue_size`"));
            }
        }
        errors
    }
}

// === impl BatchSettings ===

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            flush_timeout: Interval::millis(200),
            min_size: 8192,
            max_size: 0,
            sizer: Sizer::Items,
            partition: PartitionSettings::default(),
        }
    }
}

impl Settings for BatchSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.max_size > 0 && self.max_size < self.min_size {
            errors.push(KeyError::new(
                "max_size",
                format!("({}) must be greater or equal to `min_size` ({})", self.max_size, self.min_size),
            ));
        }
        if self.sizer == Sizer::Requests {
            errors.push(KeyError::new("sizer", "a batch counts `items` or `bytes`"));
        }
        errors.extend(self.partition.check().into_iter().map(|error| error.under("partition")));
        errors
    }
}

// === impl PartitionSettings ===

impl Default for PartitionSettings {
    fn default() -> Self {
        Self { metadata_keys: Vec::new(), metadata_cardinality_limit: 1000 }
    }
}

impl Settings for PartitionSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        for (index, key) in self.metadata_keys.iter().enumerate() {
            let at = format!("metadata_keys.{index}");
            if self.metadata_keys.iter().take(index).any(|other| other.eq_ignore_ascii_case(key)) {
                errors.push(KeyError::new(at, format!("names {key:?} twice: letter case does not count")));
            } else if key.parse::<http::HeaderName>().is_err() {
                errors.push(KeyError::new(at, format!("{key:?} is no name of a header")));
            }
        }
        if self.metadata_cardinality_limit == 0 {
            errors.push(KeyError::new("metadata_cardinality_limit", "must be positive"));
        }
        errors
    }
}
