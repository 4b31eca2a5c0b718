//! Copying a message with changes, in one pass.
//!
//! The result is written as the source is read: what stays is copied in one piece between two changes. A length
//! stands before what it is the length of, so it is copied as it is and set right when its message is done; rarely
//! does it take more or fewer bytes by then. Until the first change there is no copy and no buffer.

use std::ops::Range;

use bytes::Bytes;

use crate::schema::{Kind, Rule};
use crate::wire::{self, Fields, WireType};

/// A copy under way.
#[derive(Debug)]
pub(super) struct Revision<'a> {
    source: &'a [u8],
    /// The result so far.
    out: Vec<u8>,
    /// How much of the source the result so far stands for.
    done: usize,
}

/// A length-delimited field.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) number: u32,
    /// Where it lies in the source: tag, length and value.
    pub(super) whole: Range<usize>,
    pub(super) value: &'a [u8],
}

// === impl Part ===

impl Part<'_> {
    /// Where the value lies in the source.
    pub(super) fn body(&self) -> Range<usize> {
        self.whole.end - self.value.len()..self.whole.end
    }
}

// === impl Revision ===

impl<'a> Revision<'a> {
    pub(super) fn new(source: &'a [u8]) -> Self {
        Self { source, out: Vec::new(), done: 0 }
    }

    /// The whole source.
    pub(super) fn all(&self) -> Range<usize> {
        0..self.source.len()
    }

    /// The bytes at `range`.
    pub(super) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        self.source.get(range).unwrap_or_default()
    }

    /// The length-delimited fields in the message at `range` that are wanted, by number and value.
    #[inline]
    pub(super) fn parts<F: Fn(u32, &[u8]) -> bool>(
        &self,
        range: Range<usize>,
        is_wanted: F,
    ) -> impl Iterator<Item = Part<'a>> + use<'a, F> {
        let mut rest = self.bytes(range.clone());
        std::iter::from_fn(move || {
            let (number, raw, value) = next_part(&mut rest, &is_wanted)?;
            let end = range.end - rest.len();
            Some(Part { number, whole: end - raw..end, value })
        })
    }

    /// Replaces a range by what `write` appends. Ranges must come in ascending order and not overlap.
    #[inline]
    pub(super) fn replace(&mut self, old: Range<usize>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.out.capacity() == 0 {
            // An edit seldom adds more than this; what is left over is given back.
            self.out.reserve(self.source.len() + self.source.len() / 4);
        }
        self.copy(old.start);
        write(&mut self.out);
        self.done = old.end;
    }

    fn copy(&mut self, end: usize) {
        self.out.extend_from_slice(self.source.get(self.done..end).unwrap_or_default());
        self.done = end;
    }

    /// Makes changes inside a field: its length follows what `edit` does to its value.
    #[inline]
    pub(super) fn inside(&mut self, part: &Part<'_>, edit: impl FnOnce(&mut Self)) {
        let (written, done) = (self.out.len(), self.done);
        edit(self);
        if (self.out.len(), self.done) != (written, done) {
            // What is written since, less what it stands for.
            let growth = (self.out.len() - written) as isize - (self.done - done) as isize;
            let length = part.value.len().saturating_add_signed(growth);
            let head = part.whole.len() - part.value.len();
            self.set_length(written + (part.whole.start - done), head, length);
        }
    }

    /// Sets the length in a tag and length that are so wide and stand at `at` of the result.
    fn set_length(&mut self, at: usize, width: usize, length: usize) {
        let Some(head) = self.out.get_mut(at..at + width) else { return };
        match (head, length) {
            // As long as it was, at the sizes that items have.
            ([0..0x80, byte], 0..0x80) => *byte = length as u8,
            ([0..0x80, low, high], 0x80..0x4000) => {
                [*low, *high] = [length as u8 | 0x80, (length >> 7) as u8]
            }
            (head, _) => {
                let tag = head.iter().take_while(|byte| **byte >= 0x80).count() + 1;
                let mut bytes = Vec::new();
                wire::put_varint(&mut bytes, length as u64);
                self.out.splice(at + tag..at + width, bytes);
            }
        }
    }

    /// Walks from the message of that kind at `range` down the lists that lead to the items, and calls `edit` with
    /// the first message on each way of a kind that `is_target`.
    pub(super) fn walk(
        &mut self,
        kind: Kind,
        range: Range<usize>,
        is_target: &impl Fn(Kind) -> bool,
        edit: &mut impl FnMut(&mut Self, Kind, Range<usize>),
    ) {
        let next = |number| match kind.rule(number) {
            Rule::List(kind) | Rule::Arm(kind) | Rule::Item(kind) => Some(kind),
            _ => None,
        };
        for part in self.parts(range, |number, _| next(number).is_some()) {
            let Some(kind) = next(part.number) else { continue };
            self.inside(&part, |revision| match is_target(kind) {
                true => edit(revision, kind, part.body()),
                false => revision.walk(kind, part.body(), is_target, edit),
            });
        }
    }

    /// The result; `None` if nothing was replaced.
    pub(super) fn finish(mut self) -> Option<Bytes> {
        if self.done == 0 && self.out.is_empty() {
            return None;
        }
        self.copy(self.source.len());
        self.out.shrink_to_fit();
        Some(Bytes::from(self.out))
    }
}

/// Takes fields up to the next length-delimited one that is wanted: its number, size and value.
///
/// This is where an edit spends its time, and so it knows the encodings that writers use.
#[inline]
fn next_part<'a>(
    rest: &mut &'a [u8],
    is_wanted: impl Fn(u32, &[u8]) -> bool,
) -> Option<(u32, usize, &'a [u8])> {
    const VARINT: u8 = WireType::Varint as u8;
    const FIXED64: u8 = WireType::Fixed64 as u8;
    const FIXED32: u8 = WireType::Fixed32 as u8;
    const BYTES: u8 = WireType::Bytes as u8;
    loop {
        let (number, head, value) = match **rest {
            [tag @ 0..0x80, length @ 0..0x80, ref after @ ..] if tag & 7 == BYTES => {
                let (value, after) = after.split_at_checked(usize::from(length))?;
                *rest = after;
                (u32::from(tag >> 3), 2, value)
            }
            [tag @ 0..0x80, 0..0x80, ref after @ ..] if tag & 7 == VARINT => {
                *rest = after;
                continue;
            }
            [tag @ 0..0x80, _, _, _, _, _, _, _, _, ref after @ ..] if tag & 7 == FIXED64 => {
                *rest = after;
                continue;
            }
            [tag @ 0x80..=0xFF, 0..0x80, _, _, _, _, ref after @ ..] if tag & 7 == FIXED32 => {
                *rest = after;
                continue;
            }
            [tag @ 0..0x80, low, high @ 0..0x80, ref after @ ..] if tag & 7 == BYTES => {
                let length = usize::from(low & 0x7F) | usize::from(high) << 7;
                let (value, after) = after.split_at_checked(length)?;
                *rest = after;
                (u32::from(tag >> 3), 3, value)
            }
            _ => {
                let field = Fields::new(rest).next()?.ok()?;
                *rest = rest.get(field.raw.len()..)?;
                let Some(value) = field.bytes() else { continue };
                (field.number, field.raw.len() - value.len(), value)
            }
        };
        if is_wanted(number, value) {
            return Some((number, head + value.len(), value));
        }
    }
}
