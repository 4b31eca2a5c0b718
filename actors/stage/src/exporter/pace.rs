//! When an exporter sends: what its circuit and its concurrency say, and what they learn.

use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::{Cause, Outcome};
use watershed_telemetry::Payload;

use super::batch::{Job, Pending};
use super::circuit::Stance;
use super::concurrency::Trip;
use super::counters::Trigger;
use super::lane::Lane;
use super::{ExportError, Exporter, Partial};

/// An attempt that was given less time by its senders says more of them than of the destination.
const FAIR: Duration = Duration::from_secs(1);

impl<E: Exporter> Lane<E> {
    /// What the circuit says. What is left of a drain is for trying, so then it is not asked.
    pub(super) fn stance(&self, now: Instant) -> Stance {
        if self.drain_deadline().is_some() { Stance::Closed } else { self.circuit.stance(now) }
    }

    /// Whether another attempt may begin. A probe may while all others wait, and so do not stand in its way.
    pub(super) fn may_send(&self, stance: Stance) -> bool {
        match stance {
            Stance::Closed => self.has_consumer() && self.has_room(),
            // Where there is one consumer, order may matter: the job that waits with it is the probe.
            Stance::Due => {
                let consumers = self.sending.queue.num_consumers;
                self.concurrency.in_flight() < consumers && (consumers > 1 || self.has_consumer())
            }
            Stance::Resting(_) => false,
        }
    }

    /// Whether the destination bears another request. What is left of a drain is for trying.
    pub(super) fn has_room(&self) -> bool {
        self.drain_deadline().is_some() || self.concurrency.has_room()
    }

    /// Whether what is ready next has to wait for its turn under `items_per_second`.
    pub(super) fn has_to_wait(&mut self, now: Instant) -> bool {
        if let (None, Some(job)) = (self.turn, self.ready.front()) {
            let at = self.rate.book(job.items(), now);
            self.turn = Some(at);
            if at > now {
                self.counters.held_back.add(1);
            }
        }
        self.held_back(now).is_some()
    }

    /// Until when it has to. What is left of a drain is for trying.
    pub(super) fn held_back(&self, now: Instant) -> Option<Instant> {
        let waits = !self.ready.is_empty() && self.drain_deadline().is_none();
        self.turn.filter(|at| waits && *at > now)
    }

    /// Whether this very attempt may begin.
    pub(super) fn is_admitted(&mut self, now: Instant) -> bool {
        let (random, retry) = (self.random.next(), &self.sending.retry);
        self.drain_deadline().is_some() || self.circuit.admits(now, |number| retry.interval(number, random))
    }

    /// Lets a job wait for its turn, without those who can not wait.
    pub(super) fn again(&mut self, mut job: Job) {
        job.consumer = None;
        self.turn_away(&mut job);
        if !job.members.is_empty() {
            self.ready.push_front(job);
        }
    }

    /// While the circuit keeps everything back, whoever waits is told when to come again: nobody knows whether the
    /// next probe succeeds, so it is not worth waiting for.
    pub(super) fn turn_away(&self, job: &mut Job) {
        let now = Instant::now();
        if let Stance::Resting(until) = self.stance(now) {
            let reason = "the destination has failed several times in a row and is left alone";
            let outcome = Outcome::refused_for(Cause::Destination, reason, until.duration_since(now));
            self.refuse(job, |member| member.awaited, &outcome);
        }
    }

    /// The circuit has opened, was probed or has closed, perhaps by another lane.
    pub(super) fn heed(&mut self) {
        if !matches!(self.stance(Instant::now()), Stance::Resting(_)) {
            return;
        }
        self.concurrency.restart();
        self.show_concurrency();
        for pending in self.pending.extract_if(.., |pending| pending.is_awaited()).collect::<Vec<Pending>>() {
            self.close(pending, Trigger::Idle);
        }
        for mut job in std::mem::take(&mut self.ready) {
            self.turn_away(&mut job);
            if !job.members.is_empty() {
                self.ready.push_back(job);
            }
        }
    }

    /// Shows this lane's share of what may be in flight over all.
    pub(super) fn show_concurrency(&mut self) {
        self.counters.allow(self.concurrency.limit().div_ceil(self.parts.env.copies.max(1)));
    }

    /// What an attempt says of the destination.
    pub(super) fn learn(&mut self, job: &Job, began: Instant, result: &Result<Partial, ExportError>) {
        let now = Instant::now();
        if let Err(ExportError::TooMuch { .. }) = result {
            self.circuit.unasked(began);
            return self.concurrency.ends(began, now, Trip::Mute);
        }
        let is_hurried =
            || now.duration_since(began) < FAIR && job.deadline().is_some_and(|deadline| now >= deadline);
        let items = job.parts.front().map_or(0, Payload::items);
        // One that takes something is there.
        let failure = match result {
            Err(ExportError::Retryable { reason, retry_after }) => Some((reason, retry_after)),
            Err(ExportError::Exhausted { reason, retry_after, left, rejected })
                if left.len() + rejected.len() >= items =>
            {
                Some((reason, retry_after))
            }
            _ => None,
        };
        let trip = match result {
            Ok(_) => Trip::Taken,
            Err(_) if failure.is_some() && !is_hurried() => Trip::Failed,
            Err(_) => Trip::Mute,
        };
        if let Some(seat) = &self.parts.seat {
            let works = failure.is_none_or(|(_, wish)| wish.is_some());
            let is_said = trip != Trip::Mute || failure.is_none();
            (seat.tried)(now.duration_since(began), result, is_said.then_some(works));
        }
        self.concurrency.ends(began, now, trip);
        self.show_concurrency();
        match failure {
            Some((reason, retry_after)) => {
                if trip == Trip::Failed {
                    self.failed(began, now, reason, retry_after.unwrap_or_default());
                }
            }
            // Whatever it says, it is there.
            None => {
                if self.circuit.succeeded() {
                    tracing::info!(exporter = %self.parts.env.id, "The destination answers again.");
                }
            }
        }
    }

    fn failed(&mut self, began: Instant, now: Instant, reason: &str, wished: Duration) {
        let retry = &self.sending.retry;
        let interval = retry.interval(1, self.random.next());
        let wished = wished.min(retry.longest_wish());
        if self.circuit.failed(began, now, interval, wished) {
            self.counters.circuit_opened.add(1);
            tracing::warn!(exporter = %self.parts.env.id, error = %reason,
                "The destination keeps failing. It is left alone, but for a probe each back-off interval.");
        }
    }
}
