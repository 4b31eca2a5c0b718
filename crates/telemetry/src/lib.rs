//! The message: telemetry kept as OTLP wire bytes from socket to socket.
//!
//! A [`Payload`] is one or more whole `Export{Trace,Metrics,Logs}ServiceRequest`s, validated once at the edge
//! ([`Payload::validate`]) and never decoded as a whole afterwards:
//!
//! * [`view`] reads single fields out of the bytes, lazily and without allocating;
//! * [`Payload::concat`] and the `split_*` methods batch and cut without decoding;
//! * [`deal`] takes a payload apart by what its items are;
//! * [`edit`] writes what changed and copies the ranges around it;
//! * [`json`] reads OTLP/JSON into wire bytes and writes it from them;
//! * [`build`] writes wire bytes of what comes in another format;
//! * [`retain`] takes items out;
//! * [`sheaf`] takes requests apart into spans and puts some together anew;
//! * [`trace_state`] reads and writes what W3C `tracestate` says of sampling;
//! * [`wire`] is the protobuf encoding itself, for the few small messages that are read or written whole.
//!
//! The crate is pure: no IO, no clock, no actor. Field numbers and names live in one table, `schema`, taken from
//! `opentelemetry-proto` 1.x (`opentelemetry/proto/**.proto`).

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod build;
mod count;
pub mod deal;
pub mod edit;
pub mod json;
mod message;
mod payload;
pub mod redact;
pub mod retain;
mod rewrite;
mod schema;
pub mod sheaf;
mod signal;
mod split;
pub mod trace_state;
mod validate;
pub mod view;
pub mod wire;

pub use payload::Payload;
pub use signal::Signal;
pub use validate::{Flaw, Invalid};
