//! A record: what is appended, what is read.

use bytes::Bytes;

/// What is appended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// What the payload is; opaque.
    pub kind: u8,
    /// How many items are in the payload.
    pub items: u32,
    /// When it arrived, in Unix nanoseconds.
    pub arrived: u64,
    /// How often it was tried before it came here.
    pub attempts: u32,
    /// What is kept beside the payload; opaque, never compressed.
    pub context: &'a [u8],
    /// The payload, laid end to end.
    pub payload: &'a [Bytes],
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of appending.
    pub sequence: u64,
    /// As appended.
    pub kind: u8,
    /// As appended.
    pub items: u32,
    /// As appended.
    pub arrived: u64,
    /// How often it was tried: as appended, and one for each mark ([`attempted`](crate::Journal::attempted)).
    pub attempts: u32,
    /// As appended.
    pub context: Bytes,
    /// As appended, in one piece.
    pub payload: Bytes,
    /// The branches that it is owed to: bit n for branch n of `Options::branches`.
    pub owed: u64,
}
