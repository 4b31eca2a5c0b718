//! What a drain says of those that did not end in order, and what is ended without anybody looking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_rt::System;
use common::{
    End, Letter, Log, POLICY, allergic, broken, cell, launch, nothing_leaked, paused, send, soon, spec, until,
};
use tokio::time::Instant;
use watershed_supervise::{Cell, Launch, Limits, Mail, Quota, State, Supervisor};

/// Starts, and then does nothing.
fn idle() -> Launch<Letter> {
    launch(|lease| async move {
        lease.started();
        std::future::pending().await
    })
}

#[test]
fn withdrawn_mail_gives_up_its_room_unasked() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let quota = Quota::new(Limits { requests: Some(1), ..Limits::default() });
        let (log, a, b) = (Log::default(), Cell::new("a", quota.clone()), Cell::new("b", quota));
        supervisor.supervise(a.clone(), spec(), idle()).await.unwrap();
        let letter = log.letter(1);
        let withdrawn = letter.withdrawn.clone();
        send(&a, letter);
        withdrawn.store(true, Ordering::SeqCst);

        // Whoever waits does so at another cell, and asks only once.
        let start = Instant::now();
        let letter = log.letter(2);
        b.reserve(letter.weight()).await.unwrap().send(letter);
        assert!(start.elapsed() <= Duration::from_secs(1));
        assert_eq!((log.end(1), a.observe().withdrawn), (Some(End::Refused("withdrawn")), 1));
        b.close("a test");
        nothing_leaked(&a);
    });
}

#[test]
fn who_leaves_mail_behind_is_named() {
    paused(async {
        let supervisor = Supervisor::start(POLICY);
        let (log, hasty, open) = (Log::default(), cell("hasty", 9), cell("open", 9));
        let quitter = cell("quitter", 9);
        // Takes the order to drain for the end.
        let leave = launch(|mut lease| async move {
            lease.started();
            lease.control().await;
            Ok(())
        });
        let sick = Arc::new(AtomicBool::new(true));
        let ids = [
            supervisor.supervise(hasty.clone(), spec(), leave.clone()).await.unwrap(),
            supervisor.supervise(quitter.clone(), spec(), leave).await.unwrap(),
            supervisor.supervise(open.clone(), spec(), broken(&sick)).await.unwrap(),
        ];
        (0..9).for_each(|part| send(&open, log.letter(part)));
        until("open", || open.state() == State::Open).await;
        send(&hasty, log.letter(9));
        let letter = log.letter(10);
        letter.withdrawn.store(true, Ordering::SeqCst);
        send(&quitter, letter);

        // A circuit that is open holds nothing, and what nobody waits for is not lost.
        let report = supervisor.drain(&ids, soon()).await;
        assert_eq!((report.drained, report.aborted), (2, vec!["hasty".into()]));
        assert_eq!(log.ends([9, 10]), [End::Refused("shutdown"), End::Refused("withdrawn")]);
        nothing_leaked(&hasty);
    });
}

#[test]
fn without_a_supervisor_nothing_drains() {
    // Its System ends with the block, and the supervisor with the System.
    let (supervisor, id) = System::new().block_on(async {
        let supervisor = Supervisor::start(POLICY);
        let id = supervisor.supervise(cell("orphan", 9), spec(), allergic(99)).await.unwrap();
        supervisor.supervise(cell("another", 9), spec(), allergic(99)).await.unwrap();
        (supervisor, id)
    });
    paused(async {
        let report = supervisor.drain(&[id], soon()).await;
        assert_eq!((report.drained, report.aborted), (0, vec!["orphan".into()]));
    });
}
