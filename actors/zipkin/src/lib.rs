//! The Zipkin family: receiver and exporter, JSON and protobuf of version 2, JSON and Thrift of version 1.
//!
//! Bodies become OTLP wire bytes without a tree in between ([`decode`]).

mod annotation;
mod decode;
mod encode;
mod error;
mod exporter;
mod http;
mod json;
mod names;
mod otlp;
mod proto;
mod receiver;
mod sink;
mod span;
mod v1;
mod wire;

pub use decode::{Format, Options, decode};
pub use encode::{Encoding, encode};
pub use error::DecodeError;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.receiver::<receiver::Zipkin>("zipkin", &[]).exporter::<exporter::Zipkin>("zipkin", &[])
}
