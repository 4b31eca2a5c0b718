//! Compression and inflation, inside the memory that was granted.

mod coding;
mod deflate;
mod inflate;
mod lz4;

pub(crate) use coding::{CONTENT_CODINGS, Coding, MESSAGE_CODINGS};
pub(crate) use deflate::Deflater;
pub(crate) use inflate::{Inflater, Room};

/// What a client does to its messages before it sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Sends them as they are.
    #[default]
    None,
    /// gzip, at a level from 0 (only wraps) to 9.
    Gzip(u32),
    /// zstd, at a level from -7 to 22; 3 is its default.
    Zstd(i32),
    /// zlib (RFC 1950), which HTTP calls `deflate`, at a level from 0 to 9.
    Deflate(u32),
    /// snappy, framed.
    Snappy,
    /// snappy, as one block: what Prometheus' remote write means by the same name.
    SnappyBlock,
}
