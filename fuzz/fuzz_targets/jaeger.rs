//! Bytes from outside as Jaeger's. The first byte chooses what they are said to be.
//!
//! What is accepted is valid OTLP in no more memory than was asked for, and goes to Jaeger and back without losing a
//! span. What is refused is refused in one short line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_jaeger::decode::{Format, decode};
use watershed_jaeger::encode::encode;
use watershed_telemetry::{Payload, Signal};
use watershed_thrift::Protocol;

const FORMATS: [Format; 5] = [
    Format::Proto,
    Format::Batch(Protocol::Binary),
    Format::Batch(Protocol::Compact),
    Format::EmitBatch(Protocol::Binary),
    Format::EmitBatch(Protocol::Compact),
];

fn read(format: Format, bytes: &[u8]) -> Option<Payload> {
    let mut granted = 0;
    let request = decode(format, bytes, &mut |total| {
        granted = granted.max(total);
        true
    });
    match request {
        Ok(request) => {
            assert!(request.len() <= granted, "{} of {granted}", request.len());
            Some(Payload::validate(Signal::Traces, request.into()).expect("what is made is valid"))
        }
        Err(error) => {
            assert!(error.to_string().len() < 200);
            None
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let Some(payload) = read(FORMATS[usize::from(choice) % FORMATS.len()], bytes) else { return };
    let requests = encode(&payload, &mut |_| true).expect("there is memory");
    let back = requests.iter().map(|request| read(Format::Proto, request).expect("what we send we take"));
    assert_eq!(back.map(|back| back.items()).sum::<usize>(), payload.items());
});
