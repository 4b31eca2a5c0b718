//! Decisions as they are noted: a byte for the form, then 17 bytes a trace.

use watershed_stage::{LARGEST_NOTE, shard_of};

/// The first byte of a note: its form.
const NOTE: u8 = 1;

/// What a note takes of a decision, in bytes.
const DECISION: usize = 17;

/// How many decisions fit into a note.
pub(super) const MOST: usize = (LARGEST_NOTE - 1) / DECISION;

/// A note of these; nothing where there are none.
pub(super) fn note(decisions: impl Iterator<Item = ([u8; 16], bool)>) -> Vec<u8> {
    let mut note = vec![NOTE];
    for (id, sampled) in decisions {
        note.extend_from_slice(&id);
        note.push(u8::from(sampled));
    }
    if note.len() > 1 { note } else { Vec::new() }
}

/// What of a note is about traces of one of so many copies.
pub(super) fn share(note: &[u8], copy: usize, copies: usize) -> Vec<u8> {
    self::note(read_note(note).filter(|(id, _)| shard_of(id, copies) == copy))
}

/// What was noted; nothing of a form that is not known.
pub(super) fn read_note(note: &[u8]) -> impl Iterator<Item = ([u8; 16], bool)> {
    let body = note.strip_prefix(&[NOTE]).unwrap_or_default();
    body.chunks_exact(DECISION).filter_map(|one| {
        let (id, sampled) = one.split_first_chunk()?;
        Some((*id, sampled == [1]))
    })
}
