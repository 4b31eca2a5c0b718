//! LZ4's frames, decoded block by block into the message itself: what was written is all the window there is.
//!
//! Source: LZ4 Frame Format Description, `doc/lz4_Frame_format.md` of lz4/lz4. Frames that need a dictionary, those to
//! be skipped and the legacy format are refused.

use std::hash::Hasher as _;

use lz4_flex::block::{DecompressError, decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::inflate::{CREDIBLE, FIRST, Progress, Room, Work, corrupt};
use crate::server::too_large;
use crate::status::Status;

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();

/// How far back a block may refer, in bytes.
const WINDOW: usize = 64 << 10;

/// The bit of a block's length that says that it is not compressed.
const PLAIN: u32 = 1 << 31;

/// What a frame says of itself.
struct Frame {
    /// The most that a block holds, in bytes: 4 MiB at most.
    block: usize,
    /// Blocks refer to those before them.
    is_linked: bool,
    has_block_checksums: bool,
    has_checksum: bool,
    length: Option<u64>,
}

/// A message in the making.
struct Output<'a> {
    /// Zeroed as far as a block has ever reached.
    bytes: Vec<u8>,
    written: usize,
    room: &'a Room<'a>,
}

/// Inflates frames laid end to end. Between two yields there is a block at most.
pub(super) async fn frames(mut input: &[u8], room: &Room<'_>) -> Result<Vec<u8>, Status> {
    let most_credible = CREDIBLE * input.len() as u64;
    let mut output = Output { bytes: Vec::new(), written: 0, room };
    let mut work = Work::default();
    loop {
        let frame = Frame::read(&mut input)?;
        if output.bytes.capacity() == 0 {
            let claimed = frame.length.filter(|length| *length <= most_credible);
            room.grow(&mut output.bytes, claimed.unwrap_or(FIRST))?;
        }
        let start = output.written;
        let mut hash = XxHash32::with_seed(0);
        loop {
            let (left, before) = (input.len(), output.written);
            let more = output.block(&frame, &mut input, start)?;
            let new = output.bytes.get(before..output.written).unwrap_or_default();
            if frame.has_checksum {
                hash.write(new);
            }
            let step = Progress { read: left - input.len(), written: new.len(), ended: !more };
            if work.is_enough(&step) {
                work = Work::default();
                tokio::task::yield_now().await;
            }
            if !more {
                break;
            }
        }
        let length = (output.written - start) as u64;
        if frame.length.is_some_and(|claimed| claimed != length) {
            return Err(corrupt("it is of another length than it says"));
        }
        if frame.has_checksum && number(&mut input)? != hash.finish() as u32 {
            return Err(corrupt("its checksum is wrong"));
        }
        if input.is_empty() {
            output.bytes.truncate(output.written);
            output.bytes.shrink_to_fit();
            return Ok(output.bytes);
        }
    }
}

// === impl Frame ===

impl Frame {
    fn read(input: &mut &[u8]) -> Result<Self, Status> {
        if take(input, MAGIC.len())? != MAGIC {
            return Err(corrupt("it is something else"));
        }
        let rest = *input;
        let [flags, block] = *take(input, 2)? else { return Err(early()) };
        // Version 1, nothing reserved, no dictionary; blocks from 64 KiB to 4 MiB.
        let size = block >> 4;
        if flags & 0b1100_0011 != 0b0100_0000 || block & 0x8F != 0 || size < 4 {
            return Err(corrupt("it is of a kind that is not understood"));
        }
        let length = match flags & 8 {
            0 => None,
            _ => Some(u64::from(number(input)?) | u64::from(number(input)?) << 32),
        };
        let described = rest.get(..rest.len() - input.len()).unwrap_or_default();
        let sum = (XxHash32::oneshot(0, described) >> 8) as u8;
        if take(input, 1)? != [sum] {
            return Err(corrupt("its header is damaged"));
        }
        Ok(Self {
            block: 256 << (2 * size),
            is_linked: flags & 0x20 == 0,
            has_block_checksums: flags & 0x10 != 0,
            has_checksum: flags & 4 != 0,
            length,
        })
    }
}

// === impl Output ===

impl Output<'_> {
    /// Adds the next block of the frame that began at `start`; `false` if there is none.
    fn block(&mut self, frame: &Frame, input: &mut &[u8], start: usize) -> Result<bool, Status> {
        let head = number(input)?;
        if head == 0 {
            return Ok(false);
        }
        let length = (head & !PLAIN) as usize;
        if length > frame.block {
            return Err(corrupt("a block is too large"));
        }
        let block = take(input, length)?;
        if frame.has_block_checksums && number(input)? != XxHash32::oneshot(0, block) {
            return Err(corrupt("the checksum of a block is wrong"));
        }
        self.written += if head & PLAIN != 0 {
            self.copy(block)?
        } else {
            let window =
                if frame.is_linked { start.max(self.written.saturating_sub(WINDOW)) } else { self.written };
            self.decompress(block, window, frame.block)?
        };
        if self.written as u64 > self.room.limit {
            return Err(too_large(self.room.limit));
        }
        Ok(true)
    }

    fn copy(&mut self, block: &[u8]) -> Result<usize, Status> {
        let end = self.written + block.len();
        if self.bytes.capacity() < end {
            let wanted = end.max(2 * self.bytes.capacity());
            self.room.grow(&mut self.bytes, wanted as u64)?;
        }
        if self.bytes.capacity() < end {
            return Err(too_large(self.bytes.capacity() as u64));
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[self.written..end].copy_from_slice(block);
        Ok(block.len())
    }

    /// Decompresses a block, which may refer to what was written from `window` on, to at most `most` bytes. It does
    /// not say how long it is: where there is too little room, it is begun anew with twice as much.
    fn decompress(&mut self, block: &[u8], window: usize, most: usize) -> Result<usize, Status> {
        loop {
            let end = self.bytes.capacity().min(self.written + most);
            if self.bytes.len() < end {
                self.bytes.resize(end, 0);
            }
            let (before, rest) = self.bytes.split_at_mut(self.written);
            let rest = &mut rest[..end - self.written];
            let decompressed = match before.get(window..).unwrap_or_default() {
                [] => decompress_into(block, rest),
                window => decompress_into_with_dict(block, rest, window),
            };
            match decompressed {
                Ok(length) => return Ok(length),
                Err(DecompressError::OutputTooSmall { .. }) if end < self.written + most => {
                    let wanted = 2 * self.bytes.capacity() as u64;
                    self.room.grow(&mut self.bytes, wanted)?;
                }
                Err(error) => return Err(corrupt(&error.to_string())),
            }
        }
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], Status> {
    let (taken, rest) = input.split_at_checked(length).ok_or_else(early)?;
    *input = rest;
    Ok(taken)
}

/// The next four bytes.
fn number(input: &mut &[u8]) -> Result<u32, Status> {
    let (bytes, rest) = input.split_first_chunk().ok_or_else(early)?;
    *input = rest;
    Ok(u32::from_le_bytes(*bytes))
}

fn early() -> Status {
    corrupt("it ends too early")
}
