//! The wire format by itself.

use proptest::prelude::*;
use watershed_telemetry::wire::*;

proptest! {
    #[test]
    fn varints_come_back(value in any::<u64>(), shift in 0..64u32) {
        let value = value >> shift;
        let mut out = Vec::new();
        put_varint(&mut out, value);
        prop_assert_eq!(out.len(), varint_len(value));
        out.push(7);
        prop_assert_eq!(read_varint(&out), Ok((value, &[7][..])));
        out.truncate(varint_len(value) - 1);
        prop_assert_eq!(read_varint(&out), Err(WireError::Truncated));
    }

    #[test]
    fn fields_never_panic_and_cover_what_they_read(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut covered = 0;
        let mut errors = 0;
        for field in Fields::new(&bytes) {
            prop_assert_eq!(errors, 0);
            match field {
                Ok(field) => {
                    prop_assert_eq!(field.raw, &bytes[covered..covered + field.raw.len()]);
                    covered += field.raw.len();
                }
                Err(_) => errors += 1,
            }
        }
        prop_assert_eq!(errors == 0, covered == bytes.len());
    }
}

#[test]
fn every_kind_of_value_is_read() {
    let mut message = Vec::new();
    put_varint_field(&mut message, 1, u64::MAX);
    put_fixed64_field(&mut message, 2, 3);
    put_fixed32_field(&mut message, MAX_FIELD_NUMBER, 4);
    put_bytes_field(&mut message, 16, b"text");
    put_tag(&mut message, 5, WireType::StartGroup);
    put_bytes_field(&mut message, 5, b"inside");
    put_tag(&mut message, 5, WireType::EndGroup);
    let fields: Vec<_> = Fields::new(&message).map(Result::unwrap).map(|f| (f.number, f.value)).collect();
    let expected = [
        (1, Value::Varint(u64::MAX)),
        (2, Value::Fixed64(3)),
        (MAX_FIELD_NUMBER, Value::Fixed32(4)),
        (16, Value::Bytes(b"text")),
        (5, Value::Group),
    ];
    assert_eq!(fields, expected);
    assert_eq!(bytes_field_len(16, 4), 2 + 1 + 4);
}

#[test]
fn malformed_fields_are_told_apart() {
    let error = |bytes: &[u8]| Fields::new(bytes).find_map(Result::err);
    assert_eq!(error(&[0x08]), Some(WireError::Truncated));
    assert_eq!(error(&[0x0A, 2, 0]), Some(WireError::Truncated));
    assert_eq!(error(&[0x09, 1, 2, 3, 4, 5, 6, 7]), Some(WireError::Truncated));
    assert_eq!(error(&[0x0D, 1, 2, 3]), Some(WireError::Truncated));
    assert_eq!(error(&[0x00, 1]), Some(WireError::FieldNumber));
    assert_eq!(error(&[0x80, 0x80, 0x80, 0x80, 0x10, 0]), Some(WireError::FieldNumber));
    assert_eq!(error(&[0x0E]), Some(WireError::WireType));
    assert_eq!(error(&[0x0F]), Some(WireError::WireType));
    assert_eq!(error(&[0x0C]), Some(WireError::EndGroup));
    assert_eq!(error(&[0x0B, 0x14]), Some(WireError::EndGroup));
    assert_eq!(error(&[0x0B, 0x08, 0x01]), Some(WireError::Truncated));
    assert_eq!(error(&[&[0x08][..], &[0xFF; 9], &[0x02]].concat()), Some(WireError::Varint));
    assert_eq!(error(&[&[0x08][..], &[0xFF; 9], &[0x01]].concat()), None);
    assert_eq!(error(&[0x8A, 0x80, 0x00, 0x00]), None, "an overlong tag is legal");
}

#[test]
fn groups_nest_to_a_bound() {
    let nested = |depth| [[0x0B].repeat(depth), [0x0C].repeat(depth)].concat();
    assert!(Fields::new(&nested(MAX_DEPTH)).all(|field| field.is_ok()));
    assert_eq!(Fields::new(&nested(MAX_DEPTH + 1)).next(), Some(Err(WireError::Depth)));
    assert_eq!(Fields::new(&nested(1_000_000)).next(), Some(Err(WireError::Depth)));
}
