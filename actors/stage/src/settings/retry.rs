//! What an exporter does about a destination that fails.

use std::time::Duration;

use schemars::JsonSchema;

use super::Interval;
use crate::registry::{KeyError, Settings};

/// How long data that lies only in memory is tried for, as otelcol has it.
const IN_MEMORY: Interval = Interval::secs(300);

/// The longest that a destination is left alone on its own wish, where there is no bound to how long it is tried for.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// How a failed export is tried again (`retry_on_failure`).
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetrySettings {
    /// Whether it is at all.
    pub enabled: bool,
    /// The first wait.
    pub initial_interval: Interval,
    /// Each wait is drawn from `interval * (1 ± randomization_factor)`, so that clients do not come in step.
    pub randomization_factor: f64,
    /// What the interval grows by after each try.
    pub multiplier: f64,
    /// The longest interval.
    pub max_interval: Interval,
    /// How long accepted data is tried for, from its first attempt; `0s` is for ever. Unless told, it is 5 minutes for
    /// what lies only in memory, and for ever for what is kept on disk.
    pub max_elapsed_time: Option<Interval>,
    /// Leaves alone a destination that keeps failing.
    pub circuit_breaker: CircuitBreakerSettings,
}

/// When a destination is left alone, but for one probe each back-off interval
/// (`retry_on_failure.circuit_breaker`).
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CircuitBreakerSettings {
    /// Whether it ever is.
    pub enabled: bool,
    /// So many attempts in a row have to fail.
    pub failure_threshold: u32,
}

// === impl RetrySettings ===

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: Interval::secs(5),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: Interval::secs(30),
            max_elapsed_time: None,
            circuit_breaker: CircuitBreakerSettings::default(),
        }
    }
}

impl Settings for RetrySettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if !(0.0..=1.0).contains(&self.randomization_factor) {
            errors.push(KeyError::new("randomization_factor", "must lie between 0 and 1"));
        }
        if !self.multiplier.is_finite() || self.multiplier < 1.0 {
            errors.push(KeyError::new("multiplier", "must be 1 or more"));
        }
        if let Some(bound) = self.patience(false) {
            for (key, value) in
                [("initial_interval", self.initial_interval), ("max_interval", self.max_interval)]
            {
                if bound < value.0 {
                    errors.push(KeyError::new("max_elapsed_time", format!("must not be less than `{key}`")));
                }
            }
        }
        if self.circuit_breaker.failure_threshold == 0 {
            errors.push(KeyError::new("circuit_breaker.failure_threshold", "must be positive"));
        }
        errors
    }
}

impl RetrySettings {
    /// The wait before try number `attempt` (1 is the first retry), for a `random` drawn from 0..1.
    pub fn interval(&self, attempt: u32, random: f64) -> Duration {
        let grown = self.initial_interval.0.as_secs_f64()
            * self.multiplier.powi(attempt.saturating_sub(1).min(1000) as i32);
        let interval = grown.min(self.max_interval.0.as_secs_f64());
        let drawn = interval * (1.0 + self.randomization_factor * (2.0 * random - 1.0));
        Duration::try_from_secs_f64(drawn).unwrap_or(self.max_interval.0)
    }

    /// The longest that a destination is left alone on its own wish: no longer than it would be tried for.
    pub(crate) fn longest_wish(&self) -> Duration {
        self.patience(true).unwrap_or(LONGEST_WISH)
    }

    /// How long accepted data is tried for, which is or is not `kept` on disk meanwhile; `None` is for ever.
    pub fn patience(&self, kept: bool) -> Option<Duration> {
        match self.max_elapsed_time {
            None if kept => None,
            limit => limit.unwrap_or(IN_MEMORY).positive(),
        }
    }
}

// === impl CircuitBreakerSettings ===

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self { enabled: true, failure_threshold: 5 }
    }
}
