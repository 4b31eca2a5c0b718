//! The fixed thing: what senders hold, whoever serves it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use watershed_delivery::{Cause, Outcome, Refusal};

use crate::lane::{Entry, Lane, Trial};
use crate::lease::{Herald, Pulse};
use crate::quota::Place;
use crate::{Exit, Grant, Lease, Mail, Observation, Quota, State, Weight};

/// How often a lane is swept for the sake of senders who find no room.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);

/// An address with a bounded lane of mail behind it. Clones are the same cell.
pub struct Cell<M> {
    inner: Arc<Inner<M>>,
}

struct Inner<M> {
    name: Arc<str>,
    quota: Arc<Quota>,
    /// Mirrors the lane's state, so that senders need no lock to be turned away.
    takes_mail: AtomicBool,
    blocked_micros: AtomicU64,
    pulse: Arc<Pulse>,
    /// When a sender who found no room last had the lane swept.
    swept: Mutex<Option<Instant>>,
    lane: Mutex<Lane<M>>,
    /// Told of what the cell ends by itself.
    ended: OnceLock<Box<Ended<M>>>,
}

/// Hears of a message and of the outcome it is about to have.
type Ended<M> = dyn Fn(&M, &Outcome) + Send + Sync;

/// Room for one message, held from the reservation until the message is finished. Returned on drop.
#[must_use = "room that is dropped is returned"]
pub struct Room<M> {
    cell: Cell<M>,
    grant: Grant,
}

/// A future of [`Room`]; served in order of arrival, and safe to drop at any time.
#[must_use = "futures do nothing unless polled"]
pub struct Reserve<M> {
    cell: Cell<M>,
    weight: Weight,
    place: Option<Place>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Not now.
    #[error("the queue is full")]
    Full,
    /// Not while the cell is in this state.
    #[error("the stage is {0}")]
    Closed(State),
}

// === impl Cell ===

impl<M> Clone for Cell<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<M: Mail> Cell<M> {
    /// An empty cell, bounded by `quota`. It takes mail before it is served.
    pub fn new(name: impl Into<Arc<str>>, quota: Arc<Quota>) -> Self {
        Self {
            inner: Arc::new(Inner {
                name: name.into(),
                quota,
                takes_mail: AtomicBool::new(true),
                blocked_micros: AtomicU64::new(0),
                pulse: Arc::default(),
                swept: Mutex::default(),
                lane: Mutex::new(Lane::new()),
                ended: OnceLock::new(),
            }),
        }
    }

    /// Has `ended` told of every message that the cell ends by itself: poison, withdrawn mail, what it held when
    /// it was torn down. What a stage finishes is the stage's to count. Only the first call counts.
    pub fn on_ended(&self, ended: impl Fn(&M, &Outcome) + Send + Sync + 'static) {
        let _ = self.inner.ended.set(Box::new(ended));
    }

    /// The stage's name.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// The bound of this cell, and of those that share it.
    pub fn quota(&self) -> &Arc<Quota> {
        &self.inner.quota
    }

    /// Room for `weight`, if there is room and nobody waits for it.
    pub fn try_reserve(&self, weight: Weight) -> Result<Room<M>, NoRoom> {
        self.check_open()?;
        let grant = self.inner.quota.try_take(weight).or_else(|| {
            // A lane full of mail that nobody waits for is not full.
            if self.sweep_if_due() { self.inner.quota.try_take(weight) } else { None }
        });
        let grant = grant.ok_or(NoRoom::Full)?;
        Ok(Room { cell: self.clone(), grant })
    }

    /// Room for `weight`, once there is. Never [`NoRoom::Full`].
    pub fn reserve(&self, weight: Weight) -> Reserve<M> {
        Reserve { cell: self.clone(), weight, place: None }
    }

    /// Room made of a grant that was taken for the message before, such as that of another cell's
    /// [`Taken`](crate::Taken): what moves between cells with one quota needs no second grant, and is never
    /// without one.
    pub fn adopt(&self, grant: Grant) -> Room<M> {
        Room { cell: self.clone(), grant }
    }

    /// How many messages wait or are in hand.
    pub fn depth(&self) -> usize {
        self.inner.lane.lock().depth()
    }

    /// The cell at this moment.
    pub fn observe(&self) -> Observation {
        let lane = self.inner.lane.lock();
        Observation {
            name: self.inner.name.clone(),
            state: lane.state,
            generation: lane.generation,
            restarts: lane.restarts,
            last_failure: lane.last_failure.clone(),
            held: lane.held(),
            used: self.inner.quota.used(),
            limits: self.inner.quota.limits(),
            queued: lane.queue.len(),
            in_hand: lane.slots.len(),
            suspects: lane.suspects.len(),
            handled: lane.handled,
            poisoned: lane.poisoned,
            refused: lane.refused,
            withdrawn: lane.withdrawn,
            blocked_micros: self.inner.blocked_micros.load(Ordering::Relaxed),
        }
    }

    /// Where the cell is in its life.
    pub fn state(&self) -> State {
        self.inner.lane.lock().state
    }

    /// Books the time this cell's stage spent waiting for room downstream.
    pub fn add_blocked(&self, blocked: Duration) {
        let micros = u64::try_from(blocked.as_micros()).unwrap_or(u64::MAX);
        self.inner.blocked_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Lends the receiving half to a new incarnation; one that still holds it is fenced off, and what it had
    /// in hand is handed out again. The [`Supervisor`](crate::Supervisor) does this; tests may.
    pub fn lend(&self) -> Lease<M> {
        self.lend_to(None)
    }

    pub(crate) fn lend_to(&self, herald: Option<Herald>) -> Lease<M> {
        let before = self.inner.lane.lock().generation;
        self.recover(before, Exit::Aborted, "replaced by another incarnation");
        let mut lane = self.inner.lane.lock();
        lane.generation += 1;
        lane.live = !lane.state.is_final();
        lane.told = false;
        lane.handled_before = lane.handled;
        if lane.live {
            lane.closed = None;
            lane.state = if lane.drain.is_some() { State::Draining } else { State::Starting };
            self.inner.takes_mail.store(true, Ordering::SeqCst);
        }
        Lease::new(self.clone(), lane.generation, herald)
    }

    /// Asks the present incarnation, and every later one, to finish what the lane holds and end.
    pub fn drain(&self, deadline: Instant) {
        let mut lane = self.inner.lane.lock();
        if lane.state.is_final() {
            return;
        }
        lane.drain = Some(deadline);
        lane.told = false;
        lane.state = State::Draining;
        let waker = lane.waker.take();
        drop(lane);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tears the cell down: everything it holds is refused, and whoever waits for room is told.
    pub fn close(&self, reason: &str) {
        self.shut(
            State::Stopped,
            Refusal { cause: Cause::Shutdown, reason: reason.to_owned().into(), retry_after: None },
        );
    }

    /// Refuses everything the cell holds and will be sent, for good or until it is lent again. Returns how many
    /// messages it held.
    pub(crate) fn shut(&self, state: State, refusal: Refusal) -> usize {
        let mut lane = self.inner.lane.lock();
        if lane.state.is_final() {
            return 0;
        }
        self.inner.takes_mail.store(false, Ordering::SeqCst);
        lane.state = state;
        lane.live = false;
        lane.closed = Some(refusal.clone());
        let all = lane.take_all();
        let held = all.len();
        lane.refused += held as u64;
        let waker = lane.waker.take();
        drop(lane);
        for entry in all {
            self.end(entry, refusal.clone().into());
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        self.inner.quota.wake_all();
        held
    }

    /// Whether nothing waits to be handed out.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.lane.lock().is_idle()
    }

    /// Settles what was withdrawn. Not under the lock.
    pub(crate) fn cut(&self, withdrawn: Vec<Entry<M>>) {
        for entry in withdrawn {
            self.end(entry, Outcome::refused(Cause::Withdrawn, "nobody waits for it any more"));
        }
    }

    /// Ends a message that its stage has not finished. Not under the lock.
    pub(crate) fn end(&self, entry: Entry<M>, outcome: Outcome) {
        if let Some(ended) = self.inner.ended.get() {
            ended(&entry.mail, &outcome);
        }
        entry.settle(outcome);
    }

    fn check_open(&self) -> Result<(), NoRoom> {
        if self.inner.takes_mail.load(Ordering::SeqCst) { Ok(()) } else { Err(NoRoom::Closed(self.state())) }
    }

    /// Sweeps, unless that was done a moment ago: to look through a full lane for each of those who are turned
    /// away would hold it up just when it has the most to do.
    fn sweep_if_due(&self) -> bool {
        let Some(mut swept) = self.inner.swept.try_lock() else { return false };
        let now = Instant::now();
        if swept.is_some_and(|last| now.saturating_duration_since(last) < SWEEP_PAUSE) {
            return false;
        }
        *swept = Some(now);
        drop(swept);
        self.sweep()
    }

    /// Ends withdrawn mail that waits in the lane, and returns its room; whether there was any.
    pub(crate) fn sweep(&self) -> bool {
        let withdrawn = self.inner.lane.lock().take_withdrawn();
        let any = !withdrawn.is_empty();
        self.cut(withdrawn);
        any
    }
}

impl<M> Cell<M> {
    pub(crate) fn lane(&self) -> &Mutex<Lane<M>> {
        &self.inner.lane
    }

    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.inner.pulse
    }
}

impl<M> std::fmt::Debug for Cell<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cell").field(&self.inner.name).finish()
    }
}

// === impl Room ===

impl<M: Mail> Room<M> {
    /// Puts `mail` into the lane. Never waits, never fails: a cell that was torn down meanwhile refuses it.
    pub fn send(self, mail: M) {
        let Self { cell, grant } = self;
        let entry = Entry { mail, grant, trial: Trial::default() };
        let mut lane = cell.inner.lane.lock();
        if let Some(refusal) = &lane.closed {
            let outcome = refusal.clone().into();
            lane.refused += 1;
            drop(lane);
            return cell.end(entry, outcome);
        }
        lane.queue.push_back(entry);
        let waker = lane.waker.take();
        drop(lane);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The cell it is room in.
    pub fn cell(&self) -> &Cell<M> {
        &self.cell
    }
}

impl<M> std::fmt::Debug for Room<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("cell", &self.cell).field("grant", &self.grant).finish()
    }
}

// === impl Reserve ===

impl<M: Mail> Future for Reserve<M> {
    type Output = Result<Room<M>, NoRoom>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let grant = match &mut this.place {
            Some(place) => place.poll(cx.waker()),
            None => match this.cell.try_reserve(this.weight) {
                Ok(room) => return Poll::Ready(Ok(room)),
                Err(NoRoom::Closed(state)) => return Poll::Ready(Err(NoRoom::Closed(state))),
                Err(NoRoom::Full) => match this.cell.inner.quota.take_or_queue(this.weight, cx.waker()) {
                    Ok(grant) => Some(grant),
                    Err(place) => {
                        this.place = Some(place);
                        None
                    }
                },
            },
        };
        // Looked at only after queueing: a tear-down either is seen here, or sees the waiter and wakes it.
        if let Err(closed) = this.cell.check_open() {
            this.place = None;
            return Poll::Ready(Err(closed));
        }
        match grant {
            Some(grant) => {
                this.place = None;
                Poll::Ready(Ok(Room { cell: this.cell.clone(), grant }))
            }
            None => Poll::Pending,
        }
    }
}

impl<M> std::fmt::Debug for Reserve<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserve").field("cell", &self.cell).field("weight", &self.weight).finish()
    }
}
