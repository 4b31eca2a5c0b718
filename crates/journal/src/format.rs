//! Format v1 of segments, as `FORMAT.md` promises it. Little endian throughout; checksums are CRC-32C.

use std::ops::Range;

/// The version that is written, and the newest that is read.
pub(crate) const VERSION: u16 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"WSHDSEG\n";
const RECORD_MAGIC: [u8; 4] = [0xf5, b'W', b'S', b'r'];

/// The fixed part of a segment's header, in bytes.
pub(crate) const HEAD: usize = 40;

/// A record's header, in bytes.
pub(crate) const HEADER: usize = 52;

/// The most that a record's context or its payload may have, in bytes.
pub(crate) const MAX_PART: usize = 1 << 30;

/// LZ4 can not make more than this of a byte.
const MAX_RATIO: u64 = 255;

/// A sequence that no journal reaches: a name beyond it is not ours.
pub(crate) const MAX_SEQUENCE: u64 = 1 << 62;

/// What a file of the journal's directory is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Segment,
    Side,
    /// A segment that was being rewritten.
    Unfinished,
    /// Damaged bytes set aside.
    Kept,
}

/// A segment's name without what follows the dot: its number, which is never used again, and its first sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stem {
    pub number: u64,
    pub first: u64,
}

/// What the first bytes of a segment or side file say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Ours; a segment's list of names follows, this long and with this checksum.
    Valid {
        version: u16,
        names: u32,
        crc: u32,
    },
    /// Of a later release.
    Later(u16),
    Damaged,
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub sequence: u64,
    pub arrived: u64,
    /// The payload's length as it lies in the file.
    pub stored: u32,
    /// The payload's length as it was appended.
    pub raw: u32,
    pub context: u32,
    pub items: u32,
    pub attempts: u32,
    pub kind: u8,
    pub lz4: bool,
    /// The checksum of context and stored payload.
    pub body: u32,
}

// === impl Stem ===

impl Stem {
    pub fn name(self, kind: Kind) -> String {
        let Self { number, first } = self;
        format!("{number:012}-{first:020}.{}", kind.extension())
    }

    /// The name of what is kept of a segment's bytes from `offset` on.
    pub fn kept(self, offset: u64) -> String {
        let Self { number, first } = self;
        format!("{number:012}-{first:020}-{offset}.{}", Kind::Kept.extension())
    }

    /// Reads a file's name; none where it is not one of the journal's.
    pub fn parse(name: &str) -> Option<(Self, Kind)> {
        let (stem, extension) = name.rsplit_once('.')?;
        let kind = [Kind::Segment, Kind::Side, Kind::Unfinished, Kind::Kept];
        let kind = kind.into_iter().find(|kind| kind.extension() == extension)?;
        let mut parts =
            stem.splitn(3, '-').map(|part| part.parse::<u64>().ok().filter(|n| *n < MAX_SEQUENCE));
        let stem = Self { number: parts.next()??, first: parts.next()?? };
        // One segment has one name only, or the same records would be read under two.
        (kind == Kind::Kept || stem.name(kind) == name).then_some((stem, kind))
    }
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Segment => "seg",
            Self::Side => "done",
            Self::Unfinished => "tmp",
            Self::Kept => "bad",
        }
    }
}

// === impl Head ===

/// The header of a segment whose records are owed to `names`.
pub(crate) fn segment_head(stem: Stem, names: &[String]) -> Vec<u8> {
    let mut list = Vec::new();
    put_u16(&mut list, names.len());
    for name in names {
        put_u16(&mut list, name.len());
        list.extend_from_slice(name.as_bytes());
    }
    let mut head = Head::encode(SEGMENT_MAGIC, stem, &list).to_vec();
    head.append(&mut list);
    head
}

/// The names in a segment's header; none where they are not what was written.
pub(crate) fn names(mut list: &[u8], crc: u32) -> Option<Vec<String>> {
    if crc32c::crc32c(list) != crc {
        return None;
    }
    let count = take_u16(&mut list)?;
    (0..count)
        .map(|_| {
            let length = usize::from(take_u16(&mut list)?);
            let (name, rest) = list.split_at_checked(length)?;
            list = rest;
            String::from_utf8(name.to_vec()).ok()
        })
        .collect()
}

fn put_u16(into: &mut Vec<u8>, value: usize) {
    into.extend_from_slice(&u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes());
}

fn take_u16(from: &mut &[u8]) -> Option<u16> {
    let (bytes, rest) = from.split_first_chunk::<2>()?;
    *from = rest;
    Some(u16::from_le_bytes(*bytes))
}

impl Head {
    pub fn encode(magic: [u8; 8], stem: Stem, list: &[u8]) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&magic);
        head[8..10].copy_from_slice(&VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[16..24].copy_from_slice(&stem.number.to_le_bytes());
        head[24..32].copy_from_slice(&stem.first.to_le_bytes());
        head[32..36].copy_from_slice(&crc32c::crc32c(list).to_le_bytes());
        let crc = crc32c::crc32c(&head[..36]);
        head[36..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// Reads the first bytes of the segment that is named `stem`.
    pub fn segment(bytes: &[u8], stem: Stem) -> Self {
        Self::parse(SEGMENT_MAGIC, bytes, stem)
    }

    pub fn parse(magic: [u8; 8], bytes: &[u8], stem: Stem) -> Self {
        let Some(head) = bytes.first_chunk::<HEAD>() else { return Self::Damaged };
        if head[..8] != magic || crc32c::crc32c(&head[..36]) != u32_at(head, 36) {
            return Self::Damaged;
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version > VERSION {
            return Self::Later(version);
        }
        if (u64_at(head, 16), u64_at(head, 24)) != (stem.number, stem.first) {
            return Self::Damaged;
        }
        Self::Valid { version, names: u32_at(head, 12), crc: u32_at(head, 32) }
    }
}

// === impl Header ===

impl Header {
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&RECORD_MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.arrived.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.stored.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.raw.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.context.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.items.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.attempts.to_le_bytes());
        bytes[44] = self.kind;
        bytes[45] = u8::from(self.lz4);
        bytes[48..].copy_from_slice(&self.body.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header that `bytes` begin with; none where they do not.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        if bytes[..4] != RECORD_MAGIC || crc32c::crc32c(&bytes[8..]) != u32_at(bytes, 4) {
            return None;
        }
        let header = Self {
            sequence: u64_at(bytes, 8),
            arrived: u64_at(bytes, 16),
            stored: u32_at(bytes, 24),
            raw: u32_at(bytes, 28),
            context: u32_at(bytes, 32),
            items: u32_at(bytes, 36),
            attempts: u32_at(bytes, 40),
            kind: bytes[44],
            lz4: bytes[45] == 1,
            body: u32_at(bytes, 48),
        };
        let bounded =
            [header.stored, header.raw, header.context].iter().all(|part| *part as usize <= MAX_PART);
        let inflated = u64::from(header.raw) <= MAX_RATIO * u64::from(header.stored);
        (bounded && bytes[45] <= 1 && if header.lz4 { inflated } else { header.raw == header.stored })
            .then_some(header)
    }

    /// Context and stored payload, in bytes.
    pub fn body(&self) -> usize {
        self.context as usize + self.stored as usize
    }

    /// The whole record, in bytes.
    pub fn total(&self) -> u64 {
        (HEADER + self.body()) as u64
    }
}

/// Where in `bytes` a record's header may begin, from `from` on.
pub(crate) fn find_record(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    memchr::memmem::find(rest, &RECORD_MAGIC).map(|at| from + at)
}

/// How much of a header's magic may be cut off at the end of a buffer, in bytes.
pub(crate) const OVERLAP: usize = RECORD_MAGIC.len() - 1;

fn array<const N: usize>(bytes: &[u8], range: Range<usize>) -> [u8; N] {
    bytes.get(range).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// The number at `at`; zero where there is none, which only callers that know better ask for.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at..at + 4))
}

/// See [`u32_at`].
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at..at + 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEM: Stem = Stem { number: 3, first: 41 };

    #[test]
    fn a_name_is_read_back_and_nothing_else_is_one() {
        for kind in [Kind::Segment, Kind::Side, Kind::Unfinished] {
            assert_eq!(Stem::parse(&STEM.name(kind)), Some((STEM, kind)));
        }
        assert_eq!(Stem::parse(&STEM.kept(77)), Some((STEM, Kind::Kept)));
        for name in ["lock", "3-41.seg", "000000000003-00000000000000000041.old", "a-b.seg", ".seg", "1.seg"]
        {
            assert_eq!(Stem::parse(name), None, "{name}");
        }
        assert_eq!(Stem::parse("000000000003-18446744073709551615.seg"), None);
    }

    #[test]
    fn a_head_is_read_back_and_every_flipped_bit_is_seen() {
        let branches = ["one".to_owned(), "two".to_owned()];
        let head = segment_head(STEM, &branches);
        let Head::Valid { version: VERSION, names: length, crc } = Head::segment(&head, STEM) else {
            panic!("it is whole")
        };
        assert_eq!(
            (length as usize, names(&head[HEAD..], crc).unwrap()),
            (head.len() - HEAD, branches.to_vec())
        );
        assert_eq!(Head::segment(&head, Stem { number: 4, first: 41 }), Head::Damaged);
        for bit in 0..8 * head.len() {
            let mut flipped = head.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let seen = if bit < 8 * HEAD {
                Head::segment(&flipped, STEM) == Head::Damaged
            } else {
                names(&flipped[HEAD..], crc).is_none()
            };
            assert!(seen, "bit {bit}");
        }
    }

    #[test]
    fn a_record_header_promises_no_more_than_lz4_can_hold() {
        let header = Header {
            sequence: 9,
            arrived: 8,
            stored: 10,
            raw: 2550,
            context: 6,
            items: 5,
            attempts: 4,
            kind: 3,
            lz4: true,
            body: 2,
        };
        assert_eq!(Header::parse(&header.encode()), Some(header));
        for header in [
            Header { raw: 2551, ..header },
            Header { lz4: false, ..header },
            Header { context: u32::MAX, ..header },
        ] {
            assert_eq!(Header::parse(&header.encode()), None);
        }
    }
}
