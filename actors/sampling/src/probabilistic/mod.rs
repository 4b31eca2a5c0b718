//! `probabilistic_sampler`: lets so many percent of spans or log records pass.

mod items;
mod rule;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;
use watershed_stage::{Context, Counter, Env, Error, Failure, Metrics, Outlet, Payload, Processor, Signal};
use watershed_telemetry::retain::{Element, Verdict, retain};

use rule::{Decision, Policy, Rule};
pub(crate) use settings::Settings;

/// Lets a part of spans or log records pass, by their own randomness.
pub(crate) struct Probabilistic {
    sampler: Sampler,
    metrics: Metrics,
    /// By signal, policy and outcome, as they come up.
    counters: BTreeMap<(Signal, Outcome), SmallVec<[Counter; 2]>>,
}

/// Decides, and writes what was decided.
struct Sampler {
    settings: Arc<Settings>,
    rule: Rule,
}

/// A policy, and whether it let an item pass.
type Outcome = (Policy, bool);

/// How many items ended so. There are few ways.
type Tally = SmallVec<[(Outcome, u64); 4]>;

// === impl Sampler ===

impl Sampler {
    fn new(settings: &Arc<Settings>) -> Self {
        Self { rule: Rule::new(settings), settings: settings.clone() }
    }

    /// What passes, and how many ended in which way.
    fn sample(&self, payload: &Payload) -> (Payload, Tally) {
        let mut tally = Tally::new();
        let passed = retain(payload, |_, element, edit| {
            let Decision { policy, passes, writes } = match element {
                Element::Span(span) => self.span(span, edit),
                Element::LogRecord(record) => self.log_record(record, edit),
                _ => return Verdict::Keep,
            };
            match tally.iter_mut().find(|(outcome, _)| *outcome == (policy, passes)) {
                Some((_, count)) => *count += 1,
                None => tally.push(((policy, passes), 1)),
            }
            match (passes, writes) {
                (false, _) => Verdict::Drop,
                (true, Some(_)) => Verdict::Edit,
                (true, None) => Verdict::Keep,
            }
        });
        (passed, tally)
    }
}

// === impl Probabilistic ===

impl Processor for Probabilistic {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces, Signal::Logs]
    }

    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure> {
        let counters = BTreeMap::new();
        Ok(Self { sampler: Sampler::new(settings), metrics: env.metrics.clone(), counters })
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        let (passed, tally) = self.sampler.sample(&payload);
        for (outcome, count) in tally {
            self.count(payload.signal(), outcome, count);
        }
        outlet.send(passed);
        Ok(())
    }
}

impl Probabilistic {
    fn count(&mut self, signal: Signal, outcome: Outcome, count: u64) {
        let counters = self.counters.entry((signal, outcome)).or_insert_with(|| {
            let (policy, passes) = outcome;
            let policy = policy.label(&self.sampler.settings.from_attribute);
            let labels = [("policy", policy), ("sampled", if passes { "true" } else { "false" })];
            let counter = |name, help| self.metrics.counter(name, help, &labels);
            match signal {
                Signal::Logs => SmallVec::from_iter([counter(
                    "otelcol_processor_probabilistic_sampler_count_logs_sampled",
                    "Log records by whether they were sampled, and by what.",
                )]),
                // The name until otelcol 0.161, and the one since.
                _ => SmallVec::from_iter([
                    counter(
                        "otelcol_processor_probabilistic_sampler_count_traces_sampled",
                        "Spans by whether they were sampled, and by what.",
                    ),
                    counter(
                        "otelcol_processor_probabilistic_sampler_count_spans_processed",
                        "Spans by whether they were sampled, and by what.",
                    ),
                ]),
            }
        });
        counters.iter().for_each(|counter| counter.add(count));
    }
}
