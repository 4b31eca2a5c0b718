//! Where a stage's output goes: on to the next cell of its pipeline, or out to the pipeline's exporters.
//!
//! Sending is in two steps. First room is reserved in every branch that must have the message; only then is any
//! branch given it, and giving can not fail. So a refusal has duplicated nothing, and a panic before the second
//! step has sent nothing.
//!
//! Another plan exchanges ways between two messages ([`Switch`]). Room that was reserved on the old way is sent into on
//! the old way, and who has reserved holds it for so long: what lies behind it can end once nobody does.

mod ledger;
mod tail;

use std::sync::Arc;

use arc_swap::ArcSwap;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;
use watershed_delivery::{Cause, Outcome};
use watershed_supervise::{Cell, NoRoom, Weight};
use watershed_telemetry::Signal;

pub(crate) use self::ledger::Custody;
pub use self::ledger::{LOST_ITEMS, Ledger};
pub use self::tail::{Ack, Branch, Tail};
use self::tail::{Branches, Full, down};
use crate::edge::{Edge, QUEUE_FULL};
use crate::message::{Message, weight_of};
use crate::metrics::by_signal;
use crate::registry::Env;
use crate::settings::OnFull;

/// What lies behind a stage.
#[derive(Clone)]
pub enum Downstream {
    /// The next processor of the pipeline, by its id.
    Cell(Arc<str>, Cell<Message>),
    /// The pipeline's exporters.
    Tail(Arc<Tail>),
}

/// What another plan exchanges while stages run: a [`Way`], or the [`Entries`] of a receiver. Clones are the same one.
pub struct Switch<T>(Arc<ArcSwap<T>>);

/// A pipeline as a receiver sees it.
pub struct Entry {
    pipeline: Arc<str>,
    /// To its first stage.
    way: Arc<Way>,
}

/// The pipelines that a receiver feeds, by signal.
#[derive(Default)]
pub struct Entries([Vec<Entry>; 3]);

/// The way on as the stage sees it that it leaves, with the arrows to what lies behind.
pub struct Way {
    downstream: Downstream,
    /// In the order of the branches.
    edges: Vec<Edge>,
}

/// Room on a way in every branch that will have the message; why not in each of the others.
#[must_use = "room that is dropped is returned"]
pub(crate) struct Rooms {
    way: Arc<Way>,
    branches: Branches,
}

/// Why there are no rooms.
pub(crate) enum Refusal {
    /// A branch says no; the sender is answered with this.
    Now(Outcome),
    /// A branch would have to be waited for.
    Wait,
}

/// Waits for room no longer than anybody waits for the message: it would keep its memory from others for nothing.
/// Calls `late` where that is why there is none.
pub(crate) async fn by_deadline<T>(
    deadline: Option<Instant>,
    room: impl Future<Output = Result<T, Outcome>>,
    late: impl FnOnce(),
) -> Result<T, Outcome> {
    match deadline {
        None => room.await,
        Some(deadline) => tokio::time::timeout_at(deadline, room).await.unwrap_or_else(|_| {
            late();
            Err(Outcome::refused(Cause::Deadline, "no room in its pipeline before the deadline"))
        }),
    }
}

// === impl Switch ===

impl<T> Switch<T> {
    /// What is in force. Whoever is about to use it for a message should hold it until that is done.
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts another in force; what was before. It is in use for as long as anybody else holds it.
    pub fn exchange(&self, with: T) -> Arc<T> {
        self.0.swap(Arc::new(with))
    }

    /// Looks at what is in force.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.load())
    }
}

impl<T> From<T> for Switch<T> {
    fn from(first: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }
}

impl<T> Clone for Switch<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl Entry ===

impl Entry {
    /// The pipeline of this id, from the receiver that `env` describes; `downstream` is its first stage.
    pub fn new(pipeline: Arc<str>, downstream: Downstream, env: &Env) -> Self {
        let way = Arc::new(Way::new(downstream, env, &pipeline));
        Self { pipeline, way }
    }

    /// The pipeline's id.
    pub(crate) fn pipeline(&self) -> &Arc<str> {
        &self.pipeline
    }

    pub(crate) fn way(&self) -> &Arc<Way> {
        &self.way
    }
}

// === impl Entries ===

impl Entries {
    /// These pipelines, by signal in the order of [`Signal::ALL`].
    pub fn new(by_signal: [Vec<Entry>; 3]) -> Self {
        Self(by_signal)
    }

    /// The pipelines of `signal`.
    pub(crate) fn of(&self, signal: Signal) -> &[Entry] {
        by_signal::<Vec<Entry>>(&self.0, signal)
    }
}

// === impl Way ===

impl Way {
    /// The way from the stage that `env` describes.
    pub fn new(downstream: Downstream, env: &Env, pipeline: &Arc<str>) -> Self {
        let edge = |to: &Arc<str>| Edge::new(&env.metrics, pipeline, &env.id, to);
        let edges = match &downstream {
            Downstream::Cell(id, _) => vec![edge(id)],
            Downstream::Tail(tail) => tail.branches.iter().map(|branch| edge(&branch.id)).collect(),
        };
        Self { downstream, edges }
    }

    /// Room in every branch that must have a message of this weight, without waiting.
    pub(crate) fn try_reserve(self: &Arc<Self>, weight: Weight) -> Result<Rooms, Refusal> {
        match &self.downstream {
            Downstream::Cell(_, cell) => match cell.try_reserve(weight) {
                Ok(room) => Ok(self.rooms(smallvec![Ok((room, None))])),
                Err(NoRoom::Full) => Err(Refusal::Wait),
                Err(closed) => Err(Refusal::Now(self.refused(0, weight, Full::Down(down(cell, closed))))),
            },
            Downstream::Tail(tail) => {
                let mut rooms = SmallVec::new();
                for (index, branch) in tail.branches.iter().enumerate() {
                    match branch.try_reserve(weight) {
                        Ok(room) => rooms.push(Ok(room)),
                        Err(Full::Queue) if branch.blocks() => return Err(Refusal::Wait),
                        Err(full) if branch.required => {
                            return Err(Refusal::Now(self.refused(index, weight, full)));
                        }
                        Err(full) => rooms.push(Err(full.reason())),
                    }
                }
                self.checked(tail, rooms, weight).map_err(Refusal::Now)
            }
        }
    }

    /// Room in every branch that must have a message of this weight, waiting for those that block: first, in an
    /// order that is the same for all who wait, so that no two can each hold what the other waits for.
    pub(crate) async fn reserve(self: &Arc<Self>, weight: Weight) -> Result<Rooms, Outcome> {
        match &self.downstream {
            Downstream::Cell(_, cell) => match cell.reserve(weight).await {
                Ok(room) => Ok(self.rooms(smallvec![Ok((room, None))])),
                Err(closed) => Err(self.refused(0, weight, Full::Down(down(cell, closed)))),
            },
            Downstream::Tail(tail) => {
                let mut blocking: SmallVec<[usize; 2]> =
                    (0..tail.branches.len()).filter(|index| tail.branches[*index].blocks()).collect();
                blocking.sort_by_key(|index| Arc::as_ptr(tail.branches[*index].cell.quota()));
                let mut rooms: SmallVec<[_; 2]> = tail.branches.iter().map(|_| Err(QUEUE_FULL)).collect();
                for index in blocking {
                    let room = tail.branches[index].reserve(weight).await;
                    rooms[index] = Ok(room.map_err(|full| self.refused(index, weight, full))?);
                }
                for (index, branch) in tail.branches.iter().enumerate().filter(|(_, branch)| !branch.blocks())
                {
                    rooms[index] = match branch.try_reserve(weight) {
                        Ok(room) => Ok(room),
                        Err(full) if branch.required => return Err(self.refused(index, weight, full)),
                        Err(full) => Err(full.reason()),
                    };
                }
                self.checked(tail, rooms, weight)
            }
        }
    }

    /// A message that no branch would have must not be taken, unless each of them was told to drop.
    fn checked(self: &Arc<Self>, tail: &Tail, rooms: Branches, weight: Weight) -> Result<Rooms, Outcome> {
        let drops = || tail.branches.iter().all(|branch| branch.on_full == OnFull::Drop);
        if rooms.iter().any(Result::is_ok) || drops() {
            return Ok(self.rooms(rooms));
        }
        for (edge, room) in self.edges.iter().zip(rooms) {
            edge.refused(weight.items, room.err().unwrap_or(QUEUE_FULL));
        }
        Err(Full::Queue.outcome())
    }

    fn rooms(self: &Arc<Self>, branches: Branches) -> Rooms {
        Rooms { way: self.clone(), branches }
    }

    /// Gives a [kept](Guard::is_kept) message to whoever has room for it now. Nothing waits, and nobody goes without
    /// because of another: what a branch has no room for is refused to its keeper, who has it safe.
    pub fn offer(&self, message: Message) {
        let weight = weight_of(&message.payload);
        match &self.downstream {
            Downstream::Cell(_, cell) => match cell.try_reserve(weight) {
                Ok(room) => self.send(smallvec![Ok((room, None))], message),
                Err(no_room) => {
                    let full = match no_room {
                        NoRoom::Full => Full::Queue,
                        closed @ NoRoom::Closed(_) => Full::Down(down(cell, closed)),
                    };
                    message.guard.resolve(self.refused(0, weight, full));
                }
            },
            Downstream::Tail(tail) => {
                for (index, branch) in tail.branches.iter().enumerate() {
                    let Some(guard) = message.guard.branch(&branch.id) else { continue };
                    match branch.try_reserve(weight) {
                        Ok(reserved) => branch.send(&self.edges[index], reserved, &message, guard),
                        Err(full) if branch.required => guard.resolve(self.refused(index, weight, full)),
                        Err(full) => {
                            branch.go_without(&self.edges[index], &message.payload, full.reason());
                            guard.resolve(Outcome::Dropped { items: weight.items as u64 });
                        }
                    }
                }
                message.guard.resolve(Outcome::Delivered);
            }
        }
    }

    /// Whether a pipeline ends here.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self.downstream, Downstream::Tail(_))
    }

    fn send(&self, rooms: Branches, message: Message) {
        match &self.downstream {
            Downstream::Cell(..) => {
                if let Some((edge, (room, _))) = self.edges.iter().zip(rooms.into_iter().flatten()).next() {
                    edge.passed(message.payload.items());
                    room.send(message);
                }
            }
            Downstream::Tail(tail) => tail.send(&self.edges, rooms, message),
        }
    }

    /// Books items that came this far and do not go on.
    pub(crate) fn ended(&self, items: usize, outcome: &Outcome) {
        self.edges.iter().for_each(|edge| edge.ended(items, outcome));
    }

    /// Books items that were waiting for room when their deadline passed.
    pub(crate) fn late(&self, items: usize) {
        let waits = |index: usize| match &self.downstream {
            Downstream::Cell(..) => true,
            Downstream::Tail(tail) => tail.branches.get(index).is_some_and(Branch::blocks),
        };
        for (_, edge) in self.edges.iter().enumerate().filter(|(index, _)| waits(*index)) {
            edge.refused(items, Cause::Deadline.as_str());
        }
    }

    /// Books that one branch has no room for what it must have; what its sender is told.
    fn refused(&self, index: usize, weight: Weight, full: Full) -> Outcome {
        if let Some(edge) = self.edges.get(index) {
            edge.refused(weight.items, full.reason());
        }
        full.outcome()
    }
}

/// Counts what the cell of a processor ends by itself, on the arrows by which it would have gone on.
pub fn processor_ended(onward: Switch<Way>) -> impl Fn(&Message, &Outcome) + Send + Sync + use<> {
    move |message, outcome| onward.look(|way| way.ended(message.payload.items(), outcome))
}

// === impl Rooms ===

impl Rooms {
    /// Sends a message into the rooms reserved for it.
    pub(crate) fn send(self, message: Message) {
        self.way.send(self.branches, message);
    }
}
