//! Writing down what is done, and removing what is.

use std::io;

use crate::error::failed;
use crate::format::Kind;
use crate::manifest::{self, Claim};
use crate::segment::Segment;
use crate::{File, Files, IoError, Journal};

impl<F: Files> Journal<F> {
    /// Writes completions and marks since the last flush beside their segments, and removes the segments all of
    /// whose records are done. What a crash loses of it is only given again, so nothing is synced for it. On an
    /// error it stays in memory for the next try.
    pub fn flush(&mut self) -> Result<(), IoError> {
        let mut result = Ok(());
        for at in 0..self.segments.len() {
            // One side file that can not be written holds up none of the others, nor the removals.
            result = result.and(self.write_side(at));
        }
        result.and(self.remove_done())
    }

    /// Writes what is known of a segment's records and not yet beside it.
    pub(crate) fn write_side(&mut self, at: usize) -> Result<(), IoError> {
        if !self.segments[at].side.is_dirty() {
            return Ok(());
        }
        let name = self.segments[at].stem.name(Kind::Side);
        self.append_side(at, &name).map_err(failed(&self.files, &name, "can not be written"))
    }

    fn append_side(&mut self, at: usize, name: &str) -> io::Result<()> {
        let Self { segments, used, .. } = self;
        let segment = &mut segments[at];
        let bytes = segment.side.encode(segment.stem);
        let mut file = match segment.side.length {
            Some(_) => self.files.open(name, true)?,
            None => self.files.create(name)?,
        };
        let length = *segment.side.length.get_or_insert(0);
        if segment.side.ragged {
            file.set_len(length)?;
        }
        let size = length + bytes.len() as u64;
        *used = *used + size - segment.side.size;
        (segment.side.ragged, segment.side.size) = (true, size);
        file.write_at(length, &bytes)?;
        segment.side.written(size);
        Ok(())
    }

    /// Removes the segments, wherever they are, all of whose records are done: one that is stuck pins none of those
    /// after it. The last one stays.
    ///
    /// The data goes before the side file. A crash between the two leaves a side file without data, which means
    /// nothing; the other way round it would leave records without what is known to be done, and give them again.
    pub(crate) fn remove_done(&mut self) -> Result<(), IoError> {
        let Some((_, rest)) = self.segments.split_last() else { return Ok(()) };
        if rest.iter().all(|segment| segment.marks.live() > 0) {
            return Ok(());
        }
        let goes = rest.iter().filter(|segment| segment.marks.live() == 0);
        let goes: Vec<u64> = goes.map(|segment| segment.stem.number).collect();
        self.note_gaps();
        let forgotten = self.forget(&goes);
        forgotten.map_err(failed(&self.files, manifest::NAME, "can not be written, nor removed"))?;
        let mut result = Ok(());
        let Self { files, widows, manifest, .. } = self;
        self.segments.retain(|segment| {
            if !goes.contains(&segment.stem.number) {
                return true;
            }
            let name = segment.name();
            if let Err(error) = files.remove(&name)
                && error.kind() != io::ErrorKind::NotFound
            {
                result = Err(failed(files, &name, "can not be removed")(error));
                return true;
            }
            manifest.gone.push(segment.stem.number);
            widows.extend(segment.side.length.map(|_| (segment.stem.name(Kind::Side), segment.side.size)));
            false
        });
        self.cursors.iter_mut().chain([&mut self.again]).for_each(|cursor| cursor.release(&self.segments));
        self.recount();
        result
    }

    /// Notes in the manifest how far the last segment goes.
    pub(crate) fn claim(&mut self) {
        let Self { segments, manifest, files, used, .. } = self;
        let size = manifest.size;
        if let Some(last) = segments.last() {
            manifest.claim(last.claim(), files.boot());
        }
        *used += manifest.size - size;
    }

    /// Makes sure that nobody misses what is `gone` next, also after a power cut.
    fn forget(&mut self, gone: &[u64]) -> io::Result<()> {
        if self.settle(gone).is_ok() {
            return Ok(());
        }
        if self.rewrite_manifest(gone).and_then(|()| self.settle(&[])).is_ok() {
            return Ok(());
        }
        // A full disk must be able to empty: better nothing is known than what is wrong.
        if self.manifest.is_there() {
            self.files.remove(manifest::NAME)?;
            self.manifest.removed(false);
            self.sync_dir()?;
            self.manifest.removed(true);
        }
        Ok(())
    }

    fn settle(&mut self, gone: &[u64]) -> io::Result<()> {
        self.manifest.forget(gone)?;
        if self.manifest.is_renamed() { self.sync_dir() } else { Ok(()) }
    }

    /// Writes the manifest anew, without what is `gone` next.
    pub(crate) fn rewrite_manifest(&mut self, gone: &[u64]) -> io::Result<()> {
        let stays = self.segments.iter().filter(|segment| !gone.contains(&segment.stem.number));
        let claims: Vec<Claim> = stays.map(Segment::claim).collect();
        self.manifest.rewrite(&self.files, &claims, gone, (self.number, self.next))
    }

    /// Notes beside the segments that stay which ones after them go, so that nobody misses those. Where that can not
    /// be written they go all the same: a full disk must be able to empty.
    fn note_gaps(&mut self) {
        let last = self.segments.len() - 1;
        let mut stays: Option<usize> = None;
        for at in 0..last {
            let segment = &self.segments[at];
            if segment.marks.live() > 0 {
                stays = Some(at);
                continue;
            }
            let until = segment.range().end.max(segment.side.gap().map_or(0, |gap| gap.until));
            if let Some(before) = stays {
                self.segments[before].note_gap(until);
            }
        }
        self.sync_gaps();
    }

    /// Writes gaps that are new.
    pub(crate) fn sync_gaps(&mut self) {
        for at in 0..self.segments.len() {
            if self.segments[at].side.gap_is_new() {
                let _ = self.write_side(at).map(|()| self.sync_side(at));
            }
        }
    }

    /// The removals after it may reach the disk before what a side file says of them does.
    fn sync_side(&mut self, at: usize) -> io::Result<()> {
        self.files.open(&self.segments[at].stem.name(Kind::Side), true)?.sync_data()?;
        self.sync_dir()
    }
}
