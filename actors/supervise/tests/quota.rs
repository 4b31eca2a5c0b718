//! The bound against a model of it: whatever is reserved, given up and returned, in whatever order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use common::{Letter, Log};
use proptest::prelude::*;
use watershed_supervise::{Cell, Limits, Mail, NoRoom, Quota, Reserve, Room, State, Weight};

#[derive(Clone, Copy, Debug)]
enum Step {
    Reserve(Weight),
    Try(Weight),
    /// Drops the n-th of those who wait or were granted without having looked.
    Cancel(usize),
    /// Returns the n-th room.
    Release(usize),
    /// Polls everyone.
    Poll,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Pending {
    id: usize,
    weight: Weight,
    reserve: Reserve<Letter>,
    wakes: Arc<Wakes>,
}

/// What the quota should do, in the plainest words.
struct Model {
    limits: Limits,
    used: Weight,
    line: VecDeque<(usize, Weight)>,
    granted: Vec<usize>,
}

impl Model {
    fn fits(&self, weight: Weight) -> bool {
        let fit = |limit: Option<usize>, used: usize, weight: usize| match limit {
            None => true,
            Some(_) if weight == 0 || used == 0 => true,
            Some(limit) => used + weight <= limit,
        };
        fit(self.limits.requests, self.used.requests, weight.requests)
            && fit(self.limits.items, self.used.items, weight.items)
            && fit(self.limits.bytes, self.used.bytes, weight.bytes)
    }

    fn take(&mut self, weight: Weight) -> bool {
        let ok = self.line.is_empty() && self.fits(weight);
        if ok {
            self.used = self.used + weight;
        }
        ok
    }

    fn give_back(&mut self, weight: Weight) {
        self.used.requests -= weight.requests;
        self.used.items -= weight.items;
        self.used.bytes -= weight.bytes;
    }

    fn serve(&mut self) {
        while let Some((id, weight)) = self.line.front().copied() {
            if !self.fits(weight) {
                break;
            }
            self.used = self.used + weight;
            self.granted.push(id);
            self.line.pop_front();
        }
    }
}

fn weights() -> impl Strategy<Value = Weight> {
    (0..4usize, 0..30usize, 0..300usize).prop_map(|(requests, items, bytes)| Weight {
        requests,
        items,
        bytes,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => weights().prop_map(Step::Reserve),
        1 => weights().prop_map(Step::Try),
        2 => (0..8usize).prop_map(Step::Cancel),
        3 => (0..8usize).prop_map(Step::Release),
        2 => Just(Step::Poll),
    ];
    proptest::collection::vec(step, 1..120)
}

fn limits() -> impl Strategy<Value = Limits> {
    let limit = |max| proptest::option::of(0..max);
    (limit(6usize), limit(40usize), limit(400usize)).prop_map(|(requests, items, bytes)| Limits {
        requests,
        items,
        bytes,
        each: None,
    })
}

proptest! {
    #[test]
    fn the_quota_is_fair_and_leaks_nothing(limits in limits(), steps in steps()) {
        let cell: Cell<Letter> = Cell::new("model", Quota::new(limits));
        let mut model = Model { limits, used: Weight::default(), line: VecDeque::new(), granted: Vec::new() };
        let mut rooms: Vec<(Weight, Room<Letter>)> = Vec::new();
        let mut pending: Vec<Pending> = Vec::new();

        for (id, step) in steps.into_iter().enumerate() {
            match step {
                Step::Reserve(weight) => {
                    let wakes = Arc::new(Wakes::default());
                    let mut reserve = cell.reserve(weight);
                    match poll(&mut reserve, &wakes) {
                        Poll::Ready(room) => {
                            prop_assert!(model.take(weight));
                            rooms.push((weight, room.unwrap()));
                        }
                        Poll::Pending => {
                            prop_assert!(!model.take(weight));
                            model.line.push_back((id, weight));
                            pending.push(Pending { id, weight, reserve, wakes });
                        }
                    }
                }
                Step::Try(weight) => match cell.try_reserve(weight) {
                    Ok(room) => {
                        prop_assert!(model.take(weight), "overtook those who wait");
                        rooms.push((weight, room));
                    }
                    Err(refused) => {
                        prop_assert_eq!(refused, NoRoom::Full);
                        prop_assert!(!model.take(weight));
                    }
                },
                Step::Cancel(n) if !pending.is_empty() => {
                    let gone = pending.remove(n % pending.len());
                    if let Some(at) = model.granted.iter().position(|id| *id == gone.id) {
                        model.granted.remove(at);
                        model.give_back(gone.weight);
                    } else {
                        model.line.retain(|(id, _)| *id != gone.id);
                    }
                    drop(gone);
                    model.serve();
                }
                Step::Release(n) if !rooms.is_empty() => {
                    let (weight, room) = rooms.remove(n % rooms.len());
                    drop(room);
                    model.give_back(weight);
                    model.serve();
                }
                Step::Poll => collect(&mut pending, &mut rooms, &mut model)?,
                Step::Cancel(_) | Step::Release(_) => {}
            }
            prop_assert_eq!(cell.quota().used(), model.used);
            // Whoever was granted anything has been woken, and nobody else.
            for waiting in &pending {
                let woken = waiting.wakes.0.load(Ordering::SeqCst) > 0;
                prop_assert_eq!(woken, model.granted.contains(&waiting.id));
            }
        }

        // Everyone gets a turn once everything is returned, one after the other.
        while !rooms.is_empty() || !pending.is_empty() {
            if let Some((weight, room)) = rooms.pop() {
                drop(room);
                model.give_back(weight);
                model.serve();
            }
            collect(&mut pending, &mut rooms, &mut model)?;
        }
        prop_assert_eq!(cell.quota().used(), Weight::default());
    }
}

fn collect(
    pending: &mut Vec<Pending>,
    rooms: &mut Vec<(Weight, Room<Letter>)>,
    model: &mut Model,
) -> Result<(), TestCaseError> {
    for mut waiting in std::mem::take(pending) {
        let granted = model.granted.iter().position(|id| *id == waiting.id);
        match poll(&mut waiting.reserve, &waiting.wakes) {
            Poll::Ready(room) => {
                prop_assert!(granted.is_some(), "out of turn");
                model.granted.remove(granted.unwrap());
                rooms.push((waiting.weight, room.unwrap()));
            }
            Poll::Pending => {
                prop_assert!(granted.is_none(), "a lost grant");
                pending.push(waiting);
            }
        }
    }
    Ok(())
}

fn poll(reserve: &mut Reserve<Letter>, wakes: &Arc<Wakes>) -> Poll<Result<Room<Letter>, NoRoom>> {
    let waker = Waker::from(wakes.clone());
    Pin::new(reserve).poll(&mut Context::from_waker(&waker))
}

const ONE: Weight = Weight { requests: 1, items: 1, bytes: 10 };

#[test]
fn what_is_too_large_passes_alone() {
    let limits = Limits { bytes: Some(100), ..Limits::default() };
    let cell: Cell<Letter> = Cell::new("large", Quota::new(limits));
    let large = Weight { bytes: 1_000, ..ONE };

    let room = cell.try_reserve(large).unwrap();
    assert_eq!(cell.try_reserve(ONE).unwrap_err(), NoRoom::Full);
    drop(room);
    let small = cell.try_reserve(ONE).unwrap();
    assert_eq!(cell.try_reserve(large).unwrap_err(), NoRoom::Full);

    // It waits until it is alone, and nobody overtakes it meanwhile.
    let wakes = Arc::default();
    let mut reserve = cell.reserve(large);
    assert!(poll(&mut reserve, &wakes).is_pending());
    assert_eq!(cell.try_reserve(ONE).unwrap_err(), NoRoom::Full);
    drop(small);
    assert!(matches!(poll(&mut reserve, &wakes), Poll::Ready(Ok(_))));
}

#[test]
fn cells_that_share_a_quota_share_the_bound() {
    let quota = Quota::new(Limits { requests: Some(1), ..Limits::default() });
    let (a, b): (Cell<Letter>, Cell<Letter>) = (Cell::new("a", quota.clone()), Cell::new("b", quota));
    let room = a.try_reserve(ONE).unwrap();
    let wakes = Arc::default();
    let mut reserve = b.reserve(ONE);
    assert!(poll(&mut reserve, &wakes).is_pending());
    drop(room);
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    assert!(matches!(poll(&mut reserve, &wakes), Poll::Ready(Ok(_))));
}

#[test]
fn those_who_wait_for_a_closed_cell_are_told() {
    let quota = Quota::new(Limits { requests: Some(1), ..Limits::default() });
    let (a, b): (Cell<Letter>, Cell<Letter>) = (Cell::new("a", quota.clone()), Cell::new("b", quota));
    let room = a.try_reserve(ONE).unwrap();
    let (first, second) = (Arc::default(), Arc::default());
    let (mut to_a, mut to_b) = (a.reserve(ONE), b.reserve(ONE));
    assert!(poll(&mut to_a, &first).is_pending());
    assert!(poll(&mut to_b, &second).is_pending());

    a.close("a test");
    assert!(first.0.load(Ordering::SeqCst) > 0);
    assert!(matches!(poll(&mut to_a, &first), Poll::Ready(Err(NoRoom::Closed(State::Stopped)))));
    assert_eq!(a.try_reserve(ONE).unwrap_err(), NoRoom::Closed(State::Stopped));

    // The other cell's waiter is next, and the room of a closed cell still counts until it is returned.
    assert!(poll(&mut to_b, &second).is_pending());
    let log = Log::default();
    room.send(log.letter(1));
    assert_eq!(log.end(1), Some(common::End::Refused("shutdown")));
    assert!(matches!(poll(&mut to_b, &second), Poll::Ready(Ok(_))));
    assert_eq!(log.letter(2).weight(), ONE);
}

/// What is large counts no more than one of those that there is room for.
#[test]
fn there_is_room_for_a_number_of_large_ones() {
    let quota = Quota::new(Limits { items: Some(30), each: Some(10), ..Limits::default() });
    let large = Weight { requests: 1, items: 1_000, bytes: 1 };
    let mut grants: Vec<_> = (0..3).map(|_| quota.try_take(large).unwrap()).collect();
    assert!(quota.try_take(Weight { items: 1, ..large }).is_none());
    drop(grants.pop());
    let small: Vec<_> = (0..10).map(|_| quota.try_take(Weight { items: 1, ..large }).unwrap()).collect();
    assert_eq!((quota.used().items, small.len()), (30, 10));
}
