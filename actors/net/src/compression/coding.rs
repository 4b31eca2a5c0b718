//! What senders call the ways in which they compress.

/// How a message came compressed, as far as its sender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 1952; several members are one message.
    Gzip,
    /// RFC 8878; so are several frames.
    Zstd,
    /// RFC 1950.
    Zlib,
    /// The same, as the name is meant; or RFC 1951 alone, as it is often understood.
    Deflate,
    /// Snappy, framed or one block.
    Snappy,
    /// Snappy, framed.
    SnappyFrames,
    /// LZ4, framed; several frames are one message.
    Lz4,
}

/// Every coding that is understood, as `grpc-accept-encoding` wants it.
pub(crate) const MESSAGE_CODINGS: &str = "identity,gzip,zstd,snappy,deflate";

/// Every coding that is understood, as `Accept-Encoding` wants it.
pub(crate) const CONTENT_CODINGS: &str = "gzip, zstd, zlib, deflate, snappy, x-snappy-framed, lz4";

impl Coding {
    /// What a `grpc-encoding` names: `Some(None)` of none at all, `None` of what is not known.
    pub fn of_message(name: &[u8]) -> Option<Option<Self>> {
        Some(Some(match name {
            b"identity" => return Some(None),
            b"gzip" => Self::Gzip,
            b"zstd" => Self::Zstd,
            b"snappy" => Self::Snappy,
            b"deflate" => Self::Deflate,
            _ => return None,
        }))
    }

    /// The same of a `Content-Encoding`, whose case does not matter (RFC 9110, 8.4.1).
    pub fn of_content(name: &[u8]) -> Option<Option<Self>> {
        Some(Some(match name.to_ascii_lowercase().as_slice() {
            b"" => return Some(None),
            b"zlib" => Self::Zlib,
            b"x-gzip" => Self::Gzip,
            b"x-snappy-framed" => Self::SnappyFrames,
            b"lz4" => Self::Lz4,
            name => return Self::of_message(name),
        }))
    }
}
