//! The loop around an exporter on one lane: it takes messages from the queue, forms batches and keeps several
//! in flight.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use watershed_supervise::{Control, Failure, Lease, Next, Ticket, caught};

use super::batch::{Job, Member, Pending};
use super::circuit::{Circuit, Stance, State};
use super::concurrency::Concurrency;
use super::counters::{Counters, Random, Trigger};
use super::seat::{lost, reseated};
use super::{Batch, ExportError, Exporter, ExporterParts, Partial, Rate, Sending, Shared};
use crate::extension::Dependence;
use crate::message::Message;
use crate::own::{Ended, Hush};
use crate::settings::BatchSettings;

/// An exporter on one lane, and everything between it and its queue.
pub(super) struct Lane<E> {
    exporter: Rc<E>,
    pub(super) sending: Sending,
    pub(super) parts: ExporterParts,
    pub(super) lease: Lease<Message>,
    consumers: Arc<Semaphore>,
    /// A consumer that was waited for.
    spare: Option<Consumer>,
    pub(super) concurrency: Concurrency,
    pub(super) circuit: Arc<Circuit>,
    changes: watch::Receiver<State>,
    pub(super) rate: Arc<Rate>,
    /// When what is ready next may be sent, as far as that goes.
    pub(super) turn: Option<Instant>,
    depends: Dependence,
    pub(super) pending: Vec<Pending>,
    /// Jobs that are formed and wait for their turn.
    pub(super) ready: VecDeque<Job>,
    pub(super) running: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    /// The destination asked to be left alone until then.
    pub(super) throttled: Option<Instant>,
    /// The deadline of the drain, once there is one. Jobs that wait are told.
    drain: watch::Sender<Option<Instant>>,
    pub(super) random: Random,
    pub(super) counters: Counters,
    pub(super) last_log: Option<Instant>,
}

/// The right to send a job, and to keep it until it may be tried again.
pub(super) type Consumer = OwnedSemaphorePermit;

/// What a future in flight comes back with.
pub(super) enum Done {
    /// It has waited and may be tried.
    Waited(Job),
    /// It was tried, from then on.
    Tried(Job, Instant, Result<Partial, ExportError>),
    /// It was under way to nobody.
    Lost(Job, Instant),
    /// The exporter panicked on it. The job's messages are still in their slots.
    Panicked(Failure),
}

// === impl Lane ===

impl<E: Exporter> Lane<E> {
    pub(super) fn new(
        exporter: E,
        sending: Sending,
        parts: ExporterParts,
        lease: Lease<Message>,
        Shared { circuit, rate, consumers }: Shared,
    ) -> Self {
        let counters = Counters::new(&parts, &sending, &circuit);
        let mut lane = Self {
            depends: exporter.depends(),
            exporter: Rc::new(exporter),
            consumers,
            spare: None,
            concurrency: Concurrency::new(sending.queue.num_consumers, sending.queue.adaptive_concurrency),
            changes: circuit.changes(),
            circuit,
            rate: parts.seat.as_ref().map_or(rate, |seat| seat.rate.clone()),
            turn: None,
            sending,
            random: Random::seeded(&parts.env.id, parts.env.lane),
            parts,
            lease,
            pending: Vec::new(),
            ready: VecDeque::new(),
            running: FuturesUnordered::new(),
            throttled: None,
            drain: watch::Sender::new(None),
            counters,
            last_log: None,
        };
        lane.show_concurrency();
        lane
    }

    pub(super) async fn run(mut self) -> Result<(), Failure> {
        self.lease.started();
        let mut drained = false;
        loop {
            // A destination that answers at once must not keep the lane from its neighbours.
            tokio::task::coop::consume_budget().await;
            let vacant = self.is_vacant();
            if vacant {
                self.leave_seat();
            }
            let now = Instant::now();
            self.dispatch(now);
            if self.running.is_empty() && self.ready.is_empty() {
                self.exporter.rest();
            }
            // By the same clock, or a turn that comes in between is waited for by nobody.
            let held_back = self.held_back(now);
            // It was waited for on behalf of what is here, not of what may come.
            if self.spare.is_some()
                && held_back.is_none()
                && let Some(ticket) = self.lease.try_next()
            {
                self.take(ticket);
                continue;
            }
            self.spare = None;
            let stance = self.stance(Instant::now());
            let sends = self.may_send(stance) && held_back.is_none();
            let wants_consumer =
                !matches!(stance, Stance::Resting(_)) && !sends && held_back.is_none() && self.has_room();
            // While nothing is sent, there still are those who wait, to be told.
            let takes = sends || stance != Stance::Closed || vacant;
            let wake_at = match stance {
                Stance::Resting(until) => Some(until),
                _ if held_back.is_some() => held_back,
                _ => self.pending.iter().map(Pending::flush_at).min().filter(|_| sends),
            };
            // The queue was empty once, but is still open: jobs may run for long after that.
            if drained
                && takes
                && let Some(ticket) = self.lease.try_next()
            {
                self.take(ticket);
                continue;
            }
            if drained && self.running.is_empty() && self.ready.is_empty() && self.pending.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(done) = self.running.next(), if !self.running.is_empty() => self.done(done)?,
                Ok(()) = self.changes.changed() => self.heed(),
                () = reseated(&mut self.parts.seat, &mut self.parts.heir) => self.reseated(),
                next = listen(&mut self.lease, takes), if !drained => match next {
                    Next::Mail(ticket) => self.take(ticket),
                    Next::Control(Control::Drain { deadline }) => {
                        self.drain.send_replace(Some(deadline));
                    }
                    // Without having been asked to drain: the lease has ended, and nothing is ours any more.
                    Next::Drained if self.drain_deadline().is_none() => return Ok(()),
                    Next::Drained => drained = true,
                },
                Ok(consumer) = self.consumers.clone().acquire_owned(), if wants_consumer => {
                    self.spare = Some(consumer);
                }
                () = sleep_until(wake_at), if wake_at.is_some() => {}
            }
        }
    }

    pub(super) fn drain_deadline(&self) -> Option<Instant> {
        *self.drain.borrow()
    }

    /// Takes a message, and with it what is in the queue behind it, as far as a batch has room.
    fn take(&mut self, ticket: Ticket) {
        let mut next = Some(ticket);
        while let Some(ticket) = next {
            self.add(ticket);
            next = if self.ready.is_empty() { self.lease.try_next() } else { None };
        }
    }

    fn add(&mut self, ticket: Ticket) {
        let now = Instant::now();
        let alone = ticket.alone();
        let Some(member) = Member::of(ticket, &self.lease) else { return };
        if member.awaited && self.stance(now) != Stance::Closed {
            return self.again(Job::single(member));
        }
        let Some(settings) = self.batching(&member.context.pipeline).cloned() else {
            return self.ready.push_back(Job::single(member));
        };
        let takes = |pending: &Pending| pending.takes(&member, &self.depends);
        let found = self.pending.iter().position(takes);
        let limit = settings.partition.metadata_cardinality_limit;
        let pipeline = member.context.pipeline.clone();
        let new = |lane: &Self| Pending::new(settings.clone(), now, lane.counters.processor(&pipeline));
        let mut pending = match found {
            Some(index) if !alone => self.pending.swap_remove(index),
            _ => new(self),
        };
        if pending.overflows(&member.payload) {
            let full = std::mem::replace(&mut pending, new(self));
            self.close(full, Trigger::Size);
        }
        pending.push(member);
        if alone {
            self.close(pending, Trigger::Alone);
        } else if pending.is_full() {
            self.close(pending, Trigger::Size);
        } else {
            self.pending.push(pending);
        }
        if self.pending.len() > limit
            && let Some(oldest) = (0..self.pending.len()).min_by_key(|index| self.pending[*index].flush_at())
        {
            let oldest = self.pending.swap_remove(oldest);
            self.close(oldest, Trigger::Cardinality);
        }
    }

    /// A batch that grows no more.
    pub(super) fn close(&mut self, pending: Pending, trigger: Trigger) {
        self.counters.formed(&pending, trigger);
        self.ready.push_back(pending.into_job());
    }

    fn batching(&self, pipeline: &Arc<str>) -> Option<&BatchSettings> {
        let queue = &self.sending.queue;
        // Without a queue nothing waits, so nothing can be waited for.
        let batch = queue.batch.as_ref().or_else(|| Some(&self.parts.batching.get(pipeline)?.settings));
        batch.filter(|_| queue.enabled)
    }

    /// Starts what is ready, as far as it may be sent.
    fn dispatch(&mut self, now: Instant) {
        if self.may_send(self.stance(now)) && self.ready.is_empty() && !self.pending.is_empty() {
            let idle = self.concurrency.in_flight() == 0;
            let draining = self.drain_deadline().is_some();
            let due = |pending: &Pending| {
                if draining {
                    Some(Trigger::Drain)
                } else if pending.flush_at() <= now {
                    Some(Trigger::Timeout)
                } else {
                    (idle && pending.is_awaited()).then_some(Trigger::Idle)
                }
            };
            for pending in std::mem::take(&mut self.pending) {
                match due(&pending) {
                    Some(trigger) => self.close(pending, trigger),
                    None => self.pending.push(pending),
                }
            }
        }
        while self.may_send(self.stance(now)) {
            if self.has_to_wait(now) {
                break;
            }
            let Some(mut job) = self.ready.pop_front() else { break };
            job.consumer = self.spare.take().or_else(|| self.consumers.clone().try_acquire_owned().ok());
            if job.consumer.is_none() && self.stance(now) == Stance::Closed {
                // Another lane was faster.
                self.ready.push_front(job);
                break;
            }
            let before = self.concurrency.in_flight();
            self.attempt(job);
            // Where nobody wanted it any more, the turn is that of the next.
            if self.concurrency.in_flight() > before {
                self.turn = None;
            }
        }
    }

    /// Whether there is a consumer to send with.
    pub(super) fn has_consumer(&self) -> bool {
        self.spare.is_some() || self.consumers.available_permits() > 0
    }

    /// Tries a job once more, unless nobody wants it any longer or the destination is to be left alone.
    pub(super) fn attempt(&mut self, mut job: Job) {
        if self.is_vacant() {
            return self.hand_back(job);
        }
        let now = Instant::now();
        self.cut(&mut job, now);
        // A drain that ends before the destination may be asked again leaves only this attempt.
        let last = self.drain_deadline();
        if let Some(until) = self.throttled.filter(|at| *at > now && last.is_none_or(|last| *at < last)) {
            self.refuse_late(&mut job, until, "the destination asked to be left alone");
            self.leave(&mut job);
            if !job.members.is_empty() {
                self.wait(job, until);
            }
            return;
        }
        if self.circuit.is_open() {
            self.leave(&mut job);
        }
        job.carve();
        let Some(payload) = job.parts.front().cloned() else { return self.settle(job) };
        if !self.is_admitted(now) {
            return self.again(job);
        }
        let Some(first) = job.members.first() else { return };
        let remaining = job.deadline().map(|deadline| deadline.saturating_duration_since(now));
        let timeout = match (self.sending.timeout, remaining) {
            (Some(timeout), Some(remaining)) => Some(timeout.min(remaining)),
            (timeout, remaining) => timeout.or(remaining),
        };
        let id = &self.parts.env.id;
        let span = self.parts.env.tracing.attempt(id, payload.signal(), job.traces());
        let trace = span.as_ref().map(|span| span.context()).or_else(|| job.trace()).cloned();
        let (context, merged) = (first.context.clone(), job.members.len() > 1);
        let batch = Batch { payload, context, trace, timeout, merged };
        if job.started.is_none() {
            job.started = Some(now);
            self.counters.first_sent(&batch.payload);
        }
        let exporter = self.exporter.clone();
        self.counters.requests.add(1);
        self.concurrency.begins();
        let in_flight = self.counters.in_flight.hold();
        let lost = lost(self.parts.seat.as_ref().map(|seat| seat.seating.clone()));
        self.running.push(Box::pin(async move {
            let late = |_| {
                let reason = format!("no answer within {:?}", timeout.unwrap_or_default()).into();
                Ok(Err(ExportError::Retryable { reason, retry_after: None }))
            };
            let export = Hush::during(batch.trace.as_ref(), caught(exporter.export(&batch)));
            let result = async {
                match timeout {
                    None => export.await,
                    Some(timeout) => tokio::time::timeout(timeout, export).await.unwrap_or_else(late),
                }
            };
            let result = tokio::select! {
                biased;
                result = result => result,
                () = lost => return Done::Lost(job, now),
            };
            drop(in_flight);
            match result {
                Ok(result) => {
                    if let Some(span) = span {
                        span.end(batch.payload.items(), &Ended::from(&result));
                    }
                    Done::Tried(job, now, result)
                }
                Err(panic) => Done::Panicked(panic),
            }
        }));
    }

    /// Keeps a job, and its consumer, until it may be tried. A drain ends the wait, for there may be no other time, and
    /// so does a circuit that closes.
    pub(super) fn wait(&mut self, job: Job, until: Instant) {
        let (mut drain, closing) = (self.drain.subscribe(), self.circuit.closing());
        let (mut seat, mut heir) = (self.parts.seat.clone(), self.parts.heir.clone());
        self.running.push(Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                Ok(()) = drain.changed() => {}
                () = closing => {}
                () = reseated(&mut seat, &mut heir) => {}
            }
            Done::Waited(job)
        }));
    }
}

/// The next thing to do; while there is no consumer for mail, what there is to know.
async fn listen(lease: &mut Lease<Message>, takes: bool) -> Next {
    if takes { lease.next().await } else { Next::Control(lease.control().await) }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
