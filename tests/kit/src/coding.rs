//! Compression as a client does it, at the fastest level.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use zstd::bulk::Compressor;

use crate::grpc::FRAME_HEADER;

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// As `grpc-encoding` and `content-encoding` have it.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }

    /// A compressor at level 1.
    pub fn packer(self) -> Packer {
        Packer(match self {
            Coding::Gzip => State::Gzip(Compress::new_gzip(Compression::fast(), 15)),
            Coding::Zstd => State::Zstd(Compressor::new(1).expect("zstd has a level 1")),
        })
    }
}

/// Compresses message after message. What it costs to set up is paid once.
pub struct Packer(State);

enum State {
    Gzip(Compress),
    Zstd(Compressor<'static>),
}

impl Packer {
    /// A framed message, compressed and framed again.
    pub fn pack(&mut self, framed: &[u8]) -> Bytes {
        let message = framed.get(FRAME_HEADER..).unwrap_or_default();
        let packed = match &mut self.0 {
            State::Gzip(compress) => gzip(compress, message),
            State::Zstd(compressor) => compressor.compress(message).expect("the buffer is large enough"),
        };
        crate::requests::flagged(1, &packed)
    }
}

fn gzip(compress: &mut Compress, message: &[u8]) -> Vec<u8> {
    compress.reset();
    let mut packed = Vec::new();
    loop {
        packed.reserve(message.len() / 4 + 64);
        let rest = &message[compress.total_in() as usize..];
        let status = compress.compress_vec(rest, &mut packed, FlushCompress::Finish);
        if status.expect("no stream is used after its end") == flate2::Status::StreamEnd {
            return packed;
        }
    }
}
