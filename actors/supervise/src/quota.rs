//! The bound of a lane: a weighted semaphore in several dimensions.
//!
//! The copies of one component share one quota, whatever thread they live on, so the bound is the component's
//! and not each copy's. Waiters are served strictly in order: whoever can not be served blocks those behind, so
//! that a heavy message is not starved by light ones.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;

use crate::Weight;

/// The most that may be held at once, in each dimension; `None` is unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests.
    pub requests: Option<usize>,
    /// Spans, data points or log records.
    pub items: Option<usize>,
    /// Bytes.
    pub bytes: Option<usize>,
    /// What one message counts at the most in the dimension that is bounded by items or bytes, so that there is always
    /// room for a number of them.
    pub each: Option<usize>,
}

/// A bound shared by the lanes of one component.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    state: Mutex<State>,
}

/// A part of a [`Quota`], returned on drop.
#[derive(Debug)]
#[must_use = "a grant that is dropped is returned"]
pub struct Grant {
    quota: Arc<Quota>,
    weight: Weight,
}

#[derive(Debug, Default)]
struct State {
    used: Weight,
    /// In order of arrival, hence of `id`. A waiter that is no longer listed has been granted its weight.
    waiters: VecDeque<Waiter>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    weight: Weight,
    waker: Waker,
}

/// A place in the queue of a quota: either still waiting, or granted and not yet collected.
///
/// Dropping it leaves the queue, or returns what was granted meanwhile.
#[derive(Debug)]
pub(crate) struct Place {
    quota: Arc<Quota>,
    weight: Weight,
    id: u64,
    collected: bool,
}

// === impl Limits ===

impl Limits {
    /// What a message counts.
    fn counted(&self, weight: Weight) -> Weight {
        let Some(each) = self.each else { return weight };
        let counted = |limit: Option<usize>, size: usize| limit.map_or(size, |_| size.min(each));
        Weight {
            items: counted(self.items, weight.items),
            bytes: counted(self.bytes, weight.bytes),
            ..weight
        }
    }

    /// Whether `weight` fits beside `used`. What is alone in a dimension always fits: a message that was
    /// admitted must have a way through, however large it is.
    fn admit(&self, used: Weight, weight: Weight) -> bool {
        fn fits(limit: Option<usize>, used: usize, weight: usize) -> bool {
            limit.is_none_or(|limit| weight == 0 || used == 0 || used.saturating_add(weight) <= limit)
        }
        fits(self.requests, used.requests, weight.requests)
            && fits(self.items, used.items, weight.items)
            && fits(self.bytes, used.bytes, weight.bytes)
    }
}

// === impl Quota ===

impl Quota {
    /// A quota of which nothing is used.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// What is held now.
    pub fn used(&self) -> Weight {
        self.state.lock().used
    }

    /// What may be held at most.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes `weight` if it fits and nobody waits.
    pub fn try_take(self: &Arc<Self>, weight: Weight) -> Option<Grant> {
        let weight = self.limits.counted(weight);
        let mut state = self.state.lock();
        if !state.waiters.is_empty() || !self.limits.admit(state.used, weight) {
            return None;
        }
        state.used = state.used + weight;
        drop(state);
        Some(Grant { quota: self.clone(), weight })
    }

    /// Takes `weight`, or a place in the queue for it.
    pub(crate) fn take_or_queue(self: &Arc<Self>, weight: Weight, waker: &Waker) -> Result<Grant, Place> {
        let weight = self.limits.counted(weight);
        let mut state = self.state.lock();
        if state.waiters.is_empty() && self.limits.admit(state.used, weight) {
            state.used = state.used + weight;
            drop(state);
            return Ok(Grant { quota: self.clone(), weight });
        }
        let id = state.arrivals;
        state.arrivals += 1;
        state.waiters.push_back(Waiter { id, weight, waker: waker.clone() });
        Err(Place { quota: self.clone(), weight, id, collected: false })
    }

    /// Wakes everyone who waits, to look again whether what they wait for still exists.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<Waker> =
            self.state.lock().waiters.iter().map(|waiter| waiter.waker.clone()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn release(&self, weight: Weight) {
        let mut state = self.state.lock();
        state.used = state.used.minus(weight);
        self.serve(state);
    }

    /// Grants what the waiters in front ask for, as far as it fits, and wakes them outside the lock.
    fn serve(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        if state.waiters.is_empty() {
            return;
        }
        let mut wakers = Vec::new();
        while let Some(waiter) = state.waiters.pop_front() {
            if !self.limits.admit(state.used, waiter.weight) {
                state.waiters.push_front(waiter);
                break;
            }
            state.used = state.used + waiter.weight;
            wakers.push(waiter.waker);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

// === impl State ===

impl State {
    fn position(&self, id: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&id, |waiter| waiter.id).ok()
    }
}

// === impl Place ===

impl Place {
    /// The grant, if it is there; else `waker` is told when it is.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Option<Grant> {
        let mut state = self.quota.state.lock();
        if let Some(at) = state.position(self.id) {
            if let Some(waiter) = state.waiters.get_mut(at) {
                waiter.waker.clone_from(waker);
            }
            return None;
        }
        drop(state);
        self.collected = true;
        Some(Grant { quota: self.quota.clone(), weight: self.weight })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.collected {
            return;
        }
        let mut state = self.quota.state.lock();
        let left = state.position(self.id).and_then(|at| state.waiters.remove(at));
        if left.is_none() {
            state.used = state.used.minus(self.weight);
        }
        // Whether it stood in the way or held what others wait for: those behind may fit now.
        self.quota.serve(state);
    }
}

// === impl Grant ===

impl Grant {
    /// What it holds.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// Two grants that together are this one, the first of `first` at most.
    pub fn split(mut self, first: Weight) -> (Self, Self) {
        let first = first.min(self.weight);
        let rest = Self { quota: self.quota.clone(), weight: self.weight.minus(first) };
        self.weight = first;
        (self, rest)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.quota.release(self.weight);
    }
}
