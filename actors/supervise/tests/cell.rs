//! Lanes, slots and suspects, without a supervisor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::{End, Letter, Log, cell, paused, send};
use futures_util::FutureExt;
use tokio::time::Instant;
use watershed_delivery::{Cause, Outcome};
use watershed_supervise::{Control, Lease, Next, NoRoom, State, Ticket, Weight};

fn parts(lease: &Lease<Letter>, ticket: &Ticket) -> Vec<u32> {
    lease.with(ticket, |letter| letter.parts.clone()).unwrap()
}

#[test]
fn room_is_held_until_the_message_is_finished() {
    let (log, cell) = (Log::default(), cell("room", 1));
    let mut lease = cell.lend();
    send(&cell, log.letter(1));
    assert_eq!(cell.try_reserve(Weight::default()).map(drop), Ok(()), "nothing takes no room");
    assert_eq!(cell.try_reserve(log.letter(9).parts_weight()).unwrap_err(), NoRoom::Full);

    let ticket = lease.try_next().unwrap();
    assert!(!ticket.alone());
    let seen = cell.observe();
    assert_eq!((seen.queued, seen.in_hand, seen.held.requests), (0, 1, 1));
    let taken = lease.take(ticket).unwrap();
    assert_eq!(taken.parts, [1]);
    assert_eq!(cell.quota().used().requests, 1);
    let (letter, room) = taken.into_parts();
    letter.settle_delivered();
    drop(room);
    assert_eq!(cell.quota().used(), Weight::default());
    assert_eq!((cell.observe().handled, log.end(1)), (1, Some(End::Delivered)));
}

#[test]
fn a_late_generation_can_do_nothing() {
    let (log, cell) = (Log::default(), cell("late", 9));
    let mut old = cell.lend();
    send(&cell, log.letter(1));
    let ticket = old.try_next().unwrap();

    let mut new = cell.lend();
    send(&cell, log.letter(2));
    assert!(new.generation() > old.generation());
    assert!(old.with(&ticket, |_| ()).is_none());
    assert!(old.try_next().is_none());
    assert!(matches!(old.next().now_or_never(), Some(Next::Drained)));
    old.started();
    assert_eq!(cell.state(), State::Starting);
    old.finish(ticket, Outcome::Delivered);
    assert_eq!(log.end(1), None);
    drop(old);

    // What it had in hand is in its old place, and nobody accuses it.
    new.started();
    assert_eq!(cell.state(), State::Running);
    for part in [1, 2] {
        let ticket = new.try_next().unwrap();
        assert_eq!((parts(&new, &ticket), ticket.alone()), (vec![part], false));
        new.finish(ticket, Outcome::Delivered);
    }
    assert_eq!(log.ends([1, 2]), [End::Delivered; 2]);
}

#[test]
fn withdrawn_mail_is_cut_out() {
    paused(async {
        let (log, cell) = (Log::default(), cell("withdrawn", 3));
        let mut lease = cell.lend();
        let letters: Vec<Letter> = (0..3).map(|part| log.letter(part)).collect();
        let flags: Vec<_> = letters.iter().map(|letter| letter.withdrawn.clone()).collect();
        letters.into_iter().for_each(|letter| send(&cell, letter));
        assert_eq!(cell.try_reserve(log.letter(9).parts_weight()).unwrap_err(), NoRoom::Full);

        // A full lane is swept before anybody is turned away, but not again for each of many.
        flags[1].store(true, Ordering::SeqCst);
        assert_eq!(cell.try_reserve(log.letter(9).parts_weight()).unwrap_err(), NoRoom::Full);
        tokio::time::advance(Duration::from_millis(50)).await;
        send(&cell, log.letter(3));
        assert_eq!(log.end(1), Some(End::Refused("withdrawn")));

        // What is withdrawn later is passed over.
        flags[0].store(true, Ordering::SeqCst);
        let ticket = lease.try_next().unwrap();
        assert_eq!((parts(&lease, &ticket), log.end(0)), (vec![2], Some(End::Refused("withdrawn"))));
        flags[2].store(true, Ordering::SeqCst);
        assert!(lease.is_withdrawn(&ticket));
        assert_eq!(cell.observe().withdrawn, 2);

        // Given back, it counts as what it is.
        lease.give_back(ticket, Outcome::refused(Cause::Withdrawn, "a test"));
        assert_eq!((cell.observe().withdrawn, cell.observe().handled), (3, 0));
        assert_eq!((log.end(2), cell.quota().used().requests), (Some(End::Refused("withdrawn")), 1));
    });
}

#[test]
fn a_tear_down_settles_everything() {
    let (log, cell) = (Log::default(), cell("down", 9));
    let mut lease = cell.lend();
    (0..4).for_each(|part| send(&cell, log.letter(part)));
    let ticket = lease.try_next().unwrap();
    let room = cell.try_reserve(log.letter(9).parts_weight()).unwrap();

    cell.close("the end");
    assert_eq!(log.ends(0..4), [End::Refused("shutdown"); 4]);
    room.send(log.letter(4));
    assert_eq!(log.end(4), Some(End::Refused("shutdown")));
    assert!(lease.take(ticket).is_none());
    assert!(matches!(lease.next().now_or_never(), Some(Next::Drained)));
    assert_eq!(cell.quota().used(), Weight::default());
    assert_eq!((cell.state(), cell.observe().refused), (State::Stopped, 5));

    // For good: a lease of what is closed is none.
    cell.lend().started();
    assert_eq!(cell.state(), State::Stopped);
}

#[test]
fn a_drain_is_told_first_and_ends_when_nothing_is_left() {
    let (log, cell) = (Log::default(), cell("drain", 9));
    let mut lease = cell.lend();
    (0..2).for_each(|part| send(&cell, log.letter(part)));
    let deadline = Instant::now();
    cell.drain(deadline);
    assert!(matches!(
        lease.next().now_or_never(),
        Some(Next::Control(Control::Drain { deadline: told })) if told == deadline
    ));
    // Mail still comes in from those upstream that are draining, too.
    send(&cell, log.letter(2));
    for _ in 0..3 {
        let Some(Next::Mail(ticket)) = lease.next().now_or_never() else { panic!("no mail") };
        lease.finish(ticket, Outcome::Delivered);
    }
    assert!(matches!(lease.next().now_or_never(), Some(Next::Drained)));
    assert_eq!(log.ends(0..3), [End::Delivered; 3]);
}

#[test]
fn next_can_be_dropped_at_any_time() {
    let (log, cell) = (Log::default(), cell("select", 9));
    let mut lease = cell.lend();
    assert!(lease.next().now_or_never().is_none());
    send(&cell, log.letter(1));
    let Some(Next::Mail(ticket)) = lease.next().now_or_never() else { panic!("lost") };
    assert!(lease.next().now_or_never().is_none());
    lease.finish(ticket, Outcome::Delivered);
    assert_eq!(log.end(1), Some(End::Delivered));
}

#[test]
fn a_stage_that_takes_no_mail_is_told_all_the_same() {
    let (log, cell) = (Log::default(), cell("full hands", 9));
    let mut old = cell.lend();
    let mut lease = cell.lend();
    send(&cell, log.letter(1));
    assert!(lease.control().now_or_never().is_none());
    let deadline = Instant::now();
    cell.drain(deadline);
    assert!(old.control().now_or_never().is_none(), "told a late generation");
    assert_eq!(lease.control().now_or_never(), Some(Control::Drain { deadline }));
    assert!(lease.control().now_or_never().is_none(), "told twice");
    assert!(matches!(lease.next().now_or_never(), Some(Next::Mail(_))));
}

#[test]
fn a_late_generation_does_not_take_the_place_of_the_next() {
    let (log, cell) = (Log::default(), cell("wakers", 9));
    let (mut old, mut new) = (cell.lend(), cell.lend());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    assert!(new.poll_next(&mut Context::from_waker(&waker)).is_pending());
    assert!(old.control().now_or_never().is_none());
    send(&cell, log.letter(1));
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

trait Short {
    fn parts_weight(self) -> Weight;
    fn settle_delivered(self);
}

impl Short for Letter {
    /// The weight of a message that is only made up to be weighed.
    fn parts_weight(self) -> Weight {
        let weight = watershed_supervise::Mail::weight(&self);
        std::mem::forget(self);
        weight
    }

    fn settle_delivered(self) {
        watershed_supervise::Mail::settle(self, Outcome::Delivered);
    }
}
