//! The file that is written to: whole records only, locked, put aside when it is large.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;

use jiff::Timestamp;
use watershed_stage::Counter;

use crate::record::Framing;
use crate::rotation::{Rotation, directory};

/// Where records go.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub path: PathBuf,
    /// Go on with a file that is there when the process starts.
    pub append: bool,
    pub rotation: Option<Rotation>,
    pub framing: Framing,
    /// Permissions of directories to make, if they are made.
    pub directories: Option<u32>,
    /// Whether what is written is ever to be forced onto the disk.
    pub syncs: bool,
}

/// An open file, as far as it may fail: tests make it.
pub(crate) trait Handle: Write + Send + 'static {
    fn set_len(&self, length: u64) -> Result<()>;
    fn sync(&self) -> Result<()>;
}

/// Writes records to a file.
pub(crate) struct Log<F> {
    place: Place,
    /// What an opened file is written through.
    through: fn(File) -> F,
    open: Option<Open<F>>,
    /// Why something did not reach the disk, of which nobody was told yet.
    lost: Option<ErrorKind>,
    rotations: Rotations,
}

/// Files that were put aside, and those of them that were removed since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rotations {
    pub aside: Counter,
    pub removed: Counter,
}

struct Open<F> {
    file: F,
    /// Device and inode: somebody may put another file in its place.
    identity: (u64, u64),
    /// Up to where there are whole records.
    whole: u64,
    /// Whether there is a part of a record behind them.
    is_torn: bool,
    /// Pipes and terminals have no length.
    is_regular: bool,
    /// Whether something was written that is not yet forced onto the disk.
    is_dirty: bool,
}

// === impl Log ===

impl Log<File> {
    /// Opens the file. One that is there is emptied, unless it is to be gone on with.
    pub fn open(place: Place, rotations: Rotations, now: Timestamp) -> Result<Self> {
        Self::open_through(place, rotations, now, std::convert::identity)
    }
}

impl<F: Handle> Log<F> {
    fn open_through(
        place: Place,
        rotations: Rotations,
        now: Timestamp,
        through: fn(File) -> F,
    ) -> Result<Self> {
        let mut log = Self { place, through, open: None, lost: None, rotations };
        let open = log.reopen(log.place.append)?;
        log.open = Some(open);
        log.prune(now);
        Ok(log)
    }

    /// Appends a record: all of it or nothing.
    pub fn append(&mut self, record: &[u8], now: Timestamp) -> Result<()> {
        self.settle()?;
        if self.is_full(record.len()) {
            self.rotate(now)?;
        }
        let open = self.open.as_mut().ok_or(ErrorKind::NotFound)?;
        open.is_dirty = true;
        let written = open.file.write_all(record);
        match &written {
            Ok(()) => open.whole += record.len() as u64,
            Err(_) => {
                open.is_torn = open.is_regular;
                // If that fails too, it is tried again before the next record.
                let _ = open.mend(open.whole);
            }
        }
        written
    }

    /// Forces onto the disk what was written since this was last called. It fails for all of that if a part of it
    /// could not be forced there on the way, as a file was put aside or had been moved: a system tells of that once.
    pub fn sync(&mut self) -> Result<()> {
        let synced = self.open.as_mut().map_or(Ok(()), Open::sync);
        self.lost.take().map_or(synced, |kind| Err(kind.into()))
    }

    /// Has a file at hand that is the one at `path` and ends with a whole record.
    fn settle(&mut self) -> Result<()> {
        let there = std::fs::metadata(&self.place.path);
        if let (Ok(there), Some(open)) = (&there, &mut self.open)
            && open.identity == (there.dev(), there.ino())
        {
            return open.mend(there.len());
        }
        // Moved or removed, as by logrotate. What it holds is still owed to the disk, and is asked of it once.
        if let Some(mut moved) = self.open.take()
            && self.place.syncs
        {
            moved.sync().inspect_err(|error| self.lost = Some(error.kind()))?;
        }
        self.open = Some(self.reopen(true)?);
        Ok(())
    }

    fn reopen(&self, append: bool) -> Result<Open<F>> {
        let Place { path, .. } = &self.place;
        if let Some(mode) = self.place.directories {
            DirBuilder::new().recursive(true).mode(mode).create(directory(path))?;
        }
        // Reading is for finding the last whole record; and a pipe opened so does not wait for its reader.
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let metadata = file.metadata()?;
        let is_regular = metadata.is_file();
        let mut whole = 0;
        if is_regular {
            lock(&file)?;
            whole = if append { self.place.framing.whole(&file)? } else { 0 };
            if append && whole < metadata.len() {
                tracing::warn!(path = %path.display(), bytes = metadata.len() - whole,
                    "the file ended in the middle of a record, which is cut off");
            }
            file.set_len(whole)?;
            if self.place.syncs {
                // A new file's name is a part of its directory, which one may write to without being let read it.
                File::open(directory(path)).map_or(Ok(()), |directory| directory.sync_all())?;
            }
        }
        let identity = (metadata.dev(), metadata.ino());
        let file = (self.through)(file);
        Ok(Open { file, identity, whole, is_torn: false, is_regular, is_dirty: false })
    }

    fn is_full(&self, more: usize) -> bool {
        let (Some(rotation), Some(open)) = (&self.place.rotation, &self.open) else { return false };
        open.is_regular && open.whole > 0 && open.whole + more as u64 > rotation.max_bytes
    }

    fn rotate(&mut self, now: Timestamp) -> Result<()> {
        let Some(rotation) = &self.place.rotation else { return Ok(()) };
        if self.place.syncs {
            let synced = self.open.as_mut().map_or(Ok(()), Open::sync);
            synced.inspect_err(|error| self.lost = Some(error.kind()))?;
        }
        std::fs::rename(&self.place.path, rotation.aside(&self.place.path, now))?;
        self.rotations.aside.add(1);
        self.open = None;
        self.open = Some(self.reopen(true)?);
        self.prune(now);
        Ok(())
    }

    /// Removes old files. That this fails is no reason not to write.
    fn prune(&self, now: Timestamp) {
        let Some(rotation) = &self.place.rotation else { return };
        if let Err(error) = rotation.prune(&self.place.path, now, &self.rotations.removed) {
            tracing::warn!(path = %self.place.path.display(), %error, "old files were not removed");
        }
    }
}

/// One writer a file, or records would be torn by each other. Held for as long as the file is open.
fn lock(file: &File) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::ResourceBusy,
            "another exporter or another process writes to it: give each a path of its own",
        )),
        // Not every file system has locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

// === impl Open ===

impl<F: Handle> Open<F> {
    /// Cuts off a record that was written in part. Else the file is as long as it is, whatever others did to it.
    fn mend(&mut self, length: u64) -> Result<()> {
        if self.is_torn {
            self.file.set_len(self.whole)?;
            self.is_torn = false;
        } else {
            self.whole = length;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        if self.is_dirty && self.is_regular {
            self.file.sync()?;
        }
        self.is_dirty = false;
        Ok(())
    }
}

// === impl Handle ===

impl Handle for File {
    fn set_len(&self, length: u64) -> Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::path::Path;

    use super::*;

    thread_local! {
        /// How many more bytes the disk takes.
        static ROOM: Cell<usize> = const { Cell::new(usize::MAX) };
        /// Whether a file can be cut.
        static CUTS: Cell<bool> = const { Cell::new(true) };
        /// Whether what was written reaches the disk. That it did not is told once, as Linux does.
        pub(crate) static SYNCS: Cell<bool> = const { Cell::new(true) };
        /// Where the file is moved by somebody else after the next write.
        pub(crate) static MOVED: Cell<Option<[PathBuf; 2]>> = const { Cell::new(None) };
        /// How often it was to.
        pub(crate) static SYNCED: Cell<usize> = const { Cell::new(0) };
    }

    /// A file on a disk that fills up in the middle of a write.
    pub(crate) struct Full(File);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let room = ROOM.get().min(bytes.len());
            if room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let written = self.0.write(&bytes[..room])?;
            ROOM.set(ROOM.get() - written);
            if let Some([from, to]) = MOVED.take() {
                fs::rename(from, to)?;
            }
            Ok(written)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Handle for Full {
        fn set_len(&self, length: u64) -> Result<()> {
            if CUTS.get() { self.0.set_len(length) } else { Err(ErrorKind::Other.into()) }
        }

        fn sync(&self) -> Result<()> {
            SYNCED.set(SYNCED.get() + 1);
            if SYNCS.replace(true) { Ok(()) } else { Err(ErrorKind::Other.into()) }
        }
    }

    /// A log on such a disk, on which all is well so far.
    pub(crate) fn full(place: Place) -> Log<Full> {
        ROOM.set(usize::MAX);
        CUTS.set(true);
        SYNCS.set(true);
        SYNCED.set(0);
        Log::open_through(place, Rotations::default(), now(), Full).unwrap()
    }

    pub(crate) fn place(path: &Path) -> Place {
        Place {
            path: path.to_owned(),
            append: true,
            rotation: None,
            framing: Framing::Lines,
            directories: None,
            syncs: true,
        }
    }

    fn open(place: Place) -> Result<Log<File>> {
        Log::open(place, Rotations::default(), now())
    }

    fn now() -> Timestamp {
        "2026-08-21T09:30:00Z".parse().unwrap()
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_disk_that_fills_up_leaves_whole_records_and_goes_on_when_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut log = full(place(&path));
        ROOM.set(7);
        log.append(b"{1}\n", now()).unwrap();
        assert_eq!(log.append(b"{2}\n", now()).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(text(&path), "{1}\n");
        // The torn record can not even be cut off: nothing is written behind it.
        ROOM.set(2);
        CUTS.set(false);
        log.append(b"{3}\n", now()).unwrap_err();
        ROOM.set(usize::MAX);
        log.append(b"{4}\n", now()).unwrap_err();
        assert_eq!(text(&path), "{1}\n{3");
        CUTS.set(true);
        log.append(b"{5}\n", now()).unwrap();
        assert_eq!(text(&path), "{1}\n{5}\n");
    }

    #[test]
    fn a_torn_tail_is_cut_off_when_a_file_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "{1}\n{2").unwrap();
        open(place(&path)).unwrap().append(b"{3}\n", now()).unwrap();
        assert_eq!(text(&path), "{1}\n{3}\n");
        fs::write(&path, b"\0\0\0\x02ab\0\0\0\x09cd").unwrap();
        let place = Place { framing: Framing::Prefixed, ..place(&path) };
        open(place).unwrap().append(b"\0\0\0\x01e", now()).unwrap();
        assert_eq!(text(&path), "\0\0\0\x02ab\0\0\0\x01e");
    }

    #[test]
    fn without_append_a_file_is_emptied_and_somebody_elses_is_left_alone_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "a letter").unwrap();
        assert_eq!(open(place(&path)).err().unwrap().kind(), ErrorKind::InvalidData);
        assert_eq!(text(&path), "a letter");
        open(Place { append: false, ..place(&path) }).unwrap();
        assert_eq!(text(&path), "");
    }

    #[test]
    fn a_file_has_one_writer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut first = open(place(&path)).unwrap();
        first.append(b"{1}\n", now()).unwrap();
        let second = open(Place { append: false, ..place(&path) });
        assert_eq!(second.err().unwrap().kind(), ErrorKind::ResourceBusy);
        assert_eq!(text(&path), "{1}\n", "who is refused empties nothing");
        drop(first);
        open(place(&path)).unwrap();
    }

    #[test]
    fn a_file_is_put_aside_before_it_is_too_large_and_never_inside_a_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let rotation = Some(Rotation { max_bytes: 8, max_days: 0, max_backups: 2, local: false });
        let rotations = Rotations::default();
        let place = Place { rotation, ..place(&path) };
        let mut log = Log::open(place, rotations.clone(), now()).unwrap();
        for record in ["{1}\n", "{2}\n", "{3}\n", "{longer than the bound}\n", "{4}\n"] {
            log.append(record.as_bytes(), now()).unwrap();
        }
        assert_eq!((text(&path).as_str(), rotations.aside.get(), rotations.removed.get()), ("{4}\n", 3, 1));
        let aside = |millis| text(&directory.path().join(format!("a-2026-08-21T09-30-00.00{millis}.json")));
        // The first, of two records, was one too many.
        assert_eq!((aside(1).as_str(), aside(2).as_str()), ("{3}\n", "{longer than the bound}\n"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_file_that_others_move_or_remove_or_empty_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut log = open(place(&path)).unwrap();
        log.append(b"{1}\n", now()).unwrap();
        fs::rename(&path, directory.path().join("b")).unwrap();
        log.append(b"{2}\n", now()).unwrap();
        assert_eq!(text(&path), "{2}\n");
        fs::remove_file(&path).unwrap();
        log.append(b"{3}\n", now()).unwrap();
        File::create(&path).unwrap();
        log.append(b"{4}\n", now()).unwrap();
        assert_eq!(text(&path), "{4}\n");
        assert_eq!(text(&directory.path().join("b")), "{1}\n");
    }

    #[test]
    fn what_is_put_aside_or_moved_is_forced_onto_the_disk_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let rotation = Some(Rotation { max_bytes: 4, max_days: 0, max_backups: 0, local: false });
        let mut log = full(Place { rotation, ..place(&path) });
        for (record, synced) in [("{1}\n", 0), ("{2}\n", 1)] {
            log.append(record.as_bytes(), now()).unwrap();
            assert_eq!(SYNCED.get(), synced);
        }
        fs::rename(&path, directory.path().join("b")).unwrap();
        SYNCS.set(false);
        log.append(b"{3}\n", now()).unwrap_err();
        // The moved file was asked once: what comes next does not depend on it.
        log.append(b"{4}\n", now()).unwrap();
        assert_eq!((SYNCED.get(), text(&path).as_str()), (2, "{4}\n"));
    }

    #[test]
    fn directories_are_made_where_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x/y/a");
        assert_eq!(open(place(&path)).err().unwrap().kind(), ErrorKind::NotFound);
        let mut log = open(Place { directories: Some(0o700), ..place(&path) }).unwrap();
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        // The directory may go while the file is open.
        fs::remove_dir_all(directory.path().join("x")).unwrap();
        log.append(b"{1}\n", now()).unwrap();
        assert_eq!(text(&path), "{1}\n");
    }
}
