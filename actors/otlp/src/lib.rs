//! The OTLP family: receiver and exporters, over gRPC and over HTTP.
//!
//! Source of the wire answers: opentelemetry-proto `docs/specification.md`, "OTLP/gRPC" and "OTLP/HTTP".

mod answer;
mod exporter;
mod grpc;
mod http;
mod http_exporter;
mod receiver;

pub use exporter::{OtlpGrpc, Settings as OtlpGrpcSettings};
pub use http_exporter::OtlpHttp;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .receiver::<receiver::Otlp>("otlp", &[])
        .exporter::<exporter::OtlpGrpc>("otlp", &["otlp_grpc"])
        .exporter::<http_exporter::OtlpHttp>("otlphttp", &["otlp_http"])
}
