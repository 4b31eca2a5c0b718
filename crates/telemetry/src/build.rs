//! Wire bytes under construction, whose lengths are known only after what they enclose.
//!
//! What comes in another format is written straight as OTLP: no struct stands between the two.

use thiserror::Error;

use crate::wire::{self, WireType};

/// Memory was asked for and refused. The fault is not the sender's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no memory left to read it")]
pub struct NoRoom;

/// An attribute's value, of those that hold no others.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scalar<'a> {
    /// `string_value`.
    Text(&'a str),
    /// `bool_value`.
    Bool(bool),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// `bytes_value`.
    Bytes(&'a [u8]),
}

/// Memory that is asked for before it is taken.
pub struct Room<'r> {
    ask: &'r mut dyn FnMut(usize) -> bool,
    /// What was granted, in bytes.
    total: usize,
}

impl<'r> Room<'r> {
    /// `ask` is told how many bytes are to be held in all and says whether they may be.
    pub fn new(ask: &'r mut dyn FnMut(usize) -> bool) -> Self {
        Self { ask, total: 0 }
    }

    /// Room for `bytes` that are taken elsewhere.
    pub fn take(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let total = self.total.saturating_add(bytes);
        if !(self.ask)(total) {
            return Err(NoRoom);
        }
        self.total = total;
        Ok(())
    }

    /// Makes place for `more` elements.
    #[inline]
    pub fn reserve<T>(&mut self, vec: &mut Vec<T>, more: usize) -> Result<(), NoRoom> {
        if vec.capacity() - vec.len() >= more { Ok(()) } else { self.grow(vec, more) }
    }

    #[cold]
    fn grow<T>(&mut self, vec: &mut Vec<T>, more: usize) -> Result<(), NoRoom> {
        let needed = vec.len().saturating_add(more);
        let capacity = needed.max(vec.capacity() + vec.capacity() / 2).max(64);
        self.take((capacity - vec.capacity()).saturating_mul(size_of::<T>()))?;
        vec.reserve_exact(capacity - vec.len());
        Ok(())
    }
}

/// A message that is open: where its length goes, and what had grown until then.
#[must_use = "a message that is not closed has no length"]
pub struct Open {
    at: usize,
    growth: usize,
}

/// The bytes so far.
///
/// Every open message has one byte for its length. Nearly all need no more. A longer length is set down until the
/// end, when one pass from behind moves each byte once; making place for it at once would move the inside of every
/// message again for each message around it.
pub struct Output<'r> {
    bytes: Vec<u8>,
    /// Lengths of more than one byte: position in `bytes`, and the length.
    long: Vec<(usize, usize)>,
    /// What these will add.
    growth: usize,
    pub(crate) room: Room<'r>,
}

impl<'r> Output<'r> {
    /// With a capacity to start from, in bytes.
    pub fn new(mut room: Room<'r>, capacity: usize) -> Result<Self, NoRoom> {
        let mut bytes = Vec::new();
        room.reserve(&mut bytes, capacity)?;
        Ok(Self { bytes, long: Vec::new(), growth: 0, room })
    }

    /// Place for a tag of a field number below 2^11, and a value.
    #[inline]
    fn reserve(&mut self, value: usize) -> Result<(), NoRoom> {
        self.room.reserve(&mut self.bytes, value.saturating_add(2))
    }

    /// Starts a length-delimited field.
    #[inline]
    pub fn open(&mut self, number: u32) -> Result<Open, NoRoom> {
        self.reserve(1)?;
        wire::put_tag(&mut self.bytes, number, WireType::Bytes);
        let open = Open { at: self.bytes.len(), growth: self.growth };
        self.bytes.push(0);
        Ok(open)
    }

    /// Ends it.
    #[inline]
    pub fn close(&mut self, open: Open) -> Result<(), NoRoom> {
        let len = self.bytes.len() - open.at - 1 + (self.growth - open.growth);
        if let Some(byte) = self.bytes.get_mut(open.at).filter(|_| len < 0x80) {
            *byte = len as u8;
            return Ok(());
        }
        self.room.reserve(&mut self.long, 1)?;
        self.long.push((open.at, len));
        self.growth += wire::varint_len(len as u64) - 1;
        Ok(())
    }

    /// Writes a message: `write` its fields.
    #[inline]
    pub fn put_message(
        &mut self,
        number: u32,
        write: impl FnOnce(&mut Self) -> Result<(), NoRoom>,
    ) -> Result<(), NoRoom> {
        let open = self.open(number)?;
        write(self)?;
        self.close(open)
    }

    /// Appends an attribute: a `KeyValue` as an element of a field.
    #[inline]
    pub fn put_attribute(&mut self, number: u32, key: &str, value: Scalar<'_>) -> Result<(), NoRoom> {
        let open = self.open(number)?;
        self.put_bytes_field(1, key.as_bytes())?;
        let inner = self.open(2)?;
        match value {
            Scalar::Text(text) => self.put_bytes_field(1, text.as_bytes())?,
            Scalar::Bool(bit) => self.put_varint_field(2, bit.into())?,
            Scalar::Int(number) => self.put_varint_field(3, number as u64)?,
            Scalar::Double(number) => self.put_fixed64_field(4, number.to_bits())?,
            Scalar::Bytes(bytes) => self.put_bytes_field(7, bytes)?,
        }
        self.close(inner)?;
        self.close(open)
    }

    /// Appends a `string` or `bytes` field.
    #[inline]
    pub fn put_bytes_field(&mut self, number: u32, value: &[u8]) -> Result<(), NoRoom> {
        self.reserve(value.len().saturating_add(10))?;
        wire::put_bytes_field(&mut self.bytes, number, value);
        Ok(())
    }

    /// Appends a field of the bytes that `read` makes of a text, which are not more than it has. Gives what `read`
    /// gives.
    pub(crate) fn put_coded_field(
        &mut self,
        number: u32,
        text: &[u8],
        read: fn(&[u8], &mut Vec<u8>) -> bool,
    ) -> Result<bool, NoRoom> {
        let open = self.open(number)?;
        self.reserve(text.len())?;
        let good = read(text, &mut self.bytes);
        self.close(open)?;
        Ok(good)
    }

    /// Appends a varint field. Negative numbers are passed sign-extended (`value as u64`).
    #[inline]
    pub fn put_varint_field(&mut self, number: u32, value: u64) -> Result<(), NoRoom> {
        self.reserve(10)?;
        wire::put_varint_field(&mut self.bytes, number, value);
        Ok(())
    }

    /// Appends a `fixed64` or (as its bits) `double` field.
    #[inline]
    pub fn put_fixed64_field(&mut self, number: u32, value: u64) -> Result<(), NoRoom> {
        self.reserve(8)?;
        wire::put_fixed64_field(&mut self.bytes, number, value);
        Ok(())
    }

    /// Appends a `fixed32` field.
    #[inline]
    pub fn put_fixed32_field(&mut self, number: u32, value: u32) -> Result<(), NoRoom> {
        self.reserve(4)?;
        wire::put_fixed32_field(&mut self.bytes, number, value);
        Ok(())
    }

    /// Appends an element of a packed field.
    #[inline]
    pub fn put_varint(&mut self, value: u64) -> Result<(), NoRoom> {
        self.reserve(10)?;
        wire::put_varint(&mut self.bytes, value);
        Ok(())
    }

    /// Appends an element of a packed field.
    #[inline]
    pub fn put_fixed64(&mut self, value: u64) -> Result<(), NoRoom> {
        self.reserve(8)?;
        self.bytes.extend_from_slice(&value.to_le_bytes());
        Ok(())
    }

    /// The request, with all its lengths, in no more memory than it needs.
    pub fn finish(mut self) -> Result<Vec<u8>, NoRoom> {
        let mut bytes = self.bytes;
        let (mut from, mut to) = (bytes.len(), bytes.len() + self.growth);
        self.room.reserve(&mut bytes, self.growth)?;
        bytes.resize(to, 0);
        self.long.sort_unstable();
        let mut length = Vec::with_capacity(10);
        for (at, len) in self.long.into_iter().rev() {
            let inside = at + 1..from;
            (from, to) = (at, to - inside.len());
            bytes.copy_within(inside, to);
            length.clear();
            wire::put_varint(&mut length, len as u64);
            to -= length.len();
            if let Some(place) = bytes.get_mut(to..to + length.len()) {
                place.copy_from_slice(&length);
            }
        }
        bytes.shrink_to_fit();
        Ok(bytes)
    }
}
