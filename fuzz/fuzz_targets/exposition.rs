//! What a Prometheus target answers. The first byte chooses the format, the second where it is cut into two scrapes.
//!
//! What is made of it is a valid request, whatever was remembered of the scrape before; what is refused is refused in one
//! short line. The memory that it takes is bounded, and all of it comes back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_delivery::Budget;
use watershed_prometheus::{Exposition, ExpositionFormat};
use watershed_telemetry::{Payload, Signal};

fuzz_target!(|data: &[u8]| {
    let [choice, cut, text @ ..] = data else { return };
    let format = match choice % 3 {
        0 => ExpositionFormat::Text,
        1 => ExpositionFormat::OpenMetrics,
        _ => ExpositionFormat::Protobuf,
    };
    let budget = Budget::new(1 << 30);
    let mut target = Exposition::new("job", "host:80", budget.overdraw(0));
    let (first, second) = text.split_at(text.len() * usize::from(*cut) / 255);
    for (time, body) in [first, second, text, text].into_iter().enumerate() {
        match target.read(format, body, time as u64) {
            Ok((request, _)) => {
                Payload::validate(Signal::Metrics, request.into()).expect("it is a request");
            }
            // A line of the text may be quoted, each byte of it as an escape.
            Err(error) => assert!(error.to_string().len() < 200 + 5 * text.len()),
        }
    }
    assert!(budget.peak() < 1 << 24, "{} bytes of {}", budget.peak(), text.len());
    drop(target);
    assert_eq!(budget.used(), 0);
});
