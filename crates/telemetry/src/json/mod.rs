//! OTLP/JSON: from JSON to wire bytes and back, in one pass each, without a tree in between.
//!
//! The mapping is that of proto3 (<https://protobuf.dev/programming-guides/json/>) with OTLP's differences
//! (`opentelemetry-proto`, `docs/specification.md`, "JSON Protobuf Encoding"): ids are hex, enums are integers, keys
//! are lowerCamelCase. Both directions follow the crate's `schema`.
//!
//! What is read, beyond what is written:
//!
//! * integers as number or string, also as `7.0` or `7e3` if that is a whole number; doubles also as `"NaN"`,
//!   `"Infinity"`, `"-Infinity"` and as a string with a number in it;
//! * ids in hex of either case; bytes in base64 of either alphabet, padded or not;
//! * keys in snake_case, as proto3's parsers do: OTLP forbids to write them, and to take them for unknown would throw
//!   away what the sender is told was accepted;
//! * `null` for an absent field; unknown keys, whose values are checked for syntax and dropped.
//!
//! What is refused rather than guessed at: a key twice in one object (of two values one would be lost; the protobuf
//! runtimes refuse it, too), a request of another signal, two members of a oneof, names of enums, numbers that the field can not hold, `null` in an
//! array, unpaired surrogates, a byte order mark. The lengths of ids and the like are the business of
//! [`Payload::validate`](crate::Payload::validate), through which the bytes have to go like any others.
//!
//! ```
//! use watershed_telemetry::{Payload, Signal, json};
//!
//! let text = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"intValue":7.0}}]}]}]}"#;
//! let request = json::decode(Signal::Logs, text, &mut |_| true).unwrap();
//! let payload = Payload::validate(Signal::Logs, request.into()).unwrap();
//!
//! let mut out = Vec::new();
//! json::encode_payload(&payload, &mut out);
//! assert_eq!(out, br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"intValue":"7"}}]}]}]}"#);
//! ```

mod binary;
mod decode;
mod encode;
mod error;
mod lexer;
mod number;

pub use binary::{read_hex_id, write_base64, write_hex};
pub use decode::decode;
pub use encode::{encode, encode_payload, write_text};
pub use error::{Fault, JsonError, JsonFlaw};
pub use lexer::Lexer;

/// How many bytes at the start of `text` can stand in a JSON string as they are: up to the first quotation mark,
/// backslash or control character.
#[inline]
fn plain_len(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    let (chunks, rest) = text.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let bytes = u64::from_le_bytes(*chunk);
        // The high bit of each byte that is zero, or below a bound; false hits lie only above the first true one.
        let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let quotes = zero(bytes ^ (u64::from(b'"') * ONES)) | zero(bytes ^ (u64::from(b'\\') * ONES));
        let special = (quotes | (bytes.wrapping_sub(0x20 * ONES) & !bytes)) & HIGH;
        if special != 0 {
            return index * 8 + (special.trailing_zeros() / 8) as usize;
        }
    }
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    chunks.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
}
