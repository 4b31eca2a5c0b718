//! What Watershed tells of itself, to a pipeline like any other: the receiver `self_telemetry`.
//!
//! Its spans are made and sampled by the OpenTelemetry SDK, and its log records by the SDK's bridge from `tracing`;
//! its metrics are those of the engine's own registry, read when they are due. An engine tells of its own spans and
//! metrics; the log is the process's, so every engine that asks for it gets it.
//!
//! None of it is told of in turn: it enters with a trace of its own, which `watershed_stage` knows
//! ([`TraceContext::own`](watershed_stage::TraceContext::own)).

mod logs;
mod metrics;
mod queue;
mod receiver;
mod settings;
mod traces;

use watershed_stage::Registry;

pub use logs::{LogLayer, log_layer};

/// Adds the kind of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.receiver::<receiver::SelfTelemetry>("self_telemetry", &[])
}
