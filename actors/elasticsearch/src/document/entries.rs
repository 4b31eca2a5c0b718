//! Documents whose fields come from several places under names of their own, as `ecs`, `none` and `raw` have them:
//! collected first, so that each key is there once, and written flat or nested.
//!
//! What is said for a whole scope is [`Rendered`] once. Where fields go depends on their keys alone, and items of one kind
//! have the same keys: the [`layout`](super::layout) of the last ones is at hand.

use watershed_telemetry::view::{AnyValueView, Attributes, Value};

use super::json::{self, Out};
use super::layout::Keys;
use super::route::is_control;

/// How many bytes of keys a document may have from repeating the paths of maps for each of their values. A path is as
/// long as its sender likes, and is in the request only once.
const MOST_REPEATED: usize = 1 << 20;

/// Fields that a document usually has, at the most.
const USUAL: usize = 24;

/// Fields by key, in any order.
pub(super) struct Entries<'a> {
    keys: Keys,
    values: Vec<Field<'a>>,
    /// Bytes of paths that were repeated.
    repeated: usize,
}

/// What a field holds.
pub(super) enum Field<'a> {
    Text(&'a str),
    Value(Value<'a>),
    /// Attributes, as an object.
    Map(Attributes<'a>),
    Integer(i64),
    /// Nanoseconds since 1970.
    Time(u64),
    /// Bytes, in hex.
    Hex(&'a [u8]),
    /// JSON as it is.
    Json(Out),
}

/// Fields that are written already.
#[derive(Clone, Default)]
pub(super) struct Rendered {
    keys: Keys,
    json: Out,
    /// Where in it each of them ends.
    ends: Vec<usize>,
}

// === impl Field ===

impl<'a> Field<'a> {
    pub(super) fn value(of: AnyValueView<'a>) -> Self {
        Self::Value(of.value())
    }

    /// What says nothing is left out.
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Hex(bytes) => bytes.is_empty(),
            Self::Value(value) => matches!(value, Value::Empty),
            Self::Json(text) => text.is_empty(),
            _ => false,
        }
    }

    fn write(&self, out: &mut Out) {
        match self {
            Self::Text(text) => json::text(out, text),
            Self::Value(value) => json::value(out, *value),
            Self::Map(map) => json::object(out, *map),
            Self::Integer(value) => json::integer(out, *value),
            Self::Time(nanos) => json::rfc3339(out, *nanos),
            Self::Hex(bytes) => json::hex(out, bytes),
            Self::Json(text) => out.extend_from_slice(text),
        }
    }
}

// === impl Entries ===

impl Default for Entries<'_> {
    /// With room for what a document usually has: there is one for each, and growing it costs more than filling it.
    fn default() -> Self {
        Self { keys: Keys::with_room(USUAL), values: Vec::with_capacity(USUAL), repeated: 0 }
    }
}

impl<'a> Entries<'a> {
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Writes the value of the field of this number.
    pub(super) fn write(&self, number: usize, out: &mut Out) {
        if let Some(value) = self.values.get(number) {
            value.write(out);
        }
    }

    /// Adds a field. One of the same key takes the place of what was added before.
    pub(super) fn add(&mut self, key: &str, value: Field<'a>) {
        self.under("", key, value);
    }

    /// Adds a field under `prefix`, maps as a field for each of their values unless that [repeats](Self::repeats) too
    /// much.
    pub(super) fn under(&mut self, prefix: &str, key: &str, value: Field<'a>) {
        if !value.is_empty() {
            let key = self.keys.path(prefix, key);
            self.put(key, value);
        }
    }

    fn put(&mut self, key: (usize, usize), value: Field<'a>) {
        match value {
            Field::Value(Value::KvList(map)) if self.repeats(key.1 - key.0, map) => {
                for entry in map {
                    let value = Field::value(entry.value());
                    if !value.is_empty() {
                        let key = self.keys.inside(key, entry.key());
                        self.put(key, value);
                    }
                }
            }
            value => {
                self.keys.push(key);
                self.values.push(value);
            }
        }
    }

    /// Whether a path of so many bytes can be repeated for each value of a map. If so, it counts as done.
    pub(super) fn repeats(&mut self, path: usize, map: Attributes<'a>) -> bool {
        let repeated = path.saturating_mul(map.count()).saturating_add(self.repeated);
        let fits = repeated <= MOST_REPEATED;
        if fits {
            self.repeated = repeated;
        }
        fits
    }

    /// Adds attributes under `prefix`, each under the name that `rename` gives it, if any. Returns whether some are
    /// addressed to us; those are left out.
    pub(super) fn attributes(
        &mut self,
        prefix: &str,
        attributes: Attributes<'a>,
        rename: impl Fn(&'a str) -> Option<&'a str>,
    ) -> bool {
        let mut controls = false;
        for attribute in attributes {
            let key = attribute.key();
            if is_control(key) {
                controls = true;
            } else if let Some(key) = rename(key) {
                self.under(prefix, key, Field::value(attribute.value()));
            }
        }
        controls
    }

    /// The same fields, written: the last of each key. What comes twice would cost every document, and be in none.
    pub(super) fn rendered(self) -> Rendered {
        let mut rendered = Rendered::default();
        for (key, number) in self.keys.last_of_each() {
            rendered.keys.add(key);
            self.write(number, &mut rendered.json);
            rendered.ends.push(rendered.json.len());
        }
        rendered
    }
}

// === impl Rendered ===

impl Rendered {
    /// Adds the fields of another, which take the place of those here that have the same key.
    pub(super) fn append(&mut self, other: &Self) {
        let end = self.json.len();
        self.keys.append(&other.keys);
        self.json.extend_from_slice(&other.json);
        self.ends.extend(other.ends.iter().map(|other| end + other));
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Writes the value of the field of this number.
    pub(super) fn write(&self, number: usize, out: &mut Out) {
        let end = |number: usize| self.ends.get(number).copied().unwrap_or_default();
        let start = number.checked_sub(1).map_or(0, end);
        out.extend_from_slice(self.json.get(start..end(number)).unwrap_or_default());
    }
}
