//! How much is sent in a second at most.

use tokio::time::Instant;
use watershed_delivery::Outcome;
use watershed_stage::Partial;

use crate::common::{Bench, Fate, ms, paused, secs, spans, until};
use crate::kinds::{exporter, exporters, on_export, retryable, seen};

const HELD_BACK: &str = "watershed_exporter_held_back{exporter=\"sink\"}";

/// The most items that were sent within a second.
fn peak() -> usize {
    let all = seen();
    let since = |first: usize| {
        let from = all[first].at;
        all[first..].iter().take_while(move |seen| seen.at - from < secs(1)).map(|seen| seen.ids.len()).sum()
    };
    (0..all.len()).map(since).max().unwrap_or_default()
}

#[test]
fn what_has_gathered_goes_out_no_faster_than_that_over_all_lanes() {
    paused(async {
        let bench = Bench::new();
        let settings = "
            sending_queue.items_per_second = 100
            retry_on_failure = { initial_interval = '1s', max_interval = '1s', max_elapsed_time = '0s' }
        ";
        let cells = exporters::<2>(&bench, settings).await;
        let start = Instant::now();
        let down = move || start.elapsed() < secs(20);
        on_export(move |_| async move {
            tokio::time::sleep(ms(3)).await;
            if down() { retryable(None) } else { Ok(Partial::default()) }
        });
        let mut fates = Vec::<Fate>::new();
        // Half of what may go out.
        for id in 0..250 {
            fates.push(bench.held(&cells[id % 2], spans([2 * id as u32, 2 * id as u32 + 1])));
            tokio::time::sleep(ms(40)).await;
        }
        until("it is back", || !down()).await;
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        // One more of each lane, and what a timer was late by.
        assert!((90..=100 + 4 + 5).contains(&peak()), "{}", peak());
        assert!(start.elapsed() < secs(20 + 5 + 3), "{:?}", start.elapsed());
        assert!(bench.metric(HELD_BACK) > 200, "{}", bench.metric(HELD_BACK));
        bench.end().await;
    });
}

#[test]
fn what_comes_more_slowly_does_not_wait() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.items_per_second = 100").await;
        for id in 0..100 {
            let sent = Instant::now();
            let fate = bench.held(&cell, spans([id]));
            until("it is taken", || fate.outcome().is_some()).await;
            assert!(sent.elapsed() <= ms(1));
            tokio::time::sleep(ms(10)).await;
        }
        assert_eq!(bench.metric(HELD_BACK), 0);
        bench.end().await;
    });
}

#[test]
fn a_drain_does_not_wait_for_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.items_per_second = 1").await;
        let fates: Vec<Fate> = (0..100).map(|id| bench.held(&cell, spans([id]))).collect();
        until("the first has gone", || seen().len() == 1).await;
        bench.end().await;
        assert!(fates.iter().all(|fate| fate.outcome() == Some(Outcome::Delivered)), "{}", seen().len());
    });
}
