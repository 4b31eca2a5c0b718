//! Why a body is not Zipkin's.

use thiserror::Error;
use watershed_telemetry::json::{JsonError, JsonFlaw};

use watershed_telemetry::build::NoRoom;

/// Why a body can not be read as spans. Its text is one short line, fit for a response to the sender.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is not Zipkin's JSON: what is wrong, and where.
    #[error(transparent)]
    Json(JsonError),
    /// It is not Zipkin's protobuf or Thrift.
    #[error("spans[{span}]{field}: {flaw} (at byte {offset})")]
    Binary {
        /// How many whole spans come before.
        span: usize,
        /// The field, with a dot before it; empty where it is not known.
        field: String,
        /// What is wrong.
        flaw: String,
        /// Where the field starts, in bytes from the start of the body.
        offset: usize,
    },
    /// What it means is no OTLP.
    #[error("{0}")]
    Meaning(String),
    /// Room was asked for and refused. The fault is not the sender's.
    #[error("no memory left to read it")]
    NoRoom,
}

impl From<JsonError> for DecodeError {
    fn from(error: JsonError) -> Self {
        if error.flaw() == JsonFlaw::NoRoom { Self::NoRoom } else { Self::Json(error) }
    }
}

impl From<NoRoom> for DecodeError {
    fn from(_: NoRoom) -> Self {
        Self::NoRoom
    }
}
