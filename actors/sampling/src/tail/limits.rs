//! What holds for one shard of the traces.

use std::time::Duration;

use watershed_stage::Env;

use super::decided::{Capacity, SECOND};
use super::settings::Settings;

/// Decisions are made this often at least, and more often where the wait is short.
const BEAT: Duration = Duration::from_secs(1);

/// The part of the wait that a beat may be.
const BEATS: u32 = 8;

/// Notes are about messages of so long before the wait, at least: late spans of that time need no other.
const BACK: u64 = 2 * SECOND;

/// What holds for one shard, times in nanoseconds.
pub(super) struct Limits {
    pub(super) wait: u64,
    pub(super) after_root: Option<u64>,
    pub(super) beat: u64,
    pub(super) traces: usize,
    pub(super) bytes: u64,
    pub(super) largest: Option<u64>,
    pub(super) capacity: Capacity,
    /// How long before a decision the messages came that its note is about, at least.
    pub(super) noted: u64,
}

// === impl Limits ===

impl Limits {
    pub(super) fn new(settings: &Settings, env: &Env) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let Settings { decision_wait, decision_wait_after_root_received, num_traces, .. } = settings;
        let shards = env.copies.max(1);
        let share = |number: usize| number.div_ceil(shards);
        let capacity = |size: Option<usize>| share(size.unwrap_or(num_traces.saturating_mul(10)));
        let max_bytes = settings.max_bytes.map_or(env.budget.limit() / 2, |bytes| bytes.0);
        let cache = &settings.decision_cache;
        let waits = decision_wait_after_root_received.positive().into_iter().chain([decision_wait.0]);
        let shortest = waits.min().unwrap_or(BEAT);
        Self {
            wait: nanos(decision_wait.0),
            noted: nanos(decision_wait.0).saturating_add(BACK),
            after_root: decision_wait_after_root_received.positive().map(nanos),
            beat: nanos((shortest / BEATS).clamp(Duration::from_millis(5), BEAT)),
            traces: share(*num_traces),
            bytes: max_bytes / shards as u64,
            largest: Some(settings.maximum_trace_size_bytes).filter(|largest| *largest > 0),
            capacity: Capacity {
                sampled: capacity(cache.sampled_cache_size),
                not_sampled: capacity(cache.non_sampled_cache_size),
            },
        }
    }
}
