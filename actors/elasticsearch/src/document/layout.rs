//! Layouts: where in a document its fields are, which depends on nothing but their keys.

use std::cmp::Ordering;

use hashbrown::HashMap;

use super::entries::{Entries, Rendered};
use super::json::{self, Out};

/// How many layouts are kept. Kinds of items that come in turn are fewer, as a rule.
const KNOWN: usize = 8;

/// The largest layout that is kept, in bytes. Keys are as long as their senders like.
const LARGEST: usize = 16 << 10;

/// How keys with dots are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// As they are.
    Flat,
    /// As objects in objects.
    Nested,
}

/// Keys, by their places in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys {
    text: String,
    list: Vec<(usize, usize)>,
}

/// The layouts of the last documents.
#[derive(Debug, Default)]
pub(super) struct Layouts {
    known: Vec<Layout>,
    /// The next one to make way.
    oldest: usize,
}

/// A document without its values.
#[derive(Debug)]
struct Layout {
    shape: Shape,
    /// Of the fields that all items share, and of the item's own.
    keys: [Keys; 2],
    text: Out,
    /// Where in the text which field's value goes, the shared ones counted first.
    slots: Vec<(usize, usize)>,
}

// === impl Keys ===

impl Keys {
    /// Room for so many keys of a usual length.
    pub(super) fn with_room(keys: usize) -> Self {
        Self { text: String::with_capacity(keys * 16), list: Vec::with_capacity(keys) }
    }

    /// Makes a key of two parts.
    pub(super) fn path(&mut self, prefix: &str, key: &str) -> (usize, usize) {
        let start = self.text.len();
        if !prefix.is_empty() {
            self.text.push_str(prefix);
            self.text.push('.');
        }
        self.text.push_str(key);
        (start, self.text.len())
    }

    /// Makes a key of one that was made before, and what is inside.
    pub(super) fn inside(&mut self, (from, to): (usize, usize), key: &str) -> (usize, usize) {
        let start = self.text.len();
        self.text.extend_from_within(from..to);
        self.text.push('.');
        self.text.push_str(key);
        (start, self.text.len())
    }

    /// Takes a key that was made for the next field's.
    pub(super) fn push(&mut self, key: (usize, usize)) {
        self.list.push(key);
    }

    /// Adds a key.
    pub(super) fn add(&mut self, key: &str) {
        let key = self.path("", key);
        self.push(key);
    }

    /// Adds the keys of another list.
    pub(super) fn append(&mut self, other: &Self) {
        let end = self.text.len();
        self.text.push_str(&other.text);
        self.list.extend(other.list.iter().map(|(from, to)| (end + from, end + to)));
    }

    /// Each key once, with the number of the last field that has it, in the order of these.
    pub(super) fn last_of_each(&self) -> impl Iterator<Item = (&str, usize)> {
        let last: HashMap<&str, usize> = self.iter().zip(0..).collect();
        self.iter().zip(0..).filter(move |(key, number)| last.get(key) == Some(number))
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(from, to)| self.text.get(*from..*to).unwrap_or_default())
    }
}

// === impl Layouts ===

impl Layouts {
    /// Writes an object but for its last brace. Fields of an item's own take the place of shared ones with the same key,
    /// and later ones that of earlier ones.
    pub(super) fn write(&mut self, shape: Shape, shared: &Rendered, own: &Entries<'_>, out: &mut Out) {
        let keys = [shared.keys(), own.keys()];
        let fits = |layout: &&Layout| layout.shape == shape && layout.keys.iter().eq(keys);
        if let Some(layout) = self.known.iter().find(fits) {
            return layout.fill(shared, own, out);
        }
        let layout = Layout::of(shape, keys);
        layout.fill(shared, own, out);
        if layout.size() > LARGEST {
            return;
        }
        match self.known.get_mut(self.oldest) {
            Some(known) => *known = layout,
            None => self.known.push(layout),
        }
        self.oldest = (self.oldest + 1) % KNOWN;
    }
}

// === impl Layout ===

impl Layout {
    fn of(shape: Shape, keys: [&Keys; 2]) -> Self {
        let mut fields: Vec<(&str, usize)> = keys.iter().flat_map(|keys| keys.iter()).zip(0..).collect();
        fields.sort_by(|(a, _), (b, _)| by_path(a, b));
        fields.dedup_by(|(later, number), (key, kept)| {
            let same = later == key;
            if same {
                *kept = *number;
            }
            same
        });
        let mut text = vec![b'{'];
        let mut slots = Vec::with_capacity(fields.len());
        let mut open: Vec<&str> = Vec::new();
        for (index, (key, number)) in fields.iter().enumerate() {
            let spare = spare(key, fields.get(index + 1..).unwrap_or_default());
            if shape == Shape::Flat {
                begin(&mut text, &[*key, &*spare].concat());
            } else {
                let (path, name) = match spare.strip_prefix('.') {
                    Some(spare) => (Some(*key), spare),
                    None => key.rsplit_once('.').map_or((None, *key), |(path, name)| (Some(path), name)),
                };
                let path = path.into_iter().flat_map(|path| path.split('.'));
                let common = open.iter().zip(path.clone()).take_while(|(a, b)| *a == b).count();
                open.drain(common..).for_each(|_| text.push(b'}'));
                for part in path.skip(common) {
                    begin(&mut text, part);
                    text.push(b'{');
                    open.push(part);
                }
                begin(&mut text, name);
            }
            slots.push((text.len(), *number));
        }
        open.iter().for_each(|_| text.push(b'}'));
        Self { shape, keys: keys.map(Keys::clone), text, slots }
    }

    fn fill(&self, shared: &Rendered, own: &Entries<'_>, out: &mut Out) {
        let (mut from, [first, _]) = (0, &self.keys);
        for (to, number) in &self.slots {
            out.extend_from_slice(self.text.get(from..*to).unwrap_or_default());
            match number.checked_sub(first.list.len()) {
                None => shared.write(*number, out),
                Some(number) => own.write(number, out),
            }
            from = *to;
        }
        out.extend_from_slice(self.text.get(from..).unwrap_or_default());
    }

    fn size(&self) -> usize {
        self.text.len() + self.keys.iter().map(|keys| keys.text.len()).sum::<usize>() + 48 * self.slots.len()
    }
}

/// What to add to a key that cannot be both a value and an object: nothing, if it is not, or else `.value`, or whatever
/// comes next and is free among the fields `after` it.
fn spare(key: &str, after: &[(&str, usize)]) -> String {
    let is_inside = |path: &str, key: &str| {
        path.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    if !after.first().is_some_and(|(next, _)| is_inside(next, key)) {
        return String::new();
    }
    let mut taken = [key, ".value"].concat();
    loop {
        // The first that lies in it, if any does, is the first that does not come before it.
        let at = after.partition_point(|(path, _)| by_path(path, &taken) == Ordering::Less);
        if !after.get(at).is_some_and(|(path, _)| is_inside(path, &taken)) {
            return taken.split_off(key.len());
        }
        taken.push('_');
    }
}

/// Keys by their parts, so that what lies in one object lies side by side.
fn by_path(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let weight = |byte: &u8| if *byte == b'.' { 0 } else { u16::from(*byte) + 1 };
    let ((eights, _), (others, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let same = 8 * eights.iter().zip(others).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.get(same..).unwrap_or_default(), b.get(same..).unwrap_or_default());
    match a.iter().zip(b).position(|(a, b)| a != b) {
        None => a.len().cmp(&b.len()),
        Some(at) => a.get(at).map(weight).cmp(&b.get(at).map(weight)),
    }
}

fn begin(text: &mut Out, key: &str) {
    if text.last() != Some(&b'{') {
        text.push(b',');
    }
    json::text(text, key);
    text.push(b':');
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::entries::Field;
    use super::*;

    fn written(keys: &[(&str, i64)], shape: Shape) -> String {
        let mut entries = Entries::default();
        keys.iter().for_each(|(key, value)| entries.add(key, Field::Integer(*value)));
        let mut out = Vec::new();
        Layouts::default().write(shape, &Rendered::default(), &entries, &mut out);
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
