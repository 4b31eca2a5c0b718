//! Settings of `tail_sampling`: otelcol's keys and defaults, and a bound in bytes.

mod policies;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{ByteSize, Interval, KeyError};

use super::meters::Meters;
use policies::list;
pub(super) use policies::{Composite, Kind, Policy, StringAttribute, status};

/// Settings of `tail_sampling`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// How long after its first span a trace is decided.
    pub(super) decision_wait: Interval,
    /// How long after its root span it is decided, if that is sooner; 0 is `decision_wait`.
    pub(super) decision_wait_after_root_received: Interval,
    /// How many traces may be undecided; beyond that the oldest are decided with what has come of them.
    pub(super) num_traces: usize,
    /// How many new traces are expected in a second: room for them is made at the start.
    pub(super) expected_new_traces_per_sec: usize,
    /// How many bytes of spans may be held; beyond that the oldest traces are decided with what has come of them. By
    /// default half of the role's memory.
    pub(super) max_bytes: Option<ByteSize>,
    /// How long decisions are remembered, for spans that come later.
    pub(super) decision_cache: CacheSettings,
    /// Whether the policies after the first that samples are left out.
    pub(super) sample_on_first_match: bool,
    /// Whether undecided traces are left out when the pipeline ends, rather than decided with what has come of them.
    pub(super) drop_pending_traces_on_shutdown: bool,
    /// Whether messages are refused, rather than traces decided early, when `num_traces` or `max_bytes` is reached.
    pub(super) block_on_overflow: bool,
    /// A trace that grows larger is left out, counted; 0 is no bound.
    pub(super) maximum_trace_size_bytes: u64,
    /// When policies look at spans.
    pub(super) sampling_strategy: Strategy,
    /// Accepted, for otelcol's sake: every lane is a shard.
    pub(super) num_shards: usize,
    /// What a trace is judged by.
    #[schemars(extend("x-required" = true))]
    pub(super) policies: Vec<Policy>,
    /// What all copies count together.
    #[serde(skip)]
    pub(super) meters: Meters,
}

/// How many decisions are remembered.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CacheSettings {
    /// Of traces that were sampled; by default ten times `num_traces`.
    pub(super) sampled_cache_size: Option<usize>,
    /// Of traces that were not; by default ten times `num_traces`.
    pub(super) non_sampled_cache_size: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Strategy {
    /// When the trace is decided.
    TraceComplete,
    /// Not supported yet.
    SpanIngest,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            decision_wait: Interval::secs(30),
            decision_wait_after_root_received: Interval::secs(0),
            num_traces: 50_000,
            expected_new_traces_per_sec: 0,
            max_bytes: None,
            decision_cache: CacheSettings::default(),
            sample_on_first_match: false,
            drop_pending_traces_on_shutdown: false,
            block_on_overflow: false,
            maximum_trace_size_bytes: 0,
            sampling_strategy: Strategy::TraceComplete,
            num_shards: 1,
            policies: Vec::new(),
            meters: Meters::default(),
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, message: &str| errors.push(KeyError::new(key, message));
        if self.decision_wait.positive().is_none() {
            wrong("decision_wait", "must be positive: a trace has to have the time to come");
        }
        if self.num_traces == 0 {
            wrong("num_traces", "must be 1 or more");
        }
        if self.max_bytes.is_some_and(|bytes| bytes.0 < 1 << 20) {
            wrong("max_bytes", "must be 1MiB or more");
        }
        if self.sampling_strategy == Strategy::SpanIngest {
            let message = "\"span-ingest\" is not supported: leave it out, or say \"trace-complete\"";
            wrong("sampling_strategy", message);
        }
        if !(1..=256).contains(&self.num_shards) {
            wrong("num_shards", "must be from 1 to 256; whatever it is, every lane is a shard");
        }
        if self.policies.is_empty() {
            wrong("policies", "name at least one policy: without any, no trace is sampled");
        }
        errors.extend(list("policies", &self.policies, true));
        errors
    }
}
