//! The thread that writes: disks block, and a lane must not.

use std::io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use watershed_delivery::Permit;
use watershed_stage::{Counter, Env};

use crate::log::{Handle, Log, Rotations};
use crate::settings::{Settings, Sync};

/// A record to be written, and who waits for it.
pub(crate) struct Job {
    pub record: Vec<u8>,
    /// The memory of `record`.
    pub permit: Permit,
    pub done: oneshot::Sender<Result<()>>,
}

/// The writing thread of one file, started when it is first needed.
///
/// It belongs to the settings and not to an incarnation of the exporter: what was delivered must not be emptied out
/// because a stage was restarted, and a file has one writer.
#[derive(Default)]
pub(crate) struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    jobs: Option<SyncSender<Job>>,
    /// Whether the file was opened before, and is to be gone on with.
    was_open: Arc<AtomicBool>,
}

struct Writer<F> {
    log: Log<F>,
    jobs: Receiver<Job>,
    sync: Sync,
    interval: Duration,
    /// When what was written is to be forced onto the disk.
    due: Option<Instant>,
    path: String,
    bytes: Counter,
    errors: Counter,
}

/// The most records that wait for the thread; those beyond are tried again.
const QUEUE: usize = 1024;

/// The most records that one `fsync` answers for.
const GROUP: usize = 64;

/// Why a record was not written, which the next export may be.
pub(crate) const ENDED: &str = "the writing thread has ended";

/// How long a start waits to hear that the file can be opened. A disk that is slower tells when it is written to.
const OPENING: Duration = Duration::from_secs(1);

/// The time by the clock on the wall.
fn now() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "files are named by the time, for people")]
    Timestamp::try_from(std::time::SystemTime::now()).unwrap_or_default()
}

/// The same error for another who waits.
fn copy(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

// === impl Shared ===

impl Shared {
    /// Has the thread running, and the file open: that it can not be is a mistake in the configuration.
    pub fn open(&self, settings: &Settings, env: &Env) -> Result<()> {
        let Some(opened) = self.start(settings, env)? else { return Ok(()) };
        let opened = opened.recv_timeout(OPENING).unwrap_or(Ok(()));
        opened.inspect_err(|_| self.0.lock().jobs = None)
    }

    /// Has the thread running. One that was started tells whether it could open the file.
    pub fn start(&self, settings: &Settings, env: &Env) -> Result<Option<Receiver<Result<()>>>> {
        let mut state = self.0.lock();
        if state.jobs.is_some() {
            return Ok(None);
        }
        let labels = [("exporter", &*env.id)];
        let counter = |name, help| env.metrics.counter(name, help, &labels);
        let mut place = settings.place();
        place.append |= state.was_open.load(Ordering::Acquire);
        let rotations = Rotations {
            aside: counter("watershed_file_rotations", "Files that were put aside."),
            removed: counter(
                "watershed_file_removed",
                "Files put aside that were removed: too many, or too old.",
            ),
        };
        let bytes = counter("watershed_file_written_bytes", "Bytes of whole records that were written.");
        let errors = counter("watershed_file_write_errors", "Writes and syncs that failed.");
        let (jobs, inbox) = sync_channel(QUEUE);
        let (told, opened) = sync_channel(1);
        let (sync, interval, path) = (settings.sync, settings.flush_interval.0, settings.path.clone());
        let was_open = state.was_open.clone();
        let run = move || match Log::open(place, rotations, now()) {
            Ok(log) => {
                was_open.store(true, Ordering::Release);
                drop(told.send(Ok(())));
                Writer { log, jobs: inbox, sync, interval, due: None, path, bytes, errors }.run();
            }
            Err(error) => {
                errors.add(1);
                for Job { done, .. } in inbox.try_iter() {
                    drop(done.send(Err(copy(&error))));
                }
                // Who is told may start another at once: nobody is to find this one's inbox then.
                drop(inbox);
                drop(told.send(Err(error)));
            }
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "it runs nothing but writes; should it end all the same, the next export starts another"
        )]
        std::thread::Builder::new().name("watershed-file".into()).spawn(run)?;
        state.jobs = Some(jobs);
        Ok(Some(opened))
    }

    /// Hands a record to the thread, or tells why not.
    pub fn send(&self, job: Job) -> std::result::Result<(), &'static str> {
        let mut state = self.0.lock();
        match state.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err("the disk does not keep up"),
            None | Some(Err(TrySendError::Disconnected(_))) => {
                state.jobs = None;
                Err(ENDED)
            }
        }
    }
}

// === impl Writer ===

impl<F: Handle> Writer<F> {
    fn run(mut self) {
        loop {
            let next = match self.due {
                None => self.jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => self.jobs.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match next {
                Ok(job) => self.write(job),
                Err(RecvTimeoutError::Timeout) => self.sync_due(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.sync_due();
            }
        }
        if self.sync != Sync::Never {
            self.sync_due();
        }
    }

    /// Writes a record, and those that wait behind it.
    fn write(&mut self, first: Job) {
        let waiting: Vec<Job> = self.jobs.try_iter().take(GROUP - 1).collect();
        let mut written = Vec::new();
        for Job { record, permit, done } in std::iter::once(first).chain(waiting) {
            // Nobody waits any more: it will be sent again.
            if done.is_closed() {
                continue;
            }
            let result = self.log.append(&record, now());
            match &result {
                Ok(()) => self.bytes.add(record.len() as u64),
                Err(_) => self.errors.add(1),
            }
            drop((record, permit));
            match result {
                Ok(()) if self.sync == Sync::Always => written.push(done),
                // Whoever waited may be gone by now; so be it.
                result => drop(done.send(result)),
            }
        }
        match self.sync {
            Sync::Never => {}
            Sync::Interval => self.due = self.due.or(Some(Instant::now() + self.interval)),
            Sync::Always => self.answer(written),
        }
    }

    /// Answers for records that are only delivered once they are on the disk.
    fn answer(&mut self, written: Vec<oneshot::Sender<Result<()>>>) {
        let synced = self.log.sync();
        if synced.is_err() {
            self.errors.add(1);
        }
        for done in written {
            let result = synced.as_ref().map(|&()| ()).map_err(copy);
            drop(done.send(result));
        }
    }

    fn sync_due(&mut self) {
        self.due = None;
        if let Err(error) = self.log.sync() {
            self.errors.add(1);
            tracing::error!(path = %self.path, %error,
                "what was written could not be forced onto the disk: a power cut now may lose it");
        }
    }
}

#[cfg(test)]
mod tests {
    use watershed_delivery::Budget;

    use super::*;
    use crate::log::Place;
    use crate::log::tests::{MOVED, SYNCED, SYNCS, full, place};
    use crate::rotation::Rotation;

    /// What three who wait are answered, one of whom has gone; and what the file holds then.
    fn write(sync: Sync, syncs: bool) -> ([bool; 2], String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        (write_at(place(&path), sync, syncs), std::fs::read_to_string(&path).unwrap())
    }

    fn write_at(place: Place, sync: Sync, syncs: bool) -> [bool; 2] {
        let (jobs, inbox) = sync_channel(3);
        let [first, gone, last] = ["{1}\n", "{2}\n", "{3}\n"].map(|record| {
            let (done, answer) = oneshot::channel();
            let permit = Budget::new(10).overdraw(4);
            jobs.send(Job { record: record.into(), permit, done }).ok().unwrap();
            answer
        });
        drop((jobs, gone));
        let writer = Writer {
            log: full(place),
            jobs: inbox,
            sync,
            interval: Duration::from_secs(3600),
            due: None,
            path: String::new(),
            bytes: Counter::default(),
            errors: Counter::default(),
        };
        SYNCS.set(syncs);
        writer.run();
        [first, last].map(|mut answer| answer.try_recv().unwrap().is_ok())
    }

    #[test]
    fn all_who_wait_are_answered_and_one_sync_does_for_all() {
        let both = "{1}\n{3}\n".to_owned();
        assert_eq!((write(Sync::Never, true), SYNCED.get()), (([true; 2], both.clone()), 0));
        assert_eq!((write(Sync::Interval, true), SYNCED.get()), (([true; 2], both.clone()), 1));
        assert_eq!((write(Sync::Always, true), SYNCED.get()), (([true; 2], both), 1));
    }

    #[test]
    fn what_did_not_reach_the_disk_is_delivered_only_where_that_was_not_promised() {
        assert_eq!(write(Sync::Interval, false).0, [true; 2]);
        assert_eq!(write(Sync::Always, false).0, [false; 2]);
    }

    #[test]
    fn what_did_not_reach_the_disk_as_its_file_was_put_aside_or_moved_is_not_delivered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let rotation = Some(Rotation { max_bytes: 4, max_days: 0, max_backups: 0, local: false });
        let small = || Place { rotation: rotation.clone(), ..place(&path) };
        assert_eq!(write_at(small(), Sync::Always, false), [false; 2]);
        assert_eq!(write_at(small(), Sync::Always, true), [true; 2]);
        for (syncs, answers) in [(false, [false; 2]), (true, [true; 2])] {
            MOVED.set(Some([path.clone(), directory.path().join("b")]));
            assert_eq!(write_at(place(&path), Sync::Always, syncs), answers);
        }
    }
}
