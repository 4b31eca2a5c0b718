//! The receiving half of a cell, lent to one incarnation at a time.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::time::Instant;
use watershed_delivery::Outcome;

use crate::lane::Lane;
use crate::{Cell, Grant, Mail, State};

/// Told that the incarnation of this number has started.
pub(crate) type Herald = Box<dyn Fn(u64) + Send + Sync>;

/// The right to serve a cell. It ends when it is dropped, when the cell is lent to another, and when the cell is
/// torn down; whatever is done with it afterwards does nothing.
pub struct Lease<M> {
    cell: Cell<M>,
    generation: u64,
    herald: Option<Herald>,
}

/// What there is to do.
#[derive(Debug)]
pub enum Next {
    /// A message, in a slot of the cell until it is taken or finished.
    Mail(Ticket),
    /// Something to know.
    Control(Control),
    /// Nothing is left and nothing will follow: finish what is in hand and return.
    Drained,
}

/// What a stage is told besides its mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Finish what the lane holds and return; whoever has not by the deadline is dropped.
    Drain {
        /// When.
        deadline: Instant,
    },
}

/// The claim to a message that was handed out. Dropping it leaves the message in hand.
#[derive(Debug)]
#[must_use = "a message in hand must be taken or finished"]
pub struct Ticket {
    pub(crate) key: usize,
    pub(crate) serial: u64,
    pub(crate) alone: bool,
}

/// A finished message, with the room it still takes.
pub struct Taken<M> {
    /// The message.
    pub mail: M,
    grant: Grant,
}

/// The time a stage is handling something; a stage that is so for too long has stalled.
#[derive(Debug)]
#[must_use = "a scope ends when it is dropped"]
pub struct Busy {
    pulse: Arc<Pulse>,
    beat: u64,
}

/// The open [`Busy`] scopes of a cell. They carry numbers, not times: whoever samples them has a clock already.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    beats: Mutex<(u64, Vec<u64>)>,
}

// === impl Lease ===

impl<M: Mail> Lease<M> {
    pub(crate) fn new(cell: Cell<M>, generation: u64, herald: Option<Herald>) -> Self {
        Self { cell, generation, herald }
    }

    /// Says that the stage has started.
    pub fn started(&self) {
        let mut lane = self.cell.lane().lock();
        if !lane.admits(self.generation) {
            return;
        }
        if lane.state == State::Starting {
            lane.state = State::Running;
        }
        drop(lane);
        if let Some(herald) = &self.herald {
            herald(self.generation);
        }
    }

    /// The next thing to do: control before mail. Safe to drop at any await.
    pub async fn next(&mut self) -> Next {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Lease::next`], for those who poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut cut = Vec::new();
        let next = {
            let mut lane = self.cell.lane().lock();
            let told = lane.told;
            if !lane.admits(self.generation) {
                Poll::Ready(Next::Drained)
            } else if let Some(deadline) = lane.drain.filter(|_| !told) {
                lane.told = true;
                Poll::Ready(Next::Control(Control::Drain { deadline }))
            } else if let Some(ticket) = lane.hand_out(&mut cut) {
                Poll::Ready(Next::Mail(ticket))
            } else if lane.drain.is_some() && lane.is_idle() {
                Poll::Ready(Next::Drained)
            } else {
                if !lane.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    lane.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        };
        self.cell.cut(cut);
        next
    }

    /// The next control alone, for a stage that can take no more mail now. Safe to drop at any await; pending
    /// for ever once this lease has ended.
    pub async fn control(&mut self) -> Control {
        poll_fn(|cx| {
            let mut lane = self.cell.lane().lock();
            if !lane.admits(self.generation) {
                // The waker of whoever holds the lane now must stay.
                return Poll::Pending;
            }
            let told = lane.told;
            if let Some(deadline) = lane.drain.filter(|_| !told) {
                lane.told = true;
                return Poll::Ready(Control::Drain { deadline });
            }
            lane.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// The next message, if there is one now.
    pub fn try_next(&mut self) -> Option<Ticket> {
        let mut cut = Vec::new();
        let ticket = {
            let mut lane = self.cell.lane().lock();
            if lane.admits(self.generation) { lane.hand_out(&mut cut) } else { None }
        };
        self.cell.cut(cut);
        ticket
    }

    /// Looks at a message in hand; `None` once this lease has ended.
    ///
    /// `look` runs under the cell's lock: it should clone what it needs and leave, and must not touch the cell.
    pub fn with<R>(&self, ticket: &Ticket, look: impl FnOnce(&M) -> R) -> Option<R> {
        let lane = self.cell.lane().lock();
        if !lane.admits(self.generation) {
            return None;
        }
        lane.slot(ticket).map(|slot| look(&slot.entry.mail))
    }

    /// Whether nobody waits for a message in hand any more. `false` once this lease has ended.
    pub fn is_withdrawn(&self, ticket: &Ticket) -> bool {
        self.with(ticket, M::is_withdrawn).unwrap_or(false)
    }

    /// Takes a finished message out of its slot: from here on it is the caller's to end. `None` once this lease
    /// has ended: then the message is, or will be, in the hands of another.
    pub fn take(&self, ticket: Ticket) -> Option<Taken<M>> {
        self.remove(&ticket, |lane, _| lane.handled += 1)
    }

    /// Takes a finished message and ends it.
    pub fn finish(&self, ticket: Ticket, outcome: Outcome) {
        if let Some(taken) = self.take(ticket) {
            taken.settle(outcome);
        }
    }

    /// Ends a message that was not worked on, such as one that is refused or that nobody waits for any more. It
    /// says nothing about the stage: it is no progress, and no proof against a suspect.
    pub fn give_back(&self, ticket: Ticket, outcome: Outcome) {
        let count = |lane: &mut Lane<M>, mail: &M| match mail.is_withdrawn() {
            true => lane.withdrawn += 1,
            false => lane.refused += 1,
        };
        if let Some(taken) = self.remove(&ticket, count) {
            taken.settle(outcome);
        }
    }

    fn remove(&self, ticket: &Ticket, count: impl FnOnce(&mut Lane<M>, &M)) -> Option<Taken<M>> {
        let mut lane = self.cell.lane().lock();
        if !lane.admits(self.generation) {
            return None;
        }
        let entry = lane.remove(ticket)?;
        count(&mut lane, &entry.mail);
        // What must be handled by itself has held back everything else.
        let waker = if ticket.alone { lane.waker.take() } else { None };
        drop(lane);
        if let Some(waker) = waker {
            waker.wake();
        }
        Some(Taken { mail: entry.mail, grant: entry.grant })
    }

    /// Opens a scope in which the stage is handling something. Time spent waiting for room downstream does not
    /// belong in it.
    pub fn busy(&self) -> Busy {
        let pulse = self.cell.pulse().clone();
        let beat = pulse.open();
        Busy { pulse, beat }
    }

    /// The number of this incarnation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The cell that is served.
    pub fn cell(&self) -> &Cell<M> {
        &self.cell
    }
}

impl<M> Drop for Lease<M> {
    fn drop(&mut self) {
        let mut lane = self.cell.lane().lock();
        if lane.generation == self.generation {
            // The slots stay: whoever ends the incarnation knows how to judge what is in them.
            lane.live = false;
            lane.waker = None;
        }
    }
}

impl<M> std::fmt::Debug for Lease<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("cell", &self.cell).field("generation", &self.generation).finish()
    }
}

// === impl Ticket ===

impl Ticket {
    /// Whether the message must be handled by itself: an incarnation broke with it in hand, or it is to show
    /// that the next one works. Nothing else is handed out until it is finished.
    pub fn alone(&self) -> bool {
        self.alone
    }
}

// === impl Taken ===

impl<M: Mail> Taken<M> {
    /// Ends the message, then returns its room.
    fn settle(self, outcome: Outcome) {
        let Self { mail, grant } = self;
        mail.settle(outcome);
        drop(grant);
    }
}

impl<M> Taken<M> {
    /// The message, and its room, to be held for as long as the message takes it.
    pub fn into_parts(self) -> (M, Grant) {
        (self.mail, self.grant)
    }
}

impl<M> Deref for Taken<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.mail
    }
}

impl<M> DerefMut for Taken<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.mail
    }
}

impl<M> std::fmt::Debug for Taken<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taken").field("grant", &self.grant).finish_non_exhaustive()
    }
}

// === impl Pulse ===

impl Pulse {
    fn open(&self) -> u64 {
        let mut beats = self.beats.lock();
        beats.0 += 1;
        let beat = beats.0;
        beats.1.push(beat);
        beat
    }

    /// The number of the oldest open scope.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.beats.lock().1.iter().min().copied()
    }

    /// Forgets all open scopes: the incarnation that opened them is gone.
    pub(crate) fn clear(&self) {
        self.beats.lock().1.clear();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut beats = self.pulse.beats.lock();
        if let Some(at) = beats.1.iter().position(|beat| *beat == self.beat) {
            beats.1.swap_remove(at);
        }
    }
}
