//! Reading a file in order, in large pieces.

use std::io;

use crate::File;

/// A piece of a file in memory.
#[derive(Debug)]
pub(crate) struct Window {
    buffer: Vec<u8>,
    /// Where in the file the buffer begins, and how much of it is filled.
    base: u64,
    filled: usize,
    /// How much is read at once.
    ahead: usize,
}

// === impl Window ===

impl Window {
    pub fn new(ahead: usize) -> Self {
        Self { buffer: Vec::new(), base: 0, filled: 0, ahead }
    }

    /// Forgets what was read: the next bytes are those of another file.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// The bytes of `file` from `offset` on; fewer than `length` only where it ends.
    pub fn get<F: File>(&mut self, file: &F, offset: u64, length: usize) -> io::Result<&[u8]> {
        let start = self.place(offset);
        if start.is_none_or(|start| self.filled - start < length) {
            self.load(file, offset, length)?;
        }
        let held = &self.buffer[self.place(offset).unwrap_or(self.filled)..self.filled];
        Ok(&held[..held.len().min(length)])
    }

    /// Where `offset` is in the buffer, if it is.
    fn place(&self, offset: u64) -> Option<usize> {
        let start = usize::try_from(offset.checked_sub(self.base)?).ok()?;
        (start <= self.filled).then_some(start)
    }

    fn load<F: File>(&mut self, file: &F, offset: u64, length: usize) -> io::Result<()> {
        let kept = self.place(offset).map_or(0, |start| {
            self.buffer.copy_within(start..self.filled, 0);
            self.filled - start
        });
        (self.base, self.filled) = (offset, kept);
        // What one large record needed is given back with the next.
        let room = length.max(self.ahead);
        if self.buffer.len() != room {
            self.buffer.truncate(room.max(kept));
            self.buffer.shrink_to(room.max(kept));
            self.buffer.resize(room.max(kept), 0);
        }
        self.filled += file.read_at(offset + kept as u64, &mut self.buffer[kept..])?;
        Ok(())
    }
}
