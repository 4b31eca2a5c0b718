//! Decisions that were made, for spans that come later and for those that come again.

use std::collections::VecDeque;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use watershed_stage::Unfinished;

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
    /// It is noted on disk for messages that came up to this second, if decisions are,
    second: u32,
    /// and from so many seconds before on, perhaps in several notes; from the beginning where that is too long ago.
    before: u16,
    pub(super) sampled: bool,
}

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) sampled: usize,
    pub(super) not_sampled: usize,
}

pub(super) const SECOND: u64 = 1_000_000_000;

/// What must stay is passed over by so many at once.
const TRIES: usize = 2;

// === impl Decided ===

impl Decided {
    pub(super) fn of(&self, hash: u64) -> Option<Decision> {
        self.table.find(hash, |decision| decision.hash == hash).copied()
    }

    /// Remembers a decision that is noted for messages of these times. Those that are too many go, oldest first, but none
    /// that is noted for messages that are `unfinished`: they may come again.
    pub(super) fn add(
        &mut self,
        hash: u64,
        sampled: bool,
        (from, until): (u64, u64),
        capacity: Capacity,
        unfinished: &Unfinished,
    ) {
        let most = if sampled { capacity.sampled } else { capacity.not_sampled };
        if most == 0 && !unfinished.any(from, until) {
            return;
        }
        let decision = Decision::new(hash, sampled, (from, until));
        match self.table.entry(hash, |it| it.hash == hash, |it| it.hash) {
            Entry::Occupied(mut known) => {
                let (first, last) = known.get().noted();
                *known.get_mut() = Decision::new(hash, sampled, (from.min(first), until.max(last)));
            }
            Entry::Vacant(place) => {
                place.insert(decision);
                self.order[usize::from(!sampled)].push_back(hash);
            }
        }
        let order = &mut self.order[usize::from(!sampled)];
        for _ in 0..TRIES {
            if order.len() <= most {
                return;
            }
            let Some(first) = order.pop_front() else { return };
            if let Ok(known) = self.table.find_entry(first, |it| it.hash == first) {
                let (from, until) = known.get().noted();
                match unfinished.any(from, until) {
                    true => order.push_back(first),
                    false => drop(known.remove()),
                }
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

// === impl Decision ===

impl Decision {
    fn new(hash: u64, sampled: bool, (from, until): (u64, u64)) -> Self {
        let second = u32::try_from(until / SECOND).unwrap_or(u32::MAX);
        let before = u64::from(second).saturating_sub(from / SECOND);
        Self { hash, second, before: u16::try_from(before).unwrap_or(u16::MAX), sampled }
    }

    /// When the messages came that it is noted for, or more.
    fn noted(&self) -> (u64, u64) {
        let second = u64::from(self.second);
        let from = if self.before == u16::MAX { 0 } else { second.saturating_sub(self.before.into()) };
        (from * SECOND, (second + 1) * SECOND - 1)
    }

    /// How long before that it was made, in seconds.
    pub(super) fn age(&self, came: u64) -> u64 {
        (came / SECOND).saturating_sub(self.second.into())
    }

    /// Whether it is noted for messages that came then, as notes go back for so long.
    pub(super) fn covers(&self, arrived: u64, back: u64) -> bool {
        let until = u64::from(self.second) * SECOND;
        arrived < until && arrived >= until.saturating_sub(back)
    }
}
