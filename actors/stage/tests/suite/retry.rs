//! What becomes of exports that fail.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::{Cause, Fault, Outcome};
use watershed_stage::{ExportError, Partial};

use crate::common::{Bench, Fate, assert_refused, assert_rejected, ms, paused, secs, spans, until};
use crate::kinds::{batches, exporter, on_export, permanent, rests, retryable, seen};

/// Waits of exactly 1, 2, 4, 4, ... seconds.
const EVEN: &str = "
    [retry_on_failure]
    initial_interval = '1s'
    multiplier = 2.0
    max_interval = '4s'
    randomization_factor = 0.0
";

const MERGED: &str = "
    [sending_queue.batch]
    min_size = 3
    flush_timeout = '1h'
";

/// Fails the first `times`.
fn fails(times: usize, retry_after: Option<Duration>) {
    on_export(move |seen| async move {
        if seen.n < times { retryable(retry_after) } else { Ok(Partial::default()) }
    });
}

/// When each export was, in whole seconds from the first: timers are late by less.
fn seconds() -> Vec<u64> {
    let seen = seen();
    seen.iter().map(|export| (export.at - seen[0].at).as_secs()).collect()
}

#[test]
fn waits_grow_up_to_the_longest() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        fails(5, None);
        let fate = bench.held(&cell, spans([1]));
        assert_eq!(fate.end().await, Outcome::Delivered);
        assert_eq!(seconds(), [0, 1, 3, 7, 11, 15]);
        assert_eq!(bench.metric("watershed_exporter_retries{exporter=\"sink\"}"), 5);
        assert_eq!(bench.metric("watershed_exporter_requests{exporter=\"sink\"}"), 6);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 1);
        bench.end().await;
    });
}

#[test]
fn an_exporter_rests_between_batches_and_not_between_attempts() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}\nmax_elapsed_time = '5s'")).await;
        let before = Rc::new(std::cell::RefCell::new(Vec::new()));
        let noted = before.clone();
        on_export(move |_| {
            noted.borrow_mut().push(rests());
            async { retryable(None) }
        });
        assert_rejected(&bench.held(&cell, spans([1])).end().await, Fault::Exhausted, 1);
        let before = before.take();
        assert!(before.len() > 2 && before.iter().all(|rests| *rests == before[0]), "{before:?}");
        until("a rest", || rests() > before[0]).await;
        bench.end().await;
    });
}

#[test]
fn a_destination_that_asks_to_be_left_alone_is() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        fails(1, Some(secs(20)));
        let one = bench.held(&cell, spans([1]));
        until("the answer", || seen().len() == 1).await;
        let two = bench.held(&cell, spans([2]));
        assert_eq!((one.end().await, two.end().await), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!(seconds(), [0, 20, 20]);
        bench.end().await;
    });
}

#[test]
fn whoever_can_not_wait_for_the_destination_is_told_at_once() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, EVEN).await;
        fails(1, Some(secs(20)));
        let start = Instant::now();
        let first = bench.awaited(&cell, spans([1]), secs(8)).await;
        assert_eq!(assert_refused(&first, Cause::Destination), Some(secs(20)));
        let second = bench.awaited(&cell, spans([2]), secs(8)).await;
        let wait = assert_refused(&second, Cause::Destination).unwrap();
        assert!(wait > secs(19) && wait <= secs(20), "{wait:?}");
        assert!(start.elapsed() < secs(1));
        assert_eq!(batches(), [[1]]);
        bench.end().await;
    });
}

#[test]
fn those_who_can_wait_are_tried_again_without_those_who_can_not() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}{MERGED}")).await;
        fails(3, None);
        let held = [bench.held(&cell, spans([0])), bench.held(&cell, spans([1]))];
        let hasty = bench.awaited(&cell, spans([2]), ms(2_500));
        let start = Instant::now();
        let hasty = hasty.await;
        assert_eq!(assert_refused(&hasty, Cause::Destination), Some(secs(2)));
        // After the second attempt, at one second: the third would be at three.
        assert!(start.elapsed() < ms(1_100));
        for fate in held {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert_eq!(batches(), [vec![0, 1, 2], vec![0, 1, 2], vec![0, 1], vec![0, 1]]);
        bench.end().await;
    });
}

#[test]
fn what_was_withdrawn_during_a_wait_is_cut_out() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}{MERGED}")).await;
        fails(1, None);
        let (one, two) = (bench.held(&cell, spans([1])), bench.held(&cell, spans([2])));
        let gone = bench.awaited(&cell, spans([3]), secs(8));
        until("the attempt", || seen().len() == 1).await;
        drop(gone);
        assert_eq!((one.end().await, two.end().await), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!(batches(), [vec![1, 2, 3], vec![1, 2]]);
        bench.end().await;
    });
}

#[test]
fn accepted_data_is_given_up_after_its_time() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("{EVEN}\nmax_elapsed_time = '10s'")).await;
        fails(usize::MAX, None);
        let start = Instant::now();
        let end = bench.held(&cell, spans([1, 2])).end().await;
        assert_rejected(&end, Fault::Exhausted, 2);
        // Attempts at 0, 1, 3 and 7 s; the next would be at 11.
        assert_eq!((seconds(), start.elapsed().as_secs()), (vec![0, 1, 3, 7], 7));
        assert_eq!(bench.metric("otelcol_exporter_send_failed_spans{exporter=\"sink\"}"), 2);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 0);
        bench.end().await;
    });
}

#[test]
fn the_time_of_a_message_begins_with_its_own_first_attempt() {
    paused(async {
        let bench = Bench::new();
        let settings = "
            [retry_on_failure]
            initial_interval = '4s'
            multiplier = 1.0
            max_interval = '4s'
            randomization_factor = 0.0
            max_elapsed_time = '6s'
            [sending_queue]
            num_consumers = 1
            batch = { min_size = 3, flush_timeout = '1h' }";
        let cell = exporter(&bench, settings).await;
        // The members are sent singly, the second not before the first was given up.
        on_export(|seen| async move {
            match seen.n {
                0 => permanent(),
                1..=3 => retryable(None),
                _ => Ok(Partial::default()),
            }
        });
        let fates: Vec<Fate> = (0..3).map(|id| bench.held(&cell, spans([id]))).collect();
        assert_rejected(&fates[0].end().await, Fault::Exhausted, 1);
        assert_eq!((fates[1].end().await, fates[2].end().await), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!(batches(), [vec![0, 1, 2], vec![0], vec![0], vec![1], vec![1], vec![2]]);
        bench.end().await;
    });
}

#[test]
fn without_retries_one_failure_is_the_end() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.enabled = false").await;
        fails(usize::MAX, None);
        assert_rejected(&bench.held(&cell, spans([1])).end().await, Fault::Exhausted, 1);
        assert_refused(&bench.awaited(&cell, spans([2]), secs(8)).await, Cause::Destination);
        assert_eq!(batches(), [[1], [2]]);
        bench.end().await;
    });
}

#[test]
fn only_the_guilty_member_of_a_batch_is_rejected() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, MERGED).await;
        on_export(
            |seen| async move { if seen.ids.contains(&1) { permanent() } else { Ok(Partial::default()) } },
        );
        let (good, bad) = (bench.held(&cell, spans([0])), bench.awaited(&cell, spans([1]), secs(8)));
        let other = bench.awaited(&cell, spans([2]), secs(8));
        assert_rejected(&bad.await, Fault::Destination(3), 1);
        assert_eq!((good.end().await, other.await), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!(batches(), [vec![0, 1, 2], vec![0], vec![1], vec![2]]);
        assert_eq!(bench.metric("otelcol_exporter_send_failed_spans{exporter=\"sink\"}"), 1);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 2);
        bench.end().await;
    });
}

#[test]
fn what_is_too_large_is_sent_in_halves() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, MERGED).await;
        on_export(|seen| async move {
            let is_small = seen.ids.len() < 3 && !seen.ids.contains(&9);
            let too_large = ExportError::TooLarge { code: 8, reason: "too large".into() };
            if is_small { Ok(Partial::default()) } else { Err(too_large) }
        });
        let first = bench.held(&cell, spans([0]));
        let second = bench.awaited(&cell, spans([1, 2, 3, 4]), secs(8));
        let third = bench.awaited(&cell, spans([8, 9]), secs(8));
        assert_rejected(&third.await, Fault::Destination(8), 1);
        assert_eq!((first.end().await, second.await), (Outcome::Delivered, Outcome::Delivered));
        let mut taken = batches();
        taken.retain(|ids| ids.len() < 3);
        taken.sort();
        assert_eq!(taken, [vec![0], vec![1, 2], vec![3, 4], vec![8], vec![8, 9], vec![9]]);
        assert_eq!(bench.metric("otelcol_exporter_send_failed_spans{exporter=\"sink\"}"), 1);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 6);
        bench.end().await;
    });
}

#[test]
fn what_a_batch_is_sent_in_instead_goes_before_what_came_later() {
    paused(async {
        for error in [ExportError::TooLarge { code: 8, reason: "".into() }, permanent().unwrap_err()] {
            let bench = Bench::new();
            let settings = "[sending_queue]\nnum_consumers = 1\nbatch = { min_size = 3, max_size = 3, flush_timeout = '1h' }";
            let (cell, before) = (exporter(&bench, settings).await, batches().len());
            on_export(move |seen| {
                let result = if seen.ids == [1, 2] { Err(error.clone()) } else { Ok(Partial::default()) };
                async { result }
            });
            let fates = [&[1][..], &[2], &[3, 4, 5]].map(|ids| bench.held(&cell, spans(ids.iter().copied())));
            for fate in fates {
                assert_eq!(fate.end().await, Outcome::Delivered);
            }
            assert_eq!(batches()[before..], [vec![1, 2], vec![1], vec![2], vec![3, 4, 5]]);
            bench.end().await;
        }
    });
}

#[test]
fn a_part_that_was_rejected_takes_nothing_else_with_it() {
    paused(async {
        let bench = Bench::new();
        let settings = format!("{EVEN}\n[sending_queue.batch]\nmin_size = 1\nmax_size = 4");
        let cell = exporter(&bench, &settings).await;
        // The first part is taken, the second rejected, the third taken at its second attempt.
        on_export(|seen| async move {
            match seen.n {
                1 => permanent(),
                2 => retryable(None),
                _ => Ok(Partial::default()),
            }
        });
        assert_rejected(&bench.held(&cell, spans(0..10)).end().await, Fault::Destination(3), 4);
        assert_eq!(batches(), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9], vec![8, 9]]);
        assert_eq!(bench.metric("otelcol_exporter_send_failed_spans{exporter=\"sink\"}"), 4);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 6);
        bench.end().await;
    });
}

#[test]
fn each_part_of_a_message_is_tried_as_the_first_was() {
    paused(async {
        let bench = Bench::new();
        let settings = format!("{EVEN}\n[sending_queue.batch]\nmin_size = 1\nmax_size = 4");
        let cell = exporter(&bench, &settings).await;
        on_export(|seen| async move {
            if [0, 1, 3].contains(&seen.n) { retryable(None) } else { Ok(Partial::default()) }
        });
        assert_eq!(bench.held(&cell, spans(0..8)).end().await, Outcome::Delivered);
        let first = vec![0, 1, 2, 3];
        let second = vec![4, 5, 6, 7];
        assert_eq!(batches(), [first.clone(), first.clone(), first, second.clone(), second]);
        assert_eq!(seconds(), [0, 1, 3, 3, 4]);
        bench.end().await;
    });
}

#[test]
fn of_a_message_given_up_half_way_only_the_rest_is_lost() {
    paused(async {
        let bench = Bench::new();
        let settings =
            "retry_on_failure.enabled = false\nsending_queue.batch = { min_size = 1, max_size = 4 }";
        let cell = exporter(&bench, settings).await;
        on_export(|seen| async move { if seen.n > 0 { retryable(None) } else { Ok(Partial::default()) } });
        assert_rejected(&bench.held(&cell, spans(0..10)).end().await, Fault::Exhausted, 6);
        assert_eq!(bench.metric("otelcol_exporter_send_failed_spans{exporter=\"sink\"}"), 6);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 4);
        bench.end().await;
    });
}

#[test]
fn what_an_exporter_gives_up_by_itself_is_lost_only_where_nobody_waits_for_it() {
    paused(async {
        let bench = Bench::new();
        let settings = format!("{EVEN}[sending_queue.batch]\nmin_size = 6\nflush_timeout = '1h'");
        let cell = exporter(&bench, &settings).await;
        on_export(|seen| async move {
            // Of the items 0 and 2 to 6, the destination takes 0 and 6.
            let number = |id: u32| seen.ids.iter().position(|seen| *seen == id).map(|at| at as u32);
            let numbers = |ids: &[u32]| ids.iter().filter_map(|id| number(*id)).collect();
            let (left, rejected) = (numbers(&[2, 4]), numbers(&[3, 5]));
            Err(ExportError::Exhausted { reason: "busy".into(), retry_after: Some(secs(7)), left, rejected })
        });
        let (whole, held) = (bench.held(&cell, spans([0])), bench.held(&cell, spans([2, 3])));
        let hasty = bench.awaited(&cell, spans([4, 5, 6]), secs(8));
        let end = held.end().await;
        assert_rejected(&end, Fault::Exhausted, 2);
        let Outcome::Rejected(rejection) = end else { unreachable!() };
        assert_eq!(rejection.which.as_deref(), Some(&[0, 1][..]));
        assert_eq!(whole.end().await, Outcome::Delivered);
        assert_eq!(assert_refused(&hasty.await, Cause::Destination), Some(secs(7)));
        assert_eq!(batches(), [[0, 2, 3, 4, 5, 6]]);
        let failed = |reason: &str, permanent: bool| {
            bench.metric(&format!(
                "watershed_exporter_failed_items{{exporter=\"sink\",reason=\"{reason}\",error_permanent=\"{permanent}\"}}"
            ))
        };
        assert_eq!((failed("partial", true), failed("exhausted", false)), (2, 1));
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 2);
        bench.end().await;
    });
}

#[test]
fn a_part_that_an_exporter_gave_up_takes_nothing_else_with_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.batch = { min_size = 1, max_size = 4 }").await;
        on_export(|seen| async move {
            let (left, rejected) = (vec![1], vec![]);
            let given_up =
                ExportError::Exhausted { reason: "busy".into(), retry_after: None, left, rejected };
            if seen.ids.contains(&5) { Err(given_up) } else { Ok(Partial::default()) }
        });
        let end = bench.held(&cell, spans(0..10)).end().await;
        assert_rejected(&end, Fault::Exhausted, 1);
        let Outcome::Rejected(rejection) = end else { unreachable!() };
        assert_eq!(rejection.which.as_deref(), Some(&[5][..]));
        assert_refused(&bench.awaited(&cell, spans(0..10), secs(8)).await, Cause::Destination);
        let parts: Vec<_> = batches().iter().map(|ids| ids[0]).collect();
        assert_eq!(parts, [0, 4, 8, 0, 4]);
        bench.end().await;
    });
}

#[test]
fn what_an_exporter_gives_up_is_a_failure_of_the_destination_unless_it_took_something() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.circuit_breaker.failure_threshold = 2").await;
        on_export(|seen| async move {
            let left = (u32::from(seen.n < 3)..seen.ids.len() as u32).collect();
            Err(ExportError::Exhausted { reason: "busy".into(), retry_after: None, left, rejected: vec![] })
        });
        let opened = || bench.metric("watershed_exporter_circuit_opened{exporter=\"sink\"}");
        for id in 0..4 {
            bench.held(&cell, spans([2 * id, 2 * id + 1])).end().await;
        }
        assert_eq!(opened(), 0);
        bench.held(&cell, spans([8, 9])).end().await;
        assert_eq!(opened(), 1);
        bench.end().await;
    });
}

#[test]
fn what_a_destination_rejects_of_a_batch_is_counted_and_not_sent_again() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, MERGED).await;
        on_export(|_| async { Ok(Partial { rejected: 2, message: "too old".into(), which: None }) });
        let fates: Vec<Fate> = (0..3).map(|id| bench.held(&cell, spans([id]))).collect();
        // Nobody waits for them. Which ones it was is not said; that two were lost is.
        let mut lost = 0;
        for fate in fates {
            if let Outcome::Rejected(rejection) = fate.end().await {
                lost += rejection.items;
            }
        }
        assert_eq!(lost, 2);
        assert_eq!(batches(), [[0, 1, 2]]);
        assert_eq!(bench.metric("otelcol_exporter_send_failed_spans{exporter=\"sink\"}"), 2);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 1);
        assert_rejected(&bench.held(&cell, spans([4, 5, 6])).end().await, Fault::Destination(3), 2);
        // Whoever waits is told that it was taken, as OTLP has it.
        assert_eq!(bench.awaited(&cell, spans([7, 8]), secs(8)).await, Outcome::Delivered);
        bench.end().await;
    });
}

#[test]
fn an_attempt_ends_with_its_time_or_with_that_of_its_sender() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, &format!("timeout = '5s'\n{EVEN}")).await;
        on_export(|seen| async move {
            if seen.n == 0 { std::future::pending().await } else { Ok(Partial::default()) }
        });
        let start = Instant::now();
        assert_eq!(bench.held(&cell, spans([1])).end().await, Outcome::Delivered);
        assert_eq!((seconds(), start.elapsed().as_secs()), (vec![0, 6], 6));
        assert_eq!(bench.awaited(&cell, spans([2]), secs(2)).await, Outcome::Delivered);
        let timeouts: Vec<_> = seen().iter().map(|seen| seen.timeout.unwrap()).collect();
        assert_eq!(timeouts[..2], [secs(5), secs(5)]);
        assert!(timeouts[2] > ms(1_900) && timeouts[2] <= secs(2), "{timeouts:?}");
        bench.end().await;
    });
}

#[test]
fn a_drain_cuts_a_wait_short() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.initial_interval = '30s'").await;
        fails(1, Some(secs(60)));
        let fate = bench.held(&cell, spans([1]));
        until("the attempt", || seen().len() == 1).await;
        let start = Instant::now();
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, fate.outcome()), (1, Some(Outcome::Delivered)));
        assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn a_drain_does_not_wait_for_an_attempt_beyond_its_deadline() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.initial_interval = '30s'").await;
        fails(usize::MAX, Some(secs(60)));
        let fate = bench.held(&cell, spans([1]));
        until("the attempt", || seen().len() == 1).await;
        let start = Instant::now();
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
        assert_refused(&fate.outcome().unwrap(), Cause::Shutdown);
        assert_eq!(batches(), [[1], [1]]);
        assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn a_drain_tries_for_as_long_as_it_has_time() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.initial_interval = '30s'").await;
        // Back after some seconds, as a destination that restarts is.
        fails(8, None);
        let fate = bench.held(&cell, spans([1]));
        until("the attempt", || seen().len() == 1).await;
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, fate.outcome()), (1, Some(Outcome::Delivered)));
        assert_eq!(batches().len(), 9);
    });
}

/// Has a destination ask for a year, and looks for how long it is left alone.
fn asked_for_a_year(settings: &str, most: u64) {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, settings).await;
        fails(1, Some(secs(365 * 24 * 3600)));
        let fate = bench.held(&cell, spans([1]));
        assert_eq!(fate.end().await, Outcome::Delivered);
        assert_eq!(seconds(), [0, most]);
        bench.end().await;
    });
}

#[test]
fn no_destination_can_ask_for_more_than_it_would_be_tried_for() {
    asked_for_a_year("retry_on_failure.max_elapsed_time = '60s'", 60);
}

#[test]
fn a_destination_that_is_tried_for_ever_can_not_ask_for_it() {
    asked_for_a_year("retry_on_failure.max_elapsed_time = '0s'", 300);
}

#[test]
fn no_destination_can_ask_for_a_time_beyond_the_clock() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure.max_elapsed_time = '0s'").await;
        fails(1, Some(Duration::MAX));
        let fate = bench.held(&cell, spans([1]));
        until("the attempt", || seen().len() == 1).await;
        tokio::time::sleep(secs(1)).await;
        assert_eq!((cell.observe().generation, fate.outcome()), (1, None));
        bench.end().await;
        assert_eq!(fate.outcome(), Some(Outcome::Delivered));
    });
}
