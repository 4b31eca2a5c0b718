//! Attributes and their values (`common.proto`).

use crate::message::Message;
use crate::view::Repeated;
use crate::wire;

/// Attributes in wire order: an iterator of [`KeyValueView`], searchable by key.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(Repeated<'a, KeyValueView<'a>>);

impl<'a> Attributes<'a> {
    pub(crate) fn new(message: Message<'a>, number: u32) -> Self {
        Self(Repeated::new(message, number))
    }

    /// The value of the first attribute with that key, among those that the iterator has not yielded yet. (Keys
    /// ought to be unique.)
    pub fn find(&self, key: &str) -> Option<AnyValueView<'a>> {
        let mut attributes = self.0;
        attributes.find(|attribute| attribute.0.bytes(1) == key.as_bytes()).map(|found| found.value())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = KeyValueView<'a>;

    #[inline]
    fn next(&mut self) -> Option<KeyValueView<'a>> {
        self.0.next()
    }
}

view! {
    /// An attribute (`KeyValue`).
    KeyValueView {
        /// The key.
        key: &'a str = text(1);
        /// The value.
        value: AnyValueView<'a> = child(2);
    }
}

/// A value (`AnyValue`).
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyValueView<'a>(Message<'a>);

impl<'a> From<Message<'a>> for AnyValueView<'a> {
    fn from(message: Message<'a>) -> Self {
        Self(message)
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// No value: absent, or of a kind this schema does not know.
    Empty,
    /// `string_value`
    Str(&'a str),
    /// `bool_value`
    Bool(bool),
    /// `int_value`
    Int(i64),
    /// `double_value`
    Double(f64),
    /// `array_value`
    Array(Repeated<'a, AnyValueView<'a>>),
    /// `kvlist_value`
    KvList(Attributes<'a>),
    /// `bytes_value`
    Bytes(&'a [u8]),
}

impl<'a> AnyValueView<'a> {
    /// The value. A `string_value_strindex` points into a dictionary that only profiles have: `Empty` here.
    pub fn value(&self) -> Value<'a> {
        let Some((field, message)) = self.0.oneof(|number| (1..=8).contains(&number)) else {
            return Value::Empty;
        };
        match (field.number, field.value) {
            (1, wire::Value::Bytes(text)) => Value::Str(std::str::from_utf8(text).unwrap_or_default()),
            (2, wire::Value::Varint(value)) => Value::Bool(value != 0),
            (3, wire::Value::Varint(value)) => Value::Int(value as i64),
            (4, wire::Value::Fixed64(bits)) => Value::Double(f64::from_bits(bits)),
            (5, wire::Value::Bytes(_)) => Value::Array(Repeated::new(message, 1)),
            (6, wire::Value::Bytes(_)) => Value::KvList(Attributes::new(message, 1)),
            (7, wire::Value::Bytes(bytes)) => Value::Bytes(bytes),
            _ => Value::Empty,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.value() {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}
