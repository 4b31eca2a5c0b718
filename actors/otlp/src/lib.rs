//! The OTLP family: gRPC receiver and exporter.
//!
//! Source of the wire answers: opentelemetry-proto `docs/specification.md`, "OTLP/gRPC".

mod answer;
mod exporter;
mod receiver;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.receiver::<receiver::Otlp>("otlp", &[]).exporter::<exporter::OtlpGrpc>("otlp", &["otlp_grpc"])
}
