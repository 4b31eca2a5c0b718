//! Compression of a message in pieces into one buffer.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compress, FlushCompress, Status as Flate};
use parking_lot::Mutex;
use zstd::zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, get_error_name, zstd_sys};

use super::Compression;

/// A client's compression, with a context that is made once and used again for every message.
pub(crate) struct Deflater {
    name: &'static str,
    context: Mutex<Context>,
}

enum Context {
    /// gzip or zlib: which of them, the compressor knows.
    Flate(Compress),
    Zstd(CCtx<'static>),
    /// Has none that could be kept.
    Snappy,
    SnappyBlock(Box<snap::raw::Encoder>),
}

// === impl Deflater ===

impl Deflater {
    /// `None` where nothing is to be compressed.
    pub fn new(compression: Compression) -> Option<Self> {
        let flate = |level: u32| flate2::Compression::new(level.min(9));
        let (name, context) = match compression {
            Compression::None => return None,
            Compression::Gzip(level) => ("gzip", Context::Flate(Compress::new_gzip(flate(level), 15))),
            Compression::Deflate(level) => ("deflate", Context::Flate(Compress::new(flate(level), true))),
            Compression::Zstd(level) => {
                let mut context = CCtx::create();
                // Never fails: zstd brings levels into its range by itself.
                let _ = context.set_parameter(CParameter::CompressionLevel(level));
                ("zstd", Context::Zstd(context))
            }
            Compression::Snappy => ("snappy", Context::Snappy),
            Compression::SnappyBlock => ("snappy", Context::SnappyBlock(Box::new(snap::raw::Encoder::new()))),
        };
        Some(Self { name, context: Mutex::new(context) })
    }

    /// What it is called in `grpc-encoding` and in `Content-Encoding`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The pieces as one compressed message, or what the library has to say.
    pub fn compress(&self, pieces: &[Bytes]) -> Result<Vec<u8>, &'static str> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let mut output = Vec::with_capacity(length / 3 + 256);
        match &mut *self.context.lock() {
            Context::Flate(context) => flate(context, pieces, &mut output)?,
            Context::Zstd(context) => {
                zstd(context, pieces, length as u64, &mut output).map_err(get_error_name)?;
            }
            Context::Snappy => snappy(pieces, &mut output).map_err(|_| "snappy")?,
            Context::SnappyBlock(encoder) => {
                output = block(encoder, pieces).map_err(|_| "snappy: larger than 4 GiB")?;
            }
        }
        output.shrink_to_fit();
        Ok(output)
    }
}

impl std::fmt::Debug for Deflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflater").field("name", &self.name).finish_non_exhaustive()
    }
}

fn flate(context: &mut Compress, pieces: &[Bytes], output: &mut Vec<u8>) -> Result<(), &'static str> {
    context.reset();
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            make_room(output);
            let before = context.total_in();
            context.compress_vec(rest, output, FlushCompress::None).map_err(|_| "flate")?;
            // A difference within one slice.
            rest = &rest[(context.total_in() - before) as usize..];
        }
    }
    loop {
        make_room(output);
        if context.compress_vec(&[], output, FlushCompress::Finish).map_err(|_| "flate")? == Flate::StreamEnd
        {
            return Ok(());
        }
    }
}

fn zstd(
    context: &mut CCtx<'static>,
    pieces: &[Bytes],
    length: u64,
    output: &mut Vec<u8>,
) -> Result<(), usize> {
    use zstd_sys::ZSTD_EndDirective::{ZSTD_e_continue, ZSTD_e_end};
    context.reset(ResetDirective::SessionOnly)?;
    // Written into the frame, so that the receiver can take the right amount of memory at once.
    context.set_pledged_src_size(Some(length))?;
    for piece in pieces {
        let mut input = InBuffer::around(piece);
        while input.pos() < piece.len() {
            make_room(output);
            let written = output.len();
            context.compress_stream2(
                &mut OutBuffer::around_pos(output, written),
                &mut input,
                ZSTD_e_continue,
            )?;
        }
    }
    loop {
        make_room(output);
        let written = output.len();
        let mut output = OutBuffer::around_pos(output, written);
        if context.compress_stream2(&mut output, &mut InBuffer::around(&[]), ZSTD_e_end)? == 0 {
            return Ok(());
        }
    }
}

/// One block is made of one piece.
fn block(encoder: &mut snap::raw::Encoder, pieces: &[Bytes]) -> snap::Result<Vec<u8>> {
    match pieces {
        [piece] => encoder.compress_vec(piece),
        pieces => encoder.compress_vec(&pieces.concat()),
    }
}

/// The framed format, as gRPC and otelcol have it.
fn snappy(pieces: &[Bytes], output: &mut Vec<u8>) -> std::io::Result<()> {
    let mut encoder = snap::write::FrameEncoder::new(output);
    for piece in pieces {
        encoder.write_all(piece)?;
    }
    encoder.flush()
}

/// Compressors need room to write to, or they do nothing.
fn make_room(output: &mut Vec<u8>) {
    if output.capacity() - output.len() < 64 {
        output.reserve(output.capacity().max(256));
    }
}
