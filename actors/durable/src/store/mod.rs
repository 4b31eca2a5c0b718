//! A store: a journal, the thread that writes it, and what waits for that thread.
//!
//! Lanes leave what is to be written on the *desk*, and whoever ends a message leaves its outcome there; the thread
//! takes all of it at once, so what arrives during one write and one `fsync` shares the next. The desk needs no bound
//! of its own: what lies on it waits in the mailbox of its lane, or was handed out within a [window](branch).

mod branch;
mod counters;
mod handing;
mod hands;
mod trial;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot};
use watershed_delivery::{Budget, Cause, Guard, Outcome, Permit};
use watershed_journal::{OsFiles, Stored};
use watershed_stage::{Context, Env, Failure, Payload, Unfinished};

use crate::settings::StoreSettings;
use writer::Writer;

/// A journal that lanes share. Closed when the last of them drops it, or before.
pub(crate) struct Store {
    desk: Arc<Desk>,
    writer: Mutex<Option<JoinHandle<u64>>>,
}

/// What is written and to whom it is owed.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) settings: StoreSettings,
    /// The directory of this store alone.
    pub(crate) directory: PathBuf,
    /// Who is owed each message, by id.
    pub(crate) ends: Arc<[Arc<str>]>,
}

/// A message that is in the journal.
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    /// The debt of those it is to be handed to at once. None where all have others to read first.
    pub(crate) guard: Option<Guard>,
}

/// A message that was read from the journal, to be handed on.
pub(crate) struct Replay {
    pub(crate) stored: Stored,
    pub(crate) guard: Guard,
    pub(crate) permit: Permit,
}

/// Where lanes and the thread meet.
struct Desk {
    papers: Mutex<Papers>,
    bell: Condvar,
    /// Who is owed each message, by id.
    ends: Arc<[Arc<str>]>,
    full: AtomicBool,
    /// When the messages came that are not done.
    unfinished: Mutex<Unfinished>,
    /// When the oldest that is written came, in Unix nanoseconds; the end of time where there is none.
    oldest: AtomicU64,
    /// The thread wants to know of every end at once, since it has more to hand out.
    eager: AtomicBool,
}

#[derive(Default)]
struct Papers {
    new: Vec<New>,
    /// How many of them are worth a commit.
    worth: usize,
    parked: Vec<Parked>,
    ended: Vec<Ended>,
    /// The thread sleeps until something happens: nothing is to be written down at a known time.
    idle: bool,
    /// The lanes that hand on what is read from the journal.
    lanes: Vec<mpsc::Sender<Replay>>,
    /// One of them is new.
    attached: bool,
    /// Nothing more is to be read: the pipeline drains.
    quiet: bool,
    /// The thread is to finish.
    closing: bool,
    /// The thread has ended.
    dead: bool,
}

/// A message that is to be written.
struct New {
    payload: Payload,
    context: Arc<Context>,
    reply: oneshot::Sender<Result<Kept, Outcome>>,
}

/// How a message that was handed out has ended for one of those it was owed to.
struct Ended {
    sequence: u64,
    /// Who, by its place in `ends`; `None` for all: nobody is to have it any more.
    branch: Option<usize>,
    /// What was in hand of it; none where it was parked.
    bytes: Option<u64>,
    outcome: Outcome,
}

/// A message that was handed out to a branch and is held on its way there by design.
struct Parked {
    sequence: u64,
    branch: usize,
    bytes: u64,
}

// === impl Store ===

impl Store {
    /// Opens the journal, repairing what has to be, and starts to write.
    pub(crate) fn open(plan: &Plan, env: &Env) -> Result<Arc<Self>, Failure> {
        let Plan { settings, directory, ends } = plan;
        let failure = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
        if !settings.directory.is_dir() && !settings.create_directory {
            let named = settings.directory.display();
            let help = "create it, or set `create_directory = true`";
            return Err(Failure::new(format!("directory: {named} does not exist: {help}")));
        }
        let files = OsFiles::create(directory).map_err(|error| failure(&error))?;
        let desk = Arc::new(Desk {
            papers: Mutex::default(),
            bell: Condvar::new(),
            ends: ends.clone(),
            full: AtomicBool::new(false),
            unfinished: Mutex::new(Unfinished::all()),
            oldest: AtomicU64::new(0),
            eager: AtomicBool::new(false),
        });
        let writer = Writer::open(files, plan, env, desk.clone()).map_err(|error| failure(&error))?;
        let thread = std::thread::Builder::new().name(format!("journal {}", env.id));
        let thread = thread.spawn(move || writer.run()).map_err(|error| failure(&error))?;
        Ok(Arc::new(Self { desk, writer: Mutex::new(Some(thread)) }))
    }

    /// Writes a message. What comes back is an error of the store itself only where it has ended.
    pub(crate) fn write(
        &self,
        payload: Payload,
        context: Arc<Context>,
    ) -> oneshot::Receiver<Result<Kept, Outcome>> {
        let (reply, kept) = oneshot::channel();
        let mut papers = self.desk.papers.lock();
        // Once it is dead the reply is dropped here, which says so.
        if !papers.dead {
            papers.new.push(New { payload, context, reply });
            let ring = papers.new.len() >= papers.worth;
            drop(papers);
            if ring {
                self.desk.bell.notify_one();
            }
        }
        kept
    }

    /// One more lane hands on what is read from the journal: at most so many messages are on their way to it.
    pub(crate) fn attach(&self) -> mpsc::Receiver<Replay> {
        let (lane, replays) = mpsc::channel(branch::WINDOW_MESSAGES * self.desk.ends.len());
        let mut papers = self.desk.papers.lock();
        papers.lanes.push(lane);
        papers.attached = true;
        drop(papers);
        self.desk.bell.notify_one();
        replays
    }

    /// Nobody is to have a message any more: its sender was told to send it again.
    pub(crate) fn forget(&self, sequence: u64) {
        let outcome = Outcome::refused(Cause::Withdrawn, "its sender is gone");
        self.desk.end(Ended { sequence, branch: None, bytes: None, outcome });
    }

    /// Hands out nothing more that has to be read: what follows is going down.
    pub(crate) fn quiet(&self) {
        self.desk.papers.lock().quiet = true;
    }

    /// Whether there is no room on its disk.
    pub(crate) fn is_full(&self) -> bool {
        self.desk.full.load(Ordering::Relaxed)
    }

    /// When the messages came that are not done, as of a moment ago.
    pub(crate) fn unfinished(&self) -> Unfinished {
        self.desk.unfinished.lock().clone()
    }

    /// When the oldest message came that is written and not done, as of a moment ago, in Unix nanoseconds.
    pub(crate) fn oldest(&self) -> Option<u64> {
        Some(self.desk.oldest.load(Ordering::Relaxed)).filter(|oldest| *oldest != u64::MAX)
    }

    /// Whether nobody is owed anything, as of a moment ago.
    pub(crate) fn is_empty(&self) -> bool {
        self.oldest().is_none()
    }

    /// Whether its thread has ended, so that it can only be opened anew.
    pub(crate) fn is_dead(&self) -> bool {
        self.desk.papers.lock().dead
    }

    /// Writes down what has ended so far, forces everything to the disk and gives up the directory. Waits for that. How
    /// many records are left, where this is the first to ask for it.
    pub(crate) fn close(&self) -> u64 {
        self.desk.papers.lock().closing = true;
        self.desk.bell.notify_one();
        let Some(writer) = self.writer.lock().take() else { return 0 };
        writer.join().unwrap_or_else(|_| {
            tracing::error!("a journal's thread panicked");
            0
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Desk ===

impl Desk {
    fn end(&self, ended: Ended) {
        let urgent = !ended.outcome.is_ok() || self.eager.load(Ordering::Relaxed);
        self.leave(urgent, |papers| papers.ended.push(ended));
    }

    fn park(&self, parked: Parked) {
        self.leave(self.eager.load(Ordering::Relaxed), |papers| papers.parked.push(parked));
    }

    fn leave(&self, urgent: bool, leave: impl FnOnce(&mut Papers)) {
        let mut papers = self.papers.lock();
        if papers.dead {
            return;
        }
        leave(&mut papers);
        // The first of many sets the time by which all are written down.
        let first = std::mem::take(&mut papers.idle);
        drop(papers);
        if urgent || first {
            self.bell.notify_one();
        }
    }
}

/// A directory's name for the id of a component or pipeline: what is no letter, digit, `.`, `-` or `_` becomes `~` and
/// four hexadecimal digits, as otelcol's file storage has it.
pub(crate) fn directory(base: &Path, prefix: &str, id: &str) -> PathBuf {
    let mut name = prefix.to_owned();
    for character in id.chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => name.push(character),
            '.' if !name.is_empty() => name.push(character),
            other => name.push_str(&format!("~{:04x}", u32::from(other))),
        }
    }
    base.join(name)
}

/// The memory that one store may have in hand of what it has read or was just given, for each of its ends.
fn window(budget: &Budget) -> u64 {
    (budget.limit() / 16).clamp(1 << 20, 32 << 20)
}
