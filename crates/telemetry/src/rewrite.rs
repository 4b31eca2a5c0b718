//! Rewriting a message without decoding it: a list of splices.
//!
//! A rewrite walks the source, read-only, and notes which ranges are replaced by what. The lengths around a
//! changed range are splices like any other. Only then the result is put together, in one copy into a buffer of
//! exactly its size; with no splice there is no copy and no buffer.

use std::ops::Range;

use bytes::Bytes;

use crate::wire::{self, Field, Fields};

/// A field and where its parts lie in the source.
#[derive(Clone, Debug)]
pub(crate) struct Located<'a> {
    pub(crate) field: Field<'a>,
    /// Tag, length and value.
    pub(crate) whole: Range<usize>,
    /// The value of a length-delimited field; empty for others.
    pub(crate) body: Range<usize>,
}

/// What lies at `old` in the source is replaced by `new` of the fresh bytes.
#[derive(Debug)]
struct Splice {
    old: Range<usize>,
    new: Range<usize>,
}

/// A rewrite of `source` under way.
#[derive(Debug)]
pub(crate) struct Rewrite<'a> {
    source: &'a [u8],
    /// Ascending, disjoint.
    splices: Vec<Splice>,
    fresh: Vec<u8>,
    /// How many bytes longer the result is than the source, so far.
    growth: isize,
}

/// A point in a rewrite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    splices: usize,
    fresh: usize,
    growth: isize,
}

impl<'a> Rewrite<'a> {
    pub(crate) fn new(source: &'a [u8]) -> Self {
        Self { source, splices: Vec::new(), fresh: Vec::new(), growth: 0 }
    }

    /// The fields of the message at `range`.
    pub(crate) fn fields(&self, range: Range<usize>) -> impl Iterator<Item = Located<'a>> + use<'a> {
        let mut start = range.start;
        Fields::new(self.source.get(range).unwrap_or_default()).flatten().map(move |field| {
            let end = start + field.raw.len();
            let body = end - field.bytes().unwrap_or_default().len()..end;
            Located { field, whole: std::mem::replace(&mut start, end)..end, body }
        })
    }

    /// Replaces a range by what `write` appends. Ranges must come in ascending order and not overlap.
    pub(crate) fn replace(&mut self, old: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.fresh.len();
        write(&mut self.fresh);
        let new = start..self.fresh.len();
        self.growth += new.len() as isize - old.len() as isize;
        self.splices.push(Splice { old, new });
    }

    /// As [`replace`](Self::replace), unless the same bytes are there already.
    pub(crate) fn set(&mut self, old: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.fresh.len();
        write(&mut self.fresh);
        if self.fresh.get(start..) == self.source.get(old.clone()) {
            self.fresh.truncate(start);
            return;
        }
        let new = start..self.fresh.len();
        self.growth += new.len() as isize - old.len() as isize;
        self.splices.push(Splice { old, new });
    }

    /// Removes a range, with whatever was replaced inside it before.
    pub(crate) fn remove(&mut self, mut old: Range<usize>) {
        // The length of a message that is still open lies before the range, and its splice says 0 until then. What
        // was inserted right where the range begins belongs to what stands before it.
        let is_inside = |splice: &mut Splice| {
            splice.old.start > old.start || (splice.old.start == old.start && !splice.old.is_empty())
        };
        while let Some(splice) = self.splices.pop_if(is_inside) {
            self.growth -= splice.new.len() as isize - splice.old.len() as isize;
            self.fresh.truncate(splice.new.start);
        }
        self.growth -= old.len() as isize;
        // Neighbours that go are one hole.
        if let Some(hole) = self.splices.pop_if(|last| last.new.is_empty() && last.old.end == old.start) {
            old.start = hole.old.start;
        }
        let end = self.fresh.len();
        self.splices.push(Splice { old, new: end..end });
    }

    /// Where the rewrite stands, to go back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark { splices: self.splices.len(), fresh: self.fresh.len(), growth: self.growth }
    }

    /// Forgets what was replaced since the mark.
    pub(crate) fn undo(&mut self, mark: Mark) {
        self.splices.truncate(mark.splices);
        self.fresh.truncate(mark.fresh);
        self.growth = mark.growth;
    }

    /// Rewrites inside a length-delimited field: its length follows what `edit` does to its value.
    pub(crate) fn inside(&mut self, field: &Located<'_>, edit: impl FnOnce(&mut Self)) {
        let slot = self.splices.len();
        let growth = self.growth;
        // The length lies before what is inside, and is known after it.
        self.splices.push(Splice { old: 0..0, new: 0..0 });
        edit(self);
        if self.splices.len() == slot + 1 {
            self.splices.truncate(slot);
            return;
        }
        let tag_len =
            field.field.raw.len() - wire::read_tag(field.field.raw).map_or(0, |(.., rest)| rest.len());
        let old = field.whole.start + tag_len..field.body.start;
        let start = self.fresh.len();
        let length = field.body.len().saturating_add_signed(self.growth - growth);
        wire::put_varint(&mut self.fresh, length as u64);
        let new = start..self.fresh.len();
        self.growth += new.len() as isize - old.len() as isize;
        if let Some(splice) = self.splices.get_mut(slot) {
            *splice = Splice { old, new };
        }
    }

    /// The result; `None` if nothing was replaced.
    pub(crate) fn finish(self) -> Option<Bytes> {
        if self.splices.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(self.source.len().saturating_add_signed(self.growth));
        let mut copied = 0;
        for Splice { old, new } in self.splices {
            out.extend_from_slice(self.source.get(copied..old.start).unwrap_or_default());
            out.extend_from_slice(self.fresh.get(new).unwrap_or_default());
            copied = old.end;
        }
        out.extend_from_slice(self.source.get(copied..).unwrap_or_default());
        Some(Bytes::from(out))
    }
}
