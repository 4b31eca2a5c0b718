//! What can be done to attributes.

use regex::Regex;

use crate::edit::value::AttributeValue;

/// One edit. Keys match exactly, patterns anywhere in a key. Keys should be unique but need not be (OTLP calls the
/// result unpredictable): an edit changes or removes every attribute of its key, so that all readers see the same;
/// what is read of a key is its first attribute.
#[derive(Clone, Debug)]
pub enum Action {
    /// Adds the attribute if the key is absent.
    Insert {
        /// The attribute's key.
        key: String,
        /// Its value. Without one, nothing is done.
        value: Source,
    },
    /// Sets the value if the key is present.
    Update {
        /// The attribute's key.
        key: String,
        /// Its new value. Without one, nothing is done.
        value: Source,
    },
    /// Sets the value, or adds the attribute.
    Upsert {
        /// The attribute's key.
        key: String,
        /// Its new value. Without one, nothing is done.
        value: Source,
    },
    /// Removes the attribute.
    Delete {
        /// The attribute's key.
        key: String,
    },
    /// Removes the attributes whose keys match.
    DeleteMatching {
        /// What a key has to match.
        pattern: Regex,
    },
    /// Replaces the value by its SHA-256, as a string of 64 hexadecimal digits.
    ///
    /// Hashed are the bytes of a string or of bytes, one byte (0 or 1) of a boolean, the eight bytes, little
    /// endian, of an integer or a double, and the JSON text of an array or a map. No value becomes the empty string.
    Hash {
        /// The attribute's key.
        key: String,
    },
    /// As [`Action::Hash`], of the attributes whose keys match.
    HashMatching {
        /// What a key has to match.
        pattern: Regex,
    },
    /// Matches a string and sets, for each named group, the attribute of that name to what the group matched;
    /// nothing is the empty string. What does not match, or is no string, does nothing.
    Extract {
        /// The key of the attribute to read.
        key: String,
        /// What to look for in its value.
        pattern: Regex,
    },
    /// Writes the value in another type. What can not be is left, and counted.
    Convert {
        /// The attribute's key.
        key: String,
        /// The type.
        to: Conversion,
    },
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// It is always the same.
    Value(AttributeValue),
    /// It is another attribute's of the same item, as that is when the action's turn comes.
    Attribute {
        /// The other attribute's key.
        key: String,
        /// The value where there is no such attribute.
        default: Option<AttributeValue>,
    },
    /// It is this one of the values given with the payload.
    Given(usize),
}

impl Action {
    /// The keys it reads or writes; `None` if that depends on those that are there.
    fn keys(&self) -> Option<Vec<String>> {
        Some(match self {
            Self::Insert { key, value } | Self::Update { key, value } | Self::Upsert { key, value } => {
                match value {
                    Source::Attribute { key: other, .. } => vec![key.clone(), other.clone()],
                    Source::Value(_) | Source::Given(_) => vec![key.clone()],
                }
            }
            Self::Delete { key } | Self::Hash { key } | Self::Convert { key, .. } => vec![key.clone()],
            Self::Extract { key, pattern } => {
                pattern.capture_names().flatten().chain([key.as_str()]).map(str::to_owned).collect()
            }
            Self::DeleteMatching { .. } | Self::HashMatching { .. } => return None,
        })
    }
}

/// Keys to tell from others.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// `None` is all.
    keys: Option<Vec<String>>,
    /// A bit for each length that one of them has; the last bit is for all lengths from there on.
    lengths: u64,
}

impl Keys {
    /// Those that the actions can speak of.
    pub(super) fn of(actions: &[Action]) -> Self {
        let keys = actions.iter().map(Action::keys).collect::<Option<Vec<_>>>().map(|keys| keys.concat());
        let lengths = |keys: &Vec<String>| keys.iter().fold(0, |lengths, key| lengths | bit(key.len()));
        Self { lengths: keys.as_ref().map_or(u64::MAX, lengths), keys }
    }

    /// Whether it is one of them.
    #[inline]
    pub(super) fn have(&self, key: &[u8]) -> bool {
        let is_known = |keys: &Vec<String>| keys.iter().any(|known| known.as_bytes() == key);
        self.lengths & bit(key.len()) != 0 && self.keys.as_ref().is_none_or(is_known)
    }
}

fn bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// The type a value is converted to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Conversion {
    /// Of a double without its fraction, of a decimal text, of a boolean as 0 or 1.
    Int,
    /// Of an integer, of a text as `1.5e3`, `inf` or `nan`, of a boolean as 0 or 1.
    Double,
    /// Of anything: numbers in decimal, bytes in base64, arrays and maps as JSON.
    String,
}

impl<T: Into<AttributeValue>> From<T> for Source {
    fn from(value: T) -> Self {
        Self::Value(value.into())
    }
}
