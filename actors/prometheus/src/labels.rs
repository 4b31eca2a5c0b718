//! The labels of a series: made of attributes, sorted by name, each name once.

use std::cmp::Ordering;

use watershed_telemetry::edit;
use watershed_telemetry::view::{AnyValueView, Value};
use watershed_telemetry::wire;

use crate::naming::{self, Naming};

/// Bytes of each buffer that stay from payload to payload.
const KEPT: usize = 1 << 20;

/// Where a label comes from. Of two of one name, the one from further up stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// `job` and `instance`.
    Identity,
    /// `otel_scope_*`.
    Scope,
    /// An attribute of the point, or of the resource for `target_info`.
    Attribute,
    /// An attribute of the resource beside the point's own.
    Resource,
    /// What the configuration adds.
    Fixed,
}

/// Labels in the making. What a resource and a scope have is made once, and stays while their points come and go.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    text: String,
    entries: Vec<Entry>,
    sorted: Vec<Entry>,
}

/// Byte ranges in the text.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: (u32, u32),
    value: (u32, u32),
    /// What the name was made of: values of keys that became one name are joined in the order of their keys.
    key: (u32, u32),
    rank: Rank,
}

/// What was there at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    text: usize,
    entries: usize,
}

// === impl Labels ===

impl Labels {
    pub(crate) fn mark(&self) -> Mark {
        Mark { text: self.text.len(), entries: self.entries.len() }
    }

    /// What all of them take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.rewind(Mark { text: 0, entries: 0 });
    }

    /// Forgets what has come since.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.text.truncate(mark.text);
        self.entries.truncate(mark.entries);
    }

    /// Adds a label under a name that is good as it is. One without a value is none.
    pub(crate) fn add(&mut self, rank: Rank, name: &str, value: &str) {
        let start = self.end();
        self.text.push_str(name);
        let name = (start, self.end());
        self.value(rank, name, name, |text| text.push_str(value));
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, rank: Rank, naming: &Naming, key: &str, value: AnyValueView<'_>) {
        let start = self.end();
        naming.label(key, &mut self.text);
        let name = (start, self.end());
        self.text.push_str(key);
        let key = (name.1, self.end());
        self.value(rank, name, key, |text| match value.value() {
            Value::Str(value) => text.push_str(value),
            Value::Int(value) => text.push_str(itoa::Buffer::new().format(value)),
            _ => text.push_str(&edit::text(value)),
        });
    }

    /// Adds the label whose value two texts make with a `/` between them, if there is a first.
    pub(crate) fn joined(
        &mut self,
        rank: Rank,
        name: &str,
        first: Option<AnyValueView<'_>>,
        last: AnyValueView<'_>,
    ) {
        let start = self.end();
        self.text.push_str(name);
        let name = (start, self.end());
        self.value(rank, name, name, |text| {
            if let Some(first) = first {
                text.push_str(&edit::text(first));
                text.push('/');
            }
            text.push_str(&edit::text(last));
        });
    }

    fn value(&mut self, rank: Rank, name: (u32, u32), key: (u32, u32), put: impl FnOnce(&mut String)) {
        let start = self.end();
        put(&mut self.text);
        let value = (start, self.end());
        if value.0 == value.1 {
            return self.text.truncate(name.0 as usize);
        }
        self.entries.push(Entry { name, value, key, rank });
    }

    /// Characters of the names and values that have come since; `None` where none has.
    pub(crate) fn length_since(&self, mark: Mark) -> Option<usize> {
        let since = self.entries.get(mark.entries..).filter(|since| !since.is_empty())?;
        let length = |range| self.at(range).chars().count();
        Some(since.iter().map(|entry| length(entry.name) + length(entry.value)).sum())
    }

    /// Sorts what is there, for [`Labels::iter`].
    pub(crate) fn seal(&mut self) {
        self.sorted.clear();
        self.sorted.extend_from_slice(&self.entries);
        let text = &self.text;
        let at = |range| slice(text, range);
        let order = |a: &Entry, b: &Entry| {
            at(a.name).cmp(at(b.name)).then(a.rank.cmp(&b.rank)).then_with(|| at(a.key).cmp(at(b.key)))
        };
        self.sorted.sort_by(order);
        let twice = self.sorted.windows(2).any(|pair| matches!(pair, [a, b] if at(a.name) == at(b.name)));
        if twice {
            self.merge();
        }
    }

    /// Makes one of labels of one name.
    #[cold]
    fn merge(&mut self) {
        let Self { text, sorted, .. } = self;
        sorted.dedup_by(|entry, last| {
            if slice(text, entry.name) != slice(text, last.name) {
                return false;
            }
            // A key that comes twice is one attribute, of which the first counts.
            if last.rank == entry.rank && slice(text, last.key) != slice(text, entry.key) {
                last.value = join(text, last.value, entry.value);
                last.key = entry.key;
            }
            true
        });
    }

    /// Gives back what a point out of the ordinary took. There is nothing sealed any more.
    pub(crate) fn shrink(&mut self) {
        self.sorted.clear();
        self.text.shrink_to(KEPT);
        self.entries.shrink_to(KEPT / size_of::<Entry>());
        self.sorted.shrink_to(KEPT / size_of::<Entry>());
    }

    /// Names and values, sorted by name, as they were when sealed.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        self.sorted.iter().map(|entry| (self.at(entry.name), self.at(entry.value)))
    }

    /// The same with these between them, which win over what has their names.
    pub(crate) fn with<'l>(
        &'l self,
        extra: &'l [(&'l str, &'l str)],
    ) -> impl Iterator<Item = (&'l str, &'l str)> + 'l {
        let (mut own, mut extra) = (self.iter().peekable(), extra.iter().copied().peekable());
        std::iter::from_fn(move || {
            let (Some((name, _)), Some((more, _))) = (own.peek(), extra.peek()) else {
                return own.next().or_else(|| extra.next());
            };
            match name.cmp(more) {
                Ordering::Less => own.next(),
                Ordering::Greater => extra.next(),
                Ordering::Equal => {
                    own.next();
                    extra.next()
                }
            }
        })
    }

    fn end(&self) -> u32 {
        end(&self.text)
    }

    fn at(&self, range: (u32, u32)) -> &str {
        slice(&self.text, range)
    }
}

fn end(text: &str) -> u32 {
    // A payload is far smaller than 4 GiB, and its labels are of one point.
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

fn slice(text: &str, (from, to): (u32, u32)) -> &str {
    text.get(from as usize..to as usize).unwrap_or_default()
}

/// Puts a value behind another. What has been joined ends the text and grows in place: many values take no more than
/// each of them once.
fn join(text: &mut String, (mut from, to): (u32, u32), more: (u32, u32)) -> (u32, u32) {
    if to != end(text) {
        let start = end(text);
        text.extend_from_within(from as usize..to as usize);
        from = start;
    }
    text.push(';');
    text.extend_from_within(more.0 as usize..more.1 as usize);
    (from, end(text))
}

/// These labels under names that every scraper takes; `None` where they have such names. Of several that become one, the
/// first stays.
pub(crate) fn underscored<'l>(
    labels: impl Iterator<Item = (&'l str, &'l str)> + Clone,
) -> Option<Vec<(String, &'l str)>> {
    if labels.clone().all(|(name, _)| naming::is_plain(name, false)) {
        return None;
    }
    let escaped = labels.map(|(name, value)| {
        let mut escaped = String::with_capacity(name.len());
        naming::underscored(name, false, &mut escaped);
        (escaped, value)
    });
    let mut escaped: Vec<_> = escaped.collect();
    escaped.sort_by(|(one, _), (other, _)| one.cmp(other));
    escaped.dedup_by(|(one, _), (other, _)| one == other);
    Some(escaped)
}

/// Labels at rest: each name and value behind its length.
pub(crate) fn pack<'l>(labels: impl Iterator<Item = (&'l str, &'l str)>, out: &mut Vec<u8>) {
    out.clear();
    for text in labels.flat_map(|(name, value)| [name, value]) {
        wire::put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Names and values of what [`pack`] made.
pub(crate) fn unpack(mut packed: &[u8]) -> impl Iterator<Item = (&str, &str)> + Clone {
    std::iter::from_fn(move || {
        let (name, rest) = wire::read_bytes(packed).ok()?;
        let (value, rest) = wire::read_bytes(rest).ok()?;
        packed = rest;
        Some((std::str::from_utf8(name).unwrap_or_default(), std::str::from_utf8(value).unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{payload, resource};

    fn put(labels: &mut Labels, pairs: &[(&str, &str)]) {
        let payload = payload(vec![resource(pairs)]);
        for attribute in payload.resources().flat_map(|group| group.resource().attributes()) {
            labels.attribute(Rank::Attribute, &Naming::default(), attribute.key(), attribute.value());
        }
        labels.seal();
    }

    #[test]
    fn keys_of_one_name_are_joined_in_their_order_wherever_they_stand() {
        let mut labels = Labels::default();
        put(
            &mut labels,
            &[("b.b", "4"), ("a.a", "2"), ("b_b", "5"), ("c", "7"), ("a_a", "3"), ("a-a", "1"), ("a.a", "9")],
        );
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a_a", "1;2;3"), ("b_b", "4;5"), ("c", "7")]);
        // The last of the text is another's, and grows all the same.
        labels.clear();
        put(&mut labels, &[("a-a", "1"), ("a_a", "2"), ("b.b", "4"), ("b-b", "3")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a_a", "1;2"), ("b_b", "3;4")]);
    }

    #[test]
    fn many_keys_of_one_name_take_no_more_than_each_of_them_and_nothing_for_ever() {
        let keys: Vec<String> =
            (' '..='\u{fff}').filter(|c| !c.is_alphanumeric()).map(|c| format!("k{c}")).collect();
        let long = "v".repeat(2000);
        let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (&**key, &*long)).collect();
        let mut labels = Labels::default();
        put(&mut labels, &pairs);
        let most = labels.iter().next().map_or(0, |(_, value)| value.len());
        assert!(labels.iter().count() == 1 && most > KEPT);
        assert!(labels.text.len() < 3 * most, "{} for {most}", labels.text.len());
        labels.clear();
        labels.shrink();
        assert!(labels.text.capacity() <= KEPT);
    }
}
