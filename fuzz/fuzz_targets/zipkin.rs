//! A body from outside as Zipkin's. The first byte chooses format and options.
//!
//! What is accepted is a valid request, and comes back from its own Zipkin, in both encodings, as as many spans; memory is
//! asked for. What is refused is refused in one short line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_zipkin::{Encoding, Format, Options, decode, encode};

const FORMATS: [Format; 4] = [Format::Json, Format::Proto, Format::JsonV1, Format::ThriftV1];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    let format = FORMATS[usize::from(choice) % 4];
    let options = Options { parse_string_tags: choice & 4 != 0, debug: choice & 8 != 0 };
    let mut granted = 0;
    let payload = decode(format, body, options, &mut |total| {
        granted = total;
        true
    });
    let payload = match payload {
        Ok(payload) => payload,
        Err(error) => {
            assert!(error.to_string().len() < 450, "{error}");
            return;
        }
    };
    // An annotation of Thrift's may be a byte, and takes a place of some two hundred; lists start with room for some more.
    assert!(payload.bytes() <= granted && granted <= (64 << 10) + 400 * body.len(), "{granted}");
    for (encoding, format) in [(Encoding::Json, Format::Json), (Encoding::Proto, Format::Proto)] {
        let mut written = Vec::new();
        let left_out = encode(&payload, encoding, "nobody", &mut written);
        let again = decode(format, &written, Options::default(), &mut |_| true).expect("our own is read");
        assert_eq!((again.items(), left_out), (payload.items(), 0));
    }
});
