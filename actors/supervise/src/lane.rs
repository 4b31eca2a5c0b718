//! The content of a cell: what waits, what is in hand, what is under suspicion, and who may be given it.
//!
//! Everything here runs under the cell's lock, so nothing here may end or drop a message: whatever has to be
//! settled is moved out to the caller, who settles it once the lock is gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use tokio::time::Instant;
use watershed_delivery::{Outcome, Refusal};

use crate::failure::quietly;
use crate::{Exit, Grant, LastFailure, Mail, Restarts, State, Ticket, Weight};

pub(crate) struct Lane<M> {
    pub(crate) state: State,
    /// Why mail is refused, in the states that refuse it.
    pub(crate) closed: Option<Refusal>,
    /// Set once a drain is asked for; a fact about the cell, so that every later incarnation is told, too.
    pub(crate) drain: Option<Instant>,
    /// Whether the present incarnation was told of the drain.
    pub(crate) told: bool,
    pub(crate) queue: VecDeque<Entry<M>>,
    /// What was in hand when an incarnation broke, to be handed out one at a time.
    pub(crate) suspects: VecDeque<Entry<M>>,
    pub(crate) slots: Slab<Slot<M>>,
    /// One fresh message goes before the suspects, to show whether the stage can finish anything at all.
    pub(crate) probe: bool,
    /// A message that must be handled by itself is in hand.
    solo: bool,
    handed_out: u64,
    /// The number of the incarnation that is lent this lane, or was last.
    pub(crate) generation: u64,
    /// Whether that incarnation may still act.
    pub(crate) live: bool,
    pub(crate) waker: Option<Waker>,
    /// Messages finished; a stage that has finished another message since a panic is not broken as a whole.
    pub(crate) handled: u64,
    /// `handled` when the lane was lent.
    pub(crate) handled_before: u64,
    pub(crate) poisoned: u64,
    pub(crate) refused: u64,
    pub(crate) withdrawn: u64,
    pub(crate) restarts: Restarts,
    pub(crate) last_failure: Option<LastFailure>,
}

/// A message with the room it takes.
pub(crate) struct Entry<M> {
    pub(crate) mail: M,
    pub(crate) grant: Grant,
    pub(crate) trial: Trial,
}

/// What speaks against a message.
#[derive(Clone, Copy, Default)]
pub(crate) struct Trial {
    /// How many incarnations broke while it alone was in hand, or what it is a half of.
    pub(crate) strikes: u32,
    /// How many messages the stage had finished at the first of them.
    pub(crate) since: u64,
}

pub(crate) struct Slot<M> {
    pub(crate) entry: Entry<M>,
    pub(crate) serial: u64,
    alone: bool,
}

// === impl Lane ===

impl<M: Mail> Lane<M> {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Starting,
            closed: None,
            drain: None,
            told: false,
            queue: VecDeque::new(),
            suspects: VecDeque::new(),
            slots: Slab::new(),
            probe: false,
            solo: false,
            handed_out: 0,
            generation: 0,
            live: false,
            waker: None,
            handled: 0,
            handled_before: 0,
            poisoned: 0,
            refused: 0,
            withdrawn: 0,
            restarts: Restarts::default(),
            last_failure: None,
        }
    }

    /// Whether the incarnation of this number may act on the lane.
    pub(crate) fn admits(&self, generation: u64) -> bool {
        self.live && self.generation == generation
    }

    /// Nothing waits, and nothing is to be handed out again.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.suspects.is_empty()
    }

    /// Puts the next message into a slot. Withdrawn messages on the way are moved to `cut`, which
    /// is empty before.
    ///
    /// Suspects are handed out as soon as the hand is empty after a break, and nothing is handed out beside
    /// them: only then does the end of the incarnation say something about the message.
    pub(crate) fn hand_out(&mut self, cut: &mut Vec<Entry<M>>) -> Option<Ticket> {
        if self.solo {
            return None;
        }
        let mut alone = !self.suspects.is_empty();
        let mut entry = None;
        if alone && std::mem::take(&mut self.probe) {
            entry = pop_live(&mut self.queue, cut);
        }
        if entry.is_none() {
            entry = pop_live(&mut self.suspects, cut);
        }
        if entry.is_none() {
            alone = false;
            entry = pop_live(&mut self.queue, cut);
        }
        self.withdrawn += cut.len() as u64;
        let entry = entry?;
        self.solo = alone;
        self.handed_out += 1;
        let serial = self.handed_out;
        let key = self.slots.insert(Slot { entry, serial, alone });
        Some(Ticket { key, serial, alone })
    }

    pub(crate) fn slot(&self, ticket: &Ticket) -> Option<&Slot<M>> {
        self.slots.get(ticket.key).filter(|slot| slot.serial == ticket.serial)
    }

    /// Takes a message out of its slot. Whether that shows that the stage works is for the caller to count.
    pub(crate) fn remove(&mut self, ticket: &Ticket) -> Option<Entry<M>> {
        self.slot(ticket)?;
        let slot = self.slots.try_remove(ticket.key)?;
        self.solo &= !slot.alone;
        Some(slot.entry)
    }

    /// Empties the slots, in the order in which they were filled.
    pub(crate) fn take_in_hand(&mut self) -> Vec<Entry<M>> {
        self.solo = false;
        let mut slots: Vec<Slot<M>> = self.slots.drain().collect();
        slots.sort_unstable_by_key(|slot| slot.serial);
        slots.into_iter().map(|slot| slot.entry).collect()
    }

    /// Moves everything out: suspects, what is in hand, what waits.
    pub(crate) fn take_all(&mut self) -> Vec<Entry<M>> {
        self.probe = false;
        let mut all = self.take_in_hand();
        all.extend(self.suspects.drain(..));
        all.extend(self.queue.drain(..));
        all
    }

    /// Moves out the withdrawn messages that wait. One in hand is its incarnation's to look at.
    pub(crate) fn take_withdrawn(&mut self) -> Vec<Entry<M>> {
        let mut cut = Vec::new();
        for queue in [&mut self.queue, &mut self.suspects] {
            if queue.iter().any(|entry| entry.mail.is_withdrawn()) {
                for entry in std::mem::take(queue) {
                    if entry.mail.is_withdrawn() { cut.push(entry) } else { queue.push_back(entry) }
                }
            }
        }
        self.withdrawn += cut.len() as u64;
        cut
    }

    /// How many messages the lane holds.
    pub(crate) fn depth(&self) -> usize {
        self.queue.len() + self.suspects.len() + self.slots.len()
    }

    /// What the lane holds.
    pub(crate) fn held(&self) -> Weight {
        let slots = self.slots.iter().map(|(_, slot)| &slot.entry);
        self.queue.iter().chain(&self.suspects).chain(slots).map(|entry| entry.grant.weight()).sum()
    }

    pub(crate) fn note(&mut self, exit: Exit, message: &str) {
        self.last_failure = Some(LastFailure { exit, message: Arc::from(message), at: Instant::now() });
    }
}

fn pop_live<M: Mail>(queue: &mut VecDeque<Entry<M>>, cut: &mut Vec<Entry<M>>) -> Option<Entry<M>> {
    while let Some(entry) = queue.pop_front() {
        if !entry.mail.is_withdrawn() {
            return Some(entry);
        }
        cut.push(entry);
    }
    None
}

// === impl Entry ===

impl<M: Mail> Entry<M> {
    /// Ends the message, then returns its room. A panic of the message's own code stays here.
    pub(crate) fn settle(self, outcome: Outcome) {
        let Self { mail, grant, .. } = self;
        quietly(move || mail.settle(outcome));
        drop(grant);
    }
}
