//! What becomes of a request from its admission to its pipelines.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use watershed_delivery::{Cause, Exhausted, Fault, Outcome};
use watershed_stage::{
    Ack, Branch, Downstream, Entries, Entry, Intake, Ledger, OVERHEAD, OnFull, Origin, Payload, PerSignal,
    ReceiverParts, Request, Signal, Switch, Tail,
};
use watershed_supervise::{Cell as StageCell, Weight};

use crate::common::{
    Bench, End, assert_refused, assert_rejected, ids, ms, paused, request, secs, spans, until,
};
use crate::kinds::{fetched, on_decode};

struct Rig {
    bench: Bench,
    cell: StageCell<Request>,
    intake: Intake,
}

/// A receiver that feeds these cells, one pipeline each, by signal.
async fn receiver(bench: Bench, settings: &str, feeds: [Vec<Downstream>; 3], mailbox: usize) -> Rig {
    let spec = Bench::registry().parse_receiver("rx", toml::from_str(settings).unwrap()).unwrap().unwrap();
    let cell = bench.cell("rx", mailbox);
    let env = bench.env("rx");
    let mut pipelines = 0;
    let entries = feeds.map(|feeds| {
        let entry = |downstream| {
            pipelines += 1;
            Entry::new(format!("p{pipelines}").into(), downstream, &env)
        };
        feeds.into_iter().map(entry).collect()
    });
    let entries = Switch::from(Entries::new(entries));
    let intake = Intake::new(env.clone(), cell.clone(), entries.clone());
    let parts = ReceiverParts { env, entries, intake: intake.clone() };
    bench.start(&cell, spec.launch(parts)).await;
    Rig { bench, cell, intake }
}

fn feed(end: &End) -> Downstream {
    Downstream::Cell("end".into(), end.cell.clone())
}

impl Rig {
    /// Starts to wait for an answer, as a connection does.
    fn submit(&self, signal: Signal, body: Bytes) -> tokio::task::JoinHandle<Outcome> {
        let (intake, permit) = (self.intake.clone(), self.intake.admit(body.len() as u64).unwrap());
        actix_rt::spawn(async move { intake.submit(signal, body, Origin::default(), permit, secs(60)).await })
    }

    fn traces(&self, ids: impl IntoIterator<Item = u32>) -> tokio::task::JoinHandle<Outcome> {
        self.submit(Signal::Traces, request(Signal::Traces, ids, 0))
    }

    fn refused(&self, reason: &str) -> u64 {
        let series = "watershed_receiver_refused_requests";
        self.bench.metric(&format!("{series}{{receiver=\"rx\",reason=\"{reason}\"}}"))
    }
}

#[test]
fn every_pipeline_of_its_signal_has_the_message() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b, c) =
            (End::new(&bench, "a", 9), End::new(&bench, "b", 9), End::new(&bench, "c", 9));
        let rig = receiver(bench, "", [vec![feed(&a), feed(&b)], vec![], vec![feed(&c)]], 9).await;
        let outcome = rig.traces([1, 2]);
        let (one, room) = a.take().await.into_parts();
        assert_eq!((ids(&one.payload), &*one.context.pipeline), (vec![1, 2], "p1"));
        let held = (one.payload.bytes() + OVERHEAD) as u64;
        assert_eq!((&*one.context.receiver, rig.bench.budget.used()), ("rx", held));
        one.guard.resolve(Outcome::Delivered);
        drop((one.permit, room));
        assert!(!outcome.is_finished());
        assert_eq!(b.finish(Outcome::Delivered).await, [1, 2]);
        assert_eq!(outcome.await.unwrap(), Outcome::Delivered);
        assert!(c.is_empty());
        assert_eq!(rig.bench.metric("otelcol_receiver_accepted_spans{receiver=\"rx\"}"), 2);
        rig.bench.end().await;
    });
}

#[test]
fn what_is_wrong_is_rejected_and_what_is_empty_succeeds() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let rig = receiver(bench, "", [vec![feed(&end)], vec![], vec![]], 9).await;
        let wrong = rig.submit(Signal::Traces, Bytes::from_static(&[0x0a, 0xff])).await.unwrap();
        assert_rejected(&wrong, Fault::Invalid, 0);
        assert_eq!(rig.submit(Signal::Traces, Bytes::new()).await.unwrap(), Outcome::Delivered);
        assert_eq!(rig.traces([]).await.unwrap(), Outcome::Delivered);
        // No pipeline takes logs from here.
        let logs = rig.submit(Signal::Logs, request(Signal::Logs, [1, 2], 0)).await.unwrap();
        assert_rejected(&logs, Fault::Invalid, 2);
        assert!(end.is_empty());
        assert_eq!(rig.refused("rejected"), 2);
        let refused = rig.traces([3]);
        end.finish(Outcome::refused(Cause::Destination, "down")).await;
        // Whoever is refused is told how long to wait.
        assert_eq!(assert_refused(&refused.await.unwrap(), Cause::Destination), Some(secs(1)));
        assert_eq!(rig.bench.metric("otelcol_receiver_refused_spans{receiver=\"rx\"}"), 1);
        rig.bench.end().await;
    });
}

#[test]
fn a_pipeline_that_blocks_holds_up_no_other() {
    paused(async {
        let bench = Bench::new();
        let (mut full, mut free) = (End::new(&bench, "full", 1), End::new(&bench, "free", 9));
        let rig = receiver(bench, "", [vec![feed(&full)], vec![], vec![feed(&free)]], 9).await;
        let first = rig.traces([1]);
        let blocked = [rig.traces([2]), rig.traces([3])];
        until("two wait", || rig.cell.observe().in_hand == 2).await;
        let other = rig.submit(Signal::Logs, request(Signal::Logs, [4], 0));
        assert_eq!(free.finish(Outcome::Delivered).await, [4]);
        assert_eq!(other.await.unwrap(), Outcome::Delivered);
        for id in [1, 2, 3] {
            assert_eq!(full.finish(Outcome::Delivered).await, [id]);
        }
        assert_eq!(first.await.unwrap(), Outcome::Delivered);
        for outcome in blocked {
            assert_eq!(outcome.await.unwrap(), Outcome::Delivered);
        }
        rig.bench.end().await;
    });
}

#[test]
fn while_one_pipeline_is_waited_for_nothing_is_held_in_another() {
    paused(async {
        let bench = Bench::new();
        let (mut free, mut full) = (End::new(&bench, "free", 2), End::new(&bench, "full", 1));
        let rig = receiver(bench, "", [vec![feed(&free), feed(&full)], vec![], vec![feed(&free)]], 9).await;
        let outcomes = [rig.traces([1]), rig.traces([2]), rig.traces([3])];
        until("two wait", || rig.cell.observe().in_hand == 2).await;
        assert_eq!(free.cell.quota().used().requests, 1);
        // So others still get through.
        let other = rig.submit(Signal::Logs, request(Signal::Logs, [4], 0));
        assert_eq!(free.finish(Outcome::Delivered).await, [1]);
        assert_eq!(free.finish(Outcome::Delivered).await, [4]);
        assert_eq!(other.await.unwrap(), Outcome::Delivered);
        for id in [1, 2, 3] {
            assert_eq!(full.finish(Outcome::Delivered).await, [id]);
            if id > 1 {
                assert_eq!(free.finish(Outcome::Delivered).await, [id]);
            }
        }
        for outcome in outcomes {
            assert_eq!(outcome.await.unwrap(), Outcome::Delivered);
        }
        rig.bench.end().await;
    });
}

#[test]
fn two_pipelines_that_fill_in_turn_are_both_waited_for() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 1), End::new(&bench, "b", 1));
        let rig = receiver(bench, "", [vec![feed(&a), feed(&b)], vec![], vec![]], 9).await;
        let outcomes = [1, 2, 3].map(|id| rig.traces([id]));
        until("two wait", || rig.cell.observe().in_hand == 2).await;
        for id in [1, 2, 3] {
            // First the one that is not waited for, then the one that is.
            assert_eq!(b.finish(Outcome::Delivered).await, [id]);
            tokio::time::sleep(ms(5)).await;
            assert_eq!(a.finish(Outcome::Delivered).await, [id]);
        }
        for outcome in outcomes {
            assert_eq!(outcome.await.unwrap(), Outcome::Delivered);
        }
        rig.bench.end().await;
    });
}

#[test]
fn nobody_waits_beyond_its_deadline_and_keeps_memory() {
    paused(async {
        let bench = Bench::new();
        let mut full = End::new(&bench, "full", 1);
        let rig = receiver(bench, "", [vec![feed(&full)], vec![], vec![]], 9).await;
        let start = Instant::now();
        let sent = rig.traces([1]);
        let waits = rig.traces([2]);
        until("one waits", || rig.cell.observe().in_hand == 1).await;
        let outcome = waits.await.unwrap();
        assert_eq!(assert_refused(&outcome, Cause::Deadline), Some(secs(1)));
        // Never longer than 8 s, however patient the sender.
        assert_eq!(start.elapsed().as_secs(), 8);
        assert_refused(&sent.await.unwrap(), Cause::Deadline);
        until("it is cut out", || rig.cell.quota().used() == Weight::default()).await;
        // The first lies in the pipeline's queue, withdrawn; the second has left nothing.
        let held = request(Signal::Traces, [1], 0).len() + OVERHEAD;
        assert_eq!(rig.bench.budget.used(), held as u64);
        let third = rig.traces([3]);
        assert_eq!(full.finish(Outcome::Delivered).await, [3]);
        assert_eq!(third.await.unwrap(), Outcome::Delivered);
        rig.bench.end().await;
    });
}

#[test]
fn a_sender_that_has_gone_is_not_sent_for() {
    paused(async {
        let bench = Bench::new();
        let mut full = End::new(&bench, "full", 1);
        let rig = receiver(bench, "", [vec![feed(&full)], vec![], vec![]], 9).await;
        let (first, gone) = (rig.traces([1]), rig.traces([2]));
        until("one waits", || rig.cell.observe().in_hand == 1).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert_eq!(rig.refused("withdrawn"), 1);
        let third = rig.traces([3]);
        assert_eq!(full.finish(Outcome::Delivered).await, [1]);
        assert_eq!(full.finish(Outcome::Delivered).await, [3]);
        assert_eq!((first.await.unwrap(), third.await.unwrap()), (Outcome::Delivered, Outcome::Delivered));
        rig.bench.end().await;
    });
}

#[test]
fn a_full_mailbox_and_a_full_budget_refuse_at_once() {
    paused(async {
        let bench = Bench::new();
        let full = End::new(&bench, "full", 1);
        let rig = receiver(bench, "", [vec![feed(&full)], vec![], vec![]], 1).await;
        let first = rig.traces([1]);
        until("it is through", || !full.is_empty()).await;
        let waits = rig.traces([2]);
        until("it waits", || rig.cell.observe().in_hand == 1).await;
        let start = Instant::now();
        let outcome = rig.traces([3]).await.unwrap();
        assert_eq!(assert_refused(&outcome, Cause::Overload), Some(secs(1)));
        let all = rig.bench.budget.limit();
        assert_eq!(rig.intake.admit(all + 1).unwrap_err(), Exhausted::ForEver);
        assert_eq!(rig.intake.admit(all).unwrap_err(), Exhausted::ForNow);
        assert!(start.elapsed() < ms(5));
        assert_eq!((rig.refused("memory"), rig.refused("too_large"), rig.refused("refused")), (1, 1, 1));
        full.cell.close("gone");
        assert_refused(&first.await.unwrap(), Cause::Shutdown);
        assert_refused(&waits.await.unwrap(), Cause::Failure);
        rig.bench.end().await;
    });
}

#[test]
fn a_required_exporter_that_is_full_refuses_early() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 9), End::new(&bench, "b", 1));
        let branch = |end: &End| Branch {
            id: end.cell.name().clone(),
            cell: end.cell.clone(),
            share: bench.share.clone(),
            required: true,
            on_full: OnFull::Refuse,
            enqueue_failed: PerSignal::default(),
            store: None,
        };
        let branches = vec![branch(&a), branch(&b)];
        let ledger = Ledger::new("p1".into(), &bench.metrics);
        let tail = Downstream::Tail(Tail { branches, ack: Ack::Accepted, ledger }.into());
        let rig = receiver(bench, "", [vec![tail], vec![], vec![]], 9).await;
        assert_eq!(rig.traces([1]).await.unwrap(), Outcome::Delivered);
        assert_refused(&rig.traces([2]).await.unwrap(), Cause::Overload);
        assert_eq!(
            (a.finish(Outcome::Delivered).await, b.finish(Outcome::Delivered).await),
            (vec![1], vec![1])
        );
        assert!(a.is_empty());
        rig.bench.end().await;
    });
}

#[test]
fn however_many_wait_only_one_holds_room_beside_a_full_exporter() {
    paused(async {
        let bench = Bench::new();
        let mut ends = [End::new(&bench, "a", 9), End::new(&bench, "b", 9)];
        // Room is reserved in the order of addresses: the second is the one that is full.
        ends.sort_by_key(|end| Arc::as_ptr(end.cell.quota()));
        let full: Vec<_> =
            (0..9).map(|_| ends[1].cell.try_reserve(Weight { requests: 1, ..Weight::default() })).collect();
        let branch = |end: &End| Branch {
            id: end.cell.name().clone(),
            cell: end.cell.clone(),
            share: bench.share.clone(),
            required: true,
            on_full: OnFull::Block,
            enqueue_failed: PerSignal::default(),
            store: None,
        };
        let branches = ends.iter().map(branch).collect();
        let ledger = Ledger::new("p1".into(), &bench.metrics);
        let tail = Downstream::Tail(Tail { branches, ack: Ack::Accepted, ledger }.into());
        let rig = receiver(bench, "", [vec![tail], vec![], vec![]], 9).await;
        let outcomes = [1, 2, 3].map(|id| rig.traces([id]));
        until("they wait", || rig.cell.observe().in_hand == 3).await;
        assert_eq!(ends[0].cell.quota().used().requests, 1);
        drop(full);
        for outcome in outcomes {
            assert_eq!(outcome.await.unwrap(), Outcome::Delivered);
        }
        for end in &mut ends {
            for id in [1, 2, 3] {
                assert_eq!(end.finish(Outcome::Delivered).await, [id]);
            }
        }
        rig.bench.end().await;
    });
}

#[test]
fn a_request_that_breaks_the_receiver_is_convicted_only_with_proof() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let rig = receiver(bench, "", [vec![feed(&end)], vec![], vec![]], 9).await;
        let all = Rc::new(Cell::new(false));
        let allergic_to_all = all.clone();
        on_decode(move |body| {
            let payload = Payload::validate(Signal::Traces, body).unwrap();
            assert!(!allergic_to_all.get() && !ids(&payload).contains(&2), "allergic");
            Ok(payload)
        });
        let (good, bad, other) = (rig.traces([1]), rig.traces([2]), rig.traces([3]));
        let mut sent = vec![end.finish(Outcome::Delivered).await, end.finish(Outcome::Delivered).await];
        sent.sort();
        assert_eq!(sent, [[1], [3]]);
        assert_rejected(&bad.await.unwrap(), Fault::Poison, 0);
        assert_eq!((good.await.unwrap(), other.await.unwrap()), (Outcome::Delivered, Outcome::Delivered));
        // A receiver that is broken as a whole must not blame its senders.
        all.set(true);
        assert_refused(&rig.traces([4]).await.unwrap(), Cause::Failure);
        all.set(false);
        let healed = rig.traces([5]);
        assert_eq!(end.finish(Outcome::Delivered).await, [5]);
        assert_eq!(healed.await.unwrap(), Outcome::Delivered);
        rig.bench.end().await;
    });
}

#[test]
fn a_receiver_that_fetches_is_told_what_became_of_it() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let rig = receiver(bench, "fetch = 2", [vec![feed(&end)], vec![], vec![]], 9).await;
        assert_eq!(end.finish(Outcome::Delivered).await, [0]);
        assert_eq!(end.finish(Outcome::refused(Cause::Destination, "down")).await, [1]);
        until("both are answered", || fetched().len() == 2).await;
        assert_eq!(fetched()[0], Outcome::Delivered);
        assert_refused(&fetched()[1], Cause::Destination);
        let reports = rig.bench.end().await;
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
    });
}

#[test]
fn a_drain_stops_the_fetching_and_finishes_what_waits() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 1);
        bench.budget.set_alarm(false);
        let rig = receiver(bench, "fetch = 1000000", [vec![feed(&end)], vec![], vec![]], 9).await;
        let sent = rig.traces([7]);
        until("both are on their way", || !end.is_empty() && rig.cell.observe().in_hand == 1).await;
        let start = Instant::now();
        let (reports, ()) = tokio::join!(rig.bench.drain(), async {
            let mut order = vec![end.finish(Outcome::Delivered).await, end.finish(Outcome::Delivered).await];
            order.sort();
            assert_eq!(order, [[0], [7]]);
        });
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
        assert_eq!(sent.await.unwrap(), Outcome::Delivered);
        assert!(start.elapsed() < secs(1) && end.is_empty());
        assert!(fetched().len() <= 1, "{:?}", fetched());
        rig.bench.nothing_left();
    });
}

#[test]
fn a_panic_in_a_request_is_counted() {
    paused(async {
        let bench = Bench::new();
        let end = End::new(&bench, "end", 1);
        let rig = receiver(bench, "", [vec![], vec![], vec![feed(&end)]], 9).await;
        rig.intake.panicked("oh");
        assert_eq!(rig.refused("panic"), 1);
        assert!(rig.intake.wants(Signal::Logs) && !rig.intake.wants(Signal::Traces));
        assert_eq!(spans([1]).items(), 1);
        rig.bench.end().await;
    });
}
