//! The file that says which segments there are and how far they go, so that one that is lost is missed: format v1, as
//! `FORMAT.md` promises it.
//!
//! What it says is never ahead of what is on the disk, in two senses. A segment that it names is there: before one is
//! removed that is noted, and the note synced. And of a segment's records it counts those that are synced; those that
//! were only written count as long as the machine has not been started anew, since only that can lose them. Nothing
//! else that is added is synced: what the power takes of it is only not known.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::format::{HEAD, Head, MAX_SEQUENCE, Stem, u32_at, u64_at};
use crate::frame::{FRAME, MAX_CONTENT, content, find_frame, frame};
use crate::{File, Files};

/// The file's name.
pub(crate) const NAME: &str = "manifest";

/// Its name while it is written anew.
pub(crate) const UNFINISHED: &str = "manifest.tmp";

const MAGIC: [u8; 8] = *b"WSHDLIST";

/// It is of no segment.
const STEM: Stem = Stem { number: 0, first: 0 };

/// The longest file that is read, in bytes: more than a million segments need.
const MAX: u64 = 64 << 20;

/// The most that it takes where there is one segment, in bytes: no journal can do with less.
pub(crate) const LEAST: u64 = 320;

/// What is said of a segment, and of the floor, in bytes.
const THERE: usize = FRAME + 33;
const FLOOR: usize = FRAME + 17;

/// What frames hold.
mod tag {
    pub const FLOOR: u8 = 1;
    pub const THERE: u8 = 2;
    pub const GONE: u8 = 3;
}

/// What is said of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub stem: Stem,
    /// How many of its records are on the disk.
    pub synced: u32,
    /// How many were written.
    pub written: u32,
}

/// What a manifest says.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// The segments that there are, each with how many of its records are known to have been there.
    known: BTreeMap<Stem, u32>,
    /// The numbers of segments all of whose records were done: their files may come back with the power.
    pub gone: BTreeSet<u64>,
    /// Those of them of which more than that is said.
    pub went: Vec<Stem>,
    /// No segment before had this number, or one above it.
    pub number: u64,
    /// No record before had this sequence, or one above it.
    pub next: u64,
}

/// The manifest as it is written.
#[derive(Debug)]
pub(crate) struct Manifest<F> {
    /// None where what is in the directory can not be added to.
    file: Option<F>,
    /// What is in it, in bytes.
    pub size: u64,
    /// The last frame, if it is of a segment, and where it begins: what is said of the same one again takes its place.
    last: Option<(Claim, u64)>,
    /// The numbers of segments whose files were removed, and may come back with the power.
    pub gone: Vec<u64>,
    /// Whether there may be one in the directory, or come back with the power.
    there: bool,
    /// Whether it was renamed, and the directory not synced since.
    renamed: bool,
}

// === impl Claims ===

impl Claims {
    /// What the directory's manifest says. Where there is none, or a byte of it is damaged, no segment should be there:
    /// that byte may have said that it is gone. Or the version, where it is a later one.
    pub fn read<F: Files>(files: &F) -> Result<Self, u16> {
        let read = || -> io::Result<Vec<u8>> {
            let file = files.open(NAME, false)?;
            let mut bytes = vec![0; usize::try_from(file.size()?.min(MAX)).unwrap_or(0)];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        read().map_or(Ok(Self::default()), |bytes| Self::parse(&bytes, files.boot()))
    }

    /// Reads a manifest in the run `boot` of the machine.
    fn parse(bytes: &[u8], boot: u64) -> Result<Self, u16> {
        let (mut at, mut whole) = match Head::parse(MAGIC, bytes, STEM) {
            Head::Later(version) => return Err(version),
            Head::Valid { .. } => (HEAD, true),
            Head::Damaged => (0, false),
        };
        let mut claims = Self::default();
        while at < bytes.len() {
            if let Some(content) = content(&bytes[at..]) {
                claims.apply(content, boot);
                at += FRAME + content.len();
            } else {
                whole = false;
                at = find_frame(bytes, at + 1).unwrap_or(bytes.len());
            }
        }
        if !whole {
            claims.known.clear();
        }
        Ok(claims)
    }

    fn apply(&mut self, content: &[u8], boot: u64) {
        let Some((&tag, body)) = content.split_first() else { return };
        let stem = Stem { number: u64_at(body, 0), first: u64_at(body, 8) };
        let can_be = stem.number < MAX_SEQUENCE && stem.first < MAX_SEQUENCE;
        match tag {
            tag::FLOOR if can_be => {
                (self.number, self.next) = (self.number.max(stem.number), self.next.max(stem.first));
            }
            tag::THERE if can_be => {
                let (synced, written) = (u32_at(body, 16), u32_at(body, 20));
                let runs_on = boot != 0 && boot == u64_at(body, 24);
                self.known.insert(stem, if runs_on { synced.max(written) } else { synced });
                self.number = self.number.max(stem.number + 1);
            }
            tag::GONE => {
                let numbers = body.chunks_exact(8).map(|number| u64_at(number, 0));
                self.gone.extend(numbers.filter(|number| *number < MAX_SEQUENCE));
                // A later segment with such a number would be taken for it.
                self.number = self.number.max(self.gone.last().map_or(0, |last| last + 1));
                let gone = |stem: &Stem, _: &mut u32| self.gone.contains(&stem.number);
                self.went.extend(self.known.extract_if(.., gone).map(|(stem, _)| stem));
            }
            _ => {}
        }
    }

    /// How many records the segment is known to have had.
    pub fn known(&self, stem: Stem) -> u32 {
        self.known.get(&stem).copied().unwrap_or(0)
    }

    /// Whether all of the segment was done, and its file about to be removed.
    pub fn is_gone(&self, stem: Stem) -> bool {
        self.gone.contains(&stem.number)
    }

    /// The segments that should be there.
    pub fn stems(&self) -> impl Iterator<Item = Stem> + '_ {
        self.known.keys().copied()
    }
}

// === impl Manifest ===

impl<F: File> Manifest<F> {
    /// One that is yet to be written, where there is one of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { file: None, size, last: None, gone: Vec::new(), there: size > 0, renamed: false }
    }

    /// Whether it is worth being written anew, for `segments`.
    pub fn is_stale(&self, segments: usize) -> bool {
        self.file.is_none() || self.size > 2 * (HEAD + FLOOR + segments * THERE) as u64
    }

    /// Whether it has a file that can be added to.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Notes that a segment is there and how far it goes. Where that can not be written nothing is noted until the
    /// next time that all of it is.
    pub fn claim(&mut self, claim: Claim, boot: u64) {
        if self.file.is_none() || self.last.is_some_and(|(last, _)| last == claim) {
            return;
        }
        let same = self.last.filter(|(last, _)| last.stem == claim.stem);
        let at = same.map_or(self.size, |(_, at)| at);
        let mut bytes = Vec::new();
        encode(&mut bytes, claim, boot);
        if self.write(at, &bytes).is_ok() {
            self.last = Some((claim, at));
        }
    }

    /// Notes that segments are gone, for good once this returns and the directory [is synced](Self::is_renamed).
    pub fn forget(&mut self, gone: &[u64]) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode_gone(&mut bytes, gone);
        self.write(self.size, &bytes)?;
        self.last = None;
        let synced = self.file.as_mut().map_or(Ok(()), File::sync_data);
        synced.inspect_err(|_| self.file = None)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let written = file.write_at(at, bytes);
        self.size = self.size.max(at + bytes.len() as u64);
        written.inspect_err(|_| self.file = None)
    }

    /// Writes it anew: `claims` are all there is, `gone` goes next, and what comes is not below `number` and `next`. What it
    /// replaces says the same, or more, should that come back.
    pub fn rewrite<D: Files<File = F>>(
        &mut self,
        files: &D,
        claims: &[Claim],
        gone: &[u64],
        (number, next): (u64, u64),
    ) -> io::Result<()> {
        self.file = None;
        let mut bytes = Head::encode(MAGIC, STEM, &[]).to_vec();
        frame(&mut bytes, tag::FLOOR, &[&number.to_le_bytes(), &next.to_le_bytes()]);
        encode_gone(&mut bytes, &[gone, &self.gone[..]].concat());
        let mut last = None;
        for claim in claims {
            last = Some((*claim, bytes.len() as u64));
            encode(&mut bytes, *claim, files.boot());
        }
        let write = || -> io::Result<F> {
            let mut file = files.create(UNFINISHED)?;
            file.write_at(0, &bytes)?;
            file.sync_data()?;
            files.rename(UNFINISHED, NAME)?;
            Ok(file)
        };
        let written = write().inspect_err(|_| drop(files.remove(UNFINISHED)));
        let (file, size, gone) = (Some(written?), bytes.len() as u64, std::mem::take(&mut self.gone));
        *self = Self { file, size, last, gone, there: true, renamed: true };
        Ok(())
    }

    /// Whether there may be one.
    pub fn is_there(&self) -> bool {
        self.there
    }

    /// The file was removed: nothing is known, `for_good` once the directory was synced.
    pub fn removed(&mut self, for_good: bool) {
        let gone = std::mem::take(&mut self.gone);
        *self = Self { there: !for_good, gone, ..Self::new(0) };
    }

    /// Whether another one may come back with the power.
    pub fn is_renamed(&self) -> bool {
        self.renamed
    }

    /// The directory was synced, or could not be: then nobody knows which manifest it has.
    pub fn dir_synced(&mut self, well: bool) {
        if self.renamed && !well {
            self.file = None;
        }
        self.renamed &= !well;
        if well {
            self.gone.clear();
        }
    }
}

fn encode(into: &mut Vec<u8>, Claim { stem, synced, written }: Claim, boot: u64) {
    let (number, first) = (stem.number.to_le_bytes(), stem.first.to_le_bytes());
    let counts = [synced.to_le_bytes(), written.to_le_bytes()].concat();
    frame(into, tag::THERE, &[&number, &first, &counts, &boot.to_le_bytes()]);
}

fn encode_gone(into: &mut Vec<u8>, gone: &[u64]) {
    for part in gone.chunks(MAX_CONTENT / 16) {
        let numbers: Vec<u8> = part.iter().flat_map(|number| number.to_le_bytes()).collect();
        frame(into, tag::GONE, &[&numbers]);
    }
}
