//! The end of a pipeline: room in every branch that must have the message, or in none.

use std::sync::Arc;

use watershed_delivery::{Budget, Cause, Outcome, Share};
use watershed_stage::{Ack, Branch, Downstream, Ledger, Message, OVERHEAD, OnFull, Tail};
use watershed_supervise::Cell;

use crate::common::{Bench, End, assert_refused, paused, secs, spans, until};
use crate::processor::processor;

const LOST: [&str; 3] = ["lost_spans", "lost_metric_points", "lost_log_records"];

pub fn branch(bench: &Bench, end: &End, required: bool, on_full: OnFull) -> Branch {
    Branch {
        id: end.cell.name().clone(),
        cell: end.cell.clone(),
        share: bench.share.clone(),
        required,
        on_full,
        enqueue_failed: bench.metrics.per_signal(LOST, "Lost.", &[("branch", end.cell.name())]),
        store: None,
    }
}

pub async fn pipeline(bench: &Bench, ack: Ack, branches: Vec<Branch>) -> Cell<Message> {
    let ledger = Ledger::new("traces".into(), &bench.metrics);
    processor(bench, "", Downstream::Tail(Arc::new(Tail { branches, ack, ledger }))).await
}

#[test]
fn a_full_required_branch_refuses_before_any_other_has_the_message() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 9), End::new(&bench, "b", 1));
        let branches =
            vec![branch(&bench, &a, true, OnFull::Refuse), branch(&bench, &b, true, OnFull::Refuse)];
        let cell = pipeline(&bench, Ack::Delivered, branches).await;
        let first = bench.awaited(&cell, spans([1]), secs(8));
        until("both have it", || !a.is_empty() && !b.is_empty()).await;
        let second = bench.awaited(&cell, spans([2]), secs(8)).await;
        assert_refused(&second, Cause::Overload);
        assert_eq!(a.finish(Outcome::Delivered).await, [1]);
        assert!(a.is_empty());
        // Delivered once the last has it.
        assert_eq!(first.outcome(), None);
        assert_eq!(b.finish(Outcome::Delivered).await, [1]);
        assert_eq!(first.await, Outcome::Delivered);
        bench.end().await;
    });
}

#[test]
fn a_full_optional_branch_goes_without() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 9), End::new(&bench, "b", 1));
        let branches =
            vec![branch(&bench, &a, true, OnFull::Refuse), branch(&bench, &b, false, OnFull::Drop)];
        let cell = pipeline(&bench, Ack::Delivered, branches).await;
        let receipts = [1, 2].map(|id| bench.awaited(&cell, spans([id]), secs(8)));
        assert_eq!(a.finish(Outcome::Delivered).await, [1]);
        assert_eq!(a.finish(Outcome::Delivered).await, [2]);
        for receipt in receipts {
            assert_eq!(receipt.await, Outcome::Delivered);
        }
        assert_eq!(bench.metric("lost_spans{branch=\"b\"}"), 1);
        assert_eq!(bench.metric("lost_spans{branch=\"a\"}"), 0);
        assert_eq!(b.finish(Outcome::Delivered).await, [1]);
        bench.end().await;
    });
}

#[test]
fn a_message_that_no_branch_would_have_is_refused() {
    paused(async {
        let bench = Bench::new();
        let (mut a, b) = (End::new(&bench, "a", 1), End::new(&bench, "b", 9));
        let branches =
            vec![branch(&bench, &a, false, OnFull::Refuse), branch(&bench, &b, false, OnFull::Drop)];
        let cell = pipeline(&bench, Ack::Accepted, branches).await;
        b.cell.close("gone");
        assert_eq!(bench.awaited(&cell, spans([1]), secs(8)).await, Outcome::Delivered);
        assert_refused(&bench.awaited(&cell, spans([2]), secs(8)).await, Cause::Overload);
        // What nobody took is not lost but refused: it is counted for neither.
        assert_eq!(
            (bench.metric("lost_spans{branch=\"a\"}"), bench.metric("lost_spans{branch=\"b\"}")),
            (0, 1)
        );
        a.finish(Outcome::Delivered).await;
        bench.end().await;
    });
}

#[test]
fn a_message_that_every_branch_may_drop_is_dropped_and_counted() {
    paused(async {
        let bench = Bench::new();
        let mut a = End::new(&bench, "a", 1);
        let cell = pipeline(&bench, Ack::Accepted, vec![branch(&bench, &a, false, OnFull::Drop)]).await;
        for id in [1, 2] {
            assert_eq!(bench.awaited(&cell, spans([id]), secs(8)).await, Outcome::Delivered);
        }
        assert_eq!(bench.metric("lost_spans{branch=\"a\"}"), 1);
        assert_eq!(a.finish(Outcome::Delivered).await, [1]);
        bench.end().await;
    });
}

#[test]
fn delivered_asks_only_those_that_are_required() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 9), End::new(&bench, "b", 9));
        let branches =
            vec![branch(&bench, &a, true, OnFull::Refuse), branch(&bench, &b, false, OnFull::Drop)];
        let cell = pipeline(&bench, Ack::Delivered, branches).await;
        let receipt = bench.awaited(&cell, spans([1, 2]), secs(8));
        b.finish(Outcome::refused(Cause::Destination, "down")).await;
        assert_eq!(receipt.outcome(), None);
        a.finish(Outcome::Delivered).await;
        assert_eq!(receipt.await, Outcome::Delivered);
        let lost = "watershed_pipeline_lost_items{pipeline=\"traces\",cause=\"destination\"}";
        assert_eq!(bench.metric(lost), 2);
        let refused = bench.awaited(&cell, spans([3]), secs(8));
        a.finish(Outcome::refused(Cause::Destination, "down")).await;
        assert_refused(&refused.await, Cause::Destination);
        b.finish(Outcome::Delivered).await;
        bench.end().await;
    });
}

#[test]
fn accepted_asks_for_memory_only_and_books_what_is_lost_later() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 9), End::new(&bench, "b", 9));
        let branches =
            vec![branch(&bench, &a, true, OnFull::Refuse), branch(&bench, &b, true, OnFull::Refuse)];
        let cell = pipeline(&bench, Ack::Accepted, branches).await;
        let payload = spans([1, 2, 3]);
        let bytes = payload.bytes() as u64;
        assert_eq!(bench.awaited(&cell, payload, secs(8)).await, Outcome::Delivered);
        // One buffer, in two queues.
        let queued = bytes + OVERHEAD as u64;
        assert_eq!((bench.budget.used(), bench.share.used()), (bytes, 2 * queued));
        a.finish(Outcome::Delivered).await;
        assert_eq!((bench.budget.used(), bench.share.used()), (bytes, queued));
        drop(b.take().await);
        let lost = "watershed_pipeline_lost_items{pipeline=\"traces\",cause=\"abandoned\"}";
        assert_eq!(bench.metric(lost), 3);
        bench.end().await;
    });
}

#[test]
fn a_branch_that_blocks_is_waited_for() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 9), End::new(&bench, "b", 1));
        let branches =
            vec![branch(&bench, &a, true, OnFull::Refuse), branch(&bench, &b, true, OnFull::Block)];
        let cell = pipeline(&bench, Ack::Accepted, branches).await;
        assert_eq!(bench.awaited(&cell, spans([1]), secs(8)).await, Outcome::Delivered);
        let second = bench.awaited(&cell, spans([2]), secs(8));
        tokio::time::sleep(secs(2)).await;
        assert_eq!((second.outcome(), a.cell.observe().queued), (None, 1));
        assert_eq!(b.finish(Outcome::Delivered).await, [1]);
        assert_eq!(second.await, Outcome::Delivered);
        assert!(cell.observe().blocked_micros >= 2_000_000);
        assert_eq!(b.finish(Outcome::Delivered).await, [2]);
        a.finish(Outcome::Delivered).await;
        a.finish(Outcome::Delivered).await;
        bench.end().await;
    });
}

#[test]
fn what_is_withdrawn_while_it_waits_is_not_accepted() {
    paused(async {
        let bench = Bench::new();
        let mut a = End::new(&bench, "a", 1);
        let cell = pipeline(&bench, Ack::Accepted, vec![branch(&bench, &a, true, OnFull::Block)]).await;
        assert_eq!(bench.awaited(&cell, spans([1]), secs(8)).await, Outcome::Delivered);
        let gone = bench.awaited(&cell, spans([2]), secs(8));
        until("it waits", || cell.observe().in_hand == 1).await;
        drop(gone);
        let third = bench.awaited(&cell, spans([3]), secs(8));
        assert_eq!(a.finish(Outcome::Delivered).await, [1]);
        assert_eq!(a.finish(Outcome::Delivered).await, [3]);
        assert_eq!(third.await, Outcome::Delivered);
        bench.end().await;
    });
}

#[test]
fn an_optional_branch_never_blocks() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b, mut c) =
            (End::new(&bench, "a", 1), End::new(&bench, "b", 1), End::new(&bench, "c", 9));
        // The first makes the message wait; the second is full meanwhile, and says it would block.
        let branches = vec![
            branch(&bench, &a, true, OnFull::Block),
            branch(&bench, &b, false, OnFull::Block),
            branch(&bench, &c, true, OnFull::Refuse),
        ];
        let cell = pipeline(&bench, Ack::Accepted, branches).await;
        assert_eq!(bench.awaited(&cell, spans([1]), secs(8)).await, Outcome::Delivered);
        let second = bench.awaited(&cell, spans([2]), secs(8));
        until("it is in hand", || cell.observe().in_hand == 1).await;
        a.finish(Outcome::Delivered).await;
        assert_eq!(second.await, Outcome::Delivered);
        assert_eq!(bench.metric("lost_spans{branch=\"b\"}"), 1);
        for end in [&mut a, &mut b, &mut c] {
            while !end.is_empty() {
                end.finish(Outcome::Delivered).await;
            }
        }
        bench.end().await;
    });
}

#[test]
fn two_pipelines_never_hold_what_the_other_waits_for() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b) = (End::new(&bench, "a", 1), End::new(&bench, "b", 1));
        let block = |end: &End| branch(&bench, end, true, OnFull::Block);
        let one = pipeline(&bench, Ack::Accepted, vec![block(&a), block(&b)]).await;
        let other = pipeline(&bench, Ack::Accepted, vec![block(&b), block(&a)]).await;
        // Both queues are full when both pipelines come to wait for both.
        assert_eq!(bench.awaited(&one, spans([0]), secs(8)).await, Outcome::Delivered);
        let receipts = [bench.awaited(&one, spans([1]), secs(8)), bench.awaited(&other, spans([2]), secs(8))];
        until("both wait", || one.observe().in_hand == 1 && other.observe().in_hand == 1).await;
        for _ in 0..3 {
            let done = tokio::time::timeout(secs(1), async {
                a.finish(Outcome::Delivered).await;
                b.finish(Outcome::Delivered).await;
            });
            done.await.expect("no deadlock");
        }
        for receipt in receipts {
            assert_eq!(receipt.await, Outcome::Delivered);
        }
        bench.end().await;
    });
}

#[test]
fn memory_is_not_waited_for() {
    paused(async {
        let bench = Bench::new();
        let mut a = End::new(&bench, "a", 9);
        // Nothing is reserved, and nothing is left to borrow but for the first message.
        let small = Budget::new(0);
        let share: Arc<Share> = small.share(0);
        let blocking = Branch { share: share.clone(), ..branch(&bench, &a, true, OnFull::Block) };
        let cell = pipeline(&bench, Ack::Accepted, vec![blocking]).await;
        assert_eq!(bench.awaited(&cell, spans([1]), secs(8)).await, Outcome::Delivered);
        assert_refused(&bench.awaited(&cell, spans([2]), secs(8)).await, Cause::Overload);
        assert_eq!(a.finish(Outcome::Delivered).await, [1]);
        assert_eq!(share.used(), 0);
        bench.end().await;
    });
}
