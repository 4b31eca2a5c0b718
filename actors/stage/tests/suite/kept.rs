//! What becomes of data that somebody keeps on disk while it is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::{Cause, Fault, Guard, Holder, Outcome};
use watershed_stage::{Message, Partial, Payload};
use watershed_supervise::Cell;

use crate::circuit::is_open;
use crate::common::{Bench, Fate, assert_refused, assert_rejected, ms, paused, secs, spans, until};
use crate::kinds::{batches, exporter, in_flight, on_export, retryable, seen};

const HOUR: Duration = secs(3600);

const MERGED: &str = "sending_queue.batch = { min_size = 2, flush_timeout = '1h' }";

/// Somebody who has it on disk.
struct Keeper(Fate);

impl Holder for Keeper {
    fn settled(&self, outcome: Outcome) {
        self.0.settled(outcome);
    }

    fn keeps(&self) -> bool {
        true
    }
}

/// Sends for somebody who keeps it.
pub fn kept(bench: &Bench, cell: &Cell<Message>, payload: Payload) -> Fate {
    let fate = Fate::default();
    bench.put(cell, "traces", payload, Guard::held(Arc::new(Keeper(fate.clone()))));
    fate
}

/// A destination that is down until then.
fn down_for(time: Duration) {
    let start = Instant::now();
    on_export(move |_| async move {
        if start.elapsed() < time { retryable(None) } else { Ok(Partial::default()) }
    });
}

#[test]
fn it_is_tried_for_ever() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        down_for(HOUR);
        let fates: Vec<Fate> = (0..20).map(|id| kept(&bench, &cell, spans([id]))).collect();
        tokio::time::sleep(HOUR).await;
        assert!(fates.iter().all(|fate| fate.outcome().is_none()));
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        bench.end().await;
    });
}

#[test]
fn what_lies_only_in_memory_is_given_up_after_five_minutes() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        down_for(HOUR);
        let start = Instant::now();
        let fate = bench.held(&cell, spans([1]));
        tokio::time::sleep(secs(300 - 45)).await;
        assert_rejected(&fate.end().await, Fault::Exhausted, 1);
        let tried = start.elapsed();
        assert!(tried > secs(300 - 45) && tried <= secs(300), "{tried:?}");
        bench.end().await;
    });
}

#[test]
fn whoever_sets_a_time_means_all() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.max_elapsed_time = '1m'").await;
        down_for(HOUR);
        let start = Instant::now();
        assert_rejected(&kept(&bench, &cell, spans([1, 2])).end().await, Fault::Exhausted, 2);
        assert!(start.elapsed() <= secs(60));
        bench.end().await;
    });
}

#[test]
fn of_a_batch_each_is_tried_for_its_own_time() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, MERGED).await;
        down_for(secs(600));
        let (safe, lost) = (kept(&bench, &cell, spans([1])), bench.held(&cell, spans([2])));
        tokio::time::sleep(secs(600)).await;
        assert_rejected(&lost.outcome().unwrap(), Fault::Exhausted, 1);
        assert_eq!(safe.outcome(), None);
        tokio::time::sleep(secs(45)).await;
        assert_eq!(safe.outcome(), Some(Outcome::Delivered));
        let batches = batches();
        assert_eq!((&batches[0], batches.last()), (&vec![1, 2], Some(&vec![1])));
        bench.end().await;
    });
}

#[test]
fn a_drain_gives_back_what_is_kept_after_one_attempt_and_tries_the_rest() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{MERGED}\nretry_on_failure.initial_interval = '30s'")).await;
        on_export(|seen| async move { if seen.n < 4 { retryable(None) } else { Ok(Partial::default()) } });
        let (safe, other) = (kept(&bench, &cell, spans([1])), bench.held(&cell, spans([2])));
        until("the attempt", || seen().len() == 1).await;
        let reports = bench.end().await;
        assert_refused(&safe.outcome().unwrap(), Cause::Shutdown);
        assert_eq!((reports[0].drained, other.outcome()), (1, Some(Outcome::Delivered)));
        assert_eq!(batches(), [vec![1, 2], vec![1, 2], vec![2], vec![2], vec![2]]);
    });
}

#[test]
fn a_drain_does_not_wait_with_what_is_kept_for_a_destination_that_asks_to_be_left_alone() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        on_export(|_| async { retryable(Some(secs(5))) });
        let fate = kept(&bench, &cell, spans([1]));
        until("the attempt", || seen().len() == 1).await;
        let start = Instant::now();
        bench.end().await;
        assert_refused(&fate.outcome().unwrap(), Cause::Shutdown);
        assert!(batches().len() == 1 && start.elapsed() < ms(10), "{:?}", start.elapsed());
    });
}

#[test]
fn a_drain_leaves_what_is_kept_where_the_circuit_is_open() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        on_export(|_| async {
            tokio::time::sleep(secs(2)).await;
            retryable(None)
        });
        let fates: Vec<Fate> = (0..100).map(|id| kept(&bench, &cell, spans([id]))).collect();
        while !is_open(&bench) || in_flight() > 0 {
            tokio::time::sleep(ms(100)).await;
        }
        let (start, before) = (Instant::now(), seen().len());
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
        for fate in fates {
            assert_refused(&fate.outcome().unwrap(), Cause::Shutdown);
        }
        assert_eq!(seen().len(), before);
        assert!(start.elapsed() < ms(10), "{:?}", start.elapsed());
    });
}
