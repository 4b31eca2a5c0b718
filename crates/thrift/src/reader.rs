//! Reading either protocol, value by value.

use crate::{Error, Kind, List, MAX_DEPTH, Map, Message, Protocol, Purpose, Value};

/// A place in foreign bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    protocol: Protocol,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    pub fn new(protocol: Protocol, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, protocol, depth: 0 }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads the head of a message; its arguments are a struct, for [`Reader::fields`].
    ///
    /// The binary protocol's older form, without a version, is read too.
    pub fn message(&mut self) -> Result<Message<'a>, Error> {
        match self.protocol {
            Protocol::Binary => {
                let head = self.fixed(u32::from_be_bytes)?;
                if head >> 31 == 0 {
                    let name = self.take(head as usize)?;
                    let purpose = purpose(self.byte()?)?;
                    return Ok(Message { name, purpose, sequence: self.fixed(i32::from_be_bytes)? });
                }
                if head >> 16 != 0x8001 {
                    return Err(Error::Message);
                }
                let purpose = purpose(head as u8)?;
                let name = self.binary()?;
                Ok(Message { name, purpose, sequence: self.fixed(i32::from_be_bytes)? })
            }
            Protocol::Compact => {
                let [id, head] = *self.chunk()?;
                if id != 0x82 || head & 0x1F != 1 {
                    return Err(Error::Message);
                }
                let purpose = purpose(head >> 5)?;
                let sequence = self.varint32()? as i32;
                Ok(Message { name: self.binary()?, purpose, sequence })
            }
        }
    }

    /// Reads the fields of a struct: `each` is given number and value.
    ///
    /// A container that `each` has not walked is passed over. Structs, lists and maps inside one another count towards
    /// [`MAX_DEPTH`].
    pub fn fields<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(&mut Self, i16, Value<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter()?;
        let mut last = 0;
        while let Some((id, value)) = self.field(last)? {
            last = id;
            self.give(value, |reader, value| each(reader, id, value))?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads the elements of a list or a set, as [`Reader::fields`] reads fields.
    pub fn elements<E: From<Error>>(
        &mut self,
        list: List,
        mut each: impl FnMut(&mut Self, Value<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter()?;
        for _ in 0..list.len {
            let value = self.value(list.element)?;
            self.give(value, &mut each)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads the pairs of a map: `each` is given the keys and the values in turn, as [`Reader::fields`] gives fields.
    pub fn entries<E: From<Error>>(
        &mut self,
        map: Map,
        mut each: impl FnMut(&mut Self, Value<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter()?;
        for _ in 0..map.len {
            for kind in [map.key, map.value] {
                let value = self.value(kind)?;
                self.give(value, &mut each)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn enter(&mut self) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::Depth);
        }
        self.depth += 1;
        Ok(())
    }

    /// Hands a value out, and passes over what is inside if nobody has looked: all but empty containers take a byte.
    #[inline]
    fn give<E: From<Error>>(
        &mut self,
        value: Value<'a>,
        each: impl FnOnce(&mut Self, Value<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.rest.len();
        each(self, value)?;
        if self.rest.len() == before {
            self.skip(value)?;
        }
        Ok(())
    }

    fn skip(&mut self, value: Value<'a>) -> Result<(), Error> {
        match value {
            Value::Struct => self.fields(|_, _, _| Ok(())),
            Value::List(list) => self.elements(list, |_, _| Ok(())),
            Value::Map(map) => self.entries(map, |_, _| Ok(())),
            _ => Ok(()),
        }
    }

    /// The next field of a struct, `last` being the number of the one before; `None` at the end.
    #[inline]
    fn field(&mut self, last: i16) -> Result<Option<(i16, Value<'a>)>, Error> {
        let head = self.byte()?;
        match self.protocol {
            _ if head == 0 => Ok(None),
            Protocol::Binary => {
                let id = self.fixed(i16::from_be_bytes)?;
                Ok(Some((id, self.value(binary_kind(head)?)?)))
            }
            Protocol::Compact => {
                let id = match head >> 4 {
                    0 => self.zigzag32()?.try_into().map_err(|_| Error::Field)?,
                    delta => last.checked_add(delta.into()).ok_or(Error::Field)?,
                };
                // The value of a bool is in its head.
                let value = match head & 0x0F {
                    kind @ (1 | 2) => Value::Bool(kind == 1),
                    kind => self.value(compact_kind(kind)?)?,
                };
                Ok(Some((id, value)))
            }
        }
    }

    /// The next value, which is of this kind; of a container its head.
    #[inline]
    fn value(&mut self, kind: Kind) -> Result<Value<'a>, Error> {
        let is_compact = self.protocol == Protocol::Compact;
        Ok(match kind {
            // The compact protocol writes 1 for true; false is 2, and was 0.
            Kind::Bool => Value::Bool(if is_compact { self.byte()? == 1 } else { self.byte()? != 0 }),
            Kind::I8 => Value::I8(self.byte()? as i8),
            Kind::I16 if is_compact => Value::I16(self.zigzag32()?.try_into().map_err(|_| Error::Varint)?),
            Kind::I16 => Value::I16(self.fixed(i16::from_be_bytes)?),
            Kind::I32 if is_compact => Value::I32(self.zigzag32()?),
            Kind::I32 => Value::I32(self.fixed(i32::from_be_bytes)?),
            Kind::I64 if is_compact => {
                let value = self.varint()?;
                Value::I64((value >> 1) as i64 ^ -((value & 1) as i64))
            }
            Kind::I64 => Value::I64(self.fixed(i64::from_be_bytes)?),
            // Big endian by the compact protocol's text, little endian by every implementation.
            Kind::Double if is_compact => Value::Double(self.fixed(f64::from_le_bytes)?),
            Kind::Double => Value::Double(self.fixed(f64::from_be_bytes)?),
            Kind::Binary => Value::Binary(self.binary()?),
            Kind::Uuid => Value::Uuid(self.chunk()?),
            Kind::Struct => Value::Struct,
            Kind::List | Kind::Set => Value::List(self.list()?),
            Kind::Map => Value::Map(self.map()?),
        })
    }

    fn list(&mut self) -> Result<List, Error> {
        let head = self.byte()?;
        let (element, len) = match self.protocol {
            Protocol::Binary => (binary_kind(head)?, self.length()?),
            Protocol::Compact => {
                let len = match head >> 4 {
                    15 => self.length()?,
                    len => len.into(),
                };
                (compact_kind(head & 0x0F)?, len)
            }
        };
        self.holds(len)?;
        Ok(List { element, len })
    }

    fn map(&mut self) -> Result<Map, Error> {
        let (key, value, len) = match self.protocol {
            Protocol::Binary => {
                let [key, value] = *self.chunk()?;
                // An empty map may name types that are none.
                match self.length()? {
                    0 => (Kind::Binary, Kind::Binary, 0),
                    len => (binary_kind(key)?, binary_kind(value)?, len),
                }
            }
            Protocol::Compact => match self.length()? {
                0 => (Kind::Binary, Kind::Binary, 0),
                len => {
                    let kinds = self.byte()?;
                    (compact_kind(kinds >> 4)?, compact_kind(kinds & 0x0F)?, len)
                }
            },
        };
        self.holds(len)?;
        Ok(Map { key, value, len })
    }

    /// Every element takes a byte at least.
    fn holds(&self, elements: usize) -> Result<(), Error> {
        if elements > self.rest.len() { Err(Error::Truncated) } else { Ok(()) }
    }

    #[inline]
    fn binary(&mut self) -> Result<&'a [u8], Error> {
        let length = self.length()?;
        self.take(length)
    }

    #[inline]
    fn length(&mut self) -> Result<usize, Error> {
        let length = match self.protocol {
            Protocol::Binary => self.fixed(i32::from_be_bytes)?,
            Protocol::Compact => self.varint32()? as i32,
        };
        usize::try_from(length).map_err(|_| Error::Length)
    }

    #[inline]
    fn zigzag32(&mut self) -> Result<i32, Error> {
        let value = self.varint32()?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    #[inline]
    fn varint32(&mut self) -> Result<u32, Error> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| Error::Varint)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte holds the 64th bit only.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Varint)
    }

    /// A number of fixed width.
    #[inline]
    fn fixed<T, const N: usize>(&mut self, read: fn([u8; N]) -> T) -> Result<T, Error> {
        Ok(read(*self.chunk()?))
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(chunk)
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Error> {
        let (byte, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

fn purpose(number: u8) -> Result<Purpose, Error> {
    Ok(match number {
        1 => Purpose::Call,
        2 => Purpose::Reply,
        3 => Purpose::Exception,
        4 => Purpose::Oneway,
        _ => return Err(Error::Message),
    })
}

#[inline]
fn binary_kind(number: u8) -> Result<Kind, Error> {
    Ok(match number {
        2 => Kind::Bool,
        3 => Kind::I8,
        4 => Kind::Double,
        6 => Kind::I16,
        8 => Kind::I32,
        10 => Kind::I64,
        11 => Kind::Binary,
        12 => Kind::Struct,
        13 => Kind::Map,
        14 => Kind::Set,
        15 => Kind::List,
        16 => Kind::Uuid,
        other => return Err(Error::Kind(other)),
    })
}

#[inline]
fn compact_kind(number: u8) -> Result<Kind, Error> {
    Ok(match number {
        1 | 2 => Kind::Bool,
        3 => Kind::I8,
        4 => Kind::I16,
        5 => Kind::I32,
        6 => Kind::I64,
        7 => Kind::Double,
        8 => Kind::Binary,
        9 => Kind::List,
        10 => Kind::Set,
        11 => Kind::Map,
        12 => Kind::Struct,
        13 => Kind::Uuid,
        other => return Err(Error::Kind(other)),
    })
}
