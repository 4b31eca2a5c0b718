//! What every message costs, whatever is in it: guards, memory, mailboxes.

use std::hint::black_box;
use std::sync::Arc;

use futures_util::FutureExt;
use watershed_delivery::{Budget, Guard, Holder, Outcome};
use watershed_supervise::{Cell, Limits, Mail, Next, Quota, Weight};

use crate::case::Case;

/// How many messages an operation handles.
const ROUNDS: usize = 64;

/// How many messages make a batch.
const BATCH: usize = 82;

/// As large as a message is: a payload by reference, a guard, a permit, a context.
struct Parcel([u64; 16]);

/// Somebody who is told how a message ended.
struct Ledger;

/// All cases.
pub fn cases() -> Vec<Case> {
    let holder: Arc<dyn Holder> = Arc::new(Ledger);
    let held = move || Guard::held(holder.clone());
    let all = held.clone();
    let budget = Budget::new(64 << 20);
    let share = budget.share(32 << 20);
    vec![
        each("guard: held, paid", "guard", move || held().resolve(Outcome::Delivered)),
        each("guard: awaited, two branches, paid", "guard", two_branches),
        Case::new("guard: a batch's merged and paid", (BATCH, "guard"), move || {
            let merged = Guard::merge((0..BATCH).map(|_| all())).into_iter();
            merged.for_each(|guard| guard.resolve(Outcome::Delivered));
        }),
        each("permit: taken, shared, returned", "permit", move || {
            let permit = budget.try_take(black_box(40_000));
            drop(black_box((permit.clone(), permit)));
        }),
        each("share of a queue: charged, returned", "charge", move || {
            drop(black_box(share.try_charge(black_box(40_000))));
        }),
        hop("mailbox: hop, one queued", 1),
        hop("mailbox: hop, 64 queued", ROUNDS),
    ]
}

/// A case of something that is too short to be an operation.
fn each(name: &'static str, unit: &'static str, mut one: impl FnMut() + 'static) -> Case {
    Case::new(name, (ROUNDS, unit), move || (0..ROUNDS).for_each(|_| one()))
}

/// A sender waits, and a pipeline ends in two exporters.
fn two_branches() {
    let (guard, receipt) = Guard::awaited(None);
    let branches = [guard.branch("one"), guard.branch("two")];
    branches.into_iter().flatten().for_each(|branch| branch.resolve(Outcome::Delivered));
    guard.resolve(Outcome::Delivered);
    black_box(receipt.outcome());
}

/// Reserve, send, next, look, finish, on one thread.
fn hop(name: &'static str, depth: usize) -> Case {
    let limits = Limits { requests: Some(1_000), items: Some(1_000_000), bytes: Some(64 << 20), each: None };
    let cell = Cell::new("hop", Quota::new(limits));
    let mut lease = cell.lend();
    Case::new(name, (ROUNDS, "message"), move || {
        for _ in 0..ROUNDS / depth {
            for _ in 0..depth {
                let parcel = Parcel([7; 16]);
                if let Some(Ok(room)) = cell.reserve(parcel.weight()).now_or_never() {
                    room.send(parcel);
                }
            }
            for _ in 0..depth {
                if let Some(Next::Mail(ticket)) = lease.next().now_or_never() {
                    let _busy = lease.busy();
                    black_box(lease.with(&ticket, |parcel| parcel.0[3]));
                    lease.finish(ticket, Outcome::Delivered);
                }
            }
        }
    })
}

// === impl Parcel ===

impl Mail for Parcel {
    fn weight(&self) -> Weight {
        Weight { requests: 1, items: 100, bytes: 10_000 }
    }

    fn is_withdrawn(&self) -> bool {
        false
    }

    fn bisect(self) -> Result<(Self, Self), Self> {
        Err(self)
    }

    fn settle(self, _: Outcome) {
        black_box(self.0);
    }
}

// === impl Ledger ===

impl Holder for Ledger {
    fn settled(&self, outcome: Outcome) {
        black_box(outcome);
    }
}
