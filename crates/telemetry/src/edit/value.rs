//! Values that edits write.

use smallvec::SmallVec;

use crate::wire;

/// An attribute's value: an `AnyValue` in its wire encoding.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AttributeValue(SmallVec<[u8; 24]>);

impl AttributeValue {
    /// The encoded `AnyValue`, without tag and length.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    fn encoded(size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut wire = Vec::with_capacity(size);
        write(&mut wire);
        Self(SmallVec::from_slice(&wire))
    }
}

impl From<&str> for AttributeValue {
    fn from(value: &str) -> Self {
        Self::encoded(value.len() + 6, |wire| put_text(wire, value))
    }
}

impl From<String> for AttributeValue {
    fn from(value: String) -> Self {
        value.as_str().into()
    }
}

impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        Self::encoded(2, |wire| wire::put_varint_field(wire, 2, u64::from(value)))
    }
}

impl From<i64> for AttributeValue {
    fn from(value: i64) -> Self {
        Self::encoded(11, |wire| put_int(wire, value))
    }
}

impl From<f64> for AttributeValue {
    fn from(value: f64) -> Self {
        Self::encoded(9, |wire| put_double(wire, value))
    }
}

/// An array.
impl FromIterator<AttributeValue> for AttributeValue {
    fn from_iter<I: IntoIterator<Item = AttributeValue>>(values: I) -> Self {
        let mut array = Vec::new();
        values.into_iter().for_each(|value| wire::put_bytes_field(&mut array, 1, &value.0));
        Self::encoded(array.len() + 6, |wire| wire::put_bytes_field(wire, 5, &array))
    }
}

// Appending an `AnyValue`.

pub(super) fn put_text(out: &mut Vec<u8>, value: &str) {
    wire::put_bytes_field(out, 1, value.as_bytes());
}

pub(super) fn put_int(out: &mut Vec<u8>, value: i64) {
    wire::put_varint_field(out, 3, value as u64);
}

pub(super) fn put_double(out: &mut Vec<u8>, value: f64) {
    wire::put_fixed64_field(out, 4, value.to_bits());
}
