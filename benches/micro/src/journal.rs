//! A journal's own work: where the file system takes no time, and keeps nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use bytes::Bytes;
use watershed_journal::{Compression, File, Files, Journal, Options, Record};

use crate::case::Case;
use crate::telemetry;

/// How many records a group commit takes together.
const GROUP: usize = 16;

/// A directory of files that know how long they are, and nothing else: what is completed is not read again.
#[derive(Debug, Default)]
struct Nowhere {
    names: RefCell<BTreeSet<String>>,
}

/// How long the file is.
#[derive(Debug, Default)]
struct Length(u64);

/// All cases.
pub fn cases() -> Vec<Case> {
    vec![
        write("journal: append, commit, complete", Compression::None),
        write("journal: append, commit, complete, lz4", Compression::Lz4),
    ]
}

fn write(name: &'static str, compression: Compression) -> Case {
    let options = Options { compression, ..Options::new(["branch"]) };
    let (mut journal, _) = Journal::open(Nowhere::default(), options).expect("nothing is there to be wrong");
    let payload: [Bytes; 1] = [telemetry::spans()];
    let bytes = GROUP * payload[0].len();
    let write = move || {
        let record = Record { items: 100, context: &[7; 64], payload: &payload, ..Record::default() };
        let group: [u64; GROUP] =
            std::array::from_fn(|_| journal.append(&record).expect("what is there is completed"));
        journal.commit(false).expect("the file system takes everything");
        group.into_iter().for_each(|sequence| journal.complete(sequence, 0));
    };
    Case::new(name, (GROUP, "record"), write).bytes(bytes)
}

// === impl Nowhere ===

impl Files for Nowhere {
    type File = Length;

    fn place(&self) -> &Path {
        Path::new("nowhere")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names.borrow().iter().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Length> {
        self.names.borrow_mut().insert(name.to_owned());
        Ok(Length::default())
    }

    fn open(&self, _: &str, _: bool) -> io::Result<Length> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.names.borrow_mut().remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.remove(from)?;
        self.create(to).map(drop)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn boot(&self) -> u64 {
        1
    }

    fn lock(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Length ===

impl File for Length {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0 = self.0.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.0 = bytes;
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0)
    }
}
