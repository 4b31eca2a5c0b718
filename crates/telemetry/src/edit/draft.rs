//! The attributes of one message, with what is to become of them.

use std::ops::Range;

use regex::Regex;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::edit::action::{Action, Conversion, Keys, Source};
use crate::edit::revision::{Part, Revision};
use crate::edit::text;
use crate::edit::value::{AttributeValue, put_double, put_int, put_text};
use crate::message::Message;
use crate::schema::Kind;
use crate::view::{AnyValueView, KeyValueView, Value};
use crate::wire::{self, Field, Fields, WireType};

/// What is being edited. One draft serves all messages of a payload, so that no message costs an allocation.
#[derive(Default)]
pub(super) struct Draft<'a> {
    /// The kind of the message.
    kind: Option<Kind>,
    /// The number of its attributes' field.
    number: u32,
    /// Those read, in wire order, and behind them those that are added.
    attributes: Vec<Attribute<'a>>,
    /// How many were read.
    read: usize,
    /// How many of these are written.
    written: usize,
    /// The encodings of values that were made here.
    made: Vec<u8>,
    /// How many values could not be converted, in all messages.
    pub(super) unconverted: u64,
}

struct Attribute<'a> {
    key: &'a [u8],
    /// The `KeyValue`; empty for one that is added.
    body: &'a [u8],
    /// The value, where the `KeyValue` is key and value and nothing else, as writers write it.
    plain: Option<&'a [u8]>,
    /// Where its field lies in the source; nowhere for one that is added.
    whole: Range<usize>,
    fate: Fate<'a>,
}

#[derive(Clone, Copy)]
enum Fate<'a> {
    Stays,
    Goes,
    Becomes(Encoded<'a>),
}

/// An `AnyValue`.
#[derive(Clone, Copy)]
enum Encoded<'a> {
    /// In the source or an action.
    Lent(&'a [u8]),
    /// In [`Draft::made`].
    Made { start: usize, end: usize },
}

// `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;

impl<'a> Draft<'a> {
    /// Starts on the next message, of that kind.
    pub(super) fn begin(&mut self, kind: Kind) {
        if self.kind != Some(kind) {
            self.kind = Some(kind);
            self.number = kind.attributes().unwrap_or_default();
        }
        self.attributes.clear();
        self.read = 0;
        self.written = 0;
        self.made.clear();
    }

    /// Reads the attributes of the message, or the piece of it, at `range`, as far as they are of these keys.
    pub(super) fn read(&mut self, revision: &Revision<'a>, range: Range<usize>, keys: &Keys) {
        let number = self.number;
        let is_meant = |found, body: &[u8]| found == number && keys.have(entry(body).0);
        for Part { value: body, whole, .. } in revision.parts(range, is_meant) {
            let (key, plain) = entry(body);
            self.attributes.push(Attribute { key, body, plain, whole, fate: Fate::Stays });
        }
        self.read = self.attributes.len();
    }

    /// Does what the actions say, in order.
    pub(super) fn apply(&mut self, actions: &'a [Action], given: &'a [Option<AttributeValue>]) {
        for action in actions {
            self.act(action, given);
        }
    }

    fn act(&mut self, action: &'a Action, given: &'a [Option<AttributeValue>]) {
        match action {
            Action::Insert { key, value } => {
                if self.find(key.as_bytes()).is_none()
                    && let Some(value) = self.source(value, given)
                {
                    self.add(key.as_bytes(), value);
                }
            }
            Action::Update { key, value } => {
                if let Some(value) = self.source(value, given) {
                    self.set(key.as_bytes(), value);
                }
            }
            Action::Upsert { key, value } => {
                if let Some(value) = self.source(value, given) {
                    self.upsert(key.as_bytes(), value);
                }
            }
            Action::Delete { key } => self.delete(|found| found == key.as_bytes()),
            Action::DeleteMatching { pattern } => self.delete(matches(pattern)),
            Action::Hash { key } => self.hash(|found| found == key.as_bytes()),
            Action::HashMatching { pattern } => self.hash(matches(pattern)),
            Action::Extract { key, pattern } => self.extract(key.as_bytes(), pattern),
            Action::Convert { key, to } => self.convert(key.as_bytes(), *to),
        }
    }

    /// The first attribute of that key.
    fn find(&self, key: &[u8]) -> Option<usize> {
        self.attributes.iter().position(|attribute| attribute.is(key))
    }

    fn add(&mut self, key: &'a [u8], value: Encoded<'a>) {
        let fate = Fate::Becomes(value);
        self.attributes.push(Attribute { key, body: &[], plain: None, whole: 0..0, fate });
    }

    /// Sets the value of every attribute of that key; false if there is none.
    fn set(&mut self, key: &[u8], value: Encoded<'a>) -> bool {
        let mut is_any = false;
        for attribute in self.attributes.iter_mut().filter(|attribute| attribute.is(key)) {
            attribute.fate = Fate::Becomes(value);
            is_any = true;
        }
        is_any
    }

    fn upsert(&mut self, key: &'a [u8], value: Encoded<'a>) {
        if !self.set(key, value) {
            self.add(key, value);
        }
    }

    fn delete(&mut self, is_meant: impl Fn(&[u8]) -> bool) {
        for attribute in self.attributes.iter_mut().filter(|attribute| is_meant(attribute.key)) {
            attribute.fate = Fate::Goes;
        }
    }

    fn hash(&mut self, is_meant: impl Fn(&[u8]) -> bool) {
        for index in 0..self.attributes.len() {
            if let Some(attribute) = self.attributes.get(index)
                && is_meant(attribute.key)
                && let Some(value) = self.value(attribute)
            {
                let digits = match self.run(attribute) {
                    Some([0x0A, length @ 0..0x80, text @ ..]) if usize::from(*length) == text.len() => {
                        Some(sha256(text))
                    }
                    _ => hash(value),
                };
                let digits = digits.as_ref().map_or(&[][..], |digits| digits);
                self.become_made(index, |made| wire::put_bytes_field(made, 1, digits));
            }
        }
    }

    fn extract(&mut self, key: &[u8], pattern: &'a Regex) {
        let value = self.find(key).and_then(|index| self.value(self.attributes.get(index)?));
        // A copy, since what is made of it may lie beside it.
        let Some(text) = value.and_then(|value| value.as_str()).map(str::to_owned) else { return };
        let Some(found) = pattern.captures(&text) else { return };
        for (index, name) in pattern.capture_names().enumerate() {
            let Some(name) = name else { continue };
            let part = found.get(index).map_or("", |part| part.as_str());
            let value = self.make(|made| put_text(made, part));
            self.upsert(name.as_bytes(), value);
        }
    }

    fn convert(&mut self, key: &[u8], to: Conversion) {
        for index in 0..self.attributes.len() {
            let Some(attribute) = self.attributes.get(index).filter(|attribute| attribute.is(key)) else {
                continue;
            };
            let Some(view) = self.value(attribute) else { continue };
            match (to, view.value()) {
                (Conversion::Int, Value::Int(_))
                | (Conversion::Double, Value::Double(_))
                | (Conversion::String, Value::Str(_)) => {}
                (Conversion::Int, value) => match text::to_int(value) {
                    Some(number) => self.become_made(index, |made| put_int(made, number)),
                    None => self.unconverted += 1,
                },
                (Conversion::Double, value) => match text::to_double(value) {
                    Some(number) => self.become_made(index, |made| put_double(made, number)),
                    None => self.unconverted += 1,
                },
                (Conversion::String, _) => {
                    let text = text::text(view).into_owned();
                    self.become_made(index, |made| put_text(made, &text));
                }
            }
        }
    }

    /// The value that an action writes, if there is one.
    fn source(&mut self, source: &'a Source, given: &'a [Option<AttributeValue>]) -> Option<Encoded<'a>> {
        let lent = |value: &'a AttributeValue| Encoded::Lent(value.as_wire());
        match source {
            Source::Value(value) => Some(lent(value)),
            Source::Given(index) => given.get(*index)?.as_ref().map(lent),
            Source::Attribute { key, default } => match self.find(key.as_bytes()) {
                Some(index) => self.encoded(index),
                None => default.as_ref().map(lent),
            },
        }
    }

    /// The value of an attribute as it is by now.
    fn encoded(&mut self, index: usize) -> Option<Encoded<'a>> {
        let attribute = self.attributes.get(index)?;
        match (attribute.fate, attribute.plain) {
            (Fate::Becomes(value), _) => return Some(value),
            (_, Some(value)) => return Some(Encoded::Lent(value)),
            (_, None) => {}
        }
        // Pieces of a value, laid end to end, are the value.
        let pieces = key_value(attribute.body).filter(|field| field.number == VALUE);
        let pieces: SmallVec<[&[u8]; 1]> = pieces.filter_map(|field| field.bytes()).collect();
        Some(match pieces.as_slice() {
            [] => Encoded::Lent(&[]),
            [only] => Encoded::Lent(only),
            pieces => self.make(|made| pieces.iter().for_each(|piece| made.extend_from_slice(piece))),
        })
    }

    /// The value of an attribute as it is by now; `None` if it is gone.
    fn value(&self, attribute: &Attribute<'a>) -> Option<AnyValueView<'_>> {
        match self.run(attribute) {
            Some(value) => Some(Message::new(value).into()),
            None if matches!(attribute.fate, Fate::Goes) => None,
            None => Some(KeyValueView::from(Message::new(attribute.body)).value()),
        }
    }

    /// The value of an attribute as it is by now, where it lies in one run of bytes.
    fn run(&self, attribute: &Attribute<'a>) -> Option<&[u8]> {
        match attribute.fate {
            Fate::Stays => attribute.plain,
            Fate::Goes => None,
            Fate::Becomes(value) => Some(self.bytes(value)),
        }
    }

    fn bytes(&self, value: Encoded<'a>) -> &[u8] {
        match value {
            Encoded::Lent(bytes) => bytes,
            Encoded::Made { start, end } => self.made.get(start..end).unwrap_or_default(),
        }
    }

    fn make(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Encoded<'a> {
        let start = self.made.len();
        write(&mut self.made);
        Encoded::Made { start, end: self.made.len() }
    }

    fn become_made(&mut self, index: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let value = self.make(write);
        if let Some(attribute) = self.attributes.get_mut(index) {
            attribute.fate = Fate::Becomes(value);
        }
    }

    /// Writes what changes in the message, or the piece of it, at `range`; what is added, to the last piece.
    pub(super) fn write(&mut self, revision: &mut Revision<'a>, range: Range<usize>, is_last: bool) {
        while self.written < self.read
            && let Some(attribute) = self.attributes.get(self.written)
            && attribute.whole.start < range.end
        {
            self.written += 1;
            match attribute.fate {
                Fate::Stays => {}
                Fate::Goes => revision.replace(attribute.whole.clone(), |_| {}),
                Fate::Becomes(value) => {
                    let (value, old) = (self.bytes(value), attribute.whole.clone());
                    if !attribute.holds(value) {
                        revision.replace(old, |out| self.put_changed(out, attribute, value));
                    }
                }
            }
        }
        if is_last && self.adds() {
            revision.replace(range.end..range.end, |out| self.put_added(out));
        }
    }

    /// Whether any attribute is added.
    pub(super) fn adds(&self) -> bool {
        self.added().next().is_some()
    }

    /// Keys and values of those that are added.
    fn added(&self) -> impl Iterator<Item = (&'a [u8], &[u8])> {
        let added = self.attributes.get(self.read..).unwrap_or_default();
        added.iter().filter_map(|attribute| match attribute.fate {
            Fate::Becomes(value) => Some((attribute.key, self.bytes(value))),
            Fate::Stays | Fate::Goes => None,
        })
    }

    pub(super) fn put_added(&self, out: &mut Vec<u8>) {
        self.added().for_each(|(key, value)| self.put_plain(out, key, value));
    }

    /// Appends an attribute with another value; what else it holds stays.
    fn put_changed(&self, out: &mut Vec<u8>, attribute: &Attribute<'_>, value: &[u8]) {
        if attribute.plain.is_some() {
            return self.put_plain(out, attribute.key, value);
        }
        let others =
            || key_value(attribute.body).filter(|field| field.number != VALUE).map(|field| field.raw);
        let size = others().map(<[u8]>::len).sum();
        self.put(out, size, value, |out| others().for_each(|raw| out.extend_from_slice(raw)));
    }

    /// Appends an attribute that is key and value.
    fn put_plain(&self, out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        // Where each tag and each length is a byte, as nearly always, several are put at once.
        if self.number < 16 && key.len() + value.len() < 0x7C {
            let tag = |number: u32| (number << 3) as u8 | WireType::Bytes as u8;
            let size = (4 + key.len() + value.len()) as u8;
            out.extend_from_slice(&[tag(self.number), size, tag(KEY), key.len() as u8]);
            out.extend_from_slice(key);
            out.extend_from_slice(&[tag(VALUE), value.len() as u8]);
            return out.extend_from_slice(value);
        }
        let size = wire::bytes_field_len(KEY, key.len());
        self.put(out, size, value, |out| wire::put_bytes_field(out, KEY, key));
    }

    /// Appends an attribute: so many bytes of other fields, and the value.
    fn put(&self, out: &mut Vec<u8>, size: usize, value: &[u8], others: impl FnOnce(&mut Vec<u8>)) {
        let size = size + wire::bytes_field_len(VALUE, value.len());
        wire::put_tag(out, self.number, WireType::Bytes);
        wire::put_varint(out, size as u64);
        others(out);
        wire::put_bytes_field(out, VALUE, value);
    }
}

impl Attribute<'_> {
    /// Whether it is there and has that key.
    #[inline]
    fn is(&self, key: &[u8]) -> bool {
        self.key == key && !matches!(self.fate, Fate::Goes)
    }

    /// Whether the source has that very value, in one piece.
    fn holds(&self, value: &[u8]) -> bool {
        if let Some(plain) = self.plain {
            return plain == value;
        }
        let mut values = key_value(self.body).filter(|field| field.number == VALUE);
        values.next().and_then(|field| field.bytes()) == Some(value) && values.next().is_none()
    }
}

fn matches(pattern: &Regex) -> impl Fn(&[u8]) -> bool {
    |key| std::str::from_utf8(key).is_ok_and(|key| pattern.is_match(key))
}

/// The hash of a value, if there is one.
fn hash(value: AnyValueView<'_>) -> Option<[u8; 64]> {
    match value.value() {
        Value::Empty => None,
        Value::Bytes(bytes) => Some(sha256(bytes)),
        Value::Bool(value) => Some(sha256(&[u8::from(value)])),
        Value::Int(value) => Some(sha256(&value.to_le_bytes())),
        Value::Double(value) => Some(sha256(&value.to_bits().to_le_bytes())),
        Value::Str(_) | Value::Array(_) | Value::KvList(_) => Some(sha256(text::text(value).as_bytes())),
    }
}

/// In hexadecimal digits.
fn sha256(bytes: &[u8]) -> [u8; 64] {
    let mut digits = [0; 64];
    // Arithmetic, and no table: this way it is done in vectors.
    let digit = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' - 10 + digit };
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(Sha256::digest(bytes)) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    digits
}

/// The key of a `KeyValue`, and its value where it is key and value and nothing else, as writers write it.
#[inline]
fn entry(body: &[u8]) -> (&[u8], Option<&[u8]>) {
    if let [0x0A, length @ 0..0x80, rest @ ..] = body
        && let Some((key, [0x12, length @ 0..0x80, value @ ..])) = rest.split_at_checked(usize::from(*length))
        && usize::from(*length) == value.len()
    {
        return (key, Some(value));
    }
    (Message::new(body).bytes(KEY), None)
}

fn key_value<'a>(body: &'a [u8]) -> impl Iterator<Item = Field<'a>> + use<'a> {
    Fields::new(body).flatten()
}
