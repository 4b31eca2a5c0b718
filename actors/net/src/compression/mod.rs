//! gzip, zstd, zlib and snappy, inside the memory that was granted.

mod deflate;
mod inflate;

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
}

/// What a compressed message is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Zstd,
}

/// Every encoding that is understood, as `grpc-accept-encoding` wants it.
pub(crate) const ACCEPTED: &str = "identity,gzip,zstd";

/// Every encoding that is understood, as `Accept-Encoding` wants it.
pub(crate) const CONTENT_ENCODINGS: &str = "gzip, zstd";

impl Encoding {
    /// What a `Content-Encoding` names: `Some(None)` of none at all, `None` of what is not known.
    pub fn of_content(name: &[u8]) -> Option<Option<Self>> {
        Some(Some(match name.to_ascii_lowercase().as_slice() {
            b"" | b"identity" => return Some(None),
            b"gzip" => Self::Gzip,
            b"zstd" => Self::Zstd,
            _ => return None,
        }))
    }
}
