//! A message to read fields from, as it may really lie on the wire.
//!
//! A singular message may come in several pieces, and its value is their merge (protobuf, "Last One Wins"). Merging
//! is laying the pieces' fields end to end, so a [`Message`] need not be contiguous: it is either one run of bytes
//! or all occurrences of a field in another message. No producer does this; every reader must be right about it.

use crate::wire::{self, Field, Fields, Value};

/// A message: the fields of one run of bytes, or of the pieces found in it along a path of at most two fields.
///
/// Two are enough for OTLP, as between two singular messages there is nearly always a repeated one: the longest
/// chain is `KeyValue.value.array_value`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Message<'a> {
    bytes: &'a [u8],
    /// Field numbers from `bytes` to the pieces; zero ends it.
    path: [u32; 2],
    /// How many of the pieces a later arm of the same oneof superseded.
    superseded: usize,
}

/// How often a message field was seen, and its last value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Occurrences<'a> {
    count: usize,
    last: &'a [u8],
}

impl<'a> Occurrences<'a> {
    #[inline(always)]
    pub(crate) fn push(&mut self, value: Value<'a>) {
        if let Value::Bytes(bytes) = value {
            (self.count, self.last) = (self.count + 1, bytes);
        }
    }
}

impl<'a> Message<'a> {
    /// A message that lies in one run.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, path: [0, 0], superseded: 0 }
    }

    /// Takes off the first field, if it is of that number below 16 and has a value of so many bytes.
    #[inline(always)]
    pub(crate) fn strip_id<const LEN: usize>(&mut self, number: u32) -> Option<&'a [u8]> {
        let [0, _] = self.path else { return None };
        let tag = (number << 3 | 2) as u8;
        let (id, rest) = self.bytes.strip_prefix(&[tag, LEN as u8])?.split_first_chunk::<LEN>()?;
        self.bytes = rest;
        Some(id)
    }

    /// The fields, up to the first that cannot be read (there is none in validated bytes).
    #[inline]
    pub(crate) fn fields(&self) -> MessageFields<'a> {
        match self.path {
            [0, _] => MessageFields { here: Fields::new(self.bytes), pieces: Pieces::default() },
            _ => MessageFields { here: Fields::default(), pieces: Pieces::of(self) },
        }
    }

    /// The last occurrence of a field.
    #[inline]
    pub(crate) fn last(&self, number: u32) -> Option<Value<'a>> {
        let mut last = None;
        self.walk(1 << number, |_, value| last = Some(value));
        last
    }

    /// The merge of all occurrences of a message field, empty if there is none.
    pub(crate) fn child<V: From<Message<'a>>>(&self, number: u32) -> V {
        let mut pieces = Occurrences::default();
        self.walk(1 << number, |_, value| pieces.push(value));
        self.merge(number, pieces).into()
    }

    /// The merge of all occurrences of a message field.
    pub(crate) fn merge(&self, number: u32, Occurrences { count, last }: Occurrences<'a>) -> Message<'a> {
        if count < 2 { Message::new(last) } else { self.pieces(number, 0) }
    }

    /// Calls `each` with number and value of the fields whose bits are set in `wanted`, up to the first field that cannot
    /// be read. Numbers are below 64: no message of OTLP has a larger one.
    #[inline(always)]
    pub(crate) fn walk(&self, wanted: u64, mut each: impl FnMut(u32, Value<'a>)) {
        match self.path {
            [0, _] => wire::walk(self.bytes, wanted, each),
            _ => self.walk_pieces(wanted, &mut each),
        }
    }

    #[cold]
    fn walk_pieces(&self, wanted: u64, each: &mut dyn FnMut(u32, Value<'a>)) {
        let wanted = |field: &Field<'_>| field.number < 64 && wanted >> field.number & 1 == 1;
        self.fields().filter(wanted).for_each(|field| each(field.number, field.value));
    }

    /// The arm of a oneof that holds: the last one's number, and, where it is a message, the merge of its
    /// occurrences since another arm held.
    pub(crate) fn oneof(&self, arms: impl Fn(u32) -> bool) -> Option<(Field<'a>, Message<'a>)> {
        let mut live: Option<Field<'a>> = None;
        let mut pieces = 0;
        for field in self.fields().filter(|field| arms(field.number)) {
            let same = live.is_some_and(|live| live.number == field.number);
            pieces = if same { pieces + 1 } else { 1 };
            live = Some(field);
        }
        let live = live?;
        let message = if pieces == 1 {
            Message::new(live.bytes().unwrap_or_default())
        } else {
            let all = self.fields().filter(|field| field.number == live.number).count();
            self.pieces(live.number, all - pieces)
        };
        Some((live, message))
    }

    fn pieces(&self, number: u32, superseded: usize) -> Message<'a> {
        let path = match self.path {
            [0, _] => [number, 0],
            [outer, _] => [outer, number],
        };
        Message { bytes: self.bytes, path, superseded }
    }

    pub(crate) fn text(&self, number: u32) -> &'a str {
        std::str::from_utf8(self.bytes(number)).unwrap_or_default()
    }

    pub(crate) fn bytes(&self, number: u32) -> &'a [u8] {
        match self.last(number) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    pub(crate) fn fixed64(&self, number: u32) -> u64 {
        self.optional_fixed64(number).unwrap_or_default()
    }

    pub(crate) fn optional_fixed64(&self, number: u32) -> Option<u64> {
        match self.last(number) {
            Some(Value::Fixed64(value)) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn fixed32(&self, number: u32) -> u32 {
        match self.last(number) {
            Some(Value::Fixed32(value)) => value,
            _ => 0,
        }
    }

    pub(crate) fn double(&self, number: u32) -> f64 {
        f64::from_bits(self.fixed64(number))
    }

    pub(crate) fn optional_double(&self, number: u32) -> Option<f64> {
        self.optional_fixed64(number).map(f64::from_bits)
    }

    fn varint(&self, number: u32) -> u64 {
        match self.last(number) {
            Some(Value::Varint(value)) => value,
            _ => 0,
        }
    }

    // Protobuf truncates a varint that is too large for its type.

    pub(crate) fn uint32(&self, number: u32) -> u32 {
        self.varint(number) as u32
    }

    pub(crate) fn int32(&self, number: u32) -> i32 {
        self.varint(number) as i32
    }

    /// ZigZag: 0, -1, 1, -2, ...
    pub(crate) fn sint32(&self, number: u32) -> i32 {
        let value = self.uint32(number);
        (value >> 1) as i32 ^ -((value & 1) as i32)
    }

    pub(crate) fn flag(&self, number: u32) -> bool {
        self.varint(number) != 0
    }
}

/// The fields of a [`Message`] in wire order, piece after piece.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MessageFields<'a> {
    here: Fields<'a>,
    pieces: Pieces<'a>,
}

impl<'a> MessageFields<'a> {
    /// The next length-delimited field of that number. What is before it is passed over.
    #[inline]
    pub(crate) fn next_message(&mut self, number: u32) -> Option<&'a [u8]> {
        loop {
            // Most messages of a kind lie one behind the other.
            if let Some(value) = self.here.next_if(number) {
                return Some(value);
            }
            let field = self.next()?;
            if field.number == number
                && let Some(value) = field.bytes()
            {
                return Some(value);
            }
        }
    }
}

impl<'a> Iterator for MessageFields<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        loop {
            if let Some(Ok(field)) = self.here.next() {
                return Some(field);
            }
            self.here = Fields::new(self.pieces.next()?);
        }
    }
}

/// The pieces of a message that is not in one run.
#[derive(Clone, Copy, Debug, Default)]
struct Pieces<'a> {
    outer: Fields<'a>,
    inner: Fields<'a>,
    path: [u32; 2],
}

impl<'a> Pieces<'a> {
    #[cold]
    fn of(message: &Message<'a>) -> Self {
        let mut pieces =
            Self { outer: Fields::new(message.bytes), inner: Fields::default(), path: message.path };
        for _ in 0..message.superseded {
            pieces.next();
        }
        pieces
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let [outer, inner] = self.path;
        loop {
            if inner != 0
                && let Some(piece) = next_bytes(&mut self.inner, inner)
            {
                return Some(piece);
            }
            let piece = next_bytes(&mut self.outer, outer)?;
            if inner == 0 {
                return Some(piece);
            }
            self.inner = Fields::new(piece);
        }
    }
}

fn next_bytes<'a>(fields: &mut Fields<'a>, number: u32) -> Option<&'a [u8]> {
    fields.by_ref().flatten().filter(|field| field.number == number).find_map(|field| field.bytes())
}
