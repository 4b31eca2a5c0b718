//! The end of a pipeline: its exporters, and room in their queues.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use watershed_delivery::{Cause, Charge, Guard, Outcome, Share};
use watershed_supervise::{Cell, NoRoom, Room, Weight};
use watershed_telemetry::Payload;

use super::ledger::Ledger;
use crate::edge::{DISK, Edge, MEMORY, QUEUE_FULL};
use crate::message::{Message, OVERHEAD};
use crate::metrics::PerSignal;
use crate::registry::StageSpec;
use crate::settings::OnFull;

/// The end of a pipeline: a fan-out over its exporters, and the point where `ack = "accepted"` says "ok".
pub struct Tail {
    /// The exporters.
    pub branches: Vec<Branch>,
    /// What an "ok" to the sender means.
    pub ack: Ack,
    /// Where losses after an "ok" are booked.
    pub ledger: Arc<Ledger>,
}

/// One exporter of a pipeline.
pub struct Branch {
    /// Its id.
    pub id: Arc<str>,
    /// Its queue on this lane.
    pub cell: Cell<Message>,
    /// Its part of the role's memory, beside the bounds of the queue itself.
    pub share: Arc<Share>,
    /// Whether the message is refused where this branch can not have it, and whether its outcome counts.
    pub required: bool,
    /// What happens when the queue is full.
    pub on_full: OnFull,
    /// Items that never reached the queue.
    pub enqueue_failed: PerSignal,
    /// What keeps its queue on disk, where that is so.
    pub store: Option<Arc<dyn StageSpec>>,
}

/// What "ok" means to the sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It lies in the memory of every required exporter's queue.
    Accepted,
    /// Of every required exporter it is either on disk for it, or its destination said "ok".
    Journaled,
    /// Every required exporter's destination said "ok".
    Delivered,
}

/// How long a sender is asked to wait for a queue that is full: what one batch takes to leave, more or less.
const QUEUE_WAIT: Duration = Duration::from_millis(200);

/// By branch.
pub(super) type Branches = SmallVec<[Result<Reserved, &'static str>; 2]>;

/// Room in one queue, and its charge to the queue's share of memory.
pub(super) type Reserved = (Room<Message>, Option<Charge>);

/// Why a branch has no room.
pub(super) enum Full {
    /// Its queue is full.
    Queue,
    /// Its share of memory is used up.
    Memory,
    /// Its disk is.
    Disk,
    /// It is down.
    Down(Outcome),
}

// === impl Ack ===

impl std::fmt::Display for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Journaled => "journaled",
            Self::Delivered => "delivered",
        })
    }
}

// === impl Tail ===

impl Tail {
    pub(super) fn send(&self, edges: &[Edge], rooms: Branches, message: Message) {
        for ((branch, edge), room) in self.branches.iter().zip(edges).zip(rooms) {
            match room {
                Err(reason) => branch.go_without(edge, &message.payload, reason),
                Ok(reserved) => {
                    let guard = match self.ack {
                        Ack::Delivered | Ack::Journaled if branch.required => message.guard.fork(),
                        _ => self.ledger.hold_for(&branch.id, &message),
                    };
                    branch.send(edge, reserved, &message, guard);
                }
            }
        }
        // Under `accepted` this is the "ok"; else the forks decide.
        message.guard.resolve(Outcome::Delivered);
    }
}

// === impl Branch ===

impl Branch {
    /// Whether a message waits for it. Never for an optional one: it must not hold up the others.
    pub(super) fn blocks(&self) -> bool {
        self.required && self.on_full == OnFull::Block
    }

    /// Sends it a copy of a message, owed to `guard`.
    pub(super) fn send(&self, edge: &Edge, (room, charge): Reserved, message: &Message, guard: Guard) {
        edge.passed(message.payload.items());
        room.send(Message {
            payload: message.payload.clone(),
            context: message.context.clone(),
            guard,
            permit: message.permit.clone(),
            charge,
        });
    }

    pub(super) fn go_without(&self, edge: &Edge, payload: &Payload, reason: &'static str) {
        self.enqueue_failed.add(payload.signal(), payload.items());
        edge.dropped(payload.items(), reason);
    }

    pub(super) fn try_reserve(&self, weight: Weight) -> Result<Reserved, Full> {
        if self.store.as_ref().is_some_and(|store| store.is_full()) {
            return Err(Full::Disk);
        }
        match self.cell.try_reserve(weight) {
            Ok(room) => self.charged(room, weight),
            Err(NoRoom::Full) => Err(Full::Queue),
            Err(closed) => Err(Full::Down(down(&self.cell, closed))),
        }
    }

    pub(super) async fn reserve(&self, weight: Weight) -> Result<Reserved, Full> {
        match self.cell.reserve(weight).await {
            // Once there is room by count, memory is not waited for: that wait could hold up what would free it.
            Ok(room) => self.charged(room, weight),
            Err(closed) => Err(Full::Down(down(&self.cell, closed))),
        }
    }

    fn charged(&self, room: Room<Message>, weight: Weight) -> Result<Reserved, Full> {
        match self.share.try_charge((weight.bytes + OVERHEAD) as u64) {
            Some(charge) => Ok((room, Some(charge))),
            None => Err(Full::Memory),
        }
    }
}

// === impl Full ===

impl Full {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Queue => QUEUE_FULL,
            Self::Memory => MEMORY,
            Self::Disk => DISK,
            Self::Down(Outcome::Refused(refusal)) => refusal.cause.as_str(),
            Self::Down(_) => Cause::Failure.as_str(),
        }
    }

    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Queue | Self::Memory => {
                Outcome::refused_for(Cause::Overload, "sending queue is full", QUEUE_WAIT)
            }
            Self::Disk => Outcome::refused(Cause::Overload, "sending queue is full on disk"),
            Self::Down(outcome) => outcome,
        }
    }
}

pub(super) fn down(cell: &Cell<Message>, closed: NoRoom) -> Outcome {
    Outcome::refused(Cause::Failure, format!("{}: {closed}", cell.name()))
}
