//! Documents whose fields come from several places under names of their own, as `ecs`, `none` and `raw` have them:
//! collected first, so that each key is there once, and written flat or nested.

use std::cmp::Ordering;

use watershed_telemetry::view::{AnyValueView, Attributes, Value};

use super::json::{self, Out};
use super::route::is_control;

/// How many bytes of keys a document may have from repeating the paths of maps for each of their values. A path is as
/// long as its sender likes, and is in the request only once.
const MOST_REPEATED: usize = 1 << 20;

/// Fields by key, in any order.
#[derive(Clone, Default)]
pub(super) struct Entries<'a> {
    keys: String,
    list: Vec<Entry<'a>>,
    /// Bytes of paths that were repeated.
    repeated: usize,
}

#[derive(Clone)]
struct Entry<'a> {
    key: (usize, usize),
    value: Field<'a>,
}

/// What a field holds.
#[derive(Clone)]
pub(super) enum Field<'a> {
    Text(&'a str),
    Value(AnyValueView<'a>),
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

/// How keys with dots are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As they are.
    Flat,
    /// As objects in objects.
    Nested,
}

// === impl Field ===

impl Field<'_> {
    /// What says nothing is left out.
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Hex(bytes) => bytes.is_empty(),
            Self::Value(value) => matches!(value.value(), Value::Empty),
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

impl<'a> Entries<'a> {
    /// Adds a field. One of the same key takes the place of what was added before.
    pub(super) fn add(&mut self, key: &str, value: Field<'a>) {
        self.under("", key, value);
    }

    /// Adds a field under `prefix`, maps as a field for each of their values unless that [repeats](Self::repeats) too
    /// much.
    pub(super) fn under(&mut self, prefix: &str, key: &str, value: Field<'a>) {
        if value.is_empty() {
            return;
        }
        let start = self.keys.len();
        self.keys.push_str(prefix);
        if !prefix.is_empty() {
            self.keys.push('.');
        }
        self.keys.push_str(key);
        let end = self.keys.len();
        match value {
            Field::Value(map)
                if let Value::KvList(map) = map.value()
                    && self.repeats(end - start, map) =>
            {
                let path = self.keys.get(start..end).unwrap_or_default().to_owned();
                map.for_each(|entry| self.under(&path, entry.key(), Field::Value(entry.value())));
            }
            value => self.list.push(Entry { key: (start, end), value }),
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
                self.under(prefix, key, Field::Value(attribute.value()));
            }
        }
        controls
    }

    /// Puts what is there in order, which is done again in no time when there is more.
    pub(super) fn sort(&mut self) {
        let Self { keys, list, .. } = self;
        let text = |entry: &Entry<'_>| keys.get(entry.key.0..entry.key.1).unwrap_or_default();
        list.sort_by(|a, b| by_path(text(a), text(b)));
    }

    /// Writes an object but for its last brace.
    pub(super) fn write(mut self, out: &mut Out, shape: Shape) {
        self.sort();
        let Self { keys, list, .. } = &self;
        let text = |entry: &Entry<'_>| keys.get(entry.key.0..entry.key.1).unwrap_or_default();
        // Of equal keys the last was added last.
        let mut fields: Vec<(&str, &Field<'_>)> = Vec::with_capacity(list.len());
        for entry in list.iter() {
            let key = text(entry);
            match fields.last_mut() {
                Some((same, value)) if *same == key => *value = &entry.value,
                _ => fields.push((key, &entry.value)),
            }
        }
        out.push(b'{');
        let mut open: Vec<&str> = Vec::new();
        for (index, (key, value)) in fields.iter().enumerate() {
            let inside = fields.get(index + 1..).unwrap_or_default();
            let spare = spare(key, inside.iter().map(|(key, _)| *key));
            if shape == Shape::Flat {
                leaf(out, &[key, &spare], value);
                continue;
            }
            let (path, name) = match spare.strip_prefix('.') {
                Some(spare) => (Some(*key), spare),
                None => key.rsplit_once('.').map_or((None, *key), |(path, name)| (Some(path), name)),
            };
            let path = path.into_iter().flat_map(|path| path.split('.'));
            let common = open.iter().zip(path.clone()).take_while(|(a, b)| *a == b).count();
            open.drain(common..).for_each(|_| out.push(b'}'));
            for part in path.skip(common) {
                begin(out, &[part]);
                out.push(b'{');
                open.push(part);
            }
            leaf(out, &[name], value);
        }
        open.iter().for_each(|_| out.push(b'}'));
    }
}

/// What to add to a key that cannot be both a value and an object: nothing, if it is not, or else `.value`, or whatever
/// comes next and is free among those `after` it.
fn spare<'k>(key: &str, after: impl Iterator<Item = &'k str> + Clone) -> String {
    let inside = |suffix: &'k str| suffix.strip_prefix(key)?.strip_prefix('.');
    let mut inside =
        after.map_while(inside).map(|rest| rest.split('.').next().unwrap_or_default()).peekable();
    if inside.peek().is_none() {
        return String::new();
    }
    let taken: Vec<&str> = inside.collect();
    let mut spare = ".value".to_owned();
    while taken.contains(&&spare[1..]) {
        spare.push('_');
    }
    spare
}

/// Keys by their parts, so that what lies in one object lies side by side.
fn by_path(a: &str, b: &str) -> Ordering {
    let weight = |byte: &u8| if *byte == b'.' { 0 } else { u16::from(*byte) + 1 };
    match a.bytes().zip(b.bytes()).position(|(a, b)| a != b) {
        None => a.len().cmp(&b.len()),
        Some(at) => a.as_bytes().get(at).map(weight).cmp(&b.as_bytes().get(at).map(weight)),
    }
}

fn begin(out: &mut Out, key: &[&str]) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    match key {
        [key] | [key, ""] => json::text(out, key),
        parts => json::text(out, &parts.concat()),
    }
    out.push(b':');
}

fn leaf(out: &mut Out, key: &[&str], value: &Field<'_>) {
    begin(out, key);
    value.write(out);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn written(keys: &[(&str, i64)], shape: Shape) -> String {
        let mut entries = Entries::default();
        keys.iter().for_each(|(key, value)| entries.add(key, Field::Integer(*value)));
        let mut out = Vec::new();
        entries.write(&mut out, shape);
        out.push(b'}');
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_key_is_written_once_and_nothing_is_both_value_and_object() {
        let keys = [("a.b", 1), ("a-b", 2), ("a", 3), ("a.b", 4), ("a.value", 5), ("c.d.e", 6), ("c.d", 7)];
        assert_eq!(
            written(&keys, Shape::Nested),
            r#"{"a":{"value_":3,"b":4,"value":5},"a-b":2,"c":{"d":{"value":7,"e":6}}}"#
        );
        assert_eq!(
            written(&keys, Shape::Flat),
            r#"{"a.value_":3,"a.b":4,"a.value":5,"a-b":2,"c.d.value":7,"c.d.e":6}"#
        );
    }
}
