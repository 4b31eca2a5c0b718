//! Guards: the debt of one outcome, carried by a message wherever it goes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use crate::{Cause, Outcome};

/// The debt of exactly one [`Outcome`] for one message, or for one part of it.
///
/// [`Guard::fork`] adds a part (a fan-out branch, a piece of a split); the message ends when its last part
/// does, with all outcomes joined, except that the first refusal ends it at once: the sender will send it all
/// again, so what has not left yet should not (see [`Guard::is_withdrawn`]). [`Guard::merge`] carries the debts
/// of several messages as one. Dropping a guard refuses.
#[derive(Debug)]
#[must_use = "a guard that is dropped refuses its message"]
pub struct Guard {
    /// One entry per message; more than one only after a merge. Empty once resolved.
    roots: SmallVec<[Arc<Root>; 1]>,
    /// It stands for a part of a message alone, which knows its items by other numbers.
    cut: bool,
}

/// Who is told how a message ended, where nobody waits for it: a pipeline's ledger, a journal.
pub trait Holder: Send + Sync {
    /// Called exactly once, by whoever resolves the last part. Must not block or panic.
    fn settled(&self, outcome: Outcome);

    /// Whether it has the message safe, and hands it out again after a refusal.
    fn keeps(&self) -> bool {
        false
    }

    /// Called when somebody holds the message for a while by design, as a sampler does: it is no longer on its way. It
    /// is still owed. May be called more than once, and must not block or panic.
    fn parked(&self) {}

    /// What one branch of a fan-out owes it.
    fn branch(&self, _id: &str) -> Claim {
        Claim::Part
    }

    /// What it knows the message by, where it may hand out the same one more than once, for one branch after the other.
    fn number(&self) -> Option<u64> {
        None
    }

    /// Those who are owed it: bit n for branch n. What is owed to all is owed to whoever there is.
    fn branches(&self) -> u64 {
        u64::MAX
    }
}

/// What one branch of a fan-out owes to whoever waits for a message.
#[derive(Debug)]
pub enum Claim {
    /// A part of the message's own outcome.
    Part,
    /// An outcome beside that of the message: one branch's refusal is then not another's.
    Own(Guard),
    /// Nothing: it has paid before.
    Paid,
}

/// The waiting end of a guard: a future of the message's outcome.
///
/// Dropping it before it is ready withdraws the message: its sender is gone or was answered.
#[derive(Debug)]
#[must_use = "dropping a receipt withdraws its message"]
pub struct Receipt {
    root: Arc<Root>,
}

struct Root {
    deadline: Option<Instant>,
    withdrawn: AtomicBool,
    state: Mutex<State>,
    /// Whom to tell; `None` where a [`Receipt`] waits.
    holder: Option<Arc<dyn Holder>>,
}

struct State {
    /// Parts that have not been resolved.
    pending: usize,
    /// What the resolved parts amount to.
    joined: Outcome,
    /// The answer is fixed; later parts change nothing.
    settled: bool,
    waker: Option<Waker>,
}

// === impl Guard ===

impl Guard {
    /// A guard somebody waits for, until `deadline` if there is one.
    pub fn awaited(deadline: Option<Instant>) -> (Self, Receipt) {
        let root = Root::new(deadline, None);
        (Self { roots: smallvec![root.clone()], cut: false }, Receipt { root })
    }

    /// A guard whose outcome is booked rather than awaited: the sender has had its "ok".
    pub fn held(holder: Arc<dyn Holder>) -> Self {
        Self { roots: smallvec![Root::new(None, Some(holder))], cut: false }
    }

    /// One more part of the same message.
    pub fn fork(&self) -> Self {
        for root in &self.roots {
            root.state.lock().pending += 1;
        }
        Self { roots: self.roots.clone(), cut: self.cut }
    }

    /// The guards of the two halves of a message whose requests are handled on their own.
    pub fn bisect(self) -> (Self, Self) {
        let part = self.cut();
        (part.fork(), part)
    }

    /// The debt of what goes on of a message in pieces. What is [said](crate::Rejection::which) of the items of a piece is
    /// of no use to who has the whole.
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    /// The debt of one branch of a fan-out, as each holder [claims](Claim) it; `None` where nobody does.
    pub fn branch(&self, id: &str) -> Option<Self> {
        let mut roots = SmallVec::new();
        for root in &self.roots {
            match root.holder.as_ref().map_or(Claim::Part, |holder| holder.branch(id)) {
                Claim::Part => {
                    root.state.lock().pending += 1;
                    roots.push(root.clone());
                }
                Claim::Own(mut owed) => roots.append(&mut owed.roots),
                Claim::Paid => {}
            }
        }
        (!roots.is_empty()).then_some(Self { roots, cut: self.cut })
    }

    /// `parts` guards that together are this one. No parts is one part: a debt can not be split away.
    pub fn split(self, parts: usize) -> Vec<Self> {
        let mut all: Vec<Self> = (1..parts).map(|_| self.fork()).collect();
        all.push(self);
        all
    }

    /// The debts of several messages as one; `None` of none.
    pub fn merge(guards: impl IntoIterator<Item = Self>) -> Option<Self> {
        guards.into_iter().reduce(|mut all, next| {
            all.join(next);
            all
        })
    }

    /// Takes the debts of another on, too.
    pub fn join(&mut self, mut other: Self) {
        self.roots.append(&mut other.roots);
    }

    /// The inverse of [`Guard::merge`]: one guard a message.
    pub fn unmerge(mut self) -> Vec<Self> {
        let one = |root| Self { roots: smallvec![root], cut: self.cut };
        std::mem::take(&mut self.roots).into_iter().map(one).collect()
    }

    /// Pays the debt. A merged guard pays the same to each of its messages.
    pub fn resolve(mut self, mut outcome: Outcome) {
        if let Outcome::Rejected(rejection) = &mut outcome
            && self.cut
        {
            rejection.which = None;
        }
        self.pay(&outcome);
    }

    /// Whether every sender has been answered or has gone, so that sending this could only duplicate.
    pub fn is_withdrawn(&self) -> bool {
        self.roots.iter().all(|root| root.withdrawn.load(Ordering::Acquire))
    }

    /// Whether somebody waits for the outcome.
    pub fn is_awaited(&self) -> bool {
        self.roots.iter().any(|root| root.holder.is_none())
    }

    /// Whether all who are owed have the message safe, and hand it out again after a refusal.
    pub fn is_kept(&self) -> bool {
        self.roots.iter().all(|root| root.holder.as_ref().is_some_and(|holder| holder.keeps()))
    }

    /// Tells all who are owed that the message is [held for a while](Holder::parked).
    pub fn park(&self) {
        self.roots.iter().filter_map(|root| root.holder.as_ref()).for_each(|holder| holder.parked());
    }

    /// What the holder of this one message [knows it by](Holder::number), which is no name for the halves of it.
    pub fn number(&self) -> Option<u64> {
        match &self.roots[..] {
            [root] if !self.cut => root.holder.as_ref()?.number(),
            _ => None,
        }
    }

    /// The branches that owe something for it: bit n for branch n. Where those of two messages are the same, they can
    /// go on as one, and nobody is given what he had before or will have again.
    pub fn branches(&self) -> u64 {
        let of = |root: &Arc<Root>| root.holder.as_ref().map_or(u64::MAX, |holder| holder.branches());
        self.roots.iter().map(of).fold(0, |all, of| all | of)
    }

    /// The earliest deadline of those who wait.
    pub fn deadline(&self) -> Option<Instant> {
        self.roots.iter().filter_map(|root| root.deadline).min()
    }

    fn pay(&mut self, outcome: &Outcome) {
        // One by one: should a holder panic, the drop of this guard pays the rest.
        while let Some(root) = self.roots.pop() {
            root.pay(outcome.clone());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.roots.is_empty() {
            self.pay(&Outcome::refused(Cause::Abandoned, "given up unresolved"));
        }
    }
}

// === impl Root ===

impl Root {
    fn new(deadline: Option<Instant>, holder: Option<Arc<dyn Holder>>) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            withdrawn: AtomicBool::new(false),
            state: Mutex::new(State { pending: 1, joined: Outcome::Delivered, settled: false, waker: None }),
            holder,
        })
    }

    fn pay(&self, outcome: Outcome) {
        let refused = matches!(outcome, Outcome::Refused(_));
        let mut state = self.state.lock();
        state.pending -= 1;
        if state.settled {
            return;
        }
        let joined = std::mem::replace(&mut state.joined, Outcome::Delivered).join(outcome);
        // A sender that waits is told of a refusal at once. A holder is told when the last part has ended:
        // nobody sends again for it, so the other parts still count.
        state.settled = state.pending == 0 || (refused && self.holder.is_none());
        state.joined = joined;
        if !state.settled {
            return;
        }
        self.withdrawn.store(refused && self.holder.is_none(), Ordering::Release);
        match &self.holder {
            Some(holder) => {
                let joined = state.joined.clone();
                drop(state);
                holder.settled(joined);
            }
            None => {
                let waker = state.waker.take();
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Root")
            .field("pending", &state.pending)
            .field("joined", &state.joined)
            .field("settled", &state.settled)
            .finish_non_exhaustive()
    }
}

// === impl Receipt ===

impl Receipt {
    /// The outcome, if it is known.
    pub fn outcome(&self) -> Option<Outcome> {
        let state = self.root.state.lock();
        state.settled.then(|| state.joined.clone())
    }
}

impl Future for Receipt {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.root.state.lock();
        if state.settled {
            return Poll::Ready(state.joined.clone());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let state = self.root.state.lock();
        if !state.settled {
            self.root.withdrawn.store(true, Ordering::Release);
        }
    }
}
