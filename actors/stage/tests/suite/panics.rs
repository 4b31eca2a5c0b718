//! Exporters that panic: everything in hand goes to the successor, singly, and nothing is lost.

use std::cell::Cell;
use std::rc::Rc;

use watershed_delivery::{Fault, Outcome};
use watershed_stage::Partial;

use crate::common::{Bench, Fate, assert_rejected, ms, paused, secs, spans};
use crate::kinds::{batches, exporter, on_export, retryable, seen};

#[test]
fn nothing_in_hand_is_lost() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.num_consumers = 3").await;
        on_export(|seen| async move {
            tokio::time::sleep(ms(10)).await;
            assert!(seen.n != 4, "once");
            Ok(Partial::default())
        });
        let fates: Vec<Fate> = (0..9).map(|id| bench.held(&cell, spans([id]))).collect();
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        let mut sent = batches().concat();
        let exports = sent.len();
        sent.sort();
        sent.dedup();
        assert_eq!(sent, (0..9).collect::<Vec<u32>>());
        // Not more than what was in hand is sent twice.
        assert!(exports <= 9 + 3, "{:?}", batches());
        assert_eq!(cell.observe().restarts.panicked, 1);
        bench.end().await;
    });
}

#[test]
fn a_batch_is_taken_apart_until_the_guilty_stands_alone() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.batch = { min_size = 4, flush_timeout = '1h' }";
        let cell = exporter(&bench, settings).await;
        on_export(|seen| async move {
            assert!(!seen.ids.contains(&2), "allergic");
            Ok(Partial::default())
        });
        let fates: Vec<Fate> = (0..4).map(|id| bench.held(&cell, spans([id]))).collect();
        for (id, fate) in fates.iter().enumerate() {
            let end = fate.end().await;
            if id == 2 {
                assert_rejected(&end, Fault::Poison, 1)
            } else {
                assert_eq!(end, Outcome::Delivered)
            }
        }
        assert_eq!(batches()[0], [0, 1, 2, 3]);
        assert!(batches()[1..].iter().all(|batch| batch.len() == 1), "{:?}", batches());
        bench.end().await;
    });
}

#[test]
fn what_is_handed_out_again_is_no_larger_than_a_request_may_be() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.batch = { min_size = 1, max_size = 4 }").await;
        let panicked = Rc::new(Cell::new(false));
        on_export(move |_| {
            let first = !panicked.replace(true);
            async move {
                assert!(!first, "once");
                Ok(Partial::default())
            }
        });
        assert_eq!(bench.held(&cell, spans(0..10)).end().await, Outcome::Delivered);
        assert!(seen().iter().all(|seen| seen.ids.len() <= 4), "{:?}", batches());
        assert_eq!(batches()[1..].concat(), (0..10).collect::<Vec<u32>>());
        bench.end().await;
    });
}

#[test]
fn what_waits_for_a_retry_survives_the_panic_of_another() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.initial_interval = '30s'").await;
        let panicked = Rc::new(Cell::new(false));
        on_export(move |seen| {
            let first = seen.ids == [2] && !panicked.replace(true);
            async move {
                assert!(!first, "once");
                if seen.n == 0 { retryable(None) } else { Ok(Partial::default()) }
            }
        });
        let waits = bench.held(&cell, spans([1]));
        tokio::time::sleep(secs(1)).await;
        let breaks = bench.held(&cell, spans([2]));
        assert_eq!((waits.end().await, breaks.end().await), (Outcome::Delivered, Outcome::Delivered));
        bench.end().await;
    });
}
