//! A journal's directory as it is read while somebody else may have it.

use std::io;
use std::path::Path;

use watershed_journal::{File, Files, OsFile, OsFiles};

use super::bar::Bar;

/// A directory that is only read: it keeps nobody out, and whatever would change it fails, which a journal survives.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    files: OsFiles,
    /// Counts the bytes that are read.
    bar: Bar,
    /// Without what is known to be done, so that a journal gives everything.
    forget: bool,
}

/// A file of it.
#[derive(Debug)]
pub(crate) struct ReadOnlyFile {
    file: OsFile,
    bar: Bar,
}

// === impl ReadOnly ===

impl ReadOnly {
    /// The directory at `place`.
    pub(crate) fn new(place: &Path) -> Self {
        Self { files: OsFiles::new(place), bar: Bar::none(), forget: false }
    }

    /// Counts what is read.
    pub(crate) fn counted(self, bar: &Bar) -> Self {
        Self { bar: bar.clone(), ..self }
    }

    /// Whether what is done is to be given as well.
    pub(crate) fn forgetting(self, forget: bool) -> Self {
        Self { forget, ..self }
    }

    fn hides(&self, name: &str) -> bool {
        self.forget && name.ends_with(".done")
    }
}

impl Files for ReadOnly {
    type File = ReadOnlyFile;

    fn place(&self) -> &Path {
        self.files.place()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.files.list()?;
        names.retain(|name| !self.hides(name));
        Ok(names)
    }

    fn create(&self, _name: &str) -> io::Result<Self::File> {
        refused()
    }

    fn open(&self, name: &str, write: bool) -> io::Result<Self::File> {
        if write {
            return refused();
        }
        if self.hides(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(ReadOnlyFile { file: self.files.open(name, false)?, bar: self.bar.clone() })
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self) -> io::Result<()> {
        refused()
    }

    fn boot(&self) -> u64 {
        self.files.boot()
    }

    fn lock(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl ReadOnlyFile ===

impl File for ReadOnlyFile {
    fn write_at(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(offset, into)?;
        self.bar.add(read as u64);
        Ok(read)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        refused()
    }

    fn set_len(&mut self, _bytes: u64) -> io::Result<()> {
        refused()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}
