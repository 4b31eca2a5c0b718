//! A record: what is appended, what is read, and the one encoding between them.

use bytes::Bytes;

use crate::Compression;
use crate::format::{HEADER, Header, MAX_PART};

/// What is appended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record<'a> {
    /// What the payload is; opaque.
    pub kind: u8,
    /// How many items are in the payload.
    pub items: u32,
    /// When it arrived, in Unix nanoseconds.
    pub arrived: u64,
    /// How often it was tried before it came here.
    pub attempts: u32,
    /// What is kept beside the payload; opaque, never compressed.
    pub context: &'a [u8],
    /// The payload, laid end to end.
    pub payload: &'a [Bytes],
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of appending.
    pub sequence: u64,
    /// As appended.
    pub kind: u8,
    /// As appended.
    pub items: u32,
    /// As appended.
    pub arrived: u64,
    /// How often it was tried: as appended, and one for each mark ([`attempted`](crate::Journal::attempted)), of
    /// which 255 are counted.
    pub attempts: u32,
    /// As appended.
    pub context: Bytes,
    /// As appended, in one piece.
    pub payload: Bytes,
    /// The branches that it is owed to: bit n for branch n of `Options::branches`.
    pub owed: u64,
}

// === impl Record ===

impl Record<'_> {
    /// What it takes at most in a segment, in bytes; none where that can not be written.
    pub(crate) fn bound(&self) -> Option<u64> {
        let payload = self.payload.iter().map(Bytes::len).try_fold(0, usize::checked_add)?;
        let bounded = payload <= MAX_PART && self.context.len() <= MAX_PART;
        bounded.then_some((HEADER + self.context.len() + payload) as u64)
    }

    /// Appends its encoding to `into`. `scratch` is a buffer to gather in, so that it is not asked for again.
    pub(crate) fn encode(
        &self,
        sequence: u64,
        compression: Compression,
        scratch: &mut Vec<u8>,
        into: &mut Vec<u8>,
    ) {
        let start = into.len();
        into.resize(start + HEADER, 0);
        into.extend_from_slice(self.context);
        let raw: usize = self.payload.iter().map(Bytes::len).sum();
        let lz4 = compression == Compression::Lz4 && self.compress(raw, scratch, into);
        if !lz4 {
            self.payload.iter().for_each(|part| into.extend_from_slice(part));
        }
        let body = &into[start + HEADER..];
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let header = Header {
            sequence,
            arrived: self.arrived,
            stored: length(body.len() - self.context.len()),
            raw: length(raw),
            context: length(self.context.len()),
            items: self.items,
            attempts: self.attempts,
            kind: self.kind,
            lz4,
            body: crc32c::crc32c(body),
        };
        into[start..start + HEADER].copy_from_slice(&header.encode());
    }

    /// Appends the payload as an LZ4 block, where that is smaller; says whether it did.
    fn compress(&self, raw: usize, scratch: &mut Vec<u8>, into: &mut Vec<u8>) -> bool {
        let input = match self.payload {
            [one] => one,
            parts => {
                scratch.clear();
                parts.iter().for_each(|part| scratch.extend_from_slice(part));
                &scratch[..]
            }
        };
        let start = into.len();
        into.resize(start + lz4_flex::block::get_maximum_output_size(raw), 0);
        let stored =
            lz4_flex::block::compress_into(input, &mut into[start..]).ok().filter(|stored| *stored < raw);
        into.truncate(start + stored.unwrap_or(0));
        stored.is_some()
    }
}

// === impl Stored ===

impl Stored {
    /// Reads a record whose `body` has been checked; none where it does not hold what the header says.
    pub(crate) fn decode(header: &Header, body: &[u8]) -> Option<Self> {
        let (context, stored) = body.split_at_checked(header.context as usize)?;
        let mut whole = Vec::with_capacity(context.len() + header.raw as usize);
        whole.extend_from_slice(context);
        if header.lz4 {
            whole.resize(context.len() + header.raw as usize, 0);
            let written = lz4_flex::block::decompress_into(stored, &mut whole[context.len()..]).ok()?;
            (written == header.raw as usize).then_some(())?;
        } else {
            whole.extend_from_slice(stored);
        }
        let mut context = Bytes::from(whole);
        let payload = context.split_off(header.context as usize);
        Some(Self {
            sequence: header.sequence,
            kind: header.kind,
            items: header.items,
            arrived: header.arrived,
            attempts: header.attempts,
            context,
            payload,
            owed: 0,
        })
    }

    /// What counts towards the bound of a read, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.context.len() + self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let parts = [Bytes::from_static(b"one "), Bytes::from(vec![1; 3000]), Bytes::new()];
        for (compression, payload) in [
            (Compression::None, &parts[..]),
            (Compression::Lz4, &parts[..]),
            (Compression::Lz4, &parts[..1]),
            (Compression::Lz4, &[]),
        ] {
            let record = Record { kind: 1, items: 2, arrived: 3, attempts: 4, context: b"context", payload };
            let mut bytes = b"before".to_vec();
            record.encode(77, compression, &mut Vec::new(), &mut bytes);
            let bytes = &bytes[6..];
            assert!(bytes.len() as u64 <= record.bound().unwrap());
            let header = Header::parse(bytes).unwrap();
            assert_eq!((header.total(), header.body), (bytes.len() as u64, crc32c::crc32c(&bytes[HEADER..])));
            let stored = Stored::decode(&header, &bytes[HEADER..]).unwrap();
            assert_eq!((stored.payload.to_vec(), &stored.context[..]), (payload.concat(), &b"context"[..]));
            assert_eq!((stored.kind, stored.items, stored.arrived, stored.attempts), (1, 2, 3, 4));
            assert_eq!(
                Stored::decode(&Header { raw: header.raw + 1, lz4: true, ..header }, &bytes[HEADER..]),
                None
            );
        }
    }
}
