//! Text from outside as OTLP/JSON. The first byte chooses the signal.
//!
//! What is accepted is JSON, is a valid request but for the lengths of its ids, and comes back from its own JSON as
//! the same bytes. What is refused is refused at a place in the text, in one short line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_telemetry::{Flaw, Payload, Signal, json};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, text)) = data.split_first() else { return };
    let signal = Signal::ALL[usize::from(choice) % 3];
    let mut granted = 0;
    let request = json::decode(signal, text, &mut |total| {
        granted = total;
        true
    });
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            assert!(error.to_string().len() < 450 && error.offset() <= text.len());
            return;
        }
    };
    // Each buffer starts with some room; a number takes a digit and a comma here, eight bytes there.
    assert!(request.len() <= granted && granted <= 2048 + 16 * text.len());
    let payload = match Payload::validate(signal, request.clone().into()) {
        Ok(payload) => payload,
        Err(invalid) => {
            assert!(matches!(invalid.flaw(), Flaw::TraceId | Flaw::SpanId), "{invalid}");
            return;
        }
    };
    let mut written = Vec::new();
    json::encode_payload(&payload, &mut written);
    let again = json::decode(signal, &written, &mut |_| true).expect("our own JSON is read");
    assert_eq!(again, request);
});
