//! What a processor keeps beyond the call that handed it in, as a sampler does: who is owed it, until it is released.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use watershed_delivery::{Cause, Guard, Outcome, Permit};
use watershed_telemetry::{Payload, Signal};

use crate::message::{Context, Message};
use crate::route::{Custody, Ledger};

/// Stands for a part of a message that a processor holds.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "what is held and never released is owed until the stage ends"]
pub struct Hold(u64);

/// What a processor holds. Outlives the incarnation that asked for it.
#[derive(Default)]
pub(crate) struct Holding {
    last: u64,
    /// Parts of the message in hand, with the number of their items.
    asked: Vec<(u64, usize)>,
    /// Parts that are held of the message in hand since it came before, and how many of its items they are.
    joined: (Vec<u64>, usize),
    parts: HashMap<u64, Part>,
    released: VecDeque<Release>,
    /// What waits for room: it is here that a restart finds it.
    pub(crate) going: Option<Message>,
}

struct Part {
    debt: Debt,
    context: Arc<Context>,
    signal: Signal,
    /// How many items are still held.
    items: usize,
    /// What is held is most likely a slice of the message, whose memory it keeps.
    _permit: Permit,
}

/// Who is owed a part.
enum Debt {
    /// Whoever has the message safe, for as long as any of it is owed.
    Kept(Guard),
    /// Nobody but the pipeline's ledger, which counts what is lost of it.
    Ours(Arc<Custody>, Guard),
}

/// What a stage has asked for.
enum Release {
    /// So many items of each of these parts go on, as this.
    Pass(Vec<(u64, usize)>, Payload, Permit),
    /// This is owed, too, for what is still held of a part.
    Join(u64, Guard),
    /// The rest of them is left out.
    End(Vec<u64>),
}

/// What becomes of something that was held.
pub(crate) enum Released {
    /// It goes on, as if it had come from where the first part of it did.
    Pass(Message),
    /// Nothing is held of it any more.
    End {
        /// What is owed for it.
        guard: Guard,
        signal: Signal,
        /// How many items are left out.
        items: usize,
    },
}

// === impl Holding ===

impl Holding {
    pub(crate) fn hold(&mut self, items: usize) -> Hold {
        self.last += 1;
        self.asked.push((self.last, items));
        Hold(self.last)
    }

    /// So many items of each of these go on as `payload`.
    pub(crate) fn pass<'h>(
        &mut self,
        parts: impl IntoIterator<Item = (&'h Hold, usize)>,
        payload: Payload,
        permit: Permit,
    ) {
        let parts = parts.into_iter().map(|(hold, items)| (hold.0, items)).collect();
        self.released.push_back(Release::Pass(parts, payload, permit));
    }

    /// All of these goes on as that, or nothing does.
    pub(crate) fn release(
        &mut self,
        held: impl IntoIterator<Item = Hold>,
        passes: Option<(Payload, Permit)>,
    ) {
        let held: Vec<u64> = held.into_iter().map(|hold| hold.0).collect();
        if let Some((payload, permit)) = passes {
            let all = held.iter().map(|hold| (*hold, usize::MAX)).collect();
            self.released.push_back(Release::Pass(all, payload, permit));
        }
        self.released.push_back(Release::End(held));
    }

    /// The message in hand is one of which these are held: so many of its items are owed with them.
    pub(crate) fn join<'h>(&mut self, held: impl IntoIterator<Item = &'h Hold>, items: usize) {
        self.joined.0.extend(held.into_iter().map(|hold| hold.0));
        self.joined.1 += items;
    }

    /// The [branches](Guard::branches) that are owed a part.
    pub(crate) fn branches(&self, held: &Hold) -> u64 {
        match self.parts.get(&held.0).map(|part| &part.debt) {
            Some(Debt::Kept(guard)) => guard.branches(),
            _ => u64::MAX,
        }
    }

    /// How many items of the message in hand are to be held.
    pub(crate) fn asked(&self) -> usize {
        self.asked.iter().map(|(_, items)| items).sum::<usize>() + self.joined.1
    }

    /// Holds what was asked for of `message`. To a sender that waits this is the "ok".
    pub(crate) fn keep(&mut self, message: &Message, ledger: &Arc<Ledger>) {
        for (held, items) in self.asked.drain(..) {
            let debt = if message.guard.is_kept() {
                let guard = message.guard.fork();
                guard.park();
                Debt::Kept(guard)
            } else {
                let custody = ledger.custody(items);
                Debt::Ours(custody.clone(), Guard::held(custody))
            };
            let (context, _permit) = (message.context.clone(), message.permit.clone());
            let signal = message.payload.signal();
            self.parts.insert(held, Part { debt, context, signal, items, _permit });
        }
        for held in std::mem::take(&mut self.joined).0 {
            let guard = message.guard.fork();
            guard.park();
            // In its turn: what was released before goes on without it.
            self.released.push_back(Release::Join(held, guard));
        }
    }

    /// A call has failed or was broken off: what it asked for is not held, since its message comes again.
    pub(crate) fn forget(&mut self) {
        self.asked.clear();
        self.joined = Default::default();
    }

    /// What was released next.
    pub(crate) fn next(&mut self, ledger: &Arc<Ledger>) -> Option<Released> {
        if let Some(message) = self.going.take() {
            return Some(Released::Pass(message));
        }
        loop {
            match self.released.pop_front()? {
                Release::Pass(parts, payload, permit) => {
                    if let Some((guard, context)) = self.passed(&parts, ledger) {
                        return Some(Released::Pass(Message {
                            payload,
                            context,
                            guard,
                            permit,
                            charge: None,
                        }));
                    }
                }
                Release::Join(held, guard) => {
                    // Of what is not held any more it is refused, and comes again.
                    if let Some(Part { debt: Debt::Kept(debt), .. }) = self.parts.get_mut(&held) {
                        debt.join(guard);
                    }
                }
                Release::End(mut held) => {
                    let Some(next) = held.pop() else { continue };
                    self.released.push_front(Release::End(held));
                    if let Some(Part { debt, signal, items, .. }) = self.parts.remove(&next) {
                        let (Debt::Kept(guard) | Debt::Ours(_, guard)) = debt;
                        return Some(Released::End { guard, signal, items });
                    }
                }
            }
        }
    }

    /// What is owed for so many items of each of these, and where the first of them came from.
    fn passed(&mut self, parts: &[(u64, usize)], ledger: &Arc<Ledger>) -> Option<(Guard, Arc<Context>)> {
        let (mut guards, mut context, mut ours) = (Vec::new(), None, 0);
        for (held, items) in parts {
            let Some(part) = self.parts.get_mut(held) else { continue };
            let items = part.items.min(*items);
            part.items -= items;
            context = context.or_else(|| Some(part.context.clone()));
            match &part.debt {
                Debt::Kept(guard) => guards.push(guard.fork()),
                Debt::Ours(custody, _) => {
                    custody.hand_over(items);
                    ours += items;
                }
            }
        }
        if ours > 0 {
            guards.push(ledger.hold(ours));
        }
        Some((Guard::merge(guards)?, context?))
    }

    /// Refuses what is still held: whoever has it safe hands it out again.
    pub(crate) fn give_back(&mut self) {
        for (_, part) in self.parts.drain() {
            let (Debt::Kept(guard) | Debt::Ours(_, guard)) = part.debt;
            guard.resolve(Outcome::refused(Cause::Shutdown, "held when its stage ended"));
        }
    }
}
