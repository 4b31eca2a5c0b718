//! Threads that block, in real time; and stages on threads of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_rt::Arbiter;
use common::{End, Log, cell, event, handle, real, send, spec, stage, until};
use tokio::time::Instant;
use watershed_supervise::{ChildSpec, Event, Exit, Mail, Policy, Supervisor, Watchdog, Weight};

const LIMIT: Duration = Duration::from_millis(200);

#[test]
fn a_blocked_arbiter_is_seen_and_seen_to_recover() {
    real(async {
        let supervisor = Supervisor::start(Policy::default());
        let mut events = supervisor.events();
        let (well, ill) = (Arbiter::new(), Arbiter::new());
        let watchdog = Watchdog::start(&supervisor, LIMIT).unwrap();
        watchdog.watch("well", &well.handle());
        watchdog.watch("ill", &ill.handle());

        let (release, blocked) = std::sync::mpsc::sync_channel::<()>(1);
        ill.spawn_fn(move || {
            let _ = blocked.recv();
        });
        let stuck = event(&mut events, |event| matches!(event, Event::LaneStuck { .. })).await;
        assert_eq!(stuck, Event::LaneStuck { lane: "ill".into() });
        let health = supervisor.health();
        assert_eq!((health.ok, health.stuck), (false, vec!["ill".into()]));

        drop(release);
        event(&mut events, |event| *event == Event::LaneRecovered { lane: "ill".into() }).await;
        assert!(supervisor.health().ok);

        // A thread that is gone is silent, too; and what is no longer watched is no longer reported.
        ill.stop();
        event(&mut events, |event| *event == Event::LaneStuck { lane: "ill".into() }).await;
        drop(watchdog);
        assert!(supervisor.health().ok);
        well.stop();
    });
}

#[test]
fn a_stage_on_another_thread_survives_its_panics() {
    real(async {
        let supervisor = Supervisor::start(Policy::default());
        let arbiter = Arbiter::new();
        let (log, cell) = (Log::default(), cell("elsewhere", 1_000));
        let spec = ChildSpec { lane: arbiter.handle(), ..spec() };
        let allergic = stage(handle(|parts| assert!(parts[0] % 100 != 50, "allergic to {parts:?}")));
        let id = supervisor.supervise(cell.clone(), spec, allergic).await.unwrap();
        for part in 0..500 {
            send(&cell, log.letter(part));
        }
        log.reach(500).await;
        for part in 0..500 {
            let end = if part % 100 == 50 { End::Poison } else { End::Delivered };
            assert_eq!(log.end(part), Some(end), "part {part}");
        }
        assert_eq!(cell.quota().used(), Weight::default());
        assert_eq!(supervisor.drain(&[id], Instant::now() + Duration::from_secs(5)).await.drained, 1);
        arbiter.stop();
    });
}

#[test]
fn a_stage_whose_thread_is_gone_is_a_failure() {
    real(async {
        let policy = Policy {
            base: Duration::from_millis(1),
            cool_down: Duration::from_millis(1),
            ..Policy::default()
        };
        let supervisor = Supervisor::start(policy);
        let mut events = supervisor.events();
        let arbiter = Arbiter::new();
        let (log, cell) = (Log::default(), cell("homeless", 9));
        let spec = ChildSpec { lane: arbiter.handle(), ..spec() };
        let never = stage(std::sync::Arc::new(|_| Box::pin(std::future::pending())));
        supervisor.supervise(cell.clone(), spec.clone(), never).await.unwrap();
        send(&cell, log.letter(1));
        until("in hand", || cell.observe().in_hand == 1).await;
        arbiter.stop();
        arbiter.join().unwrap();
        let restarted = event(&mut events, |event| matches!(event, Event::Restarted { .. })).await;
        let Event::Restarted { reason, message, .. } = restarted else { unreachable!() };
        assert_eq!((reason, &*message), (Exit::Failed, "its lane is gone"));
        event(&mut events, |event| matches!(event, Event::GroupFailed { .. })).await;
        assert_eq!(log.end(1), Some(End::Refused("failure")));
        assert_eq!(cell.quota().used(), Weight::default());
    });
}

#[test]
fn many_senders_and_a_stage_that_keeps_breaking_lose_nothing() {
    const SENDERS: u32 = 4;
    const EACH: u32 = 500;
    real(async {
        let policy = Policy { base: Duration::from_micros(10), seed: Some(1), ..Policy::default() };
        let supervisor = Supervisor::start(policy);
        let (log, cell) = (Log::default(), cell("storm", 7));
        let arbiter = Arbiter::new();
        let calls = AtomicU32::new(0);
        let fickle = stage(handle(move |_| {
            assert!(calls.fetch_add(1, Ordering::SeqCst) % 5 != 4, "every fifth time");
        }));
        let spec = ChildSpec { lane: arbiter.handle(), ..spec() };
        let id = supervisor.supervise(cell.clone(), spec, fickle).await.unwrap();
        let senders: Vec<Arbiter> = (0..SENDERS).map(|_| Arbiter::new()).collect();
        for (sender, nth) in senders.iter().zip(0..) {
            let (cell, log) = (cell.clone(), log.clone());
            sender.spawn(async move {
                for part in nth * EACH..(nth + 1) * EACH {
                    let letter = log.letter(part);
                    // Some give up waiting, and ask again.
                    drop(
                        tokio::time::timeout(Duration::from_micros(50), cell.reserve(letter.weight())).await,
                    );
                    cell.reserve(letter.weight()).await.unwrap().send(letter);
                }
            });
        }
        log.reach((SENDERS * EACH) as usize).await;
        for part in 0..SENDERS * EACH {
            // A message may meet the fifth time twice; nothing may meet it and vanish.
            assert!(matches!(log.end(part), Some(End::Delivered | End::Poison)), "{:?}", log.end(part));
        }
        let report = supervisor.drain(&[id], Instant::now() + Duration::from_secs(5)).await;
        assert_eq!((report.drained, cell.quota().used()), (1, Weight::default()));
        assert!(cell.observe().restarts.panicked >= u64::from(SENDERS * EACH / 5));
        senders.iter().chain([&arbiter]).for_each(|arbiter| {
            arbiter.stop();
        });
    });
}
