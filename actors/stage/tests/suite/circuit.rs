//! A destination that keeps failing is left alone, but for a probe each back-off interval.

use std::cell::Cell as Value;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::{Cause, Fault, Outcome};
use watershed_stage::{ExportError, Message, Partial};
use watershed_supervise::Cell;

use crate::common::{Bench, Fate, assert_refused, assert_rejected, ms, paused, secs, spans, until};
use crate::kept::kept;
use crate::kinds::{batches, exporter, exporters, most_in_flight, on_export, retryable, seen};

/// Probes at exactly 10 seconds from each other.
const EVEN: &str = "
    [retry_on_failure]
    initial_interval = '10s'
    multiplier = 1.0
    randomization_factor = 0.0
    max_elapsed_time = '0s'
";

/// A destination that takes 10 ms, and is down as long as this says so.
fn destination() -> Rc<Value<bool>> {
    let down = Rc::new(Value::new(true));
    let is_down = down.clone();
    on_export(move |_| {
        let down = is_down.get();
        async move {
            tokio::time::sleep(ms(10)).await;
            if down { retryable(None) } else { Ok(Partial::default()) }
        }
    });
    down
}

pub fn is_open(bench: &Bench) -> bool {
    bench.metric("watershed_exporter_circuit_open{exporter=\"sink\"}") == 1
}

async fn opens(bench: &Bench) {
    while !is_open(bench) {
        tokio::time::sleep(ms(100)).await;
    }
}

/// Opens the circuit by senders that wait; nothing of them is left.
async fn open(bench: &Bench, cell: &Cell<Message>) {
    while !is_open(bench) {
        assert_refused(&bench.awaited(cell, spans([0]), secs(8)).await, Cause::Destination);
    }
}

#[test]
fn as_many_failures_in_a_row_as_are_set_open_it() {
    for (settings, threshold) in [("", 5), ("circuit_breaker.failure_threshold = 2", 2)] {
        paused(async {
            let before = seen().len();
            let bench = Bench::new();
            let cell = exporter(&bench, &format!("{EVEN}{settings}")).await;
            destination();
            open(&bench, &cell).await;
            assert_eq!(seen().len() - before, threshold);
            assert_eq!(bench.metric("watershed_exporter_circuit_opened{exporter=\"sink\"}"), 1);
            bench.end().await;
        });
    }
}

#[test]
fn without_it_every_message_is_tried() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}circuit_breaker.enabled = false")).await;
        destination();
        for id in 0..20 {
            assert_refused(&bench.awaited(&cell, spans([id]), secs(8)).await, Cause::Destination);
        }
        assert_eq!(seen().len(), 20);
        bench.end().await;
    });
}

#[test]
fn while_it_is_open_there_is_one_attempt_an_interval() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        let down = destination();
        open(&bench, &cell).await;
        let (before, start) = (seen().len(), Instant::now());
        let fates: Vec<Fate> = (0..100).map(|id| bench.held(&cell, spans([id]))).collect();
        tokio::time::sleep(secs(3600) - ms(1)).await;
        let probes: Vec<u64> = seen()[before..].iter().map(|seen| (seen.at - start).as_secs()).collect();
        // Of a hundred messages there was one attempt every ten seconds of an hour. Timers round up.
        assert!((357..=360).contains(&probes.len()), "{probes:?}");
        assert!(probes.windows(2).all(|pair| pair[1] - pair[0] >= 9), "{probes:?}");
        down.set(false);
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert_eq!(bench.metric("watershed_exporter_circuit_opened{exporter=\"sink\"}"), 1);
        bench.end().await;
    });
}

#[test]
fn one_success_closes_it_and_those_who_wait_come_slowly_and_at_once() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        let down = destination();
        let fates: Vec<Fate> = (0..100).map(|id| bench.held(&cell, spans([id]))).collect();
        opens(&bench).await;
        tokio::time::sleep(secs(60)).await;
        down.set(false);
        let before = seen().len();
        tokio::time::sleep(secs(11)).await;
        assert!(!is_open(&bench));
        assert!(fates.iter().all(|fate| fate.outcome() == Some(Outcome::Delivered)));
        let start = seen()[before].at;
        // None waits for its own back-off any more: ten at a time and ten milliseconds each, after a slow start.
        let last = seen().last().unwrap().at - start;
        assert!(last < ms(300), "{last:?}");
        let at = |time| seen()[before..].iter().filter(|seen| seen.at - start < ms(time)).count();
        // The probe, then one, then two.
        assert_eq!((at(9), at(18), at(30)), (1, 2, 4));
        assert!(most_in_flight() <= 10);
        bench.end().await;
    });
}

#[test]
fn whoever_waits_is_told_at_once_when_the_next_probe_is() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}\n[sending_queue.batch]\nflush_timeout = '1h'")).await;
        destination();
        open(&bench, &cell).await;
        let opened = Instant::now();
        // There is always something that could be tried, and more of it than there are consumers.
        let held: Vec<Fate> = (0..50).map(|id| bench.held(&cell, spans([id]))).collect();
        for step in 1..20 {
            tokio::time::sleep(ms(400)).await;
            let asked = Instant::now();
            let outcome = bench.awaited(&cell, spans([100 + step]), secs(8)).await;
            let hint = assert_refused(&outcome, Cause::Destination).unwrap();
            let next = asked + hint - opened;
            assert!(asked.elapsed() < ms(5) && next > secs(9) && next <= secs(10), "{next:?}");
        }
        assert!(held.iter().all(|fate| fate.outcome().is_none()));
        assert_eq!(seen().len(), 5);
        bench.drain().await;
    });
}

#[test]
fn those_in_the_queue_are_told_when_it_opens() {
    paused(async {
        let bench = Bench::new();
        let settings = "circuit_breaker.failure_threshold = 1\n[sending_queue]\nnum_consumers = 1\n\
                        batch = { flush_timeout = '1h', min_size = 2 }";
        let cell = exporter(&bench, &format!("{EVEN}{settings}")).await;
        destination();
        let first = bench.held(&cell, spans([0, 1]));
        until("an attempt", || seen().len() == 1).await;
        // Some in a batch, one forming, and one of them can wait.
        let mut receipts: Vec<_> = (2..5).map(|id| bench.awaited(&cell, spans([10 * id]), secs(8))).collect();
        let patient = bench.held(&cell, spans([5]));
        receipts.push(bench.awaited(&cell, spans([6]), secs(8)));
        let start = Instant::now();
        for receipt in receipts {
            assert_refused(&receipt.await, Cause::Destination);
        }
        assert!(start.elapsed() < ms(50), "{:?}", start.elapsed());
        assert_eq!((first.outcome(), patient.outcome()), (None, None));
        bench.drain().await;
    });
}

#[test]
fn a_sender_that_waits_may_be_the_probe() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}\n[sending_queue.batch]\nflush_timeout = '1h'")).await;
        let down = destination();
        open(&bench, &cell).await;
        down.set(false);
        let hint = assert_refused(&bench.awaited(&cell, spans([1]), secs(8)).await, Cause::Destination);
        tokio::time::sleep(hint.unwrap() + ms(1)).await;
        assert_eq!(bench.awaited(&cell, spans([2]), secs(8)).await, Outcome::Delivered);
        assert!(!is_open(&bench));
        bench.end().await;
    });
}

#[test]
fn what_failed_before_it_opened_waits_for_its_own_time_too() {
    paused(async {
        let bench = Bench::new();
        let settings = "
            [retry_on_failure]
            initial_interval = '1s'
            multiplier = 2.0
            max_interval = '1h'
            max_elapsed_time = '0s'
            randomization_factor = 0.0
            circuit_breaker.failure_threshold = 3";
        let cell = exporter(&bench, settings).await;
        on_export(|seen| async move { if seen.n < 4 { retryable(None) } else { Ok(Partial::default()) } });
        assert_eq!(bench.held(&cell, spans([1])).end().await, Outcome::Delivered);
        let seen = seen();
        let seconds: Vec<u64> = seen.iter().map(|export| (export.at - seen[0].at).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 3, 7, 15]);
        bench.end().await;
    });
}

#[test]
fn what_fails_together_does_not_open_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        // One connection breaks off, with all that is in flight on it.
        on_export(|seen| async move {
            tokio::time::sleep(ms(10)).await;
            if seen.n < 10 { retryable(None) } else { Ok(Partial::default()) }
        });
        let held: Vec<Fate> = (0..10).map(|id| bench.held(&cell, spans([id]))).collect();
        until("they failed", || bench.metric("watershed_exporter_retries{exporter=\"sink\"}") == 10).await;
        assert!(!is_open(&bench));
        for fate in held {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        bench.end().await;
    });
}

#[test]
fn senders_in_a_hurry_do_not_open_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        on_export(|_| async {
            tokio::time::sleep(ms(500)).await;
            Ok(Partial::default())
        });
        for id in 0..20 {
            assert_refused(&bench.awaited(&cell, spans([id]), ms(100)).await, Cause::Destination);
        }
        assert_eq!(bench.awaited(&cell, spans([99]), secs(8)).await, Outcome::Delivered);
        bench.end().await;
    });
}

#[test]
fn what_the_destination_was_not_asked_says_nothing_of_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}circuit_breaker.failure_threshold = 2")).await;
        on_export(|seen| async move {
            tokio::time::sleep(ms(10)).await;
            match seen.ids[..] {
                [1] | [3, 4] => Err(ExportError::TooMuch { reason: "a resource of a gigabyte".into() }),
                _ => retryable(None),
            }
        });
        assert_refused(&bench.awaited(&cell, spans([0]), secs(8)).await, Cause::Destination);
        assert_rejected(&bench.awaited(&cell, spans([1]), secs(8)).await, Fault::Destination(8), 1);
        assert!(!is_open(&bench));
        assert_refused(&bench.awaited(&cell, spans([2]), secs(8)).await, Cause::Destination);
        assert!(is_open(&bench), "two failures, one after the other");
        let held = bench.held(&cell, spans([3, 4]));
        until("a probe", || seen().len() == 5).await;
        let probes = &seen()[3..];
        assert_eq!([&probes[0].ids[..], &probes[1].ids], [&[3, 4][..], &[3]]);
        assert!(probes[1].at - probes[0].at < secs(1), "nobody has probed it meanwhile");
        assert!(is_open(&bench) && held.outcome().is_none());
        assert_eq!(bench.metric("watershed_exporter_circuit_opened{exporter=\"sink\"}"), 1);
        bench.drain().await;
    });
}

#[test]
fn all_copies_of_an_exporter_have_one() {
    paused(async {
        let bench = Bench::new();
        let cells: [_; 2] = exporters(&bench, EVEN).await;
        let down = destination();
        open(&bench, &cells[0]).await;
        let opened = Instant::now();
        assert_refused(&bench.awaited(&cells[1], spans([1]), secs(8)).await, Cause::Destination);
        let before = seen().len();
        let held: Vec<Fate> = (0..40).map(|id| bench.held(&cells[id as usize % 2], spans([id]))).collect();
        tokio::time::sleep(secs(105)).await;
        // Ten intervals, and ten attempts of both together.
        assert_eq!(seen().len() - before, 10, "{:?}", opened.elapsed());
        down.set(false);
        for fate in held {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        // The success of one has released the other.
        assert!(opened.elapsed() < secs(112), "{:?}", opened.elapsed());
        bench.end().await;
    });
}

#[test]
fn a_drain_tries_what_nobody_keeps() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        let down = destination();
        let held: Vec<Fate> = (0..30).map(|id| bench.held(&cell, spans([id]))).collect();
        let safe = kept(&bench, &cell, spans([99]));
        opens(&bench).await;
        tokio::time::sleep(secs(60)).await;
        down.set(false);
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
        for fate in held {
            assert_eq!(fate.outcome(), Some(Outcome::Delivered));
        }
        // Its turn may have come before the first success, or after.
        assert!(safe.outcome().is_some());
    });
}

#[test]
fn a_drain_ends_in_time_however_dead_the_destination_is() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        destination();
        let held: Vec<Fate> = (0..30).map(|id| bench.held(&cell, spans([id]))).collect();
        opens(&bench).await;
        let start = Instant::now();
        bench.end().await;
        assert!(start.elapsed() <= secs(10) + ms(100), "{:?}", start.elapsed());
        for fate in held {
            assert_refused(&fate.outcome().unwrap(), Cause::Shutdown);
        }
    });
}

#[test]
fn a_panic_of_the_probe_is_no_end() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        let panicked = Rc::new(Value::new(false));
        on_export(move |seen| {
            let now = seen.n == 5 && !panicked.replace(true);
            async move {
                tokio::time::sleep(ms(10)).await;
                assert!(!now, "once");
                if seen.n < 5 { retryable(None) } else { Ok(Partial::default()) }
            }
        });
        open(&bench, &cell).await;
        let start = Instant::now();
        let held: Vec<Fate> = (0..30).map(|id| bench.held(&cell, spans([id]))).collect();
        for fate in held {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert!(start.elapsed() < secs(21) && batches().len() == 5 + 1 + 30, "{:?}", start.elapsed());
        assert_eq!(cell.observe().restarts.panicked, 1);
        bench.end().await;
    });
}

#[test]
fn without_an_interval_probes_are_no_more_than_requests_would_be() {
    paused(async {
        let bench = Bench::new();
        let cell =
            exporter(&bench, "retry_on_failure = { initial_interval = '0s', max_elapsed_time = '0s' }").await;
        let down = destination();
        let held: Vec<Fate> = (0..100).map(|id| bench.held(&cell, spans([id]))).collect();
        opens(&bench).await;
        tokio::time::sleep(secs(1)).await;
        down.set(false);
        for fate in held {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert!(most_in_flight() <= 10, "{}", most_in_flight());
        bench.end().await;
    });
}

#[test]
fn with_one_consumer_order_outlives_an_outage() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(
            &bench,
            "sending_queue.num_consumers = 1
             retry_on_failure = { initial_interval = '50ms', max_interval = '5s', max_elapsed_time = '0s' }",
        )
        .await;
        let down = destination();
        let held: Vec<Fate> = (0..20).map(|id| bench.held(&cell, spans([id]))).collect();
        opens(&bench).await;
        tokio::time::sleep(secs(20)).await;
        down.set(false);
        for fate in held {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        let mut order: Vec<u32> = seen().iter().map(|seen| seen.ids[0]).collect();
        order.dedup();
        assert_eq!(order, (0..20).collect::<Vec<_>>(), "none is tried before the one before it is through");
        bench.end().await;
    });
}

/// What a sender hears is never longer than its own patience would have been.
#[test]
fn nobody_waits_longer_than_before() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        destination();
        for id in 0..50 {
            let (start, patience) = (Instant::now(), secs(8));
            assert_refused(&bench.awaited(&cell, spans([id]), patience).await, Cause::Destination);
            assert!(start.elapsed() <= patience + Duration::from_millis(2));
        }
        bench.end().await;
    });
}
