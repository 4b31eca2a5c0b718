//! What a stage may do wrong, and what becomes of its messages. Paused time, one runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::{
    End, Flag, Letter, Log, Mine, POLICY, allergic, broken, cell, event, handle, launch, nothing_leaked,
    paused, send, serve, soon, spec, stage, until,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use watershed_delivery::Outcome;
use watershed_supervise::{
    Cell, ChildSpec, Event, Exit, Failure, Launch, Limits, Mail, Next, NoRoom, Policy, Quota, Restart, State,
    Supervisor, Ticket, Weight, caught,
};

#[test]
fn restarts_back_off_until_the_circuit_opens() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let mut events = supervisor.events();
        let (cell, births) = (cell("panicky", 9), Arc::new(Mutex::new(Vec::new())));
        let noted = births.clone();
        let launch = launch(move |lease| {
            noted.lock().push(Instant::now());
            async move {
                lease.started();
                panic!("at once")
            }
        });
        supervisor.supervise(cell.clone(), spec(), launch).await.unwrap();

        let mut delays = Vec::new();
        loop {
            match events.recv().await.unwrap() {
                Event::Restarted { after, reason, generation, message, .. } => {
                    assert_eq!((reason, &*message), (Exit::Panicked, "at once"));
                    assert_eq!(generation, delays.len() as u64 + 1);
                    delays.push(after);
                }
                Event::CircuitOpened { name, .. } => break assert_eq!(&*name, "panicky"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(delays.len(), POLICY.intensity);
        assert_eq!(delays[0], Duration::ZERO);
        for (n, delay) in delays.iter().enumerate().skip(1) {
            assert!(*delay <= POLICY.base * 2u32.pow(n as u32 - 1), "{delays:?}");
        }
        // The delays are kept, to the millisecond of the timer.
        let births = births.lock().clone();
        for (pair, delay) in births.windows(2).zip(&delays) {
            let waited = pair[1] - pair[0];
            assert!(waited >= *delay && waited <= *delay + Duration::from_millis(2), "{waited:?} {delay:?}");
        }
        let health = supervisor.health();
        assert_eq!((health.ok, health.open), (false, vec!["panicky".into()]));
        let seen = &supervisor.observe()[0];
        assert_eq!((seen.restarts.panicked, seen.state), (5, State::Open));
        assert_eq!(&*seen.last_failure.as_ref().unwrap().message, "at once");
    });
}

#[test]
fn a_panic_in_a_handler_loses_nothing() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("once", 9));
        let panics = AtomicUsize::new(0);
        let launch = stage(handle(move |parts| {
            assert!(parts != [1] || panics.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
        }));
        let id = supervisor.supervise(cell.clone(), spec(), launch).await.unwrap();
        (0..4).for_each(|part| send(&cell, log.letter(part)));
        log.reach(4).await;
        send(&cell, log.letter(4));
        log.reach(5).await;

        assert_eq!(log.ends(0..5), [End::Delivered; 5]);
        nothing_leaked(&cell);
        let seen = cell.observe();
        assert_eq!((seen.state, seen.generation, seen.handled), (State::Running, 2, 5));
        assert!(supervisor.health().ok);

        let report = supervisor.drain(&[id], soon()).await;
        assert_eq!((report.drained, report.aborted.len()), (1, 0));
        assert_eq!(cell.state(), State::Stopped);
        assert!(supervisor.observe().is_empty());
    });
}

#[test]
fn a_panic_in_drop_ends_there() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let mut events = supervisor.events();
        let (log, cell) = (Log::default(), cell("mined", 9));
        // Dropped as it fails, dropped after a panic that was caught before the owner of the mine was unwound
        // (which would be the end of the process), and dropped as it is aborted: each time the drop panics.
        let launch = launch(|mut lease| async move {
            lease.started();
            let _stage = Mine;
            let Next::Mail(ticket) = lease.next().await else { return Ok(()) };
            match lease.generation() {
                1 => Err(Failure::new("on purpose")),
                2 => caught(async { panic!("in the handler") }).await,
                _ => {
                    lease.finish(ticket, Outcome::Delivered);
                    std::future::pending().await
                }
            }
        });
        let id = supervisor.supervise(cell.clone(), spec(), launch).await.unwrap();
        (0..2).for_each(|part| send(&cell, log.letter(part)));
        for generation in 1..3 {
            let ended = event(&mut events, |event| matches!(event, Event::Restarted { .. })).await;
            let Event::Restarted { message, generation: which, .. } = ended else { unreachable!() };
            assert_eq!((&*message, which), ("in drop", generation));
        }
        log.reach(1).await;
        assert_eq!(log.end(0), Some(End::Delivered));
        let report = supervisor.drain(&[id], Instant::now()).await;
        assert_eq!((report.aborted, log.end(1)), (vec!["mined".into()], Some(End::Refused("shutdown"))));
        nothing_leaked(&cell);
    });
}

#[test]
fn a_first_start_that_fails_is_the_callers() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let tries: [(&str, Exit, Launch<Letter>); 5] = [
            ("no port", Exit::Failed, launch(|_| async { Err(Failure::new("no port")) })),
            ("in start", Exit::Panicked, launch(|_| async { panic!("in start") })),
            ("in the factory", Exit::Panicked, Arc::new(|_| panic!("in the factory"))),
            ("ended before it had started", Exit::Ended, launch(|_| async { Ok(()) })),
            ("did not start in time", Exit::Stalled, launch(|_lease| std::future::pending())),
        ];
        for (message, exit, launch) in tries {
            let (log, cell) = (Log::default(), cell(message, 9));
            send(&cell, log.letter(1));
            let failure = supervisor.supervise(cell.clone(), spec(), launch).await.unwrap_err();
            assert_eq!((failure.message.as_str(), failure.exit), (message, exit));
            assert_eq!((cell.state(), log.end(1)), (State::Stopped, Some(End::Refused("shutdown"))));
            assert_eq!(cell.observe().generation, 1);
        }
        assert!(supervisor.observe().is_empty());
    });
}

#[test]
fn a_later_start_that_fails_is_tried_again() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("starter", 9));
        let launch: Launch<Letter> = Arc::new({
            let stage = stage(handle(|parts| assert!(parts != [0], "once")));
            move |lease| match lease.generation() {
                2 => panic!("in the factory"),
                3 => Box::pin(async { panic!("in start") }),
                4 => Box::pin(async { Err(Failure::new("no port")) }),
                _ => stage(lease),
            }
        });
        supervisor.supervise(cell.clone(), spec(), launch).await.unwrap();
        (0..3).for_each(|part| send(&cell, log.letter(part)));
        log.reach(3).await;
        assert_eq!(log.ends(0..3), [End::Poison, End::Delivered, End::Delivered]);
        let restarts = cell.observe().restarts;
        assert_eq!((restarts.panicked, restarts.failed), (4, 1));
        nothing_leaked(&cell);
    });
}

#[test]
fn senders_that_wait_do_not_notice() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("narrow", 1));
        let panics = AtomicUsize::new(0);
        let launch = stage(handle(move |_| {
            assert!(panics.fetch_add(1, Ordering::SeqCst) % 2 == 1, "every other time");
        }));
        supervisor.supervise(cell.clone(), spec(), launch).await.unwrap();
        for part in 0..20 {
            let (cell, log) = (cell.clone(), log.clone());
            actix_rt::spawn(async move {
                let letter = log.letter(part);
                cell.reserve(letter.weight()).await.unwrap().send(letter);
            });
        }
        log.reach(20).await;
        assert_eq!(log.ends(0..20), [End::Delivered; 20]);
        nothing_leaked(&cell);
        assert_eq!(cell.observe().restarts.panicked, 20);
    });
}

#[test]
fn a_stalled_stage_is_aborted_and_restarted() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let mut events = supervisor.events();
        let (log, cell) = (Log::default(), cell("stalling", 9));
        let stalls = AtomicUsize::new(0);
        let launch = stage(Arc::new(move |parts| {
            let stall = parts == [1] && stalls.fetch_add(1, Ordering::SeqCst) == 0;
            Box::pin(async move {
                // Slow is not stalled.
                tokio::time::sleep(Duration::from_secs(20)).await;
                if stall {
                    std::future::pending::<()>().await;
                }
            })
        }));
        supervisor.supervise(cell.clone(), spec(), launch).await.unwrap();
        let start = Instant::now();
        (0..3).for_each(|part| send(&cell, log.letter(part)));
        let stalled = event(&mut events, |event| matches!(event, Event::Stalled { .. })).await;
        assert_eq!(stalled, Event::Stalled { name: "stalling".into(), generation: 1 });
        let waited = start.elapsed().as_secs();
        assert!((50..=52).contains(&waited), "{waited} s");
        log.reach(3).await;
        assert_eq!(log.ends(0..3), [End::Delivered; 3]);
        assert_eq!((cell.observe().restarts.stalled, cell.observe().restarts.total()), (1, 1));
        nothing_leaked(&cell);
    });
}

#[test]
fn waiting_is_not_stalling() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("idle", 9));
        let forgetful = launch(|lease| async move {
            lease.started();
            if lease.generation() == 1 {
                // What an incarnation left open is not held against the next.
                std::mem::forget(lease.busy());
                return Err(Failure::new("once"));
            }
            serve(lease, handle(|_| {})).await
        });
        supervisor.supervise(cell.clone(), spec(), forgetful).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        send(&cell, log.letter(1));
        log.reach(1).await;
        assert_eq!(cell.observe().generation, 2);
    });
}

#[test]
fn a_drain_during_back_off_ends_within_its_deadline() {
    paused(async {
        let policy = Policy { base: Duration::from_secs(1_000), cap: Duration::from_secs(1_000), ..POLICY };
        for content in [0, 3] {
            let supervisor = Supervisor::start(policy);
            let (log, cell, sick) = (Log::default(), cell("resting", 9), Arc::new(AtomicBool::new(true)));
            let id = supervisor.supervise(cell.clone(), spec(), broken(&sick)).await.unwrap();
            send(&cell, log.letter(0));
            until("two panics", || cell.observe().restarts.panicked == 2).await;
            assert_eq!(cell.state(), State::BackingOff);
            assert_eq!(log.end(0), Some(End::Refused("failure")));
            (1..=content).for_each(|part| send(&cell, log.letter(part)));
            sick.store(false, Ordering::SeqCst);

            let start = Instant::now();
            let report = supervisor.drain(&[id], soon()).await;
            assert_eq!((report.drained, report.aborted.len()), (1, 0));
            assert!(start.elapsed() < Duration::from_secs(1));
            assert_eq!(log.ends(1..=content), vec![End::Delivered; content as usize]);
            assert_eq!(cell.observe().generation, if content > 0 { 3 } else { 2 });
            nothing_leaked(&cell);
        }
    });
}

#[test]
fn a_drain_of_the_broken_ends_within_its_deadline() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell, sick) = (Log::default(), cell("broken", 99), Arc::new(AtomicBool::new(true)));
        let id = supervisor.supervise(cell.clone(), spec(), broken(&sick)).await.unwrap();
        (0..50).for_each(|part| send(&cell, log.letter(part)));
        let start = Instant::now();
        let report = supervisor.drain(&[id], soon()).await;
        assert_eq!(report.aborted, ["broken".into()]);
        assert!(start.elapsed() <= Duration::from_secs(5));
        assert!(log.ends(0..50).into_iter().all(|end| matches!(end, End::Refused(_))));
        nothing_leaked(&cell);
    });
}

#[test]
fn who_does_not_drain_by_the_deadline_is_dropped() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, slow, quick) = (Log::default(), cell("slow", 9), cell("quick", 9));
        let forever: Launch<Letter> = stage(Arc::new(|_| Box::pin(std::future::pending())));
        let (flag, dropped) = Flag::new();
        let forever = launch(move |lease| {
            let (flag, forever) = (flag.raise(), forever.clone());
            async move {
                let _flag = flag;
                forever(lease).await
            }
        });
        let ids = [
            supervisor.supervise(slow.clone(), spec(), forever).await.unwrap(),
            supervisor.supervise(quick.clone(), spec(), allergic(99)).await.unwrap(),
        ];
        (0..3).for_each(|part| send(&slow, log.letter(part)));
        (3..6).for_each(|part| send(&quick, log.letter(part)));
        let waiting = actix_rt::spawn({
            let slow = slow.clone();
            async move {
                let _held = slow.try_reserve(Weight { requests: 6, ..Weight::default() }).unwrap();
                slow.reserve(Weight { requests: 1, ..Weight::default() }).await.map(drop)
            }
        });
        tokio::task::yield_now().await;

        let start = Instant::now();
        let report = supervisor.drain(&ids, soon()).await;
        assert_eq!((report.drained, report.aborted), (1, vec!["slow".into()]));
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(dropped.load(Ordering::SeqCst));
        assert_eq!(log.ends(0..3), [End::Refused("shutdown"); 3]);
        assert_eq!(log.ends(3..6), [End::Delivered; 3]);
        assert_eq!(waiting.await.unwrap(), Err(NoRoom::Closed(State::Stopped)));
        nothing_leaked(&slow);
        // What is gone is drained.
        assert_eq!(supervisor.drain(&ids, soon()).await.drained, 0);
    });
}

/// Two processors of one pipeline, the second broken, and a stage outside.
struct Pipeline {
    supervisor: Supervisor,
    well: Cell<Letter>,
    ill: Cell<Letter>,
    outside: Cell<Letter>,
    sick: Arc<AtomicBool>,
}

async fn pipeline(critical: bool) -> Pipeline {
    let supervisor = Supervisor::start(POLICY);
    let (well, ill, outside) = (cell("well", 9), cell("ill", 9), cell("outside", 9));
    let sick = Arc::new(AtomicBool::new(true));
    let inside = || ChildSpec { group: Some("traces".into()), critical, ..spec() };
    // Its group's restart is no end of its own, so that even this kind is started again.
    let temporary = ChildSpec { restart: Restart::Temporary, ..inside() };
    supervisor.supervise(well.clone(), temporary, allergic(99)).await.unwrap();
    supervisor.supervise(ill.clone(), inside(), broken(&sick)).await.unwrap();
    supervisor.supervise(outside.clone(), spec(), allergic(99)).await.unwrap();
    Pipeline { supervisor, well, ill, outside, sick }
}

#[test]
fn a_broken_stage_takes_its_group_down_and_nothing_else() {
    paused(async {
        let Pipeline { supervisor, well, ill, outside, .. } = pipeline(false).await;
        let mut events = supervisor.events();
        let log = Log::default();
        (0..9).for_each(|part| send(&ill, log.letter(part)));

        event(&mut events, |event| matches!(event, Event::CircuitOpened { .. })).await;
        // Good data is not shredded: it is refused, and may come again.
        assert_eq!(log.ends(0..9), [End::Refused("failure"); 9]);
        let weight = Weight { requests: 1, ..Weight::default() };
        assert_eq!(ill.try_reserve(weight).unwrap_err(), NoRoom::Closed(State::Open));
        assert_eq!(well.state(), State::Running);

        let restarted = event(&mut events, |event| matches!(event, Event::GroupRestarted { .. })).await;
        assert_eq!(restarted, Event::GroupRestarted { group: "traces".into() });
        let log = Log::default();
        until("another chance", || ill.state() == State::Running).await;
        until("a new sibling", || well.observe().generation == 2 && well.state() == State::Running).await;
        assert!(supervisor.health().ok);
        (0..9).for_each(|part| send(&ill, log.letter(part)));

        let failed = event(&mut events, |event| matches!(event, Event::GroupFailed { .. })).await;
        let Event::GroupFailed { group, name, .. } = failed else { unreachable!() };
        assert_eq!((&*group, &*name), ("traces", "ill"));
        assert_eq!((well.state(), ill.state()), (State::Failed, State::Failed));
        assert!(log.ends(0..9).into_iter().all(|end| matches!(end, End::Refused(_))));
        let health = supervisor.health();
        assert_eq!((health.ok, health.failed), (false, vec!["traces".into()]));
        assert_eq!(well.try_reserve(weight).unwrap_err(), NoRoom::Closed(State::Failed));
        nothing_leaked(&ill);

        // The others run on.
        let log = Log::default();
        send(&outside, log.letter(1));
        log.reach(1).await;
        assert_eq!((outside.state(), outside.observe().generation), (State::Running, 1));
    });
}

#[test]
fn a_group_that_recovers_keeps_its_messages() {
    paused(async {
        let Pipeline { supervisor, well, ill, sick, .. } = pipeline(false).await;
        let mut events = supervisor.events();
        let log = Log::default();
        send(&ill, log.letter(0));
        until("refused", || log.len() == 1).await;
        (1..9).for_each(|part| send(&ill, log.letter(part)));
        event(&mut events, |event| matches!(event, Event::CircuitOpened { .. })).await;
        sick.store(false, Ordering::SeqCst);
        event(&mut events, |event| matches!(event, Event::GroupRestarted { .. })).await;
        let log = Log::default();
        (0..9).for_each(|part| send(&ill, log.letter(part)));
        (9..18).for_each(|part| send(&well, log.letter(part)));
        log.reach(18).await;
        assert_eq!(log.ends(0..18), [End::Delivered; 18]);
        assert!(supervisor.health().ok);
        assert_eq!(well.observe().restarts.aborted, 1);
    });
}

#[test]
fn a_critical_stage_escalates() {
    paused(async {
        let Pipeline { supervisor, well, ill, .. } = pipeline(true).await;
        let mut events = supervisor.events();
        assert_eq!(supervisor.escalated(), None);
        for _ in 0..2 {
            let log = Log::default();
            until("served", || ill.state() == State::Running).await;
            (0..9).for_each(|part| send(&ill, log.letter(part)));
            log.reach(9).await;
        }
        let escalated = event(&mut events, |event| matches!(event, Event::Escalated { .. })).await;
        let Event::Escalated { name, message } = escalated else { unreachable!() };
        assert_eq!(&*name, "ill");
        assert!(message.contains("broken on"), "{message}");
        assert_eq!(supervisor.escalated(), Some((name, message)));
        // What follows is the root's decision: nothing else is touched.
        assert_eq!((ill.state(), well.state()), (State::Failed, State::Running));
        assert!(!supervisor.health().ok);
    });
}

#[test]
fn nobody_stalls_while_nothing_turns() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let mut events = supervisor.events();
        let (log, cell) = (Log::default(), cell("busy", 9));
        let busy = stage(Arc::new(|_| Box::pin(std::future::pending())));
        supervisor.supervise(cell.clone(), spec(), busy).await.unwrap();
        send(&cell, log.letter(0));
        tokio::time::sleep(Duration::from_secs(3)).await;
        // As after SIGSTOP and SIGCONT: a minute is gone, and no timer of it has run.
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((cell.observe().in_hand, cell.observe().generation), (1, 1));
        event(&mut events, |event| matches!(event, Event::Stalled { .. })).await;
    });
}

#[test]
fn who_is_disowned_fails_alone() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let mut events = supervisor.events();
        let group = || ChildSpec { group: Some("traces".into()), critical: true, ..spec() };
        let (before, after) = (cell("before", 9), cell("after", 9));
        let fails = launch(|lease| async move {
            lease.started();
            Err(Failure::new("always"))
        });
        let child = supervisor.supervise(before.clone(), group(), fails).await.unwrap();
        supervisor.supervise(after.clone(), group(), allergic(99)).await.unwrap();
        supervisor.disown(&[child]);
        let failed = |event: &Event| matches!(event, Event::GroupFailed { .. } | Event::Escalated { .. });
        let alone =
            Event::GroupFailed { group: "before".into(), name: "before".into(), message: "always".into() };
        assert_eq!(event(&mut events, failed).await, alone);
        assert_eq!((after.state(), after.observe().generation), (State::Running, 1));
        assert_eq!((supervisor.escalated(), supervisor.health().failed), (None, vec!["before".into()]));
    });
}

#[test]
fn restart_kinds() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let runs = Arc::new(Mutex::new(HashMap::<&'static str, usize>::new()));
        let cases: [(&'static str, Restart, bool, usize); 4] = [
            ("transient, in order", Restart::Transient, true, 1),
            ("transient, failing", Restart::Transient, false, 3),
            ("temporary, failing", Restart::Temporary, false, 1),
            ("permanent, in order", Restart::Permanent, true, 3),
        ];
        for (name, restart, in_order, wanted) in cases {
            let counted = runs.clone();
            let launch = launch(move |lease| {
                *counted.lock().entry(name).or_default() += 1;
                async move {
                    lease.started();
                    if lease.generation() == 3 {
                        std::future::pending::<()>().await;
                    }
                    if in_order { Ok(()) } else { Err(Failure::new("on purpose")) }
                }
            });
            let mut events = supervisor.events();
            let cell = cell(name, 9);
            supervisor.supervise(cell.clone(), ChildSpec { restart, ..spec() }, launch).await.unwrap();
            if wanted == 1 {
                event(&mut events, |event| matches!(event, Event::Ended { .. })).await;
                assert_eq!(cell.state(), State::Stopped);
            } else {
                until("the third run", || runs.lock()[name] == 3).await;
            }
            assert_eq!(runs.lock()[name], wanted, "{name}");
        }
    });
}

#[test]
fn a_child_nobody_waits_for_is_not_kept() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let cell: Cell<Letter> = Cell::new("unclaimed", Quota::new(Limits::default()));
        let (flag, dropped) = Flag::new();
        let slow = launch(move |lease| {
            let flag = flag.raise();
            async move {
                let _flag = flag;
                tokio::time::sleep(Duration::from_secs(2)).await;
                lease.started();
                std::future::pending().await
            }
        });
        let patience = Duration::from_secs(1);
        let asked = supervisor.supervise(cell.clone(), spec(), slow);
        assert!(tokio::time::timeout(patience, asked).await.is_err());
        until("ended", || cell.state() == State::Stopped).await;
        assert!(supervisor.observe().is_empty());
        until("dropped", || dropped.load(Ordering::SeqCst)).await;
    });
}

#[test]
fn a_cell_torn_down_by_somebody_else_is_given_up() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("gone", 9));
        supervisor.supervise(cell.clone(), spec(), allergic(99)).await.unwrap();
        send(&cell, log.letter(1));
        cell.close("a test");
        until("forgotten", || supervisor.observe().is_empty()).await;
        assert_eq!((log.end(1), cell.observe().generation), (Some(End::Refused("shutdown")), 1));
        assert!(supervisor.health().ok);
    });
}

#[test]
fn what_waits_behind_a_suspect_is_woken() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, cell) = (Log::default(), cell("concurrent", 9));
        // Asks for the next message while it is still busy with the one before.
        let concurrent = launch(|mut lease| async move {
            lease.started();
            let mut hand: Vec<Ticket> = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    next = lease.next() => match next {
                        Next::Mail(ticket) => hand.push(ticket),
                        _ => return Ok(()),
                    },
                    () = tokio::time::sleep(Duration::from_secs(1)), if !hand.is_empty() => {
                        assert!(lease.generation() > 1, "once");
                        hand.drain(..).for_each(|ticket| lease.finish(ticket, Outcome::Delivered));
                    }
                }
            }
        });
        (0..3).for_each(|part| send(&cell, log.letter(part)));
        supervisor.supervise(cell.clone(), spec(), concurrent).await.unwrap();
        log.reach(3).await;

        // A future of `next` that is polled once and kept must be woken by the end of what held it back.
        let waiting = launch(|mut lease| async move {
            lease.started();
            let Next::Mail(first) = lease.next().await else { return Ok(()) };
            assert!(first.alone(), "once");
            let mut first = Some(first);
            let woken = Arc::new(AtomicUsize::new(0));
            let counted = Arc::new(Woken(woken.clone()));
            let waker = Waker::from(counted);
            assert!(lease.poll_next(&mut Context::from_waker(&waker)).is_pending());
            lease.finish(first.take().unwrap(), Outcome::Delivered);
            assert_eq!(woken.load(Ordering::SeqCst), 1);
            serve(lease, handle(|_| {})).await
        });
        let cell = common::cell("waiting", 9);
        (3..6).for_each(|part| send(&cell, log.letter(part)));
        supervisor.supervise(cell.clone(), spec(), waiting).await.unwrap();
        log.reach(6).await;
        assert_eq!(log.ends(0..6), [End::Delivered; 6]);
        assert_eq!(cell.observe().restarts.panicked, 1);
    });
}

struct Woken(Arc<AtomicUsize>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn what_crosses_threads_may() {
    fn crosses<T: Send + Sync + 'static>() {}
    fn moves<T: Send + 'static>() {}
    crosses::<Cell<Letter>>();
    crosses::<Supervisor>();
    moves::<watershed_supervise::Reserve<Letter>>();
    moves::<watershed_supervise::Room<Letter>>();
    moves::<watershed_supervise::Lease<Letter>>();
    moves::<watershed_supervise::Taken<Letter>>();
}
