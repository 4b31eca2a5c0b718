//! Where a stage's output goes: on to the next cell of its pipeline, or out to the pipeline's exporters.
//!
//! Sending is in two steps. First room is reserved in every branch that must have the message; only then is any
//! branch given it, and giving can not fail. So a refusal has duplicated nothing, and a panic before the second
//! step has sent nothing.

use std::sync::Arc;
use std::time::Duration;

use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;
use watershed_delivery::{Cause, Charge, Guard, Holder, Outcome, Share};
use watershed_supervise::{Cell, NoRoom, Room, Weight};

use crate::message::Message;
use crate::metrics::{Counter, Metrics, PerSignal};
use crate::settings::OnFull;

/// What lies behind a stage.
#[derive(Clone)]
pub enum Downstream {
    /// The next processor of the pipeline.
    Cell(Cell<Message>),
    /// The pipeline's exporters.
    Tail(Arc<Tail>),
}

/// A pipeline as a receiver sees it.
#[derive(Clone)]
pub struct Entry {
    /// The pipeline's id.
    pub pipeline: Arc<str>,
    /// Its first stage.
    pub downstream: Downstream,
}

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
}

/// What "ok" means to the sender of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It lies in the memory of every required exporter's queue.
    Accepted,
    /// Every required exporter's destination said "ok".
    Delivered,
}

/// How long a sender is asked to wait for a queue that is full: what one batch takes to leave, more or less.
const QUEUE_FULL: Duration = Duration::from_millis(200);

/// The counter of what was lost after its sender had its "ok".
pub const LOST_ITEMS: &str = "watershed_pipeline_lost_items";

/// A pipeline's losses after an "ok", by cause.
pub struct Ledger {
    metrics: Metrics,
    pipeline: Arc<str>,
}

/// The holder of a message whose sender has had its "ok".
struct Custody {
    ledger: Arc<Ledger>,
    items: u64,
}

/// Room in every branch that will have the message.
pub(crate) struct Rooms(SmallVec<[Option<Reserved>; 2]>);

/// Room in one queue, and its charge to the queue's share of memory.
type Reserved = (Room<Message>, Option<Charge>);

/// Why there are no rooms.
pub(crate) enum Refusal {
    /// A branch says no; the sender is answered with this.
    Now(Outcome),
    /// A branch would have to be waited for.
    Wait,
}

/// Waits for room no longer than anybody waits for the message: it would keep its memory from others for nothing.
pub(crate) async fn by_deadline<T>(
    deadline: Option<Instant>,
    room: impl Future<Output = Result<T, Outcome>>,
) -> Result<T, Outcome> {
    match deadline {
        None => room.await,
        Some(deadline) => tokio::time::timeout_at(deadline, room).await.unwrap_or_else(|_| {
            Err(Outcome::refused(Cause::Deadline, "no room in its pipeline before the deadline"))
        }),
    }
}

// === impl Downstream ===

impl Downstream {
    /// Room in every branch that must have a message of this weight, without waiting.
    pub(crate) fn try_reserve(&self, weight: Weight) -> Result<Rooms, Refusal> {
        match self {
            Self::Cell(cell) => match cell.try_reserve(weight) {
                Ok(room) => Ok(Rooms(smallvec![Some((room, None))])),
                Err(NoRoom::Full) => Err(Refusal::Wait),
                Err(closed) => Err(Refusal::Now(down(cell, closed))),
            },
            Self::Tail(tail) => {
                let mut rooms = SmallVec::new();
                for branch in &tail.branches {
                    match branch.try_reserve(weight) {
                        Ok(room) => rooms.push(Some(room)),
                        Err(refusal) if branch.blocks() => return Err(refusal),
                        Err(refusal) if branch.required => return Err(refusal.at_once()),
                        Err(_) => rooms.push(None),
                    }
                }
                tail.checked(rooms)
            }
        }
    }

    /// Room in every branch that must have a message of this weight, waiting for those that block: first, in an
    /// order that is the same for all who wait, so that no two can each hold what the other waits for.
    pub(crate) async fn reserve(&self, weight: Weight) -> Result<Rooms, Outcome> {
        match self {
            Self::Cell(cell) => match cell.reserve(weight).await {
                Ok(room) => Ok(Rooms(smallvec![Some((room, None))])),
                Err(closed) => Err(down(cell, closed)),
            },
            Self::Tail(tail) => {
                let mut blocking: SmallVec<[usize; 2]> =
                    (0..tail.branches.len()).filter(|index| tail.branches[*index].blocks()).collect();
                blocking.sort_by_key(|index| Arc::as_ptr(tail.branches[*index].cell.quota()));
                let mut rooms: SmallVec<[Option<Reserved>; 2]> = tail.branches.iter().map(|_| None).collect();
                for index in blocking {
                    let branch = &tail.branches[index];
                    rooms[index] = Some(branch.reserve(weight).await.map_err(Refusal::outcome)?);
                }
                for (branch, room) in
                    tail.branches.iter().zip(&mut rooms).filter(|(branch, _)| !branch.blocks())
                {
                    *room = match branch.try_reserve(weight) {
                        Ok(room) => Some(room),
                        Err(refusal) if branch.required => return Err(refusal.outcome()),
                        Err(_) => None,
                    };
                }
                tail.checked(rooms).map_err(Refusal::outcome)
            }
        }
    }

    /// Sends a message into the rooms reserved for it.
    pub(crate) fn send(&self, rooms: Rooms, message: Message) {
        match self {
            Self::Cell(_) => {
                if let Some((room, _)) = rooms.0.into_iter().flatten().next() {
                    room.send(message);
                }
            }
            Self::Tail(tail) => tail.send(rooms, message),
        }
    }
}

// === impl Tail ===

impl Tail {
    /// A message that no branch would have must not be taken, unless each of them was told to drop.
    fn checked(&self, rooms: SmallVec<[Option<Reserved>; 2]>) -> Result<Rooms, Refusal> {
        let drops = || self.branches.iter().all(|branch| branch.on_full == OnFull::Drop);
        if rooms.iter().any(Option::is_some) || drops() {
            Ok(Rooms(rooms))
        } else {
            Err(Refusal::Wait.at_once())
        }
    }

    fn send(&self, rooms: Rooms, message: Message) {
        let Message { payload, context, guard, permit, .. } = message;
        for (branch, room) in self.branches.iter().zip(rooms.0) {
            let Some((room, charge)) = room else {
                branch.enqueue_failed.add(payload.signal(), payload.items());
                continue;
            };
            let guard = match self.ack {
                Ack::Delivered if branch.required => guard.fork(),
                Ack::Delivered | Ack::Accepted => self.ledger.hold(payload.items()),
            };
            room.send(Message {
                payload: payload.clone(),
                context: context.clone(),
                guard,
                permit: permit.clone(),
                charge,
            });
        }
        // Under `accepted` this is the "ok"; under `delivered` the forks decide.
        guard.resolve(Outcome::Delivered);
    }
}

// === impl Branch ===

impl Branch {
    /// Whether a message waits for it. Never for an optional one: it must not hold up the others.
    fn blocks(&self) -> bool {
        self.required && self.on_full == OnFull::Block
    }

    fn try_reserve(&self, weight: Weight) -> Result<Reserved, Refusal> {
        match self.cell.try_reserve(weight) {
            Ok(room) => self.charged(room, weight),
            Err(NoRoom::Full) => Err(Refusal::Wait),
            Err(closed) => Err(Refusal::Now(down(&self.cell, closed))),
        }
    }

    async fn reserve(&self, weight: Weight) -> Result<Reserved, Refusal> {
        match self.cell.reserve(weight).await {
            // Once there is room by count, memory is not waited for: that wait could hold up what would free it.
            Ok(room) => self.charged(room, weight).map_err(Refusal::at_once),
            Err(closed) => Err(Refusal::Now(down(&self.cell, closed))),
        }
    }

    fn charged(&self, room: Room<Message>, weight: Weight) -> Result<Reserved, Refusal> {
        match self.share.try_charge(weight.bytes as u64) {
            Some(charge) => Ok((room, Some(charge))),
            None => Err(Refusal::Wait.at_once()),
        }
    }
}

// === impl Refusal ===

impl Refusal {
    fn at_once(self) -> Self {
        Self::Now(self.outcome())
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Now(outcome) => outcome,
            Self::Wait => Outcome::refused_for(Cause::Overload, "sending queue is full", QUEUE_FULL),
        }
    }
}

fn down(cell: &Cell<Message>, closed: NoRoom) -> Outcome {
    Outcome::refused(Cause::Failure, format!("{}: {closed}", cell.name()))
}

// === impl Ledger ===

impl Ledger {
    /// The ledger of one pipeline.
    pub fn new(pipeline: Arc<str>, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self { metrics: metrics.clone(), pipeline })
    }

    /// A guard for `items` items whose sender has had its "ok": what is lost of them is counted here.
    pub(crate) fn hold(self: &Arc<Self>, items: usize) -> Guard {
        Guard::held(Arc::new(Custody { ledger: self.clone(), items: items as u64 }))
    }

    fn lost(&self, cause: &str) -> Counter {
        self.metrics.counter(
            LOST_ITEMS,
            "Items that were lost after their sender had its ok, by cause.",
            &[("pipeline", &self.pipeline), ("cause", cause)],
        )
    }
}

impl Holder for Custody {
    fn settled(&self, outcome: Outcome) {
        match outcome {
            Outcome::Refused(refusal) => self.ledger.lost(refusal.cause.as_str()).add(self.items),
            Outcome::Rejected(rejection) => self.ledger.lost(rejection.fault.as_str()).add(rejection.items),
            // A policy's drop is no loss, and is counted where the policy is.
            Outcome::Dropped { .. } | Outcome::Delivered => {}
        }
    }
}
