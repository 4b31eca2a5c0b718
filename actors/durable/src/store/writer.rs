//! The thread that owns a journal.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::{Budget, Cause, Fault, Outcome};
use watershed_journal::{
    AppendError, Compression, Journal, Loss, OnFull, OpenError, Options, OsFiles, Recovery, Usage,
};
use watershed_stage::{Env, Unfinished, wall_clock};

use super::branch::Branch;
use super::counters::Counters;
use super::trial::Trial;
use super::{Desk, Ended, Kept, New, Papers, Parked, Plan, window};
use crate::envelope::{Envelope, record};
use crate::letters::{self, Letters};
use crate::settings::{self, StoreSettings, Sync};

/// How long a completion stays in memory at most: what the death of the process can repeat.
const FLUSH: Duration = Duration::from_millis(50);

/// What is written and not yet forced to the disk under `sync = "interval"`, at most, in bytes.
const UNSYNCED: u64 = 16 << 20;

/// The part of a commit's time that the next one waits for company.
const GATHER: u32 = 2;

/// How long ago a message may have come that is not written yet, in nanoseconds.
const RECENT: u64 = 60_000_000_000;

/// How often the same complaint is logged at most.
const QUIET: Duration = Duration::from_secs(10);

pub(super) struct Writer {
    pub(super) desk: Arc<Desk>,
    pub(super) journal: Journal<OsFiles>,
    settings: StoreSettings,
    pub(super) directory: PathBuf,
    pub(super) branches: Vec<Branch>,
    pub(super) window: u64,
    pub(super) budget: Arc<Budget>,
    pub(super) letters: Letters,
    pub(super) counters: Counters,
    pub(super) trial: Trial,
    /// Records that were marked in this process as tried, and are not done.
    pub(super) marked: HashSet<u64>,
    /// The first record of this process. What was there before may have killed the one before.
    pub(super) first: Option<u64>,
    /// Something has been written or has ended since then that is not written down, or not shown.
    pub(super) changed: Option<Instant>,
    /// Records that are not forced to the disk, since then.
    unsynced: Option<Instant>,
    /// Until when, after a commit, more is waited for, and how many records that commit had.
    gather: Option<(Instant, usize)>,
    complained: Option<Instant>,
}

// === impl Writer ===

impl Writer {
    pub(super) fn open(files: OsFiles, plan: &Plan, env: &Env, desk: Arc<Desk>) -> Result<Self, OpenError> {
        let Plan { settings, directory, ends } = plan;
        let max_bytes = settings.max_size.0;
        let options = Options::new(ends.iter().map(|end| end.to_string()));
        let options = Options {
            max_bytes,
            segment_bytes: options.segment_bytes.min(max_bytes / 8),
            compression: match settings.compression {
                settings::Compression::None => Compression::None,
                settings::Compression::Lz4 => Compression::Lz4,
            },
            on_full: match settings.on_full {
                settings::OnFull::Refuse => OnFull::Refuse,
                settings::OnFull::DropOldest => OnFull::DropOldest,
            },
            ..options
        };
        let (journal, recovery) = Journal::open(files, options)?;
        let counters = Counters::new(env, ends);
        tell(directory, &recovery, &counters);
        // A backlog is there before anything happens to it.
        counters.show(journal.usage());
        let trial = Trial::of(recovery.tried);
        let letters = directory.join(letters::DIRECTORY);
        Ok(Self {
            desk,
            journal,
            branches: ends.iter().map(|_| Branch::default()).collect(),
            window: window(&env.budget),
            budget: env.budget.clone(),
            letters: Letters::new(letters, settings.max_dead_letters.0),
            settings: settings.clone(),
            directory: directory.clone(),
            counters,
            trial,
            marked: HashSet::new(),
            first: None,
            changed: None,
            unsynced: None,
            gather: None,
            complained: None,
        })
    }

    /// Works until it is to close. How many records are left then.
    pub(super) fn run(mut self) -> u64 {
        let _last = Last(self.desk.clone());
        self.show();
        loop {
            let Papers { new, parked, ended, closing, quiet, .. } = self.wait();
            parked.iter().for_each(|parked| self.park(parked));
            for ended in ended {
                self.end(ended);
            }
            self.append(new);
            if closing {
                return self.close();
            }
            self.flush();
            self.sync();
            let now = Instant::now();
            self.letters.rest(now);
            self.branches.iter_mut().for_each(|branch| branch.resume(now));
            if !quiet {
                self.try_suspects(now);
                self.hand_out(now);
            }
        }
    }

    /// Waits until there is something to do; takes what lies on the desk.
    fn wait(&self) -> Papers {
        let mut papers = self.desk.papers.lock();
        // Nobody is tried where nothing is handed out.
        let trial = self.trial.until().filter(|_| !papers.quiet && !papers.lanes.is_empty());
        let due = [self.changed.map(|since| since + FLUSH), self.sync_at(), trial, self.letters.rests_at()];
        let pauses = self.branches.iter().filter_map(Branch::pause);
        let due = due.into_iter().flatten().chain(pauses).min();
        // Those who were answered by the last commit are about to come again: a commit that does not wait for them
        // leaves them to the next one, and two half-empty ones take turns for ever.
        if let Some((until, of_the_last)) = self.gather {
            papers.worth = papers.new.len() + of_the_last;
            while papers.new.len() < papers.worth && !papers.new.is_empty() && !papers.closing {
                if self.desk.bell.wait_until(&mut papers, until.into_std()).timed_out() {
                    break;
                }
            }
            papers.worth = 1;
        }
        papers.idle = self.changed.is_none();
        while papers.new.is_empty()
            && papers.parked.is_empty()
            && papers.ended.is_empty()
            && !papers.closing
            && !papers.attached
        {
            match due {
                None => self.desk.bell.wait(&mut papers),
                Some(due) => {
                    if self.desk.bell.wait_until(&mut papers, due.into_std()).timed_out() {
                        break;
                    }
                }
            }
        }
        let Papers { new, parked, ended, attached, idle, .. } = &mut *papers;
        let (new, parked, ended) = (std::mem::take(new), std::mem::take(parked), std::mem::take(ended));
        (*attached, *idle) = (false, false);
        Papers { new, parked, ended, lanes: Vec::new(), ..*papers }
    }

    fn append(&mut self, new: Vec<New>) {
        let mut new = new.into_iter().peekable();
        while new.peek().is_some() {
            let mut written = Vec::new();
            while let Some(next) = new.peek() {
                match self.record(next) {
                    Ok(sequence) => written.extend(new.next().map(|next| (next, sequence))),
                    // What was taken makes room for more once it is forced to the disk.
                    Err(AppendError::Unsynced) if !written.is_empty() => break,
                    Err(error) => {
                        if let Some(next) = new.next() {
                            self.refuse(next, error);
                        }
                    }
                }
            }
            if !written.is_empty() {
                self.commit(written);
            }
        }
    }

    fn record(&mut self, new: &New) -> Result<u64, AppendError> {
        let New { payload, context, .. } = new;
        self.journal.append(&record(payload, context, &Envelope::of(context).to_bytes()))
    }

    fn commit(&mut self, written: Vec<(New, u64)>) {
        let began = Instant::now();
        let committed = self.journal.commit(self.settings.sync == Sync::Always);
        let now = Instant::now();
        if let Err(error) = committed {
            self.complain(now, "nothing can be written", &error);
            self.counters.refused("disk").add(written.len() as u64);
            self.set_full(now);
            let outcome = Outcome::refused(Cause::Overload, "the journal's disk does not take it");
            for (new, _) in written {
                let _ = new.reply.send(Err(outcome.clone()));
            }
            return;
        }
        self.changed = self.changed.or(Some(now));
        self.counters.commit_records.record(written.len() as u64);
        let micros = now.saturating_duration_since(began).as_micros();
        self.counters.commit_time.record(u64::try_from(micros).unwrap_or(u64::MAX));
        self.unsynced = self.unsynced.or(Some(now)).filter(|_| self.settings.sync == Sync::Interval);
        self.gather = Some((now + (now - began) / GATHER, written.len()));
        for (new, sequence) in written {
            self.first = self.first.or(Some(sequence));
            let bytes = new.payload.bytes() as u64;
            self.counters.records.add(1);
            self.counters.bytes.add(bytes);
            // Before anybody is told that it is kept.
            self.desk.oldest.fetch_min(new.context.arrived, Ordering::Relaxed);
            let guard = self.hand_over(sequence, bytes, now);
            if let Err(unheard) = new.reply.send(Ok(Kept { sequence, guard })) {
                // Its lane broke meanwhile, has the message in its slot, and will have it written again.
                self.journal.complete_all(sequence);
                drop(unheard);
            }
        }
    }

    /// Has nothing sent here for a moment; after that it is seen whether there is room.
    fn set_full(&mut self, now: Instant) {
        self.desk.full.store(true, Ordering::Relaxed);
        self.changed = self.changed.or(Some(now));
    }

    fn refuse(&mut self, new: New, error: AppendError) {
        let items = new.payload.items() as u64;
        let (reason, outcome) = match error {
            AppendError::Full => {
                self.set_full(Instant::now());
                ("full", Outcome::refused(Cause::Overload, "the journal is full"))
            }
            AppendError::Unsynced => {
                ("unsynced", Outcome::refused(Cause::Overload, "the journal's disk does not keep up"))
            }
            AppendError::TooLarge => {
                ("too_large", Outcome::rejected(Fault::TooLarge, items, "larger than the whole journal"))
            }
        };
        self.counters.refused(reason).add(1);
        let _ = new.reply.send(Err(outcome));
    }

    /// Somebody holds it by design, so it has killed nobody, and what comes next need not wait for it.
    fn park(&mut self, parked: &Parked) {
        let Parked { sequence, branch: place, bytes } = *parked;
        self.trial.survived(sequence, place);
        if self.marked.remove(&sequence) {
            self.journal.acquit(sequence);
            self.changed = self.changed.or(Some(Instant::now()));
        }
        if let Some(branch) = self.branches.get_mut(place) {
            branch.parked(bytes);
        }
    }

    fn end(&mut self, ended: Ended) {
        let now = Instant::now();
        let Ended { sequence, branch: place, bytes, outcome } = ended;
        self.changed = self.changed.or(Some(now));
        let Some((place, branch)) = place.and_then(|place| Some((place, self.branches.get_mut(place)?)))
        else {
            return self.journal.complete_all(sequence);
        };
        match &outcome {
            Outcome::Refused(_) => self.trial.survived(sequence, place),
            _ => self.trial.ended(sequence, place),
        }
        match outcome {
            Outcome::Delivered | Outcome::Dropped { .. } => {
                branch.ended(bytes);
                self.marked.remove(&sequence);
                self.journal.complete(sequence, place);
            }
            Outcome::Refused(refusal) => {
                branch.refused(sequence, bytes, refusal.retry_after, now);
                self.counters.refused_again.add(1);
            }
            Outcome::Rejected(rejection) => {
                if let Err(error) = self.bury(sequence, place, &rejection) {
                    self.complain(now, "a dead letter can not be kept", &*error);
                    return self.branches[place].refused(sequence, bytes, None, now);
                }
                self.branches[place].ended(bytes);
                self.journal.complete(sequence, place);
            }
        }
    }

    /// Writes down what has ended, and makes room by it.
    fn flush(&mut self) {
        let now = Instant::now();
        if self.changed.is_none_or(|since| now < since + FLUSH) {
            return;
        }
        self.changed = None;
        if let Err(error) = self.journal.flush() {
            self.complain(now, "completions can not be written", &error);
            self.changed = Some(now);
        }
        self.show();
    }

    fn sync_at(&self) -> Option<Instant> {
        Some(self.unsynced? + self.settings.sync_interval.0)
    }

    /// Forces to the disk what waits for it.
    fn sync(&mut self) {
        let now = Instant::now();
        let due = self.sync_at().is_some_and(|due| due <= now);
        if !due && (self.unsynced.is_none() || self.journal.unsynced() < UNSYNCED) {
            return;
        }
        self.unsynced = None;
        if let Err(error) = self.journal.sync() {
            self.complain(now, "the disk can not be forced", &error);
            self.unsynced = Some(now);
        }
    }

    fn show(&mut self) {
        for given_up in self.journal.given_up() {
            self.counters.lost("full").add(given_up.records);
        }
        for loss in self.journal.losses() {
            self.counters.lost(&loss.reason.to_string()).add(loss.records);
            tell_loss(&self.directory.display(), &loss);
        }
        let usage = self.journal.usage();
        self.desk.full.store(is_full(&usage, &self.settings), Ordering::Relaxed);
        let oldest = usage.unfinished.iter().map(|(from, _)| *from).min();
        self.desk.oldest.store(oldest.unwrap_or(u64::MAX), Ordering::Relaxed);
        // What is on its way here is not done either.
        let recent = (wall_clock().saturating_sub(RECENT), u64::MAX);
        *self.desk.unfinished.lock() = Unfinished::new(usage.unfinished.iter().copied().chain([recent]));
        self.counters.show(usage);
    }

    fn close(mut self) -> u64 {
        // Who ends in peace speaks against nobody.
        let tried = self.trial.tried();
        self.marked.iter().copied().chain(tried).for_each(|sequence| self.journal.acquit(sequence));
        for (what, done) in [
            ("what has ended can not be written", self.journal.flush()),
            ("the disk can not be forced", self.journal.sync()),
        ] {
            if let Err(error) = done {
                self.complain(Instant::now(), what, &error);
            }
        }
        self.show();
        self.journal.usage().records
    }

    pub(super) fn complain(&mut self, now: Instant, what: &str, error: &dyn std::fmt::Display) {
        if self.complained.is_none_or(|last| now >= last + QUIET) {
            self.complained = Some(now);
            tracing::error!(directory = %self.directory.display(), %error, "journal: {what}");
        }
    }
}

/// Whether what comes next may not fit: what is on its way to the journal still should.
fn is_full(usage: &Usage, settings: &StoreSettings) -> bool {
    settings.on_full == settings::OnFull::Refuse && usage.bytes + usage.max_bytes / 16 >= usage.max_bytes
}

/// Says what was found in a directory.
fn tell(directory: &Path, recovery: &Recovery, counters: &Counters) {
    let Recovery { segments, records, lost, torn_bytes, damaged_marks, orphaned, failures, .. } = recovery;
    let directory = directory.display();
    if *records > 0 || *torn_bytes > 0 {
        tracing::info!(%directory, records, segments, torn_bytes, "the journal has something left to deliver");
    }
    if *damaged_marks > 0 {
        tracing::warn!(%directory, bytes = damaged_marks, "completions are damaged: some records will be sent again");
    }
    for (branch, records) in orphaned {
        tracing::warn!(%directory, branch, records, "what was owed to an exporter that is gone is given up");
        counters.lost("orphaned").add(*records);
    }
    for loss in lost {
        tell_loss(&directory, loss);
        counters.lost(&loss.reason.to_string()).add(loss.records);
    }
    for error in failures {
        tracing::warn!(%directory, %error, "the journal was opened, and not all of it could be put in order");
    }
}

fn tell_loss(directory: &dyn std::fmt::Display, loss: &Loss) {
    let Loss { from, to, records, reason, kept } = loss;
    tracing::error!(%directory, from, to, records, %reason, ?kept, "records of the journal are lost");
}

// === impl Last ===

/// Says that the thread has ended, however it did.
struct Last(Arc<Desk>);

impl Drop for Last {
    fn drop(&mut self) {
        let mut papers = self.0.papers.lock();
        let left = std::mem::replace(&mut *papers, Papers { dead: true, ..Papers::default() });
        drop(papers);
        // What is not written is not answered, which says so.
        drop(left);
    }
}
