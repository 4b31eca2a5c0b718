//! OTLP as Zipkin's JSON or protobuf, version 2.

mod json;
mod proto;
mod seen;
mod spans;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_telemetry::Payload;

/// What a body is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// Protobuf, at half the size and a third of the cost.
    Proto,
}

/// Appends all spans of a payload as one list, and says how many were left out, for want of an id.
///
/// Spans whose resource has no `service.name` are of `default_service_name`. docs/components/zipkin.md says what
/// becomes what.
pub fn encode(payload: &Payload, encoding: Encoding, default_service_name: &str, out: &mut Vec<u8>) -> u64 {
    encode_within(payload, encoding, default_service_name, usize::MAX, out).unwrap_or_default()
}

/// The same, unless that takes more than `most` bytes: each span repeats its resource.
pub(crate) fn encode_within(
    payload: &Payload,
    encoding: Encoding,
    default_service_name: &str,
    most: usize,
    out: &mut Vec<u8>,
) -> Option<u64> {
    let left_out = match encoding {
        Encoding::Json => {
            out.push(b'[');
            let from = out.len();
            let left_out = spans::each(payload, default_service_name, |span| {
                if out.len() > most {
                    return;
                }
                if out.len() > from {
                    out.push(b',');
                }
                json::put_span(out, span);
            });
            out.push(b']');
            left_out
        }
        Encoding::Proto => spans::each(payload, default_service_name, |span| {
            if out.len() <= most {
                proto::put_span(out, span);
            }
        }),
    };
    (out.len() <= most).then_some(left_out)
}
