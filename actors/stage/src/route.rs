//! Where a stage's output goes: on to the next cell of its pipeline, or out to the pipeline's exporters.
//!
//! Sending is in two steps. First room is reserved in every branch that must have the message; only then is any
//! branch given it, and giving can not fail. So a refusal has duplicated nothing, and a panic before the second
//! step has sent nothing.
//!
//! Another plan exchanges ways between two messages ([`Switch`]). Room that was reserved on the old way is sent into on
//! the old way, and who has reserved holds it for so long: what lies behind it can end once nobody does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use smallvec::{SmallVec, smallvec};
use tokio::time::Instant;
use watershed_delivery::{Cause, Charge, Guard, Holder, Outcome, Share};
use watershed_supervise::{Cell, NoRoom, Room, Weight};
use watershed_telemetry::{Payload, Signal, retain};

use crate::edge::{DISK, Edge, MEMORY, QUEUE_FULL};
use crate::extension::{DeadLetter, Letters};
use crate::message::{Context, Message, OVERHEAD, weight_of};
use crate::metrics::{Counter, Metrics, PerSignal, by_signal};
use crate::registry::{Env, StageSpec};
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

/// The counter of what was lost after its sender had its "ok".
pub const LOST_ITEMS: &str = "watershed_pipeline_lost_items";

/// A pipeline's losses after an "ok", by cause.
pub struct Ledger {
    metrics: Metrics,
    pipeline: Arc<str>,
    /// Where that is kept which nobody will ever take.
    letters: Option<Arc<dyn Letters>>,
}

/// The holder of a message whose sender has had its "ok".
pub(crate) struct Custody {
    ledger: Arc<Ledger>,
    items: AtomicU64,
    /// The message, and whom it is for, where dead letters are kept. It has the memory of the message that it is held
    /// for.
    letter: Option<(Arc<str>, Payload, Arc<Context>)>,
}

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

/// By branch.
type Branches = SmallVec<[Result<Reserved, &'static str>; 2]>;

/// Room in one queue, and its charge to the queue's share of memory.
type Reserved = (Room<Message>, Option<Charge>);

/// Why a branch has no room.
enum Full {
    /// Its queue is full.
    Queue,
    /// Its share of memory is used up.
    Memory,
    /// Its disk is.
    Disk,
    /// It is down.
    Down(Outcome),
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

// === impl Tail ===

impl Tail {
    fn send(&self, edges: &[Edge], rooms: Branches, message: Message) {
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
    fn blocks(&self) -> bool {
        self.required && self.on_full == OnFull::Block
    }

    /// Sends it a copy of a message, owed to `guard`.
    fn send(&self, edge: &Edge, (room, charge): Reserved, message: &Message, guard: Guard) {
        edge.passed(message.payload.items());
        room.send(Message {
            payload: message.payload.clone(),
            context: message.context.clone(),
            guard,
            permit: message.permit.clone(),
            charge,
        });
    }

    fn go_without(&self, edge: &Edge, payload: &Payload, reason: &'static str) {
        self.enqueue_failed.add(payload.signal(), payload.items());
        edge.dropped(payload.items(), reason);
    }

    fn try_reserve(&self, weight: Weight) -> Result<Reserved, Full> {
        if self.store.as_ref().is_some_and(|store| store.is_full()) {
            return Err(Full::Disk);
        }
        match self.cell.try_reserve(weight) {
            Ok(room) => self.charged(room, weight),
            Err(NoRoom::Full) => Err(Full::Queue),
            Err(closed) => Err(Full::Down(down(&self.cell, closed))),
        }
    }

    async fn reserve(&self, weight: Weight) -> Result<Reserved, Full> {
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
    fn reason(&self) -> &'static str {
        match self {
            Self::Queue => QUEUE_FULL,
            Self::Memory => MEMORY,
            Self::Disk => DISK,
            Self::Down(Outcome::Refused(refusal)) => refusal.cause.as_str(),
            Self::Down(_) => Cause::Failure.as_str(),
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Queue | Self::Memory => {
                Outcome::refused_for(Cause::Overload, "sending queue is full", QUEUE_WAIT)
            }
            Self::Disk => Outcome::refused(Cause::Overload, "sending queue is full on disk"),
            Self::Down(outcome) => outcome,
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
        Self::with_letters(pipeline, metrics, None)
    }

    /// The ledger of one pipeline that keeps dead letters.
    pub fn with_letters(
        pipeline: Arc<str>,
        metrics: &Metrics,
        letters: Option<Arc<dyn Letters>>,
    ) -> Arc<Self> {
        let ledger = Self { metrics: metrics.clone(), pipeline, letters };
        if ledger.letters.is_some() {
            // There before the first of them, so that whoever watches for one sees that there are none.
            ledger.dead("rejected");
        }
        Arc::new(ledger)
    }

    /// A guard for `items` items whose sender has had its "ok": what is lost of them is counted here.
    pub(crate) fn hold(self: &Arc<Self>, items: usize) -> Guard {
        Guard::held(self.custody(items))
    }

    /// The same, to be held for a while and [handed over](Custody::hand_over) in parts.
    pub(crate) fn custody(self: &Arc<Self>, items: usize) -> Arc<Custody> {
        Arc::new(Custody { ledger: self.clone(), items: AtomicU64::new(items as u64), letter: None })
    }

    /// The same for a message on its way to the exporter `to`.
    fn hold_for(self: &Arc<Self>, to: &Arc<str>, message: &Message) -> Guard {
        let letter = || (to.clone(), message.payload.clone(), message.context.clone());
        let letter = self.letters.as_ref().map(|_| letter());
        let items = AtomicU64::new(message.payload.items() as u64);
        Guard::held(Arc::new(Custody { ledger: self.clone(), items, letter }))
    }

    fn dead(&self, fault: &str) -> Counter {
        self.metrics.counter(
            "watershed_pipeline_dead_letter_items",
            "Items kept as dead letters, since nobody will ever take them, by cause.",
            &[("pipeline", &self.pipeline), ("cause", fault)],
        )
    }

    /// What is lost for this cause.
    pub fn lost(&self, cause: &str) -> Counter {
        self.metrics.counter(
            LOST_ITEMS,
            "Items that were lost after their sender had its ok, by cause.",
            &[("pipeline", &self.pipeline), ("cause", cause)],
        )
    }
}

impl Custody {
    /// So many items are somebody else's from now on.
    pub(crate) fn hand_over(&self, items: usize) {
        self.items.fetch_sub(items as u64, Ordering::Relaxed);
    }
}

impl Holder for Custody {
    fn settled(&self, outcome: Outcome) {
        match outcome {
            Outcome::Refused(refusal) => {
                self.ledger.lost(refusal.cause.as_str()).add(self.items.load(Ordering::Relaxed));
            }
            Outcome::Rejected(rejection) => {
                let (fault, items) = (rejection.fault.as_str(), rejection.items);
                let kept = match (&self.ledger.letters, self.letter.clone()) {
                    (Some(letters), Some((to, payload, context))) => {
                        let payload = match &rejection.which {
                            Some(which) => retain::only(&payload, which),
                            None => payload,
                        };
                        letters.post(DeadLetter { to, payload, context, rejection: *rejection })
                    }
                    _ => false,
                };
                if kept { self.ledger.dead(fault) } else { self.ledger.lost(fault) }.add(items);
            }
            // A policy's drop is no loss, and is counted where the policy is.
            Outcome::Dropped { .. } | Outcome::Delivered => {}
        }
    }
}
