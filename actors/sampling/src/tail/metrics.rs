//! What `tail_sampling` counts, under otelcol's names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use watershed_stage::{Counter, Env, Histogram};

use super::policy::{Policies, Verdict};

/// Bounds of the age of late spans, in seconds.
const SECONDS: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// Bounds of the time that a round of decisions takes, in milliseconds.
const MILLISECONDS: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

const VERDICTS: [Verdict; 3] = [Verdict::Sampled, Verdict::NotSampled, Verdict::Dropped];

pub(super) struct Counters {
    /// By policy and verdict: traces, and spans.
    policies: Vec<[(Counter, Counter); 3]>,
    all: [Counter; 3],
    pub(super) new_traces: Counter,
    pub(super) errors: Counter,
    pub(super) early: [Counter; 2],
    pub(super) too_large: Counter,
    /// Spans of messages that have too many of them.
    pub(super) too_many: Counter,
    /// Spans that followed a decision: sampled, and not.
    pub(super) late: [Counter; 2],
    pub(super) late_age: Histogram,
    pub(super) took: Histogram,
    /// Undecided traces, and bytes held.
    pub(super) held: (Arc<AtomicU64>, Arc<AtomicU64>),
}

/// Why traces were decided early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    Traces,
    Bytes,
}

impl Counters {
    pub(super) fn new(env: &Env, policies: &Policies) -> Self {
        let pipeline = env.pipeline.clone().unwrap_or_else(|| env.id.clone());
        let own = [("processor", &*env.id), ("pipeline", &*pipeline)];
        let with = |more: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
            own.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
        };
        let counter = |name, help, more: &[(&'static str, &str)]| {
            let labels = with(more);
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
            env.metrics.counter(name, help, &labels)
        };
        let of = |policy: &str| {
            VERDICTS.map(|verdict| {
                let labels =
                    [("policy", policy), ("sampled", verdict.sampled()), ("decision", verdict.as_str())];
                let traces = "otelcol_processor_tail_sampling_count_traces_sampled";
                let spans = "otelcol_processor_tail_sampling_count_spans_sampled";
                (
                    counter(traces, "Traces, by what each policy said of them.", &labels),
                    counter(spans, "Spans, by what each policy said of their traces.", &labels),
                )
            })
        };
        let all = VERDICTS.map(|verdict| {
            let labels = [("sampled", verdict.sampled()), ("decision", verdict.as_str())];
            let name = "otelcol_processor_tail_sampling_global_count_traces_sampled";
            counter(name, "Traces, by what was decided.", &labels)
        });
        let lane = env.lane.to_string();
        let held = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let gauge = |name, help, value: &Arc<AtomicU64>| {
            let value = value.clone();
            let labels = [own[0], own[1], ("lane", &*lane)];
            env.metrics.gauge(name, help, &labels, Arc::new(move || value.load(Ordering::Relaxed) as f64));
        };
        gauge(
            "otelcol_processor_tail_sampling_sampling_traces_on_memory",
            "Traces that wait for a decision.",
            &held.0,
        );
        gauge(
            "watershed_tail_sampling_held_bytes",
            "Bytes of the requests whose spans wait for one, and 24 for each of these spans.",
            &held.1,
        );
        Self {
            policies: policies.iter().map(|policy| of(&policy.name)).collect(),
            all,
            new_traces: counter(
                "otelcol_processor_tail_sampling_new_trace_id_received",
                "Traces of which a first span came.",
                &[],
            ),
            errors: counter(
                "otelcol_processor_tail_sampling_sampling_policy_evaluation_error",
                "Policies that failed on a trace, and were left out of its decision.",
                &[],
            ),
            early: [("reason", "num_traces"), ("reason", "max_bytes")].map(|reason| {
                counter(
                    "watershed_tail_sampling_early_decisions",
                    "Traces decided before their time to make room, by what was reached.",
                    &[reason],
                )
            }),
            too_large: counter(
                "otelcol_processor_tail_sampling_traces_dropped_too_large",
                "Traces left out because they grew beyond `maximum_trace_size_bytes`.",
                &[],
            ),
            too_many: counter(
                "watershed_tail_sampling_rejected_spans",
                "Spans of messages that have more of them than can be held at once.",
                &[("reason", "max_bytes")],
            ),
            late: ["true", "false"].map(|sampled| {
                counter(
                    "otelcol_processor_tail_sampling_early_releases_from_cache_decision",
                    "Spans that came after the decision about their trace, and followed it.",
                    &[("sampled", sampled)],
                )
            }),
            late_age: env.metrics.histogram(
                "otelcol_processor_tail_sampling_sampling_late_span_age",
                "How long after the decision late spans came, in seconds.",
                SECONDS,
                &own,
            ),
            took: env.metrics.histogram(
                "otelcol_processor_tail_sampling_sampling_decision_timer_latency",
                "What a round of decisions took, in milliseconds.",
                MILLISECONDS,
                &own,
            ),
            held,
        }
    }

    pub(super) fn said(&self, policy: usize, said: Option<Verdict>, spans: u32) {
        let Some(said) = said else { return self.errors.add(1) };
        if let Some((traces, all)) = self.policies.get(policy).map(|counters| &counters[index(said)]) {
            traces.add(1);
            all.add(spans.into());
        }
    }

    pub(super) fn decided(&self, verdict: Verdict) {
        self.all[index(verdict)].add(1);
    }

    pub(super) fn show(&self, traces: usize, bytes: u64) {
        self.held.0.store(traces as u64, Ordering::Relaxed);
        self.held.1.store(bytes, Ordering::Relaxed);
    }
}

fn index(verdict: Verdict) -> usize {
    VERDICTS.iter().position(|it| *it == verdict).unwrap_or_default()
}
