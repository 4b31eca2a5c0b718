//! Bytes that no producer writes: legal rearrangements of the wire, and damage.

use bytes::Bytes;
use proptest::prelude::*;
use watershed_telemetry::wire::{self, Fields, WireType};
use watershed_telemetry::{Flaw, Payload, Signal};

use crate::generate;
use crate::oracle::Request;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Either both sides read the bytes, and read the same, or neither does. Ours also refuses ids of a wrong
    /// length, and stops at its own depth.
    #[test]
    fn agrees_with_prost_about_rearranged_requests(
        request in generate::request(),
        choices in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let bytes = rearrange(&request.encode(), &mut choices.iter().copied().cycle());
        agree(request.signal(), bytes)?;
    }

    #[test]
    fn agrees_with_prost_about_damaged_requests(
        request in generate::request(),
        signal in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..5u8), 1..4),
    ) {
        let mut bytes = request.encode();
        for (index, value, how) in damage {
            if bytes.is_empty() {
                break;
            }
            let index = index.index(bytes.len());
            match how {
                0 => bytes[index] = value,
                1 => bytes[index] ^= 1 << (value % 8),
                2 => bytes.insert(index, value),
                3 => drop(bytes.remove(index)),
                _ => bytes.truncate(index),
            }
        }
        // A request of one signal is often well-formed as one of another.
        let signals = [request.signal(), request.signal(), *signal.get(&Signal::ALL)];
        for signal in signals.into_iter().skip(1) {
            agree(signal, bytes.clone())?;
        }
    }
}

/// Every attribute of up to four bytes out of those that matter, as value and in place of key and value: short
/// attributes take a shortcut through validation.
#[test]
fn agrees_with_prost_about_short_attributes() {
    const BYTES: [u8; 11] = [0, 1, 2, 5, 0x08, 0x0A, 0x10, 0x12, 0x18, 0x7F, 0x80];
    let field = |number, value: &[u8]| {
        let mut out = Vec::new();
        wire::put_bytes_field(&mut out, number, value);
        out
    };
    for len in 0..=4 {
        for index in 0..BYTES.len().pow(len) {
            let bytes: Vec<u8> =
                (0..len).map(|at| BYTES[index / BYTES.len().pow(at) % BYTES.len()]).collect();
            let attribute = [field(1, b"k"), field(2, &bytes)].concat();
            for attribute in [attribute, bytes] {
                agree(Signal::Logs, field(1, &field(1, &field(1, &attribute)))).unwrap();
            }
        }
    }
}

fn agree(signal: Signal, bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let decoded = Request::decode(signal, &bytes);
    match Payload::validate(signal, Bytes::from(bytes)) {
        Ok(payload) => {
            let decoded = decoded.map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(payload.items(), decoded.items());
            prop_assert_eq!(Request::view(&payload).normal(), decoded.normal());
        }
        Err(invalid) => {
            let own = matches!(invalid.flaw(), Flaw::TraceId | Flaw::SpanId | Flaw::Depth);
            prop_assert!(own || decoded.is_err(), "{}", invalid);
            prop_assert!(invalid.to_string().len() < 400, "{}", invalid);
        }
    }
    Ok(())
}

/// Rearranges a message and, where they look like messages, the values in it: fields in another order, once more,
/// in pieces, with unknown fields and groups between them, under overlong varints, packed fields unpacked.
pub fn rearrange(message: &[u8], choices: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let mut choose = |below: u8| choices.next().unwrap_or_default() % below;
    let Ok(mut fields) = Fields::new(message).collect::<Result<Vec<_>, _>>() else {
        return message.to_owned();
    };
    if fields.len() > 1 && choose(4) == 0 {
        let at = usize::from(choose(255)) % (fields.len() - 1);
        fields.swap(at, at + 1);
    }
    let mut out = Vec::new();
    for field in fields {
        let mut put = |value: &[u8], overlong: bool| {
            wire::put_tag(&mut out, field.number, WireType::Bytes);
            wire::put_varint(&mut out, value.len() as u64);
            if overlong && let Some(last) = out.last_mut() {
                *last |= 0x80;
                out.push(0);
            }
            out.extend_from_slice(value);
        };
        let choice = choices.next().unwrap_or_default() % 24;
        match field.bytes() {
            Some(value) if choice == 0 && value.len().is_multiple_of(8) => {
                for chunk in value.chunks_exact(8) {
                    wire::put_tag(&mut out, field.number, WireType::Fixed64);
                    out.extend_from_slice(chunk);
                }
            }
            Some(value) if looks_like_message(value) => {
                let value = rearrange(value, choices);
                let cut = Fields::new(&value).flatten().next().map_or(0, |first| first.raw.len());
                match choice {
                    1..4 => {
                        put(&value[..cut], false);
                        put(&value[cut..], true);
                    }
                    4 => {
                        put(&value, false);
                        put(&value, false);
                    }
                    _ => put(&value, choice == 5),
                }
            }
            _ => out.extend_from_slice(field.raw),
        }
        match choice {
            20 => wire::put_varint_field(&mut out, 1000, 1),
            21 => out.extend_from_slice(&[0xA3, 0x06, 0xA3, 0x06, 0x0A, 1, b'x', 0xA4, 0x06, 0xA4, 0x06]),
            22 => out.extend_from_slice(field.raw),
            _ => {}
        }
    }
    out
}

fn looks_like_message(value: &[u8]) -> bool {
    !value.is_empty() && Fields::new(value).all(|field| field.is_ok_and(|field| field.number < 20))
}
