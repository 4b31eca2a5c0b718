//! Decisions that were made, for spans that come later and for those that come again.

use std::collections::VecDeque;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Decisions by the keyed hash of the trace id: small, of a fixed size, and bounded in number by kind.
#[derive(Default)]
pub(super) struct Decided {
    table: HashTable<Decision>,
    /// In the order in which they were made: sampled, and not.
    order: [VecDeque<u64>; 2],
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// Stands for the trace: of a million, the chance that two are one is below one in ten million.
    hash: u64,
    /// It is noted on disk for messages that came up to this second, if decisions are.
    second: u32,
    pub(super) sampled: bool,
}

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) sampled: usize,
    pub(super) not_sampled: usize,
}

const SECOND: u64 = 1_000_000_000;

// === impl Decided ===

impl Decided {
    pub(super) fn of(&self, hash: u64) -> Option<Decision> {
        self.table.find(hash, |decision| decision.hash == hash).copied()
    }

    /// Remembers a decision, noted up to `until`. Those that are too many go, oldest first, but none that is noted for
    /// messages from `oldest` on: they may come again.
    pub(super) fn add(&mut self, hash: u64, sampled: bool, until: u64, capacity: Capacity, oldest: u64) {
        let most = if sampled { capacity.sampled } else { capacity.not_sampled };
        if most == 0 && until < oldest {
            return;
        }
        let decision = Decision { hash, second: u32::try_from(until / SECOND).unwrap_or(u32::MAX), sampled };
        match self.table.entry(hash, |it| it.hash == hash, |it| it.hash) {
            Entry::Occupied(mut known) => {
                let second = known.get().second.max(decision.second);
                *known.get_mut() = Decision { second, ..decision };
            }
            Entry::Vacant(place) => {
                place.insert(decision);
                self.order[usize::from(!sampled)].push_back(hash);
            }
        }
        let order = &mut self.order[usize::from(!sampled)];
        while order.len() > most
            && let Some(first) = order.front().copied()
        {
            if let Ok(known) = self.table.find_entry(first, |it| it.hash == first) {
                if u64::from(known.get().second) + 1 >= oldest / SECOND {
                    return;
                }
                known.remove();
            }
            order.pop_front();
        }
    }
}

// === impl Decision ===

impl Decision {
    /// How long before that it was made, in seconds.
    pub(super) fn age(&self, came: u64) -> u64 {
        (came / SECOND).saturating_sub(self.second.into())
    }

    /// Whether it is noted for messages that came then.
    pub(super) fn covers(&self, arrived: u64) -> bool {
        arrived < u64::from(self.second) * SECOND
    }
}
