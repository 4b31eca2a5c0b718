//! How many requests are in flight.

use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::Outcome;
use watershed_stage::Partial;

use crate::common::{Bench, Fate, ms, paused, secs, spans};
use crate::kinds::{exporter, exporters, in_flight, most_in_flight, on_export, retryable, seen};

const LIMIT: &str = "watershed_exporter_concurrency{exporter=\"sink\"}";

/// Few waits, so that what is in flight is what counts.
const HASTY: &str = "
    [retry_on_failure]
    initial_interval = '20ms'
    max_interval = '20ms'
    circuit_breaker.enabled = false
";

/// Has all of so many messages delivered; how long that took.
async fn deliver(bench: &Bench, settings: &str, messages: u32) -> Duration {
    let cell = exporter(bench, settings).await;
    let (start, mut fates) = (Instant::now(), Vec::<Fate>::new());
    for id in 0..messages {
        while cell.observe().queued > 100 {
            tokio::time::sleep(ms(1)).await;
        }
        fates.push(bench.held(&cell, spans([id])));
    }
    for fate in fates {
        assert_eq!(fate.end().await, Outcome::Delivered);
    }
    start.elapsed()
}

#[test]
fn it_falls_while_the_destination_fails_and_rises_again() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, HASTY).await;
        let start = Instant::now();
        on_export(move |_| async move {
            tokio::time::sleep(ms(10)).await;
            let down = start.elapsed() < secs(1);
            if down { retryable(None) } else { Ok(Partial::default()) }
        });
        assert_eq!(bench.metric(LIMIT), 10);
        let fates: Vec<Fate> = (0..400).map(|id| bench.held(&cell, spans([id]))).collect();
        tokio::time::sleep(ms(900)).await;
        assert_eq!(bench.metric(LIMIT), 1);
        let before = seen().len();
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert_eq!(bench.metric(LIMIT), 10);
        let first = seen()[before].at;
        let early = seen()[before..].iter().filter(|seen| seen.at - first < ms(20)).count();
        assert!(early <= 3, "{early}");
        bench.end().await;
    });
}

#[test]
fn a_destination_that_refuses_more_than_it_can_do_gets_little_more() {
    /// How many were refused, of 2000 that were delivered.
    fn refused(settings: &str) -> usize {
        paused(async {
            let before = seen().len();
            let bench = Bench::new();
            on_export(|_| async move {
                let too_many = in_flight() > 3;
                tokio::time::sleep(ms(if too_many { 1 } else { 20 })).await;
                if too_many { retryable(None) } else { Ok(Partial::default()) }
            });
            deliver(&bench, settings, 2000).await;
            bench.end().await;
            seen().len() - before - 2000
        })
    }
    let adaptive = refused(HASTY);
    let fixed = refused(&format!("{HASTY}\n[sending_queue]\nadaptive_concurrency = false"));
    assert!(adaptive < 500 && fixed > 3 * adaptive, "{adaptive} of {fixed}");
}

#[test]
fn a_healthy_destination_is_sent_to_as_fast_as_without_it() {
    /// Round trips of 5 to 80 ms, and one in a hundred of half a second: one seed, so the same for all.
    fn time(settings: &str) -> Duration {
        paused(async {
            let bench = Bench::new();
            on_export(|seen| async move {
                let random = u64::from(seen.ids[0] + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                let trip = if random % 100 == 0 { 500 } else { 5 << (random / 100 % 5) };
                tokio::time::sleep(ms(trip)).await;
                Ok(Partial::default())
            });
            let time = deliver(&bench, settings, 5000).await;
            assert_eq!(most_in_flight(), 10);
            bench.end().await;
            time
        })
    }
    let (adaptive, fixed) = (time(""), time("sending_queue.adaptive_concurrency = false"));
    assert!(adaptive < fixed.mul_f64(1.01), "{adaptive:?} against {fixed:?}");
}

#[test]
fn consumers_belong_to_all_lanes_and_are_taken_in_turn() {
    paused(async {
        let bench = Bench::new();
        on_export(|_| async {
            tokio::time::sleep(ms(100)).await;
            Ok(Partial::default())
        });
        let before = seen().len();
        let [busy, calm] = exporters(&bench, "sending_queue.num_consumers = 2").await;
        let mut fates: Vec<Fate> = (0..6).map(|id| bench.held(&busy, spans([id]))).collect();
        tokio::time::sleep(ms(50)).await;
        assert_eq!(in_flight(), 2);
        fates.push(bench.held(&calm, spans([99])));
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert_eq!(most_in_flight(), 2);
        let order: Vec<u32> = seen()[before..].iter().map(|seen| seen.ids[0]).collect();
        assert!(order.iter().position(|id| *id == 99).is_some_and(|turn| turn < 4), "{order:?}");
        bench.end().await;
    });
}
