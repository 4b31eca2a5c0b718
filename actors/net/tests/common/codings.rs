//! Compressors, none of them ours.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

pub type Encode = fn(&[u8]) -> Vec<u8>;

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn snappy_frames(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(b"\xff\x06\0\0sNaPpY".to_vec());
    encoder.write_all(bytes).unwrap();
    encoder.into_inner().unwrap()
}

pub fn snappy_block(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

/// In blocks that refer to those before them, with one checksum.
pub fn lz4_linked(bytes: &[u8]) -> Vec<u8> {
    lz4(bytes, FrameInfo::new().block_mode(BlockMode::Linked).content_checksum(true))
}

/// In large blocks with a checksum each, and the length beforehand.
pub fn lz4_blocks(bytes: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new().block_size(BlockSize::Max4MB).block_checksums(true);
    lz4(bytes, info.content_size(Some(bytes.len() as u64)))
}

fn lz4(bytes: &[u8], info: FrameInfo) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What inflates to far more than it is: megabytes of zeros in less than one.
pub fn bomb(encode: Encode) -> Vec<u8> {
    // As much as the format can do: snappy stops at a twentieth.
    let length = if encode(&[0; 60_000]).len() > 1000 { 16_000_000 } else { 50_000_000 };
    let bomb = encode(&vec![0; length]);
    assert!(bomb.len() < 1_000_000, "{}", bomb.len());
    bomb
}
