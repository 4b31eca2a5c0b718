//! A gRPC message on the wire: five bytes of header, then the message.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use watershed_delivery::Permit;

/// Bytes before a message: a compressed flag and the length.
pub(crate) const HEADER: usize = 5;

/// What the header of a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The first byte; 1 says that the message is compressed.
    pub flag: u8,
    /// Bytes of the message that follow.
    pub length: u32,
}

/// One message on its way out: its header and its pieces, written as they are, never joined.
#[derive(Debug)]
pub(crate) struct Payload {
    header: [u8; HEADER],
    /// How much of the header has left.
    written: usize,
    pieces: SmallVec<[Bytes; 1]>,
    /// The first piece that has not left.
    next: usize,
    /// Bytes of the pieces that have not left.
    rest: usize,
    /// What covers the pieces: HTTP/2 may hold them for longer than the call lives.
    _permit: Option<Permit>,
}

// === impl Header ===

impl Header {
    pub fn read(bytes: [u8; HEADER]) -> Self {
        let [flag, length @ ..] = bytes;
        Self { flag, length: u32::from_be_bytes(length) }
    }

    fn write(self) -> [u8; HEADER] {
        let [a, b, c, d] = self.length.to_be_bytes();
        [self.flag, a, b, c, d]
    }
}

// === impl Payload ===

impl Payload {
    /// `None` of what is longer than a header can say.
    pub fn new(compressed: bool, pieces: SmallVec<[Bytes; 1]>) -> Option<Self> {
        let rest = pieces.iter().map(Bytes::len).sum();
        let header = Header { flag: u8::from(compressed), length: u32::try_from(rest).ok()? };
        let mut payload = Self { header: header.write(), written: 0, pieces, next: 0, rest, _permit: None };
        payload.skip_empty();
        Some(payload)
    }

    /// Keeps `permit` for as long as there is a payload.
    pub fn covered(self, permit: Option<Permit>) -> Self {
        Self { _permit: permit, ..self }
    }

    fn skip_empty(&mut self) {
        while self.pieces.get(self.next).is_some_and(Bytes::is_empty) {
            self.next += 1;
        }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        HEADER - self.written + self.rest
    }

    fn chunk(&self) -> &[u8] {
        if self.written < HEADER {
            return &self.header[self.written..];
        }
        self.pieces.get(self.next).map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        let header = count.min(HEADER - self.written);
        self.written += header;
        count -= header;
        self.rest -= count;
        while count > 0 {
            let piece = &mut self.pieces[self.next];
            let step = count.min(piece.len());
            piece.advance(step);
            count -= step;
            self.skip_empty();
        }
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let header = &self.header[self.written..];
        let pieces = self.pieces[self.next..].iter().map(|piece| &piece[..]);
        let chunks = std::iter::once(header).chain(pieces).filter(|chunk| !chunk.is_empty());
        let mut filled = 0;
        for (slot, chunk) in out.iter_mut().zip(chunks) {
            *slot = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_payload_is_its_header_and_its_pieces(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6),
            steps in proptest::collection::vec(1usize..9, 0..40),
            compressed: bool,
        ) {
            let body = pieces.concat();
            let mut expected = vec![u8::from(compressed)];
            expected.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            expected.extend_from_slice(&body);

            let pieces = pieces.into_iter().map(Bytes::from).collect();
            let mut payload = Payload::new(compressed, pieces).unwrap();
            let mut read = Vec::new();
            for step in steps {
                prop_assert_eq!(payload.remaining() + read.len(), expected.len());
                let mut slices = [IoSlice::new(&[]); 8];
                let filled = payload.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert_eq!(&seen, &expected[read.len()..]);
                prop_assert!(seen.starts_with(payload.chunk()));
                let step = step.min(payload.remaining());
                read.extend_from_slice(&seen[..step]);
                payload.advance(step);
            }
            read.extend_from_slice(&payload.copy_to_bytes(payload.remaining()));
            prop_assert_eq!(read, expected);
        }
    }
}
