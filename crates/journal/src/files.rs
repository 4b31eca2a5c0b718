//! The file system as the journal sees it: one flat directory, injected.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// One directory. [`OsFiles`] is the real one; a model that loses and reorders what was not synced is another.
///
/// The errors are those of the operating system: `StorageFull` is what a full disk says, `NotFound` a file that is
/// not there.
pub trait Files: Debug {
    /// A file opened in it.
    type File: File;

    /// Where it is, for messages.
    fn place(&self) -> &Path;

    /// The names in it, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file that may not be there yet, for reading and writing.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that is there, for reading and, where `write`, for writing.
    fn open(&self, name: &str, write: bool) -> io::Result<Self::File>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed survive a power cut.
    fn sync_dir(&self) -> io::Result<()>;

    /// In which run of the machine this is, between two losses of what was not synced: another number after each. Zero
    /// where that is not known.
    fn boot(&self) -> u64;

    /// Takes the directory for one owner, until this value is dropped; `WouldBlock` where another has it.
    fn lock(&mut self) -> io::Result<()>;
}

/// One open file. Offsets and lengths are bytes.
pub trait File: Debug {
    /// Writes all of `bytes` at `offset`. On an error any part of them may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads up to `into.len()` bytes at `offset`; fewer, down to none, only at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Makes the bytes and the length survive a power cut. After an error none of what was written since the last
    /// success can be trusted, not even where it still reads well.
    fn sync_data(&mut self) -> io::Result<()>;

    /// Cuts or lengthens the file.
    fn set_len(&mut self, bytes: u64) -> io::Result<()>;

    /// How long the file is.
    fn size(&self) -> io::Result<u64>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct OsFiles {
    place: PathBuf,
    boot: u64,
    lock: Option<std::fs::File>,
}

/// A file in an [`OsFiles`].
#[derive(Debug)]
pub struct OsFile(std::fs::File);

/// The file whose advisory lock says that a directory has an owner.
const LOCK: &str = "lock";

/// Where Linux says which run of it this is; containers see that of their host, whose page cache they use.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

// === impl OsFiles ===

impl OsFiles {
    /// The directory at `place`, whether it is there or not: opening the journal finds out.
    pub fn new(place: impl Into<PathBuf>) -> Self {
        Self { place: place.into(), boot: boot().unwrap_or(0), lock: None }
    }

    /// The directory at `place`, created with its parents where it is missing.
    pub fn create(place: impl Into<PathBuf>) -> io::Result<Self> {
        let place = place.into();
        std::fs::create_dir_all(&place)?;
        Ok(Self::new(place))
    }
}

impl Files for OsFiles {
    type File = OsFile;

    fn place(&self) -> &Path {
        &self.place
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.place)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<OsFile> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).open(self.place.join(name)).map(OsFile)
    }

    fn open(&self, name: &str, write: bool) -> io::Result<OsFile> {
        std::fs::OpenOptions::new().read(true).write(write).open(self.place.join(name)).map(OsFile)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.place.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.place.join(from), self.place.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        std::fs::File::open(&self.place)?.sync_all()
    }

    fn boot(&self) -> u64 {
        self.boot
    }

    fn lock(&mut self) -> io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(self.place.join(LOCK))?;
        file.try_lock().map_err(io::Error::from)?;
        self.lock = Some(file);
        Ok(())
    }
}

/// The first half of the random id that Linux takes when it starts.
fn boot() -> Option<u64> {
    let id = std::fs::read_to_string(BOOT).ok()?.replace('-', "");
    u64::from_str_radix(id.get(..16)?, 16).ok()
}

// === impl OsFile ===

impl File for OsFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < into.len() {
            match std::os::unix::fs::FileExt::read_at(&self.0, &mut into[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
