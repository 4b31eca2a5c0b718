//! What a processor keeps beyond the call that handed it in, as a sampler does: who is owed it, until it is released.

use std::collections::HashMap;
use std::sync::Arc;

use watershed_delivery::{Cause, Guard, Outcome, Permit};
use watershed_telemetry::Payload;

use crate::message::{Context, Message};
use crate::route::Ledger;

/// Stands for a part of a message that a processor holds.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "what is held and never released is owed until the stage ends"]
pub struct Hold(u64);

/// What a processor holds.
#[derive(Default)]
pub(crate) struct Holding {
    last: u64,
    /// Parts of the message in hand, with the number of their items.
    asked: Vec<(Hold, usize)>,
    parts: HashMap<Hold, Part>,
    released: Vec<(Vec<Hold>, Option<Payload>)>,
}

struct Part {
    guard: Guard,
    context: Arc<Context>,
    items: usize,
    /// What is held is most likely a slice of the message, whose memory it keeps.
    _permit: Permit,
}

/// What goes on, or is left out, of what was held.
pub(crate) struct Release {
    /// What is owed for it.
    pub(crate) guard: Guard,
    /// Where the first part of it came from.
    pub(crate) context: Arc<Context>,
    /// What goes on.
    pub(crate) payload: Option<Payload>,
    /// How many items were held.
    pub(crate) items: usize,
}

// === impl Holding ===

impl Holding {
    pub(crate) fn hold(&mut self, items: usize) -> Hold {
        self.last += 1;
        self.asked.push((Hold(self.last), items));
        Hold(self.last)
    }

    pub(crate) fn release(&mut self, held: Vec<Hold>, payload: Option<Payload>) {
        self.released.push((held, payload));
    }

    /// How many items of the message in hand are to be held.
    pub(crate) fn asked(&self) -> usize {
        self.asked.iter().map(|(_, items)| items).sum()
    }

    /// Holds what was asked for of `message`. To a sender that waits this is the "ok".
    pub(crate) fn keep(&mut self, message: &Message, ledger: &Arc<Ledger>) {
        for (held, items) in self.asked.drain(..) {
            let guard = if message.guard.is_awaited() { ledger.hold(items) } else { message.guard.fork() };
            let (context, _permit) = (message.context.clone(), message.permit.clone());
            self.parts.insert(held, Part { guard, context, items, _permit });
        }
    }

    /// A call has failed: what it asked for is not held, and what it released, which nobody has any more, is refused.
    pub(crate) fn forget(&mut self) {
        self.asked.clear();
        let released = std::mem::take(&mut self.released).into_iter().flat_map(|(held, _)| held);
        for part in released.filter_map(|held| self.parts.remove(&held)).collect::<Vec<_>>() {
            part.guard.resolve(Outcome::refused(Cause::Failure, "its stage failed when it was released"));
        }
    }

    /// What was released since the last call.
    pub(crate) fn released(&mut self) -> Vec<Release> {
        let mut all = Vec::new();
        for (held, payload) in std::mem::take(&mut self.released) {
            let parts: Vec<Part> = held.iter().filter_map(|held| self.parts.remove(held)).collect();
            let items = parts.iter().map(|part| part.items).sum();
            let context = parts.first().map(|part| part.context.clone());
            let guard = Guard::merge(parts.into_iter().map(|part| part.guard));
            if let (Some(guard), Some(context)) = (guard, context) {
                all.push(Release { guard, context, payload, items });
            }
        }
        all
    }

    /// Refuses what is still held: whoever has it safe hands it out again.
    pub(crate) fn give_back(&mut self) {
        for (_, part) in self.parts.drain() {
            part.guard.resolve(Outcome::refused(Cause::Shutdown, "held when its stage ended"));
        }
    }
}
