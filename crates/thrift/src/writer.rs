//! Writing either protocol.

use crate::{Kind, List, Map, Message, Protocol, Purpose, Value};

/// Bytes under construction.
#[derive(Clone, Debug)]
pub struct Writer {
    out: Vec<u8>,
    protocol: Protocol,
    /// The number of the field before, in the struct that is open.
    last: i16,
}

impl Writer {
    /// Nothing yet.
    pub fn new(protocol: Protocol) -> Self {
        Self { out: Vec::new(), protocol, last: 0 }
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Writes the head of a message; its arguments are a [`structure`](Self::structure).
    pub fn message(&mut self, message: Message<'_>) {
        let purpose = match message.purpose {
            Purpose::Call => 1,
            Purpose::Reply => 2,
            Purpose::Exception => 3,
            Purpose::Oneway => 4,
        };
        match self.protocol {
            Protocol::Binary => {
                self.out.extend([0x80, 0x01, 0, purpose]);
                self.value(Value::Binary(message.name));
                self.out.extend(message.sequence.to_be_bytes());
            }
            Protocol::Compact => {
                self.out.extend([0x82, purpose << 5 | 1]);
                self.varint(u64::from(message.sequence as u32));
                self.value(Value::Binary(message.name));
            }
        }
    }

    /// Writes a struct: as a value of its own, after [`field`](Self::field) of a [`Value::Struct`], or as an element.
    pub fn structure(&mut self, fields: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.last);
        fields(self);
        self.out.push(0);
        self.last = outer;
    }

    /// Writes a field. After one that is a container comes what is inside: a [`structure`](Self::structure), or as many
    /// [`element`](Self::element)s as its head says.
    pub fn field(&mut self, id: i16, value: Value<'_>) {
        let kind = kind(value);
        match self.protocol {
            Protocol::Binary => {
                self.out.push(binary_number(kind));
                self.out.extend(id.to_be_bytes());
                self.value(value);
            }
            Protocol::Compact => {
                let kind = match value {
                    Value::Bool(false) => 2,
                    _ => compact_number(kind),
                };
                match id.checked_sub(self.last) {
                    Some(delta @ 1..=15) => self.out.push((delta as u8) << 4 | kind),
                    _ => {
                        self.out.push(kind);
                        self.zigzag(id.into());
                    }
                }
                if !matches!(value, Value::Bool(_)) {
                    self.value(value);
                }
            }
        }
        self.last = id;
    }

    /// Writes an element of a list, or a key or a value of a map.
    pub fn element(&mut self, value: Value<'_>) {
        self.value(value);
    }

    fn value(&mut self, value: Value<'_>) {
        match (self.protocol, value) {
            (Protocol::Binary, Value::Bool(value)) => self.out.push(value.into()),
            (Protocol::Compact, Value::Bool(value)) => self.out.push(if value { 1 } else { 2 }),
            (_, Value::I8(value)) => self.out.push(value as u8),
            (Protocol::Binary, Value::I16(value)) => self.out.extend(value.to_be_bytes()),
            (Protocol::Compact, Value::I16(value)) => self.zigzag(value.into()),
            (Protocol::Binary, Value::I32(value)) => self.out.extend(value.to_be_bytes()),
            (Protocol::Compact, Value::I32(value)) => self.zigzag(value.into()),
            (Protocol::Binary, Value::I64(value)) => self.out.extend(value.to_be_bytes()),
            (Protocol::Compact, Value::I64(value)) => self.zigzag(value),
            (Protocol::Binary, Value::Double(value)) => self.out.extend(value.to_be_bytes()),
            (Protocol::Compact, Value::Double(value)) => self.out.extend(value.to_le_bytes()),
            (_, Value::Binary(bytes)) => {
                self.length(bytes.len());
                self.out.extend(bytes);
            }
            (_, Value::Uuid(bytes)) => self.out.extend(bytes),
            (_, Value::Struct) => {}
            (Protocol::Binary, Value::List(List { element, len })) => {
                self.out.push(binary_number(element));
                self.length(len);
            }
            (Protocol::Compact, Value::List(List { element, len })) => {
                let element = compact_number(element);
                if len < 15 {
                    self.out.push((len as u8) << 4 | element);
                } else {
                    self.out.push(0xF0 | element);
                    self.length(len);
                }
            }
            (Protocol::Binary, Value::Map(Map { key, value, len })) => {
                self.out.extend([binary_number(key), binary_number(value)]);
                self.length(len);
            }
            (Protocol::Compact, Value::Map(Map { key, value, len })) => {
                self.length(len);
                if len > 0 {
                    self.out.push(compact_number(key) << 4 | compact_number(value));
                }
            }
        }
    }

    fn length(&mut self, length: usize) {
        match self.protocol {
            Protocol::Binary => self.out.extend((length as u32).to_be_bytes()),
            Protocol::Compact => self.varint(length as u64),
        }
    }

    fn zigzag(&mut self, value: i64) {
        self.varint((value << 1 ^ value >> 63) as u64);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

fn kind(value: Value<'_>) -> Kind {
    match value {
        Value::Bool(_) => Kind::Bool,
        Value::I8(_) => Kind::I8,
        Value::I16(_) => Kind::I16,
        Value::I32(_) => Kind::I32,
        Value::I64(_) => Kind::I64,
        Value::Double(_) => Kind::Double,
        Value::Binary(_) => Kind::Binary,
        Value::Uuid(_) => Kind::Uuid,
        Value::Struct => Kind::Struct,
        Value::List(_) => Kind::List,
        Value::Map(_) => Kind::Map,
    }
}

fn binary_number(kind: Kind) -> u8 {
    match kind {
        Kind::Bool => 2,
        Kind::I8 => 3,
        Kind::Double => 4,
        Kind::I16 => 6,
        Kind::I32 => 8,
        Kind::I64 => 10,
        Kind::Binary => 11,
        Kind::Struct => 12,
        Kind::Map => 13,
        Kind::Set => 14,
        Kind::List => 15,
        Kind::Uuid => 16,
    }
}

fn compact_number(kind: Kind) -> u8 {
    match kind {
        Kind::Bool => 1,
        Kind::I8 => 3,
        Kind::I16 => 4,
        Kind::I32 => 5,
        Kind::I64 => 6,
        Kind::Double => 7,
        Kind::Binary => 8,
        Kind::List => 9,
        Kind::Set => 10,
        Kind::Map => 11,
        Kind::Struct => 12,
        Kind::Uuid => 13,
    }
}
