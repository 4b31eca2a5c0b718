//! Processors that let a part of what comes pass.
//!
//! `probabilistic_sampler` decides by each item's own randomness, so that collectors which know nothing of each
//! other keep the same traces. `tail_sampling` decides about whole traces, by all that is known of them.

mod probabilistic;
mod tail;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .processor::<probabilistic::Probabilistic>("probabilistic_sampler", &[])
        .processor::<tail::TailSampling>("tail_sampling", &[])
}
