//! Jaeger's bytes to those of OTLP.

use thiserror::Error;
use watershed_telemetry::build::{NoRoom, Output, Room};
use watershed_telemetry::wire::WireError;
use watershed_thrift::{Protocol, Reader};

use crate::{proto, thrift};

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `PostSpansRequest` of api_v2, in protobuf.
    Proto,
    /// A `Batch` in Thrift, as it comes over HTTP.
    Batch(Protocol),
    /// A call of `emitBatch`, as it comes in a datagram.
    EmitBatch(Protocol),
}

/// Why a body is not what it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not protobuf, or a field of another type than its own.
    #[error("not a Jaeger batch in protobuf: {0}")]
    Wire(#[from] WireError),
    /// Not Thrift.
    #[error("not a Jaeger batch in Thrift: {0}")]
    Thrift(#[from] watershed_thrift::Error),
    /// Thrift, but a call of another method.
    #[error("not a call of emitBatch")]
    Method,
    /// A trace id that is neither 16 nor 8 bytes long nor absent.
    #[error("a trace id must be 16 bytes")]
    TraceId,
    /// A span id that is neither 8 bytes long nor absent.
    #[error("a span id must be 8 bytes")]
    SpanId,
    /// Memory was asked for and refused.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// The wire bytes of the `ExportTraceServiceRequest` that `body` says.
///
/// Spans of one process stand under one resource, and those of one scope under one scope, in the order in which they
/// came. The bytes are yet to pass [`Payload::validate`](watershed_telemetry::Payload::validate).
///
/// `room(total)` is asked before what is taken here may grow to `total` bytes.
pub fn decode(
    format: Format,
    body: &[u8],
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    // What is noted of the groups is held beside what is written.
    let mut noted = 0;
    let mut note = |total: usize| {
        noted = total;
        room(total)
    };
    let capacity = body.len() + body.len() / 8;
    match format {
        Format::Proto => {
            let groups = proto::groups(body, &mut note)?;
            let mut room = |total: usize| room(total.saturating_add(noted));
            proto::write(groups, Output::new(Room::new(&mut room), capacity)?)
        }
        Format::Batch(protocol) | Format::EmitBatch(protocol) => {
            let is_call = matches!(format, Format::EmitBatch(_));
            let batch = thrift::Batch::read(Reader::new(protocol, body), is_call, &mut note)?;
            let mut room = |total: usize| room(total.saturating_add(noted));
            batch.write(Output::new(Room::new(&mut room), capacity)?)
        }
    }
}
