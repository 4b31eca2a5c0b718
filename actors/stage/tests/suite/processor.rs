//! What becomes of a message in a processor.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;
use watershed_delivery::{Cause, Fault, Guard, Outcome};
use watershed_stage::{
    Ack, Branch, Downstream, Error, Failure, Ledger, Message, OVERHEAD, OnFull, Origin, PerSignal, Signal,
    Tail, Way,
};
use watershed_supervise::{Cell as StageCell, Mail as _};

use crate::common::{
    Bench, End, assert_refused, assert_rejected, ids, ms, paused, payload, secs, spans, until,
};
use crate::kinds::{on_drain, on_handle, on_tick};

const INCOMING: &str = "otelcol_processor_incoming_spans{processor=\"script\",pipeline=\"traces\"}";
const OUTGOING: &str = "otelcol_processor_outgoing_spans{processor=\"script\",pipeline=\"traces\"}";

/// A processor in front of `downstream`.
pub async fn processor(bench: &Bench, settings: &str, downstream: Downstream) -> StageCell<Message> {
    let spec =
        Bench::registry().parse_processor("script", toml::from_str(settings).unwrap()).unwrap().unwrap();
    let watershed_stage::Part::Stage(stage) = spec.part() else { panic!("a stage") };
    let cell = bench.cell("script", 1000);
    let env = bench.env("script");
    let onward = Way::new(downstream, &env, &"traces".into());
    bench.start(&cell, stage.clone().launch(env, onward.into())).await;
    cell
}

#[test]
fn what_it_passes_on_carries_the_debts_of_what_it_was_given() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        // Two outputs are one message.
        on_handle(|payload| async move { Ok(vec![payload, spans([10, 11])]) });
        let receipt = bench.awaited(&cell, spans([1]), secs(8));
        let (mail, room) = end.take().await.into_parts();
        assert_eq!((ids(&mail.payload), receipt.outcome()), (vec![1, 10, 11], None));
        assert!(bench.budget.used() >= mail.payload.bytes() as u64);
        mail.guard.resolve(Outcome::Delivered);
        drop((mail.permit, mail.charge, room));
        assert_eq!(receipt.await, Outcome::Delivered);
        assert_eq!((bench.metric(INCOMING), bench.metric(OUTGOING)), (1, 3));
        bench.end().await;
    });
}

#[test]
fn nothing_passed_on_is_dropped_by_policy() {
    paused(async {
        let bench = Bench::new();
        let end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        on_handle(|_| async { Ok(Vec::new()) });
        let dropped = bench.awaited(&cell, spans([1, 2]), secs(8)).await;
        assert_eq!(dropped, Outcome::Dropped { items: 2 });
        // A payload without items is nothing, too.
        on_handle(|_| async { Ok(vec![spans([])]) });
        assert_eq!(bench.awaited(&cell, spans([3]), secs(8)).await, Outcome::Dropped { items: 1 });
        assert!(end.is_empty());
        bench.end().await;
    });
}

#[test]
fn an_error_ends_the_message_and_not_the_stage() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        on_handle(|payload| async move {
            match ids(&payload)[0] {
                1 => Err(Error::reject("wrong")),
                2 => Err(Error::refuse("not now")),
                _ => Ok(vec![payload]),
            }
        });
        assert_rejected(&bench.awaited(&cell, spans([1, 9]), secs(8)).await, Fault::Invalid, 2);
        assert_refused(&bench.awaited(&cell, spans([2]), secs(8)).await, Cause::Failure);
        let third = bench.awaited(&cell, spans([3]), secs(8));
        assert_eq!(end.finish(Outcome::Delivered).await, [3]);
        assert_eq!((third.await, cell.observe().generation), (Outcome::Delivered, 1));
        assert_eq!((bench.metric(INCOMING), bench.metric(OUTGOING)), (4, 1));
        bench.end().await;
    });
}

#[test]
fn a_panic_repeats_nothing_and_loses_nothing() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        let broke = Rc::new(Cell::new(0));
        let breaks = broke.clone();
        on_handle(move |payload| {
            let breaks = breaks.clone();
            async move {
                // Once by a panic, once by its own word.
                match (ids(&payload)[0], breaks.get()) {
                    (1, 0) => {
                        breaks.set(1);
                        panic!("on purpose")
                    }
                    (2, 1) => {
                        breaks.set(2);
                        Err(Error::Failed(Failure::new("on purpose")))
                    }
                    _ => Ok(vec![payload]),
                }
            }
        });
        let receipts = [0, 1, 2].map(|id| bench.awaited(&cell, spans([id]), secs(8)));
        let mut sent = Vec::new();
        for _ in 0..3 {
            sent.extend(end.finish(Outcome::Delivered).await);
        }
        for receipt in receipts {
            assert_eq!(receipt.await, Outcome::Delivered);
        }
        sent.sort();
        assert_eq!((sent, broke.get()), (vec![0, 1, 2], 2));
        assert_eq!((bench.metric(INCOMING), bench.metric(OUTGOING)), (3, 3));
        assert!(end.is_empty());
        bench.end().await;
    });
}

#[test]
fn outputs_of_several_signals_are_not_silently_lost() {
    paused(async {
        let bench = Bench::new();
        let end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        on_handle(|traces| async move { Ok(vec![traces, payload(Signal::Logs, [2])]) });
        let outcome = bench.awaited(&cell, spans([1]), secs(8)).await;
        assert_refused(&outcome, Cause::Failure);
        assert!(end.is_empty());
        bench.end().await;
    });
}

#[test]
fn ticks_come_in_time_however_full_the_queue_is() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 100);
        on_handle(|payload| async move {
            tokio::time::sleep(ms(10)).await;
            Ok(vec![payload])
        });
        let ticks = Rc::new(Cell::new(0));
        let counted = ticks.clone();
        on_tick(move || {
            counted.set(counted.get() + 1);
            vec![spans([99])]
        });
        let start = Instant::now();
        let cell =
            processor(&bench, "interval = '50ms'", Downstream::Cell("end".into(), end.cell.clone())).await;
        let receipts: Vec<_> = (0..20).map(|id| bench.awaited(&cell, spans([id]), secs(8))).collect();
        let mut order = Vec::new();
        while order.len() < 23 {
            order.extend(end.finish(Outcome::Delivered).await);
            assert!(order[0] == 0 || start.elapsed() >= ms(50), "no tick at the start");
        }
        assert!(order[..10].contains(&99), "{order:?}");
        for receipt in receipts {
            assert_eq!(receipt.await, Outcome::Delivered);
        }
        // What it makes has no sender, and its memory comes back all the same.
        let tick = ticks.get();
        until("the next tick", || ticks.get() > tick).await;
        on_tick(Vec::new);
        while !end.is_empty() {
            end.finish(Outcome::Delivered).await;
        }
        bench.end().await;
    });
}

#[test]
fn an_interval_of_nothing_is_no_panic() {
    paused(async {
        let bench = Bench::new();
        let end = End::new(&bench, "end", 9);
        let ticks = Rc::new(Cell::new(0));
        let counted = ticks.clone();
        on_tick(move || {
            counted.set(counted.get() + 1);
            Vec::new()
        });
        let cell =
            processor(&bench, "interval = '0s'", Downstream::Cell("end".into(), end.cell.clone())).await;
        until("ticks", || ticks.get() > 3).await;
        assert_eq!(cell.observe().generation, 1);
        bench.end().await;
        let bench = Bench::new();
        let cell = processor(
            &bench,
            "interval = '5000000000000h'",
            Downstream::Cell("end".into(), end.cell.clone()),
        )
        .await;
        assert_eq!(cell.observe().generation, 1);
        bench.end().await;
    });
}

#[test]
fn a_drain_passes_on_what_the_stage_kept() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        on_handle(|_| async { Ok(Vec::new()) });
        on_drain(|| vec![spans([7, 8])]);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        let kept = bench.held(&cell, spans([7, 8]));
        let reports = bench.drain().await;
        assert_eq!((reports[0].drained, kept.outcome()), (1, Some(Outcome::Dropped { items: 2 })));
        assert_eq!(end.finish(Outcome::Delivered).await, [7, 8]);
        bench.nothing_left();
    });
}

#[test]
fn a_full_queue_behind_it_is_waited_for_and_the_wait_is_seen() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 1);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        let first = bench.held(&cell, spans([1]));
        until("the queue is full", || !end.is_empty()).await;
        let second = bench.awaited(&cell, spans([2]), secs(8));
        let withdrawn = bench.awaited(&cell, spans([3]), secs(8));
        until("it is in hand", || cell.observe().in_hand == 1).await;
        tokio::time::sleep(secs(3)).await;
        drop(second);
        assert_eq!(cell.observe().blocked_micros, 0, "not over yet");
        let fourth = bench.held(&cell, spans([4]));
        assert_eq!(end.finish(Outcome::Delivered).await, [1]);
        // The second was withdrawn while it was waited for: it is not sent. The third was, too, while it stood
        // in the queue.
        drop(withdrawn);
        assert_eq!(end.finish(Outcome::Delivered).await, [4]);
        assert_eq!((first.end().await, fourth.end().await), (Outcome::Delivered, Outcome::Delivered));
        let blocked = cell.observe().blocked_micros;
        assert!((3_000_000..3_100_000).contains(&blocked), "{blocked}");
        bench.end().await;
    });
}

#[test]
fn a_full_queue_is_waited_for_no_longer_than_anybody_waits() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 1);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        let first = bench.held(&cell, spans([1]));
        until("the queue is full", || !end.is_empty()).await;
        let left = bench.budget.used();
        let start = Instant::now();
        let blocked = bench.awaited(&cell, spans([2]), secs(2));
        let behind = bench.awaited(&cell, spans([3]), secs(9));
        assert_refused(&blocked.await, Cause::Deadline);
        assert_eq!(start.elapsed().as_secs(), 2);
        // Those behind it that nobody waits for any more leave, too, and their memory comes back.
        drop(behind);
        until("their memory is back", || bench.budget.used() == left).await;
        assert!(start.elapsed() < secs(10));
        assert_eq!(end.finish(Outcome::Delivered).await, [1]);
        assert_eq!(first.end().await, Outcome::Delivered);
        bench.end().await;
    });
}

#[test]
fn a_queue_that_is_torn_down_refuses() {
    paused(async {
        let bench = Bench::new();
        let end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        end.cell.close("gone");
        assert_refused(&bench.awaited(&cell, spans([1]), secs(8)).await, Cause::Failure);
        bench.end().await;
    });
}

#[test]
fn an_edited_copy_is_counted_beside_its_original() {
    paused(async {
        let bench = Bench::new();
        let mut ends = [End::new(&bench, "a", 9), End::new(&bench, "b", 9)];
        let branches = ends.iter().map(|end| Branch {
            id: end.cell.name().clone(),
            cell: end.cell.clone(),
            share: bench.share.clone(),
            required: true,
            on_full: OnFull::Refuse,
            enqueue_failed: PerSignal::default(),
            store: None,
        });
        let ledger = Ledger::new("traces".into(), &bench.metrics);
        let tail = Tail { branches: branches.collect(), ack: Ack::Delivered, ledger };
        let cell = processor(&bench, "", Downstream::Tail(tail.into())).await;
        let original = spans(0..10);
        let bytes = original.bytes() as u64;
        on_handle(|_| async { Ok(vec![spans(0..10)]) });
        let (guard, receipt) = Guard::awaited(None);
        let message = bench.message("traces", Origin::default(), original, guard);
        // Another pipeline has the original.
        let original = (message.payload.clone(), message.permit.clone());
        cell.try_reserve(message.weight()).unwrap().send(message);
        let held = [ends[0].take().await, ends[1].take().await];
        // The original, and the copy once for both branches.
        assert_eq!((bench.budget.used(), bench.share.used()), (2 * bytes, 2 * (bytes + OVERHEAD as u64)));
        drop(original);
        assert_eq!(bench.budget.used(), bytes);
        drop(held);
        assert_refused(&receipt.await, Cause::Abandoned);
        bench.end().await;
    });
}
