//! What stages behind a journal have to remember for as long as it keeps what they were given: a journal of notes
//! beside it, one a stage.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use watershed_journal::{AppendError, Journal, OnFull, Options, OsFiles, ReadError, Record, Stored};
use watershed_stage::{Failure, Note, Notes, Pick, Unfinished};

use crate::settings::{self, OnShutdown, StoreSettings};
use crate::store::directory;

/// Where notes lie in the directory of a journal: no name that a pipeline's directory can have.
pub const DIRECTORY: &str = "+notes";

/// Who notes are owed to: the stage that comes after a restart.
const READER: &str = "stage";

/// What is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// Notes that are read one after the other before somebody else may write one.
const TURN: usize = 64;

/// So many notes are looked through at least, for those that are no longer needed.
const FEW: usize = 64;

/// Which messages are not done.
pub(crate) type Which = dyn Fn() -> Unfinished + Send + Sync;

/// The notes of the stages of one pipeline.
pub(crate) struct NoteBooks(Arc<Books>);

struct Books {
    directory: PathBuf,
    max_bytes: u64,
    sync: bool,
    unfinished: Arc<Which>,
    comes_again: bool,
    by_stage: Mutex<HashMap<Arc<str>, Arc<Mutex<Book>>>>,
}

struct Book {
    journal: Journal<OsFiles>,
    needed: VecDeque<Needed>,
    /// With how many of them all are looked through.
    crowd: usize,
    unfinished: Arc<Which>,
    sync: bool,
}

/// A note that may still be needed, and for what.
struct Needed {
    sequence: u64,
    from: u64,
    until: u64,
}

// === impl NoteBooks ===

impl NoteBooks {
    pub(crate) fn new(journal: PathBuf, settings: &StoreSettings, unfinished: Arc<Which>) -> Self {
        let directory = journal.join(DIRECTORY);
        let StoreSettings { max_size, sync, on_shutdown, .. } = settings;
        Self(Arc::new(Books {
            directory,
            max_bytes: max_size.0,
            sync: *sync == settings::Sync::Always,
            unfinished,
            comes_again: *on_shutdown == OnShutdown::Keep,
            by_stage: Mutex::default(),
        }))
    }

    /// Gives up the directories.
    pub(crate) fn close(&self) {
        self.0.by_stage.lock().clear();
    }

    /// Works on the book of a stage where it may take its time: the lane has others to serve.
    fn with<T: Send + 'static>(
        &self,
        stage: &Arc<str>,
        work: impl FnOnce(&Mutex<Book>) -> Result<T, Failure> + Send + 'static,
    ) -> LocalBoxFuture<'static, Result<T, Failure>> {
        let (books, stage) = (self.0.clone(), stage.clone());
        let done = tokio::task::spawn_blocking(move || work(&*books.book(&stage)?));
        done.map(|done| done.unwrap_or_else(|lost| Err(Failure::from_error(&lost)))).boxed_local()
    }
}

impl Notes for NoteBooks {
    fn read(&self, stage: &Arc<str>, pick: Pick) -> LocalBoxFuture<'static, Result<Vec<Note>, Failure>> {
        self.with(stage, move |book| {
            let all: Vec<u64> = book.lock().needed.iter().map(|note| note.sequence).collect();
            let mut notes = Vec::new();
            for some in all.chunks(TURN) {
                let mut book = book.lock();
                for sequence in some {
                    let stored = book.journal.get(*sequence).map_err(|error| Failure::from_error(&error))?;
                    let Some(stored) = stored else { continue };
                    let (from, until) = times(&stored);
                    let text = pick(stored.payload);
                    notes.extend((!text.is_empty()).then_some(Note { from, until, text }));
                }
            }
            Ok(notes)
        })
    }

    fn write(&self, stage: &Arc<str>, note: Note) -> LocalBoxFuture<'static, Result<(), Failure>> {
        self.with(stage, move |book| book.lock().write(&note))
    }

    fn unfinished(&self) -> Unfinished {
        (self.0.unfinished)()
    }

    fn comes_again(&self) -> bool {
        self.0.comes_again
    }
}

// === impl Books ===

impl Books {
    fn book(&self, stage: &Arc<str>) -> Result<Arc<Mutex<Book>>, Failure> {
        let mut books = self.by_stage.lock();
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
        let (needed, unfinished, sync) = (VecDeque::new(), self.unfinished.clone(), self.sync);
        let mut book = Book { journal, needed, crowd: FEW, unfinished, sync };
        book.take_up().map_err(|error| failed(&error))?;
        let book = Arc::new(Mutex::new(book));
        books.insert(stage.clone(), book.clone());
        Ok(book)
    }
}

// === impl Book ===

impl Book {
    /// Takes up what the process before has left.
    fn take_up(&mut self) -> Result<(), ReadError> {
        let mut stored = Vec::new();
        while self.journal.is_behind(0) {
            self.journal.read(0, CHUNK, &mut stored)?;
            for note in stored.drain(..) {
                let (from, until) = times(&note);
                self.needed.push_back(Needed { sequence: note.sequence, from, until });
            }
        }
        Ok(())
    }

    fn write(&mut self, note: &Note) -> Result<(), Failure> {
        self.forget(self.needed.len() >= self.crowd);
        let from = note.from.to_le_bytes();
        let payload = std::slice::from_ref(&note.text);
        let record = Record { arrived: note.until, context: &from, payload, ..Record::default() };
        let sequence = match self.journal.append(&record) {
            Err(AppendError::Full) => {
                self.forget(true);
                self.journal.append(&record)
            }
            appended => appended,
        };
        let sequence = sequence.map_err(|error| Failure::from_error(&error))?;
        self.journal.commit(self.sync).map_err(|error| Failure::from_error(&error))?;
        self.journal.skip(sequence, 0);
        self.needed.push_back(Needed { sequence, from: note.from, until: note.until });
        Ok(())
    }

    /// Completes what nobody needs any more: what is first, or all of it, wherever it stands. A message that never ends
    /// keeps the notes about its own time alone.
    fn forget(&mut self, all: bool) {
        let (before, unfinished) = (self.needed.len(), (self.unfinished)());
        let Self { journal, needed, .. } = self;
        let is_needed = |note: &Needed| unfinished.any(note.from, note.until);
        while let Some(note) = needed.front().filter(|note| !is_needed(note)) {
            journal.complete_all(note.sequence);
            needed.pop_front();
        }
        if all {
            needed.retain(|note| {
                let stays = is_needed(note);
                if !stays {
                    journal.complete_all(note.sequence);
                }
                stays
            });
            self.crowd = FEW.max(2 * needed.len());
        }
        if self.needed.len() < before
            && let Err(error) = self.journal.flush()
        {
            tracing::warn!(%error, "what is noted and no longer needed can not be given up yet");
        }
    }
}

/// When the messages came that a note is about. Those that do not say it are about all up to then.
fn times(note: &Stored) -> (u64, u64) {
    (note.context.first_chunk().map_or(0, |from| u64::from_le_bytes(*from)), note.arrived)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Times = Arc<Mutex<Unfinished>>;

    fn books(place: &std::path::Path, times: &Times) -> NoteBooks {
        let times = times.clone();
        let settings =
            StoreSettings { max_size: watershed_stage::ByteSize(1 << 20), ..StoreSettings::default() };
        NoteBooks::new(place.to_owned(), &settings, Arc::new(move || times.lock().clone()))
    }

    fn note(at: u64) -> Note {
        Note { from: at, until: at, text: vec![at as u8; 10_000].into() }
    }

    #[tokio::test]
    async fn there_is_room_for_a_few_of_the_largest_notes_where_there_is_the_least() {
        let place = tempfile::tempdir().unwrap();
        let books = books(place.path(), &Arc::new(Mutex::new(Unfinished::all())));
        for at in 0..3 {
            let text = vec![at as u8; watershed_stage::LARGEST_NOTE].into();
            books.write(&"tail_sampling".into(), Note { text, ..note(at) }).await.unwrap();
        }
        assert_eq!(untils(&left(&books).await), [0, 1, 2]);
    }

    async fn left(books: &NoteBooks) -> Vec<Note> {
        books.read(&"tail_sampling".into(), Box::new(|text| text)).await.unwrap()
    }

    fn untils(notes: &[Note]) -> Vec<u64> {
        notes.iter().map(|note| note.until).collect()
    }

    #[tokio::test]
    async fn notes_outlive_their_process_and_not_the_messages_they_are_about() {
        let place = tempfile::tempdir().unwrap();
        let (stage, times): (Arc<str>, _) = ("tail_sampling".into(), Arc::new(Mutex::new(Unfinished::all())));
        for life in 0..3_u64 {
            let books = books(place.path(), &times);
            assert_eq!(untils(&left(&books).await), (0..life * 10).collect::<Vec<_>>());
            assert_eq!(left(&books).await.len() as u64, life * 10, "for each copy");
            for at in life * 10..(life + 1) * 10 {
                books.write(&stage, note(at)).await.unwrap();
            }
        }
        *times.lock() = Unfinished::new([(25, u64::MAX)]);
        let live = books(place.path(), &times);
        live.write(&stage, note(30)).await.unwrap();
        let kept = left(&live).await;
        assert_eq!(untils(&kept), [25, 26, 27, 28, 29, 30]);
        assert_eq!(kept[0], note(25));
        let odd = |text: bytes::Bytes| if text[0] % 2 == 1 { text.slice(..1) } else { text.slice(..0) };
        let picked = live.read(&stage, Box::new(odd)).await.unwrap();
        assert_eq!(untils(&picked), [25, 27, 29], "what nobody picks is not there");
        // More than ever fits at once.
        for at in 31..400 {
            *times.lock() = Unfinished::new([(at - 3, u64::MAX)]);
            live.write(&stage, note(at)).await.unwrap();
        }
        assert!(left(&live).await.len() < 6);
    }

    #[tokio::test]
    async fn a_message_that_never_ends_keeps_the_notes_about_its_time_alone() {
        let place = tempfile::tempdir().unwrap();
        let (stage, times): (Arc<str>, Times) =
            ("tail_sampling".into(), Arc::new(Mutex::new(Unfinished::all())));
        let live = books(place.path(), &times);
        // Ten times what the book holds.
        for at in 0..1_000 {
            *times.lock() = Unfinished::new([(5, 7), (at, u64::MAX)]);
            let about = Note { from: u64::saturating_sub(at, 2), ..note(at) };
            live.write(&stage, about).await.unwrap_or_else(|full| panic!("note {at}: {full}"));
        }
        drop(live);
        *times.lock() = Unfinished::new([(5, 7), (999, u64::MAX)]);
        let next = books(place.path(), &times);
        for at in 1_000..1_100 {
            *times.lock() = Unfinished::new([(5, 7), (at, u64::MAX)]);
            next.write(&stage, note(at)).await.unwrap();
        }
        let kept = untils(&left(&next).await);
        assert_eq!(kept[..5], [5, 6, 7, 8, 9]);
        assert!(kept.len() < 5 + FEW, "{kept:?}");
    }
}
