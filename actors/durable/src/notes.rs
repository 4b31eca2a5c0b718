//! What stages behind a journal have to remember for as long as it keeps what they were given: a journal of notes
//! beside it, one a stage.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use watershed_journal::{Journal, OnFull, Options, OsFiles, Record};
use watershed_stage::{Failure, Notes};

use crate::store::directory;

/// Where notes lie in the directory of a journal: no name that a pipeline's directory can have.
pub const DIRECTORY: &str = "+notes";

/// Who notes are owed to: the stage that comes after a restart.
const READER: &str = "stage";

/// What is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Up to when all messages that came are done, as [`Notes::write`] has it.
pub(crate) type Oldest = dyn Fn() -> u64 + Send + Sync;

/// The notes of the stages of one pipeline.
pub(crate) struct NoteBooks {
    directory: PathBuf,
    max_bytes: u64,
    sync: bool,
    oldest: Arc<Oldest>,
    /// By stage.
    books: Mutex<HashMap<Arc<str>, Arc<Mutex<Book>>>>,
}

struct Book {
    journal: Journal<OsFiles>,
    /// By sequence, until when each is needed.
    needed: VecDeque<(u64, u64)>,
    oldest: Arc<Oldest>,
    sync: bool,
}

// === impl NoteBooks ===

impl NoteBooks {
    pub(crate) fn new(journal: PathBuf, max_bytes: u64, sync: bool, oldest: Arc<Oldest>) -> Self {
        Self { directory: journal.join(DIRECTORY), max_bytes, sync, oldest, books: Mutex::default() }
    }

    /// Gives up the directories.
    pub(crate) fn close(&self) {
        self.books.lock().clear();
    }

    fn book(&self, stage: &Arc<str>) -> Result<Arc<Mutex<Book>>, Failure> {
        let mut books = self.books.lock();
        if let Some(book) = books.get(stage) {
            return Ok(book.clone());
        }
        let place = directory(&self.directory, "", stage);
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", place.display()));
        let files = OsFiles::create(place.clone()).map_err(|error| failed(&error))?;
        let options =
            Options { max_bytes: self.max_bytes, on_full: OnFull::Refuse, ..Options::new([READER]) };
        // Small enough that what is no longer needed goes soon.
        let segment_bytes = options.segment_bytes.min(self.max_bytes / 16).max(1 << 16);
        let (journal, recovery) =
            Journal::open(files, Options { segment_bytes, ..options }).map_err(|error| failed(&error))?;
        if !recovery.lost.is_empty() {
            tracing::warn!(directory = %place.display(), lost = ?recovery.lost, "notes are damaged");
        }
        let (needed, oldest, sync) = (VecDeque::new(), self.oldest.clone(), self.sync);
        let book = Arc::new(Mutex::new(Book { journal, needed, oldest, sync }));
        books.insert(stage.clone(), book.clone());
        Ok(book)
    }
}

impl Notes for NoteBooks {
    fn read(&self, stage: &Arc<str>) -> Result<Vec<(u64, Bytes)>, Failure> {
        self.book(stage)?.lock().read()
    }

    fn write(
        &self,
        stage: &Arc<str>,
        note: Vec<u8>,
        until: u64,
    ) -> LocalBoxFuture<'static, Result<(), Failure>> {
        let book = match self.book(stage) {
            Ok(book) => book,
            Err(failure) => return async { Err(failure) }.boxed_local(),
        };
        // A disk may take its time, and the lane has others to serve.
        let written = tokio::task::spawn_blocking(move || book.lock().write(note.into(), until));
        written.map(|written| written.unwrap_or_else(|lost| Err(Failure::from_error(&lost)))).boxed_local()
    }

    fn oldest(&self) -> u64 {
        (self.oldest)()
    }
}

// === impl Book ===

impl Book {
    /// All that is there. Copies of a stage ask one after the other, and each has it all.
    fn read(&mut self) -> Result<Vec<(u64, Bytes)>, Failure> {
        let mut stored = Vec::new();
        while self.journal.is_behind(0) {
            self.journal.read(0, CHUNK, &mut stored).map_err(|error| Failure::from_error(&error))?;
        }
        self.needed.extend(stored.iter().map(|note| (note.sequence, note.arrived)));
        let all: Vec<u64> = self.needed.iter().map(|(sequence, _)| *sequence).collect();
        let read = all.into_iter().map(|sequence| self.journal.get(sequence));
        let read = read.collect::<Result<Vec<_>, _>>().map_err(|error| Failure::from_error(&error))?;
        Ok(read.into_iter().flatten().map(|note| (note.arrived, note.payload)).collect())
    }

    fn write(&mut self, note: Bytes, until: u64) -> Result<(), Failure> {
        self.forget();
        let record = Record { arrived: until, payload: std::slice::from_ref(&note), ..Record::default() };
        let sequence = self.journal.append(&record).map_err(|error| Failure::from_error(&error))?;
        self.journal.commit(self.sync).map_err(|error| Failure::from_error(&error))?;
        self.journal.skip(sequence, 0);
        self.needed.push_back((sequence, until));
        Ok(())
    }

    /// Completes what nobody needs any more. What is left is bounded by what the journal beside it keeps.
    fn forget(&mut self) {
        let (before, oldest) = (self.needed.len(), (self.oldest)());
        while let Some((sequence, _)) = self.needed.front().filter(|(_, until)| *until < oldest) {
            self.journal.complete_all(*sequence);
            self.needed.pop_front();
        }
        if self.needed.len() < before
            && let Err(error) = self.journal.flush()
        {
            tracing::warn!(%error, "what is noted and no longer needed can not be given up yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn books(place: &std::path::Path, oldest: &Arc<AtomicU64>) -> NoteBooks {
        let oldest = oldest.clone();
        NoteBooks::new(place.to_owned(), 1 << 20, true, Arc::new(move || oldest.load(Ordering::Relaxed)))
    }

    #[tokio::test]
    async fn notes_outlive_their_process_and_not_the_messages_they_are_about() {
        let place = tempfile::tempdir().unwrap();
        let (stage, oldest): (Arc<str>, _) = ("tail_sampling".into(), Arc::new(AtomicU64::new(0)));
        let note = |at: u64| vec![at as u8; 10_000];
        for life in 0..3_u64 {
            let books = books(place.path(), &oldest);
            let before: Vec<u64> = books.read(&stage).unwrap().into_iter().map(|(until, _)| until).collect();
            assert_eq!(before, (0..life * 10).collect::<Vec<_>>());
            assert_eq!(books.read(&stage).unwrap().len(), before.len(), "for each copy");
            for at in life * 10..(life + 1) * 10 {
                books.write(&stage, note(at), at).await.unwrap();
            }
        }
        oldest.store(25, Ordering::Relaxed);
        books(place.path(), &oldest).read(&stage).unwrap();
        let live = books(place.path(), &oldest);
        live.read(&stage).unwrap();
        live.write(&stage, note(30), 30).await.unwrap();
        let left = live.read(&stage).unwrap();
        assert_eq!(left.iter().map(|(until, _)| *until).collect::<Vec<_>>(), [25, 26, 27, 28, 29, 30]);
        assert_eq!(left[0].1, note(25));
        // More than ever fits at once.
        for at in 31..400 {
            oldest.store(at - 3, Ordering::Relaxed);
            live.write(&stage, note(at), at).await.unwrap();
        }
        assert!(live.read(&stage).unwrap().len() < 6);
    }
}
