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
                if out.len() > from {
                    out.push(b',');
                }
                json::put_span(out, span);
                out.len() <= most
            });
            out.push(b']');
            left_out
        }
        Encoding::Proto => spans::each(payload, default_service_name, |span| {
            proto::put_span(out, span);
            out.len() <= most
        }),
    };
    left_out.filter(|_| out.len() <= most)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};
    use watershed_telemetry::Signal;

    use super::*;

    /// What takes milliseconds where the work is that of what is written, and minutes where it is that of all spans, or
    /// scopes, times all attributes.
    const SOON: Duration = Duration::from_secs(15);

    fn payload(attributes: Vec<Value>, scopes: Vec<Value>) -> Payload {
        let text = json!({"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": scopes}]});
        let request =
            watershed_telemetry::json::decode(Signal::Traces, text.to_string().as_bytes(), &mut |_| true);
        Payload::validate(Signal::Traces, request.unwrap().into()).unwrap()
    }

    fn attribute(number: usize) -> Value {
        json!({"key": format!("k{number}"), "value": {"stringValue": ""}})
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what is bounded is the time of a processor")]
    fn what_resources_hold_costs_what_is_written_of_it() {
        let span = json!({"traceId": "01".repeat(16), "spanId": "02".repeat(8)});
        let spans = |count| vec![json!({"spans": vec![span.clone(); count]})];
        let many: Vec<Value> = (0..20_000).map(attribute).collect();
        let too_much = payload(many.clone(), spans(20_000));
        let nothing = payload(many, vec![json!({}); 50_000]);
        let again = payload(vec![attribute(7); 50_000], spans(5_000));
        for encoding in [Encoding::Json, Encoding::Proto] {
            for (payload, is_written) in [(&too_much, false), (&nothing, true), (&again, true)] {
                let (mut out, began) = (Vec::new(), Instant::now());
                let left_out = encode_within(payload, encoding, "s", 1 << 20, &mut out);
                assert_eq!(left_out, is_written.then_some(0));
                assert!(out.len() < 2 << 20 && began.elapsed() < SOON, "{:?}", began.elapsed());
            }
        }
    }
}
