//! Frames: what side files and the manifest are made of after their headers.

use crate::format::u32_at;

const FRAME_MAGIC: [u8; 4] = [0xf5, b'W', b'S', b'f'];

/// What comes before a frame's content, in bytes.
pub(crate) const FRAME: usize = 12;

/// The longest content of a frame, in bytes.
pub(crate) const MAX_CONTENT: usize = 64 << 10;

/// Appends a frame.
pub(crate) fn frame(into: &mut Vec<u8>, tag: u8, content: &[&[u8]]) {
    let start = into.len();
    into.extend_from_slice(&FRAME_MAGIC);
    into.extend_from_slice(&[0; FRAME - 4]);
    into.push(tag);
    content.iter().for_each(|part| into.extend_from_slice(part));
    let length = u32::try_from(into.len() - start - FRAME).unwrap_or(u32::MAX);
    into[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(length, &into[start + FRAME..]);
    into[start + 8..start + FRAME].copy_from_slice(&crc.to_le_bytes());
}

/// Covers the length as well, so that a frame of zeros is none.
fn checksum(length: u32, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), content)
}

/// The content of the frame that `bytes` begin with.
pub(crate) fn content(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.first_chunk::<FRAME>().filter(|head| head[..4] == FRAME_MAGIC)?;
    let length = u32_at(head, 4);
    let content = bytes[FRAME..].get(..length as usize).filter(|_| length as usize <= MAX_CONTENT)?;
    (checksum(length, content) == u32_at(head, 8)).then_some(content)
}

/// Where in `bytes` a frame may begin, from `from` on.
pub(crate) fn find_frame(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memmem::find(&bytes[from..], &FRAME_MAGIC).map(|at| from + at)
}
