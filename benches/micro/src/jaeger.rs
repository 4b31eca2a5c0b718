//! Batches of 100 spans in Jaeger's protobuf: what it takes to make OTLP of them.

use std::hint::black_box;

use watershed_jaeger::decode::{Format, decode};
use watershed_jaeger::encode::encode;
use watershed_telemetry::{Payload, Signal};

use crate::case::Case;
use crate::telemetry;

/// All cases.
pub fn cases() -> Vec<Case> {
    let request = telemetry::spans();
    let payload = Payload::validate(Signal::Traces, request).expect("a valid request");
    let spans = (payload.items(), "span");
    let body = encode(&payload, &mut |_| true).expect("there is memory").swap_remove(0);
    let length = body.len();
    vec![
        Case::new("Jaeger: read protobuf", spans, move || {
            drop(black_box(decode(Format::Proto, &body, &mut |_| true)));
        })
        .bytes(length),
        Case::new("Jaeger: write protobuf", spans, move || drop(black_box(encode(&payload, &mut |_| true))))
            .bytes(length),
    ]
}
