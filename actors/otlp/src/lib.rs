//! The OTLP family: receiver and exporters, over gRPC and over HTTP.
//!
//! Source of the wire answers: opentelemetry-proto `docs/specification.md`, "OTLP/gRPC" and "OTLP/HTTP".

mod answer;
mod exporter;
mod grpc;
mod http;
mod http_exporter;
mod receiver;
mod several;

pub use exporter::{OtlpGrpc, Settings as OtlpGrpcSettings};
pub use http_exporter::OtlpHttp;
pub use several::EndpointPolicy;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry
        .receiver::<receiver::Otlp>("otlp", &[])
        .balancer::<exporter::Settings>("otlp", &["otlp_grpc"])
        .balancer::<http_exporter::Settings>("otlphttp", &["otlp_http"])
}
