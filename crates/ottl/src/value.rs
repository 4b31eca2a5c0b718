//! Values, and how they compare.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::parser::Operator;

/// A value at evaluation, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing: an attribute that is not there.
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer, or a constant.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    Str(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A list, by its kind's name: `list` or `map`. It equals nothing and matches nothing.
    Opaque(&'static str),
}

impl<'a> Value<'a> {
    /// Compares as the language does: numbers as numbers, `false` before `true`, nothing as equal to itself; and of
    /// other mixtures only `!=` is true.
    pub(crate) fn compare(self, operator: Operator, other: Self) -> bool {
        use Value::{Bool, Bytes, Double, Int, Nil, Str};
        let ordering = match (self, other) {
            (Nil, Nil) => Some(Ordering::Equal),
            (Bool(a), Bool(b)) => Some(a.cmp(&b)),
            (Int(a), Int(b)) => Some(a.cmp(&b)),
            (Int(a), Double(b)) => (a as f64).partial_cmp(&b),
            (Double(a), Int(b)) => a.partial_cmp(&(b as f64)),
            (Double(a), Double(b)) => a.partial_cmp(&b),
            (Str(a), Str(b)) => Some(a.cmp(b)),
            (Bytes(a), Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match (operator, ordering) {
            (Operator::NotEqual, ordering) => ordering != Some(Ordering::Equal),
            (_, None) => false,
            (Operator::Equal, Some(ordering)) => ordering == Ordering::Equal,
            (Operator::Less, Some(ordering)) => ordering.is_lt(),
            (Operator::LessOrEqual, Some(ordering)) => ordering.is_le(),
            (Operator::Greater, Some(ordering)) => ordering.is_gt(),
            (Operator::GreaterOrEqual, Some(ordering)) => ordering.is_ge(),
        }
    }

    /// The text that `IsMatch` looks at; `Err` names a kind that has none.
    pub(crate) fn text(self) -> Result<Option<Cow<'a, str>>, &'static str> {
        Ok(Some(match self {
            Self::Nil => return Ok(None),
            Self::Str(text) => Cow::Borrowed(text),
            Self::Bool(value) => Cow::Owned(value.to_string()),
            Self::Int(value) => Cow::Owned(value.to_string()),
            Self::Double(value) => Cow::Owned(value.to_string()),
            Self::Bytes(bytes) => Cow::Owned(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            Self::Opaque(kind) => return Err(kind),
        }))
    }
}
