//! Writing: commit, sync, and what is done when a disk does not keep what it was given.

use std::io;

use crate::error::failed;
use crate::format::{Kind, Stem, segment_head};
use crate::marks::Marks;
use crate::scan::Index;
use crate::segment::Segment;
use crate::side::Side;
use crate::tail::Chunk;
use crate::{CommitError, File, Files, IoError, Journal};

impl<F: Files> Journal<F> {
    /// Writes what was appended since the last commit, in one write; where `sync`, it and everything written before
    /// are on the disk when this returns: at most one fdatasync, and one of the directory after a new segment. A full
    /// segment is synced before the next one begins, whatever `sync` says.
    ///
    /// On an error none of them is in the journal, whatever the disk has of them, and the journal can be used as
    /// before.
    pub fn commit(&mut self, sync: bool) -> Result<(), CommitError> {
        self.commit_staged(sync)?;
        self.claim();
        Ok(())
    }

    fn commit_staged(&mut self, sync: bool) -> Result<(), CommitError> {
        let chunk = std::mem::take(&mut self.tail.staged);
        if chunk.starts.is_empty() {
            return if sync { Ok(self.force()?) } else { Ok(()) };
        }
        if self.tail.suspect {
            return Ok(self.commit_anew(chunk)?);
        }
        self.room_for(chunk.bytes.len() as u64)?;
        self.write(&chunk)?;
        let (places, end) = self.adopt(&chunk);
        self.tail.held.push_back(chunk);
        if sync {
            self.force().inspect_err(|_| self.refuse(places, end))?;
        }
        Ok(())
    }

    /// Makes everything committed survive a power cut. On an error it stays in memory for the next try.
    pub fn sync(&mut self) -> Result<(), IoError> {
        self.force()?;
        self.claim();
        Ok(())
    }

    /// Commits where what is held must be written anew: with it.
    fn commit_anew(&mut self, chunk: Chunk) -> Result<(), IoError> {
        self.tail.held.push_back(chunk);
        self.rewrite().inspect_err(|_| drop(self.tail.held.pop_back()))
    }

    /// Makes sure that the last segment can be appended to and has room for `bytes`.
    fn room_for(&mut self, bytes: u64) -> Result<(), IoError> {
        let full = |journal: &Self| {
            let last =
                journal.segments.last().filter(|_| journal.tail.file.is_some() && !journal.tail.retire);
            last.is_none_or(|last| last.marks.count() > 0 && last.end + bytes > journal.options.segment_bytes)
        };
        if !full(self) {
            return Ok(());
        }
        if self.segments.last().is_some_and(|last| last.marks.live() > 0) {
            // Only the last segment may have what is not synced.
            self.force()?;
            if !full(self) {
                return Ok(());
            }
        } else {
            self.tail.clear();
        }
        self.begin()
    }

    /// Begins a segment.
    fn begin(&mut self) -> Result<(), IoError> {
        (self.tail.file, self.tail.retire) = (None, false);
        self.claim();
        let stem = self.new_stem(self.next);
        let name = stem.name(Kind::Segment);
        let head = segment_head(stem, &self.names);
        let mut file = self.files.create(&name).map_err(failed(&self.files, &name, "can not be created"))?;
        if let Err(error) = file.write_at(0, &head) {
            let _ = self.files.remove(&name);
            return Err(failed(&self.files, &name, "can not be written")(error));
        }
        self.segments.push(self.segment(stem, head.len() as u64, Marks::new(self.names.len())));
        (self.tail.file, self.tail.synced) = (Some(file), 0);
        (self.tail.dir, self.tail.doubtful) = (true, false);
        if self.manifest.is_stale(self.segments.len()) {
            let _ = self.rewrite_manifest(&[]);
        }
        // What made room counts on being gone before more is written.
        let _ = self.remove_done();
        self.recount();
        Ok(())
    }

    /// Writes `chunk` after the last record.
    fn write(&mut self, chunk: &Chunk) -> Result<(), IoError> {
        let (Some(file), Some(last)) = (&mut self.tail.file, self.segments.last_mut()) else { return Ok(()) };
        let Err(error) = file.write_at(last.end, &chunk.bytes) else { return Ok(()) };
        let error = failed(&self.files, &last.name(), "can not be written")(error);
        self.cut();
        Err(error)
    }

    /// Cuts off what is after the last record of the last segment. Where that can not be done it is not appended to
    /// any more: something could follow that looks like a record.
    fn cut(&mut self) {
        let (Some(file), Some(last)) = (&mut self.tail.file, self.segments.last_mut()) else { return };
        if file.set_len(last.end).is_ok() {
            last.bytes = last.end;
            return;
        }
        last.bytes = file.size().unwrap_or(last.end).max(last.end);
        self.distrust();
        self.recount();
    }

    /// The last segment is not appended to any more.
    fn distrust(&mut self) {
        self.tail.suspect = !self.tail.held.is_empty();
        if !self.tail.suspect {
            self.tail.file = None;
        }
    }

    /// Takes what was written into the last segment. Returns where it was before: its records and its end.
    fn adopt(&mut self, chunk: &Chunk) -> (u32, u64) {
        let Some(last) = self.segments.last_mut() else { return (0, 0) };
        let before = (last.marks.count(), last.end);
        chunk.records(last.end).for_each(|(offset, header)| last.push(offset, header.arrived));
        last.end += chunk.bytes.len() as u64;
        last.bytes = last.end;
        self.used += chunk.bytes.len() as u64;
        self.next += chunk.len();
        before
    }

    /// Takes the last chunk out again, before which the last segment had `places` records and ended at `end`.
    fn refuse(&mut self, places: u32, end: u64) {
        let Some(chunk) = self.tail.held.pop_back() else { return };
        self.next -= chunk.len();
        if let Some(last) = self.segments.last_mut() {
            last.truncate(places, end);
        }
        self.cut();
        self.distrust();
        self.recount();
    }

    /// Makes what is held survive a power cut, anew where it must be.
    fn force(&mut self) -> Result<(), IoError> {
        if self.tail.held.is_empty() || (!self.tail.suspect && self.try_sync().is_ok()) {
            self.tail.clear();
            return Ok(());
        }
        // The page cache may have dropped what it could not write, and says nothing about it a second time.
        self.tail.suspect = true;
        self.rewrite()
    }

    fn try_sync(&mut self) -> io::Result<()> {
        if self.tail.doubtful {
            return Err(io::Error::other("the directory could not be synced"));
        }
        if let Some(file) = &mut self.tail.file {
            file.sync_data()?;
        }
        if self.tail.dir {
            self.sync_dir()?;
        }
        self.tail.synced = self.end();
        if let Some(last) = self.segments.last_mut() {
            last.synced = last.marks.count();
        }
        Ok(())
    }

    /// Makes what was created and removed survive a power cut.
    pub(crate) fn sync_dir(&mut self) -> io::Result<()> {
        // As with a file, what one sync could not write the next one does not mention.
        let synced = self.files.sync_dir();
        self.manifest.dir_synced(synced.is_ok());
        synced.inspect_err(|_| self.tail.doubtful |= self.tail.dir)?;
        self.tail.dir &= self.tail.doubtful;
        let files = &self.files;
        self.widows.retain(|(name, _)| {
            files.remove(name).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        });
        self.recount();
        Ok(())
    }

    /// Writes everything held into a segment of its own, which takes the place of what the last one has of it: a
    /// segment's first sequence ends every one before it.
    ///
    /// It has another name until all of it is on the disk, so that a crash leaves the one or the other. On an error
    /// nothing has changed.
    fn rewrite(&mut self) -> Result<(), IoError> {
        let Some(first) = self.tail.held.front().map(|chunk| chunk.first) else { return Ok(()) };
        let stem = self.new_stem(first);
        let (unfinished, name) = (stem.name(Kind::Unfinished), stem.name(Kind::Segment));
        match self.write_whole(stem, &unfinished, &name) {
            Ok(file) => self.replace(stem, file),
            Err(error) => {
                let _ = self.files.remove(&unfinished);
                let _ = self.files.remove(&name);
                return Err(failed(&self.files, &name, "can not be written anew after a failed sync")(error));
            }
        }
        Ok(())
    }

    fn write_whole(&mut self, stem: Stem, unfinished: &str, name: &str) -> io::Result<F::File> {
        let mut file = self.files.create(unfinished)?;
        let head = segment_head(stem, &self.names);
        file.write_at(0, &head)?;
        let mut end = head.len() as u64;
        for chunk in &self.tail.held {
            file.write_at(end, &chunk.bytes)?;
            end += chunk.bytes.len() as u64;
        }
        file.sync_data()?;
        self.files.rename(unfinished, name)?;
        self.sync_dir()?;
        Ok(file)
    }

    /// The segment named `stem` has everything held, synced: it is the last one now.
    fn replace(&mut self, stem: Stem, file: F::File) {
        let mut marks = Marks::new(self.names.len());
        if let Some(last) = self.segments.last_mut() {
            if let Some(at) = last.place(stem.first) {
                marks = last.marks.split_off(at);
                last.index.truncate(at);
            }
            last.synced = last.synced.min(last.marks.count());
            // Not below the header: nothing may ever have been synced.
            last.end = last.end.min(self.tail.synced.max(segment_head(last.stem, &self.names).len() as u64));
        }
        // Where it can not be cut, the new segment's first sequence says what counts.
        self.cut();
        let mut segment = self.segment(stem, segment_head(stem, &self.names).len() as u64, marks);
        segment.note_marks();
        for chunk in &self.tail.held {
            for (offset, header) in chunk.records(segment.end) {
                segment.push_known(offset, &header);
            }
            segment.end += chunk.bytes.len() as u64;
        }
        (segment.bytes, segment.synced) = (segment.end, segment.marks.count());
        self.next = segment.range().end;
        // What the old one has left, before what the new one has of it.
        self.claim();
        self.segments.push(segment);
        self.claim();
        self.tail.clear();
        (self.tail.dir, self.tail.doubtful) = (false, false);
        (self.tail.file, self.tail.synced, self.tail.retire) = (Some(file), self.end(), false);
        // What was flushed beside the old one should be beside the new one; the next flush tries again.
        let _ = self.write_side(self.segments.len() - 1);
        self.recount();
    }

    fn end(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.end)
    }

    /// A name that no file ever had.
    fn new_stem(&mut self, first: u64) -> Stem {
        self.number += 1;
        Stem { number: self.number - 1, first }
    }

    fn segment(&self, stem: Stem, end: u64, marks: Marks) -> Segment {
        let side = Side::new(&self.names);
        Segment { stem, marks, index: Index::default(), side, end, synced: 0, bytes: end, arrived: None }
    }
}
