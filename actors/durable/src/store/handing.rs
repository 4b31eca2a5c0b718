//! What a writer hands out: what was just written, what has to be read again, and what nobody will take, which goes to
//! the dead letters.

use std::sync::atomic::Ordering;

use tokio::time::Instant;
use watershed_delivery::{Fault, Guard, Rejection};
use watershed_journal::{ReadError, Reason, Record, Stored};

use super::trial::Step;
use super::writer::Writer;
use super::{Replay, hands};

/// What is read at once, in bytes.
const CHUNK: usize = 256 << 10;

impl Writer {
    /// The debt of those who are given at once what was just written, since they wait for nothing else.
    pub(super) fn hand_over(&mut self, sequence: u64, bytes: u64, now: Instant) -> Option<Guard> {
        let mut given = 0;
        if self.trial.is_on() {
            return None;
        }
        for (place, branch) in self.branches.iter_mut().enumerate() {
            if !branch.has_refused()
                && branch.has_room(self.window, now)
                && self.journal.skip(sequence, place)
            {
                branch.given(bytes);
                given |= 1 << place;
            }
        }
        hands::debt(&self.desk, sequence, bytes, given)
    }

    /// Tries those whom earlier processes may have died of, before anything else is handed out.
    pub(super) fn try_suspects(&mut self, now: Instant) {
        // Nobody to try them by yet.
        if self.desk.papers.lock().lanes.is_empty() {
            return;
        }
        while self.trial.is_on() {
            let tried = match self.trial.step(now) {
                Step::Over | Step::Wait(_) => return,
                Step::Acquit(sequence) => {
                    self.journal.acquit(sequence);
                    Ok(())
                }
                Step::Try(sequence) => self.try_alone(sequence),
                Step::Condemn(sequence) => self.condemn(sequence),
            };
            self.changed = self.changed.or(Some(now));
            if let Err(error) = tried {
                self.complain(now, "a suspect can not be tried", &*error);
            }
        }
    }

    fn try_alone(&mut self, sequence: u64) -> Result<(), Box<dyn std::error::Error>> {
        let Some(stored) = self.journal.get(sequence)? else { return Ok(()) };
        self.journal.alone(sequence);
        self.journal.flush()?;
        tracing::warn!(directory = %self.directory.display(), sequence, attempts = stored.attempts,
            "a record was in hand at several deaths of the process: it is tried alone");
        for place in (0..self.branches.len()).filter(|place| stored.owed & 1 << place != 0) {
            self.trial.given(sequence, place);
        }
        self.send(stored.owed, stored);
        Ok(())
    }

    fn condemn(&mut self, sequence: u64) -> Result<(), Box<dyn std::error::Error>> {
        let Some(stored) = self.journal.get(sequence)? else { return Ok(()) };
        let reason = "the process died each time it was tried alone".into();
        let rejection = Rejection { fault: Fault::Poison, reason, items: stored.items.into(), which: None };
        tracing::error!(directory = %self.directory.display(), sequence, items = stored.items,
            "a record kills the process: it is a dead letter");
        self.keep_letter(&stored, "", &rejection)?;
        self.journal.complete_all(sequence);
        Ok(())
    }

    /// Hands out what has to be read, as far as there is room for it in memory.
    pub(super) fn hand_out(&mut self, now: Instant) {
        let mut more = self.trial.is_on();
        if more {
            return self.desk.eager.store(more, Ordering::Relaxed);
        }
        for place in 0..self.branches.len() {
            while self.branches[place].has_room(self.window, now) {
                if !self.hand_out_some(place, now) {
                    break;
                }
            }
            more |= self.branches[place].has_refused() || self.journal.is_behind(place);
        }
        self.desk.eager.store(more, Ordering::Relaxed);
    }

    /// Hands out what comes next to one branch; whether there was anything.
    fn hand_out_some(&mut self, place: usize, now: Instant) -> bool {
        let mut read = Vec::new();
        let refused = self.branches[place].next_refused();
        let found = match refused {
            Some(sequence) => self.journal.get(sequence).map(|stored| read.extend(stored)),
            None => self.journal.read(place, CHUNK, &mut read),
        };
        let mut any = refused.is_some() || !read.is_empty();
        if let Err(error) = found {
            any = self.unreadable(&error, place, refused, now);
        }
        self.mark(&read, now);
        for stored in read {
            if refused.is_some() || !self.trial.has_given(stored.sequence, place) {
                self.replay(stored, place, now);
            }
        }
        any
    }

    /// What becomes of a record that can not be read: given up where its file is gone, else tried again later. Whether
    /// there may be more to hand out now.
    fn unreadable(&mut self, error: &ReadError, place: usize, refused: Option<u64>, now: Instant) -> bool {
        self.complain(now, "records can not be read", error);
        if error.source.source.kind() == std::io::ErrorKind::NotFound {
            self.journal.complete_all(error.sequence);
            self.counters.lost(&Reason::Missing.to_string()).add(1);
            self.changed = self.changed.or(Some(now));
            return true;
        }
        self.branches[place].rest(refused, now);
        false
    }

    /// Notes beside records that came from the process before that they are tried once more: one of them may be why
    /// that process died.
    fn mark(&mut self, read: &[Stored], now: Instant) {
        let inherited = read.iter().map(|stored| stored.sequence);
        let inherited = inherited.filter(|sequence| self.first.is_none_or(|first| *sequence < first));
        let inherited: Vec<u64> = inherited.filter(|sequence| self.marked.insert(*sequence)).collect();
        if !inherited.is_empty() {
            self.journal.attempted(&inherited);
            if let Err(error) = self.journal.flush() {
                self.complain(now, "attempts can not be noted", &error);
            }
        }
    }

    /// Sends a record on for one branch, and for those others that would be given it next.
    fn replay(&mut self, stored: Stored, place: usize, now: Instant) {
        let mut given = 1 << place;
        for (other, branch) in self.branches.iter().enumerate().filter(|(other, _)| *other != place) {
            let owed = stored.owed & 1 << other != 0 && !self.trial.has_given(stored.sequence, other);
            if owed && branch.has_room(self.window, now) && self.journal.skip(stored.sequence, other) {
                given |= 1 << other;
            }
        }
        self.send(given, stored);
    }

    /// Sends a record on for these branches. Where no lane has room its debt ends unpaid, and it comes back.
    fn send(&mut self, branches: u64, stored: Stored) {
        let bytes = stored.payload.len() as u64;
        let given = |place: &usize| branches & 1 << place != 0;
        let first = (0..self.branches.len()).find(given).unwrap_or(0);
        (0..self.branches.len()).filter(given).for_each(|place| self.branches[place].given(bytes));
        let Some(guard) = hands::debt(&self.desk, stored.sequence, bytes, branches) else { return };
        self.counters.replayed.add(1);
        let permit = self.budget.overdraw(bytes);
        let mut papers = self.desk.papers.lock();
        // A lane that is gone may still hold what owes something, and that ends on the desk: not under its lock.
        let gone: Vec<_> = papers.lanes.extract_if(.., |lane| lane.is_closed()).collect();
        // Always by the same lane: what keeps time by the data behind it must have it in order.
        let lane = papers.lanes.get(first % papers.lanes.len().max(1)).cloned();
        drop(papers);
        drop(gone);
        if let Some(room) = lane.and_then(|lane| lane.try_reserve_owned().ok()) {
            room.send(Replay { stored, guard, permit });
        }
    }

    /// Keeps as a dead letter what a branch will never take.
    pub(super) fn bury(
        &mut self,
        sequence: u64,
        place: usize,
        rejection: &Rejection,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(stored) = self.journal.get(sequence)? {
            let end = self.desk.ends[place].clone();
            self.keep_letter(&stored, &end, rejection)?;
        }
        Ok(())
    }

    fn keep_letter(
        &mut self,
        stored: &Stored,
        to: &str,
        rejection: &Rejection,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let Stored { kind, items, arrived, attempts, context, payload, .. } = stored;
        let record = Record {
            kind: *kind,
            items: *items,
            arrived: *arrived,
            attempts: *attempts,
            context,
            payload: std::slice::from_ref(payload),
        };
        if self.letters.keep(&record, to, rejection)? {
            self.counters.dead_letters.add(1);
        } else {
            self.counters.lost("dead_letter").add(1);
        }
        Ok(())
    }
}
