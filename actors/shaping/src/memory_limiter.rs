//! `memory_limiter`: names the memory budget of its role.
//!
//! Keys and defaults are otelcol's, the means is not: memory is granted in bytes before a request is read, so
//! nothing passes between two checks. The check of the process as a whole remains as a backstop.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{BudgetLimit, BudgetSettings, Interval, KeyError};

/// Settings of `memory_limiter`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// How often the process as a whole is looked at; every `1s` unless told.
    #[serde(default)]
    check_interval: Option<Interval>,
    /// The hard limit, in MiB. It or `limit_percentage` is required, and it wins.
    #[serde(default)]
    limit_mib: u64,
    /// The part of it that admission leaves free for growth inside; a fifth of the limit by default.
    #[serde(default)]
    spike_limit_mib: u64,
    /// The hard limit, in percent of the memory of the machine or cgroup.
    #[serde(default)]
    limit_percentage: u32,
    /// As `spike_limit_mib`, in percent of the memory of the machine or cgroup.
    #[serde(default)]
    spike_limit_percentage: u32,
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.check_interval == Some(Interval::secs(0)) {
            errors.push(KeyError::new("check_interval", "must be greater than zero: try \"1s\""));
        }
        if self.limit_mib == 0 && self.limit_percentage == 0 {
            errors.push(KeyError::new("", "`limit_mib` or `limit_percentage` must be greater than zero"));
        }
        for (key, value) in [
            ("limit_percentage", self.limit_percentage),
            ("spike_limit_percentage", self.spike_limit_percentage),
        ] {
            if value > 100 {
                errors.push(KeyError::new(key, "is a percentage: at most 100"));
            }
        }
        if self.limit_mib > 0 && self.spike_limit_mib >= self.limit_mib {
            errors.push(KeyError::new("spike_limit_mib", "must be smaller than `limit_mib`"));
        }
        if self.limit_mib == 0
            && self.limit_percentage > 0
            && self.spike_limit_percentage >= self.limit_percentage
        {
            errors.push(KeyError::new("spike_limit_percentage", "must be smaller than `limit_percentage`"));
        }
        errors
    }
}

impl From<Settings> for BudgetSettings {
    fn from(settings: Settings) -> Self {
        let (limit, spike) = if settings.limit_mib > 0 {
            (mib(settings.limit_mib), (settings.spike_limit_mib > 0).then(|| mib(settings.spike_limit_mib)))
        } else {
            let spike = settings.spike_limit_percentage;
            (
                BudgetLimit::Percent(settings.limit_percentage),
                (spike > 0).then_some(BudgetLimit::Percent(spike)),
            )
        };
        let check_interval = settings.check_interval.map_or(Duration::from_secs(1), |interval| interval.0);
        Self { check_interval, limit, spike }
    }
}

fn mib(mib: u64) -> BudgetLimit {
    BudgetLimit::Bytes(mib.saturating_mul(1 << 20))
}
