//! JSON to wire bytes.

use crate::Signal;
use crate::build::{Output, Room};
use crate::json::JsonError;
use crate::json::binary::{read_base64, read_hex};
use crate::json::error::{Fault, JsonFlaw};
use crate::json::lexer::Lexer;
use crate::json::number::{integer, number_len, short_decimal};
use crate::schema::{FieldShape, Kind, Number, Presence, Rule};
use crate::wire::MAX_DEPTH;

/// The wire bytes of the `Export*ServiceRequest` that `json` says; see the [module](super) for what is accepted.
///
/// Fields come in the order of the text, lengths in their shortest form, defaults not at all. The bytes pass
/// [`Payload::validate`](crate::Payload::validate), unless an id has a wrong length. Time and memory are linear in
/// `json`.
///
/// `room(total)` is asked before what is taken here may grow to `total` bytes: first half of `json`, then half as much
/// again, as often as it takes. On `false` the error is [`JsonFlaw::NoRoom`]. The result is smaller than `json`,
/// numbers in arrays apart, and has no capacity to spare.
pub fn decode(
    signal: Signal,
    json: &[u8],
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, JsonError> {
    let mut lexer = Lexer::new(json);
    request(signal, json, &mut lexer, room).map_err(|fault| fault.into_error(json, lexer.pos()))
}

fn request(
    signal: Signal,
    json: &[u8],
    lexer: &mut Lexer<'_>,
    room: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<u8>, Fault> {
    if json.starts_with("\u{FEFF}".as_bytes()) {
        return Err(Fault::new(JsonFlaw::ByteOrderMark, 0));
    }
    // All of it at once is faster than string by string, and what is skipped is checked with the rest.
    std::str::from_utf8(json).map_err(|error| Fault::new(JsonFlaw::Utf8, error.valid_up_to()))?;
    let out = Output::new(Room::new(room), json.len() / 2)?;
    let mut decoder = Decoder { lexer, scratch: Vec::new(), out };
    decoder.message(Kind::request(signal), 0)?;
    decoder.lexer.end()?;
    Ok(decoder.out.finish()?)
}

struct Decoder<'d, 'a> {
    lexer: &'d mut Lexer<'a>,
    /// The last string that had escapes, without them.
    scratch: Vec<u8>,
    out: Output<'d>,
}

impl<'a> Decoder<'_, 'a> {
    /// Reads the object of a message whose tag and length are someone else's. Recursion ends at [`MAX_DEPTH`].
    fn message(&mut self, kind: Kind, depth: usize) -> Result<(), Fault> {
        self.lexer.object()?;
        let fields = kind.fields();
        let (mut first, mut next) = (true, 0);
        let mut seen = 0u32;
        let mut one_of = false;
        loop {
            let (index, field) = match fields.get(next) {
                // As most writers write it: in the schema's order, without white space.
                Some(field) if self.lexer.known_key(first, field.key) => (next, field),
                _ => {
                    let Some(key) = self.lexer.key(first, &mut self.scratch, &mut self.out.room)? else {
                        return Ok(());
                    };
                    let Some(found) = find(fields, key, next) else {
                        if depth == 0
                            && let Some(signal) = other_signal(key)
                        {
                            return Err(Fault::new(JsonFlaw::Signal(signal), self.lexer.key_pos()));
                        }
                        self.lexer.skip()?;
                        first = false;
                        continue;
                    };
                    found
                }
            };
            first = false;
            next = index + 1;
            if self.lexer.peek() == Some(b'n') && self.lexer.literal("null") {
                continue;
            }
            let twice = seen & 1 << index != 0;
            seen |= 1 << index;
            let excluded = field.presence == Presence::OneOf && std::mem::replace(&mut one_of, true);
            if twice || excluded {
                let flaw = if twice { JsonFlaw::Duplicate } else { JsonFlaw::OneOf };
                return Err(Fault::new(flaw, self.lexer.key_pos()).within(field.json_name()));
            }
            self.field(field, depth).map_err(|fault| fault.within(field.json_name()))?;
        }
    }

    fn field(&mut self, field: &FieldShape, depth: usize) -> Result<(), Fault> {
        let number = field.number;
        let always = field.presence != Presence::Implicit;
        match field.rule {
            Rule::Message(kind) | Rule::Arm(kind) => self.child(number, kind, depth),
            Rule::Messages(kind) | Rule::List(kind) | Rule::Item(kind) => {
                self.array(|decoder| decoder.child(number, kind, depth))
            }
            Rule::Attributes => self.array(|decoder| decoder.child(number, Kind::KeyValue, depth)),
            Rule::Text => self.text(number, always),
            Rule::Texts => self.array(|decoder| decoder.text(number, true)),
            Rule::Bytes => self.binary(number, always, BASE64),
            Rule::TraceId | Rule::SpanId => self.binary(number, always, HEX),
            Rule::Varint(form) => match self.number(form)? {
                0 if !always => Ok(()),
                value => Ok(self.out.put_varint_field(number, value)?),
            },
            Rule::Fixed64(form) => match self.number(form)? {
                0 if !always => Ok(()),
                value => Ok(self.out.put_fixed64_field(number, value)?),
            },
            Rule::Fixed32 => match self.number(Number::Uint32)? {
                0 => Ok(()),
                value => Ok(self.out.put_fixed32_field(number, value as u32)?),
            },
            Rule::PackedVarint(form) => self.packed(number, |decoder| {
                let value = decoder.number(form)?;
                Ok(decoder.out.put_varint(value)?)
            }),
            Rule::PackedFixed64(form) => self.packed(number, |decoder| {
                let value = decoder.number(form)?;
                Ok(decoder.out.put_fixed64(value)?)
            }),
            Rule::Unknown => self.lexer.skip(),
        }
    }

    /// Reads an array, element by element.
    #[inline]
    fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        self.lexer.array()?;
        let mut index = 0;
        while self.lexer.element(index == 0)? {
            element(self).map_err(|fault| fault.at_index(index))?;
            index += 1;
        }
        Ok(())
    }

    /// Reads an array into one packed field, or none if it is empty.
    fn packed(
        &mut self,
        number: u32,
        mut element: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut open = None;
        self.array(|decoder| {
            if open.is_none() {
                open = Some(decoder.out.open(number)?);
            }
            element(decoder)
        })?;
        open.map_or(Ok(()), |open| Ok(self.out.close(open)?))
    }

    fn child(&mut self, number: u32, kind: Kind, depth: usize) -> Result<(), Fault> {
        if depth == MAX_DEPTH {
            return Err(self.lexer.unexpected(JsonFlaw::Depth));
        }
        let open = self.out.open(number)?;
        self.message(kind, depth + 1)?;
        Ok(self.out.close(open)?)
    }

    fn text(&mut self, number: u32, always: bool) -> Result<(), Fault> {
        let text = self.lexer.string("a string", &mut self.scratch, &mut self.out.room)?;
        if text.is_empty() && !always { Ok(()) } else { Ok(self.out.put_bytes_field(number, text)?) }
    }

    fn binary(&mut self, number: u32, always: bool, coding: Coding) -> Result<(), Fault> {
        self.lexer.peek();
        let at = self.lexer.pos();
        let text = self.lexer.string("a string", &mut self.scratch, &mut self.out.room)?;
        if text.is_empty() && !always {
            return Ok(());
        }
        match self.out.put_coded_field(number, text, coding.read)? {
            true => Ok(()),
            false => Err(Fault::new(coding.flaw, at)),
        }
    }

    fn boolean(&mut self) -> Result<u64, Fault> {
        self.lexer.peek();
        for (literal, bits) in [("true", 1), ("false", 0)] {
            if self.lexer.literal(literal) {
                return Ok(bits);
            }
        }
        Err(self.lexer.unexpected(JsonFlaw::Type("true or false")))
    }

    /// Reads a number: its bits, or what a varint has to be for it.
    #[inline]
    fn number(&mut self, form: Number) -> Result<u64, Fault> {
        if form == Number::Bool {
            return self.boolean();
        }
        self.lexer.peek();
        let at = self.lexer.pos();
        let bits = match self.lexer.natural(form != Number::Enum) {
            Some(value) => fit(form, value.into()),
            None => self.unusual_number(form)?,
        };
        bits.map_err(|flaw| Fault::new(flaw, at))
    }

    /// Reads what is not just some digits. The inner flaw is that of the number, not of the text.
    #[inline(never)]
    fn unusual_number(&mut self, form: Number) -> Result<Result<u64, JsonFlaw>, Fault> {
        let what = match form {
            Number::Enum => "an integer, as OTLP/JSON has no names for enums",
            Number::Double => "a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
            _ => "an integer, or a string with one in it",
        };
        let text = match self.lexer.peek() {
            Some(b'-' | b'0'..=b'9') => self.lexer.number()?,
            Some(b'"') if form != Number::Enum => {
                let text = self.lexer.string(what, &mut self.scratch, &mut self.out.room)?;
                match (text, form) {
                    (b"NaN", Number::Double) => return Ok(Ok(f64::NAN.to_bits())),
                    (b"Infinity", Number::Double) => return Ok(Ok(f64::INFINITY.to_bits())),
                    (b"-Infinity", Number::Double) => return Ok(Ok(f64::NEG_INFINITY.to_bits())),
                    _ if number_len(text) != Ok(text.len()) => return Ok(Err(JsonFlaw::Type(what))),
                    _ => text,
                }
            }
            _ => return Err(self.lexer.unexpected(JsonFlaw::Type(what))),
        };
        if form != Number::Double {
            return Ok(integer(text).and_then(|value| fit(form, value)));
        }
        if let Some(value) = short_decimal(text) {
            return Ok(Ok(value.to_bits()));
        }
        let value = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
        let finite = value.filter(|value| value.is_finite());
        Ok(finite.map(f64::to_bits).ok_or(JsonFlaw::Range("double")))
    }
}

/// The bits of a whole number in a field of that form.
#[inline]
fn fit(form: Number, value: i128) -> Result<u64, JsonFlaw> {
    let int32 = || i32::try_from(value).ok();
    let (name, bits) = match form {
        Number::Uint32 => ("uint32", u32::try_from(value).ok().map(u64::from)),
        Number::Uint64 => ("uint64", u64::try_from(value).ok()),
        Number::Int64 => ("int64", i64::try_from(value).ok().map(|value| value as u64)),
        // Rounded to the nearest, as the standard library reads digits.
        Number::Double => ("double", Some((value as f64).to_bits())),
        Number::Sint32 => ("int32", int32().map(|value| u64::from((value << 1 ^ value >> 31) as u32))),
        Number::Bool | Number::Enum | Number::Int32 => ("int32", int32().map(|value| value as u64)),
    };
    bits.ok_or(JsonFlaw::Range(name))
}

/// How bytes are written in a string.
struct Coding {
    /// Appends the bytes that a text stands for; whether it stands for any.
    read: fn(&[u8], &mut Vec<u8>) -> bool,
    flaw: JsonFlaw,
}

const HEX: Coding = Coding { read: read_hex, flaw: JsonFlaw::Hex };
const BASE64: Coding = Coding { read: read_base64, flaw: JsonFlaw::Base64 };

/// The signal to whose requests alone the key belongs.
#[cold]
fn other_signal(key: &[u8]) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| find(Kind::request(*signal).fields(), key, 0).is_some())
}

/// The field with that key. Most writers keep to the order of the schema, so the search starts at the `next`; few write
/// the names of the schema as they are.
#[inline]
fn find(fields: &'static [FieldShape], key: &[u8], next: usize) -> Option<(usize, &'static FieldShape)> {
    let is_key = |(_, field): &(usize, &FieldShape)| {
        field.key.len() == key.len() + 3 && field.key.as_bytes().get(1..=key.len()) == Some(key)
    };
    let mut ahead = fields.iter().enumerate().skip(next);
    ahead
        .find(is_key)
        .or_else(|| fields.iter().enumerate().take(next).find(is_key))
        .or_else(|| fields.iter().enumerate().find(|(_, field)| field.name.as_bytes() == key))
}
