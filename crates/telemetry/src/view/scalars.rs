//! Repeated scalars: packed, unpacked, or a mixture, in several runs.

use crate::message::{Message, MessageFields};
use crate::wire::{self, Value};

impl<'a> Message<'a> {
    /// The values of a repeated `fixed64` or (as their bits) `double` field.
    pub(crate) fn fixed64s(&self, number: u32) -> impl Iterator<Item = u64> + Clone + use<'a> {
        let take = |packed: &mut &[u8]| {
            let (value, rest) = packed.split_first_chunk()?;
            *packed = rest;
            Some(u64::from_le_bytes(*value))
        };
        let single = |value: Value<'_>| if let Value::Fixed64(value) = value { Some(value) } else { None };
        Scalars { fields: self.fields(), number, packed: &[], take, single }
    }

    /// The values of a repeated `double` field.
    pub(super) fn doubles(&self, number: u32) -> impl Iterator<Item = f64> + Clone + use<'a> {
        self.fixed64s(number).map(f64::from_bits)
    }

    /// The values of a repeated `uint64` field.
    pub(crate) fn varints(&self, number: u32) -> impl Iterator<Item = u64> + Clone + use<'a> {
        let take = |packed: &mut &[u8]| {
            let (value, rest) = wire::read_varint(packed).ok()?;
            *packed = rest;
            Some(value)
        };
        let single = |value: Value<'_>| if let Value::Varint(value) = value { Some(value) } else { None };
        Scalars { fields: self.fields(), number, packed: &[], take, single }
    }
}

#[derive(Clone)]
struct Scalars<'a, Take, Single> {
    fields: MessageFields<'a>,
    number: u32,
    /// What is left of the packed run being read.
    packed: &'a [u8],
    /// Takes the next value off a packed run.
    take: Take,
    /// The value of an unpacked occurrence.
    single: Single,
}

impl<Take, Single> Iterator for Scalars<'_, Take, Single>
where
    Take: Fn(&mut &[u8]) -> Option<u64>,
    Single: Fn(Value<'_>) -> Option<u64>,
{
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            if let Some(value) = (self.take)(&mut self.packed) {
                return Some(value);
            }
            let number = self.number;
            let field = self.fields.find(|field| field.number == number)?;
            match field.value {
                Value::Bytes(packed) => self.packed = packed,
                value => {
                    if let Some(value) = (self.single)(value) {
                        return Some(value);
                    }
                }
            }
        }
    }
}
