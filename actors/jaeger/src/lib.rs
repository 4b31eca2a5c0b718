//! The Jaeger family: a receiver of all that Jaeger's clients and agents speak, and an exporter to its collector.
//!
//! Jaeger's bytes become OTLP's in one pass ([`decode`]) and the other way round ([`encode`]), by the mapping of the
//! OpenTelemetry specification; what is lost on the way is listed in `docs/components/jaeger_receiver.md`.
//!
//! Sources: jaeger-idl `proto/api_v2/*.proto` and `thrift/*.thrift`; OpenTelemetry specification,
//! `specification/trace/sdk_exporters/jaeger.md` (until 2024-04) and `specification/common/mapping-to-non-otlp.md`.

pub mod decode;
pub mod encode;
mod exporter;
mod group;
mod grpc;
mod http;
mod proto;
mod receiver;
mod settings;
mod span;
mod strategies;
mod thrift;
mod udp;

pub use exporter::Jaeger as JaegerExporter;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.receiver::<receiver::Jaeger>("jaeger", &[]).exporter::<exporter::Jaeger>("jaeger", &[])
}
