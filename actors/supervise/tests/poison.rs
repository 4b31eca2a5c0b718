//! Who is to blame: the stage or the message. Paused time, one runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use common::{End, Log, POLICY, allergic, cell, handle, launch, nothing_leaked, paused, send, stage, until};
use parking_lot::Mutex;
use watershed_delivery::{Cause, Outcome};
use watershed_supervise::{Cell, Event, Launch, Limits, Mail, Next, Quota, Supervisor, Weight};

#[test]
fn poison_needs_proof() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("allergic", 9));
        supervisor.supervise(cell.clone(), common::spec(), allergic(0)).await.unwrap();

        // Nothing else there: it is refused, and its sender may try again.
        send(&cell, log.letter(0));
        log.reach(1).await;
        assert_eq!(log.end(0), Some(End::Refused("failure")));
        assert_eq!((cell.observe().poisoned, cell.observe().refused), (0, 1));

        // Something else is finished in between: it is the message.
        let log = Log::default();
        (0..2).for_each(|part| send(&cell, log.letter(part)));
        log.reach(2).await;
        assert_eq!(log.ends([0, 1]), [End::Poison, End::Delivered]);
        assert_eq!((cell.observe().poisoned, cell.observe().refused), (1, 1));
        nothing_leaked(&cell);
        assert!(supervisor.health().ok);
    });
}

#[test]
fn what_is_given_back_proves_nothing() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("unproven", 9));
        let launch = launch(|mut lease| async move {
            lease.started();
            loop {
                let Next::Mail(ticket) = lease.next().await else { return Ok(()) };
                let part = lease.with(&ticket, |letter| letter.parts[0]).unwrap();
                assert!(part != 0, "on everything it works on");
                lease.give_back(ticket, Outcome::refused(Cause::Failure, "nowhere to send it"));
            }
        });
        (0..2).for_each(|part| send(&cell, log.letter(part)));
        supervisor.supervise(cell.clone(), common::spec(), launch).await.unwrap();
        log.reach(2).await;
        assert_eq!(log.ends(0..2), [End::Refused("failure"); 2]);
        assert_eq!((cell.observe().handled, cell.observe().poisoned, cell.observe().refused), (0, 0, 2));
        nothing_leaked(&cell);
    });
}

#[test]
fn a_fresh_message_goes_before_the_suspect() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell, seen) = (Log::default(), cell("order", 9), Arc::new(Mutex::new(Vec::new())));
        let noted = seen.clone();
        let launch = stage(handle(move |parts| {
            noted.lock().push(parts[0]);
            assert!(parts != [0], "always");
        }));
        (0..4).for_each(|part| send(&cell, log.letter(part)));
        supervisor.supervise(cell.clone(), common::spec(), launch).await.unwrap();
        log.reach(4).await;
        assert_eq!(*seen.lock(), [0, 1, 0, 2, 3]);
        assert_eq!(cell.observe().restarts.panicked, 2);
    });
}

#[test]
fn a_merged_message_is_divided_until_only_the_poison_is_left() {
    paused(async {
        for poison in [0, 7, 63] {
            let supervisor = Supervisor::start(POLICY);
            let mut events = supervisor.events();
            let (log, cell) = (Log::default(), cell("merged", 9));
            supervisor.supervise(cell.clone(), common::spec(), allergic(poison)).await.unwrap();
            send(&cell, log.merged(0..64));
            log.reach(64).await;
            for part in 0..64 {
                let end = if part == poison { End::Poison } else { End::Delivered };
                assert_eq!(log.end(part), Some(end), "part {part} of {poison}");
            }
            nothing_leaked(&cell);
            // Far more panics than the intensity, and no circuit.
            assert!(cell.observe().restarts.panicked > 5);
            while let Ok(event) = events.try_recv() {
                assert!(matches!(event, Event::Restarted { .. }), "{event:?}");
            }
        }
    });
}

#[test]
fn of_several_in_hand_each_proves_itself_alone() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell, seen) = (Log::default(), cell("parallel", 99), Arc::new(Mutex::new(Vec::new())));
        let noted = seen.clone();
        // Takes up to four, then handles all of them at once.
        let launch = launch(move |mut lease| {
            let noted = noted.clone();
            async move {
                lease.started();
                loop {
                    let Next::Mail(ticket) = lease.next().await else { return Ok(()) };
                    let mut hand = vec![ticket];
                    while hand.len() < 4
                        && let Some(ticket) = lease.try_next()
                    {
                        hand.push(ticket);
                    }
                    let parts: Vec<u32> =
                        hand.iter().map(|t| lease.with(t, |l| l.parts[0]).unwrap()).collect();
                    noted.lock().push((parts.clone(), hand[0].alone()));
                    assert!(!parts.contains(&2), "allergic");
                    hand.into_iter().for_each(|ticket| lease.finish(ticket, Outcome::Delivered));
                }
            }
        });
        (0..7).for_each(|part| send(&cell, log.letter(part)));
        supervisor.supervise(cell.clone(), common::spec(), launch).await.unwrap();
        log.reach(7).await;
        for part in 0..7 {
            assert_eq!(log.end(part), Some(if part == 2 { End::Poison } else { End::Delivered }));
        }
        let order: [(&[u32], bool); 7] = [
            (&[0, 1, 2, 3], false),
            (&[0], true),
            (&[1], true),
            (&[2], true),
            (&[3], true),
            (&[2], true),
            (&[4, 5, 6], false),
        ];
        let seen = seen.lock();
        assert!(seen.iter().map(|(parts, alone)| (&parts[..], *alone)).eq(order), "{seen:?}");
        nothing_leaked(&cell);
        // One in company, one alone, and one more once another was finished in between.
        assert_eq!(cell.observe().restarts.panicked, 3);
    });
}

#[test]
fn poison_with_proof_is_no_mark_against_the_stage() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("picky", 9));
        let picky = stage(handle(|parts| assert!(parts == [0], "all but one")));
        supervisor.supervise(cell.clone(), common::spec(), picky).await.unwrap();
        send(&cell, log.merged(0..40));
        log.reach(40).await;
        assert_eq!(log.end(0), Some(End::Delivered));
        assert_eq!(log.ends(1..40), [End::Poison; 39]);
        // One break a division or conviction, none of them followed by any progress: and no circuit.
        assert!(supervisor.health().ok);
        assert_eq!(cell.observe().poisoned, 39);
        nothing_leaked(&cell);
    });
}

/// Tears its cell down while it is divided, as another thread might.
struct Sly {
    cell: Option<Cell<Sly>>,
    ends: Arc<Mutex<Vec<Outcome>>>,
}

impl Mail for Sly {
    fn weight(&self) -> Weight {
        Weight { requests: 1, items: 1, bytes: 1 }
    }

    fn is_withdrawn(&self) -> bool {
        false
    }

    fn bisect(mut self) -> Result<(Self, Self), Self> {
        self.cell.take().unwrap().close("meanwhile");
        Err(self)
    }

    fn settle(self, outcome: Outcome) {
        self.ends.lock().push(outcome);
        // Somebody else's code may panic anywhere.
        panic!("in settle");
    }
}

#[test]
fn a_tear_down_in_the_middle_of_a_recovery_misses_nothing() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let cell: Cell<Sly> = Cell::new("sly", Quota::new(Limits::default()));
        let ends = Arc::new(Mutex::new(Vec::new()));
        let launch: Launch<Sly> = Arc::new(|mut lease| {
            Box::pin(async move {
                lease.started();
                let _ = lease.next().await;
                panic!("once")
            })
        });
        supervisor.supervise(cell.clone(), common::spec(), launch).await.unwrap();
        let sly = Sly { cell: Some(cell.clone()), ends: ends.clone() };
        cell.try_reserve(sly.weight()).unwrap().send(sly);
        until("settled", || !ends.lock().is_empty()).await;
        assert!(matches!(&ends.lock()[..], [Outcome::Refused(refusal)] if refusal.cause == Cause::Shutdown));
        assert_eq!(cell.quota().used(), Weight::default());
        until("forgotten", || supervisor.observe().is_empty()).await;
    });
}
