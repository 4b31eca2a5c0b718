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
        let wanted = offset + kept as u64;
        // What is read ahead may be what can not be read.
        let read = file.read_at(wanted, &mut self.buffer[kept..]);
        self.filled += read.or_else(|_| file.read_at(wanted, &mut self.buffer[kept..length]))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of numbers, whose bytes from 600 on can not be read.
    #[derive(Debug)]
    struct Numbers;

    impl File for Numbers {
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
            if offset + into.len() as u64 > 600 {
                return Err(io::ErrorKind::Other.into());
            }
            into.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = at as u8);
            Ok(into.len())
        }

        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn sync_data(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn size(&self) -> io::Result<u64> {
            Ok(1000)
        }
    }

    #[test]
    fn any_piece_can_be_had_in_any_order_until_it_can_not_be_read() {
        let mut window = Window::new(100);
        for (offset, length) in [(0, 10), (90, 30), (95, 200), (10, 5), (500, 50), (580, 20)] {
            let expected: Vec<u8> = (offset..offset + length).map(|at| at as u8).collect();
            assert_eq!(window.get(&Numbers, offset, length as usize).unwrap(), expected);
        }
        assert!(window.get(&Numbers, 580, 21).is_err());
        assert_eq!(window.get(&Numbers, 599, 1).unwrap(), [599_u64 as u8]);
    }
}
