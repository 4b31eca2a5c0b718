//! What becomes of a job: sent, tried again, given up or cut short, and each of its messages settled by it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::{Cause, Fault, Outcome, Rejection};
use watershed_supervise::{Failure, Mail as _};
use watershed_telemetry::Payload;

use super::batch::{Job, Member};
use super::circuit::Stance;
use super::concurrency::Trip;
use super::counters::GivenUp;
use super::lane::{Done, Lane};
use super::{ExportError, Exporter, Partial};
use crate::message::Message;
use crate::own::Hush;
use crate::settings::later;

/// The longest wait between two attempts while the exporter drains.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);

/// Whose fault it is that items of a request that was taken are not; `INVALID_ARGUMENT`, since no code comes with them.
const REJECTED: Fault = Fault::Destination(3);

/// What a destination would have said of what is too much to be sent.
const RESOURCE_EXHAUSTED: i32 = 8;

/// Why they are not, where nothing is said of it.
const PARTIAL: &str = "the destination took only a part";

/// Items of a part that are not taken, by their number in it, rising.
struct Untaken<'a> {
    fault: Fault,
    which: &'a [u32],
    reason: &'a str,
}

impl<E: Exporter> Lane<E> {
    pub(super) fn done(&mut self, done: Done) -> Result<(), Failure> {
        let _hush = match &done {
            Done::Waited(job) | Done::Tried(job, ..) | Done::Lost(job, _) => Hush::over(job.trace()),
            Done::Panicked(_) => None,
        };
        let (job, result) = match done {
            Done::Panicked(failure) => return Err(failure),
            Done::Waited(job) => {
                self.again(job);
                return Ok(());
            }
            Done::Lost(job, began) => {
                self.concurrency.ends(began, Instant::now(), Trip::Mute);
                // It may have its place again by now: then that is one attempt like another.
                self.attempt(job);
                return Ok(());
            }
            Done::Tried(job, began, result) => {
                self.learn(&job, began, &result);
                (job, result)
            }
        };
        match result {
            Ok(partial) => self.sent(job, &partial),
            Err(ExportError::Retryable { reason, retry_after }) => self.retry(job, reason, retry_after),
            Err(ExportError::TooLarge { code, reason }) => self.cut_up(job, code, reason),
            Err(ExportError::TooMuch { reason }) => self.cut_up(job, RESOURCE_EXHAUSTED, reason),
            Err(ExportError::Permanent { code, reason }) => {
                self.rejected(job, GivenUp::Rejected, code, reason);
            }
            Err(ExportError::Exhausted { reason, retry_after, left, rejected }) => {
                self.exhausted(job, &reason, retry_after, [&left, &rejected]);
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut job: Job, partial: &Partial) {
        if let Some(part) = job.parts.pop_front() {
            let rejected = usize::try_from(partial.rejected).unwrap_or(usize::MAX).min(part.items());
            self.counters.sent.add(part.signal(), part.items() - rejected);
            self.counters.failed(part.signal(), rejected, GivenUp::Partial);
            match partial.which.as_deref().filter(|which| which.len() == rejected) {
                _ if rejected == 0 => {}
                Some(which) => {
                    // What is said of one message's items is nothing for other senders to know.
                    let own =
                        Some(&*partial.message).filter(|text| job.members.len() == 1 && !text.is_empty());
                    let rejected = Untaken { fault: REJECTED, which, reason: own.unwrap_or(PARTIAL) };
                    self.untaken(&mut job, &part, rejected, None);
                }
                None => self.untaken_somewhere(&mut job, rejected),
            }
            job.past += part.items();
            if (rejected > 0 || !partial.message.is_empty()) && self.may_log() {
                tracing::warn!(exporter = %self.parts.env.id, rejected, message = %partial.message,
                    "the destination took only a part, or warned");
            }
        }
        self.proceed(job);
    }

    /// Books a part that was not taken whole with those it is made of. Whoever waits is told to send `again` if an item was
    /// given up, and else that it was taken, unless all of it is rejected. How many items have been given up and are lost.
    fn untaken(
        &self,
        job: &mut Job,
        part: &Payload,
        rejected: Untaken<'_>,
        given_up: Option<(Untaken<'_>, &Outcome)>,
    ) -> usize {
        // Of a single message this is one part of perhaps several; of several messages there is one part.
        let past = (job.members.len() == 1).then_some(job.past as u32);
        let (mut start, mut lost) = (0, 0);
        for member in std::mem::take(&mut job.members) {
            let items = if past.is_some() { part.items() } else { member.payload.items() };
            let (range, past_items) = (start..start + items as u32, past.unwrap_or_default());
            start = range.end;
            let mut outcome = job.outcome.clone();
            if let Some((given_up, again)) = &given_up {
                let theirs = given_up.among(&range, past_items);
                if member.awaited && !theirs.is_empty() {
                    self.finish(member, Outcome::clone(again));
                    continue;
                }
                lost += theirs.len();
                outcome = outcome.join(given_up.outcome(theirs));
            }
            let theirs = rejected.among(&range, past_items);
            if !member.awaited || theirs.len() == items {
                outcome = outcome.join(rejected.outcome(theirs));
            }
            if past.is_some() {
                job.outcome = outcome;
                job.members.push(member);
            } else {
                self.finish(member, outcome);
            }
        }
        lost
    }

    /// The same, where it is not said which items were rejected.
    fn untaken_somewhere(&self, job: &mut Job, mut rejected: usize) {
        let lost = |items: usize| Outcome::rejected(REJECTED, items as u64, PARTIAL);
        if let [member] = &job.members[..] {
            if !member.awaited {
                job.outcome = job.outcome.clone().join(lost(rejected));
            }
            return;
        }
        // Several have one part, which was the last.
        for member in job.members.extract_if(.., |member| !member.awaited) {
            let items = rejected.min(member.payload.items());
            rejected -= items;
            self.finish(member, if items == 0 { job.outcome.clone() } else { lost(items) });
        }
    }

    /// Goes on to the next part of a job, or ends it after the last.
    fn proceed(&mut self, mut job: Job) {
        (job.attempts, job.started) = (0, None);
        if job.parts.is_empty() { self.settle(job) } else { self.attempt(job) }
    }

    fn retry(&mut self, mut job: Job, reason: Cow<'static, str>, retry_after: Option<Duration>) {
        if self.is_vacant() {
            return self.hand_back(job);
        }
        let now = Instant::now();
        job.attempts += 1;
        let random = self.random.next();
        let settings = self.sending.retry.clone();
        let mut interval = settings.interval(job.attempts, random);
        if let Stance::Resting(until) = self.stance(now) {
            // There is no attempt before the circuit's next probe, and that may come too late.
            interval = interval.max(until.duration_since(now));
        }
        if self.drain_deadline().is_some() {
            // What is left of a drain is for trying, not for waiting.
            interval = interval.min(DRAIN_INTERVAL);
        }
        let wish = self.wish(now, retry_after);
        let wait = interval.max(wish);
        let at = later(now, wait);
        // The destination's own wish does not use up the time it is tried for.
        let elapsed = later(now, interval).duration_since(job.started.unwrap_or(now));
        let exhausted = |member: &Member| {
            !settings.enabled || settings.patience(member.kept).is_some_and(|patience| elapsed > patience)
        };
        let outcome = Outcome::refused_for(Cause::Destination, reason.clone(), wait);
        self.refuse(&mut job, |member| member.awaited && exhausted(member), &outcome);
        self.give_up(&mut job, exhausted, &reason);
        self.turn_away(&mut job);
        self.leave(&mut job);
        if !job.members.is_empty() && self.drain_deadline().is_some_and(|deadline| at >= deadline) {
            // There will be no next time.
            tracing::error!(exporter = %self.lease.cell().name(), error = %reason, items = job.items(),
                "Exporting failed. Shutting down without another attempt.");
            self.refuse(&mut job, |_| true, &Outcome::refused(Cause::Shutdown, reason.clone()));
        }
        self.refuse_late(&mut job, at, reason.clone());
        if job.members.is_empty() {
            return;
        }
        self.counters.retries.add(1);
        if self.may_log() {
            tracing::info!(exporter = %self.parts.env.id, error = %reason, interval = ?wait, items = job.items(),
                "Exporting failed. Will retry the request after interval.");
        }
        self.wait(job, at);
    }

    /// For how long the destination is left alone, since it asks for that.
    fn wish(&mut self, now: Instant, retry_after: Option<Duration>) -> Duration {
        let Some(after) = retry_after else { return Duration::ZERO };
        let after = after.min(self.sending.retry.longest_wish());
        self.throttled = self.throttled.max(Some(later(now, after)));
        after
    }

    /// Sends in halves what the destination finds too large: first the messages of a batch, then the items of a
    /// message. Only a single item is beyond help.
    fn cut_up(&mut self, mut job: Job, code: i32, reason: Cow<'static, str>) {
        if job.members.len() > 1 {
            let rest = job.members.split_off(job.members.len() / 2);
            return self.instead([Job::unbounded(job.members), Job::unbounded(rest)]);
        }
        if job.parts.front().is_none_or(|part| part.items() < 2) {
            return self.rejected(job, GivenUp::TooLarge, code, reason);
        }
        job.cut_first(|part| {
            let half = part.items().div_ceil(2);
            part.split_by_items(half)
        });
        self.proceed(job);
    }

    /// Puts jobs in the place of one that they were made of: before whatever came after it, where order may matter.
    fn instead(&mut self, jobs: impl IntoIterator<Item = Job, IntoIter: DoubleEndedIterator>) {
        jobs.into_iter().rev().for_each(|job| self.ready.push_front(job));
    }

    fn rejected(&mut self, mut job: Job, why: GivenUp, code: i32, reason: Cow<'static, str>) {
        if job.members.len() > 1 {
            // One of them may be to blame; the others are not to suffer for it.
            return self.instead(job.members.into_iter().map(Job::single));
        }
        if let Some(part) = job.parts.pop_front() {
            let items = part.items();
            let (first, whole) = (job.past as u32, job.past == 0 && job.parts.is_empty());
            job.past += items;
            self.counters.failed(part.signal(), items, why);
            if self.may_log() {
                tracing::error!(exporter = %self.parts.env.id, error = %reason, code, dropped_items = items,
                    "Exporting failed. Dropping data.");
            }
            let which = (!whole).then(|| (first..first + items as u32).collect());
            let fault = Fault::Destination(code);
            let rejection = Rejection { fault, reason, items: items as u64, which };
            job.outcome = job.outcome.join(rejection.into());
        }
        self.proceed(job);
    }

    /// What the exporter itself has tried as often as it may.
    fn exhausted(
        &mut self,
        mut job: Job,
        reason: &str,
        retry_after: Option<Duration>,
        [left, rejected]: [&[u32]; 2],
    ) {
        let Some(part) = job.parts.pop_front() else { return self.settle(job) };
        let wait = self.sending.retry.interval(1, self.random.next());
        let wait = wait.max(self.wish(Instant::now(), retry_after));
        let again = Outcome::refused_for(Cause::Destination, reason.to_owned(), wait);
        let reason = format!("no more retries left: {reason}");
        let given_up = Untaken { fault: Fault::Exhausted, which: left, reason: &reason };
        let untaken = Untaken { fault: REJECTED, which: rejected, reason: PARTIAL };
        let lost = self.untaken(&mut job, &part, untaken, Some((given_up, &again)));
        self.counters.sent.add(part.signal(), part.items().saturating_sub(left.len() + rejected.len()));
        self.counters.failed(part.signal(), rejected.len(), GivenUp::Partial);
        self.counters.failed(part.signal(), lost, GivenUp::Exhausted);
        if lost > 0 && self.may_log() {
            tracing::error!(exporter = %self.parts.env.id, error = %reason, dropped_items = lost,
                "Exporting failed. Dropping data.");
        }
        job.past += part.items();
        // What is behind it is not sent for a sender that was told to send all of it again.
        if !job.members.is_empty() {
            self.proceed(job);
        }
    }

    /// Accepted data that was tried for as long as it may be.
    fn give_up(&mut self, job: &mut Job, which: impl Fn(&Member) -> bool, reason: &str) {
        // Of a single message some parts may be through; of several there is one part.
        let before = job.members.len();
        let left = if before == 1 { Some(job.items()) } else { None };
        for member in job.members.extract_if(.., |member| which(member)) {
            let items = left.unwrap_or(member.payload.items());
            self.counters.failed(member.payload.signal(), items, GivenUp::Exhausted);
            if self.may_log() {
                tracing::error!(exporter = %self.parts.env.id, error = %reason, dropped_items = items,
                    "Exporting failed. No more retries left. Dropping data.");
            }
            let reason = format!("no more retries left: {reason}");
            let outcome = Outcome::rejected(Fault::Exhausted, items as u64, reason);
            self.finish(member, job.outcome.clone().join(outcome));
        }
        if job.members.len() < before {
            job.assemble();
        }
    }

    pub(super) fn settle(&self, job: Job) {
        for member in job.members {
            self.finish(member, job.outcome.clone());
        }
    }

    fn finish(&self, member: Member, outcome: Outcome) {
        self.book(&member, &outcome);
        self.lease.finish(member.ticket, outcome);
    }

    /// Books a message on the arrow to the destination.
    fn book(&self, member: &Member, outcome: &Outcome) {
        self.counters.outward.settled(&member.context.pipeline, member.payload.items(), outcome);
    }

    /// Refuses those whose sender will have gone by the time of the next attempt, while it can still hear.
    pub(super) fn refuse_late(&self, job: &mut Job, at: Instant, reason: impl Into<Cow<'static, str>>) {
        let wait = at.saturating_duration_since(Instant::now());
        let late = |member: &Member| member.deadline.is_some_and(|deadline| at >= deadline);
        self.refuse(job, late, &Outcome::refused_for(Cause::Destination, reason, wait));
    }

    /// In a drain, gives back what its keeper has safe: it will be there after the next start.
    pub(super) fn leave(&self, job: &mut Job) {
        if self.drain_deadline().is_none() {
            return;
        }
        let outcome = Outcome::refused(Cause::Shutdown, "kept until the next start");
        self.refuse(job, |member| member.kept, &outcome);
    }

    /// Cuts out those whose sender has been answered or is gone, and those that are no longer ours.
    pub(super) fn cut(&self, job: &mut Job, now: Instant) {
        let gone = |member: &Member| {
            member.deadline.is_some_and(|deadline| now >= deadline)
                || self.lease.with(&member.ticket, Message::is_withdrawn).unwrap_or(true)
        };
        self.refuse(job, gone, &Outcome::refused(Cause::Withdrawn, "nobody waits for it any more"));
    }

    pub(super) fn refuse(&self, job: &mut Job, which: impl Fn(&Member) -> bool, outcome: &Outcome) {
        let before = job.members.len();
        for member in job.members.extract_if(.., |member| which(member)) {
            // What was never tried says nothing of the exporter: it is no progress, and no proof.
            if job.attempts == 0 {
                self.book(&member, outcome);
                self.lease.give_back(member.ticket, outcome.clone());
            } else {
                self.finish(member, outcome.clone());
            }
        }
        if job.members.len() < before {
            job.assemble();
        }
    }

    /// At most one line a second: a destination that is down must not fill the disk as well.
    fn may_log(&mut self) -> bool {
        let now = Instant::now();
        let quiet = self.last_log.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1));
        if quiet {
            self.last_log = Some(now);
        }
        quiet
    }
}

// === impl Untaken ===

impl Untaken<'_> {
    /// Those in a range, by their number in a message of which it is what follows `past` items.
    fn among(&self, range: &Range<u32>, past: u32) -> Arc<[u32]> {
        let before = |end: u32| self.which.partition_point(|item| *item < end);
        let theirs = self.which.get(before(range.start)..before(range.end)).unwrap_or_default();
        theirs.iter().map(|item| item - range.start + past).collect()
    }

    /// What some of them are for the message that they are of. It is taken if there are none.
    fn outcome(&self, which: Arc<[u32]>) -> Outcome {
        if which.is_empty() {
            return Outcome::Delivered;
        }
        let (reason, items) = (self.reason.to_owned().into(), which.len() as u64);
        Rejection { fault: self.fault, reason, items, which: Some(which) }.into()
    }
}
