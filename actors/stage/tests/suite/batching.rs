//! What an exporter is sent, and when.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use watershed_delivery::{Cause, Guard, Outcome};
use watershed_stage::{Dependence, Identity, Message, Metadata, Origin, Partial, Payload, Signal};
use watershed_supervise::{Cell, Mail as _, State};

use crate::common::{Bench, Fate, assert_refused, ms, paused, payload, request, secs, spans, until};
use crate::kinds::{batches, depend_on, exporter, in_flight, most_in_flight, on_export, seen};

const BY_SIZE: &str = "sending_queue.batch = { min_size = 4, flush_timeout = '1h' }";

/// A destination that answers only when told to.
fn gate() -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    on_export(move |_| {
        let gate = opened.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Partial::default())
        }
    });
    gate
}

#[test]
fn messages_are_sent_as_they_are_where_nothing_is_batched() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        let fates: Vec<Fate> = (0..3).map(|id| bench.held(&cell, spans([id, 10 + id]))).collect();
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert_eq!(batches(), [[0, 10], [1, 11], [2, 12]]);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 6);
        bench.end().await;
    });
}

#[test]
fn a_batch_is_sent_once_it_is_worth_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, BY_SIZE).await;
        let first: Vec<Fate> = (0..3).map(|id| bench.held(&cell, spans([id]))).collect();
        tokio::time::sleep(secs(60)).await;
        assert_eq!(batches(), Vec::<Vec<u32>>::new());
        let last = bench.held(&cell, spans([3]));
        assert_eq!(last.end().await, Outcome::Delivered);
        assert_eq!(batches(), [[0, 1, 2, 3]]);
        assert!(first.iter().all(|fate| fate.outcome() == Some(Outcome::Delivered)));
        bench.end().await;
    });
}

#[test]
fn a_batch_is_sent_when_its_time_has_come() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.batch = {}").await;
        let start = Instant::now();
        let one = bench.held(&cell, spans([1]));
        tokio::time::sleep(ms(150)).await;
        let two = bench.held(&cell, spans([2]));
        assert_eq!(two.end().await, Outcome::Delivered);
        assert_eq!(one.outcome(), Some(Outcome::Delivered));
        assert_eq!(batches(), [[1, 2]]);
        let waited = seen()[0].at - start;
        assert!(waited >= ms(200) && waited <= ms(202), "{waited:?}");
        bench.end().await;
    });
}

#[test]
fn no_batch_is_larger_than_any_server_takes() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.batch = { flush_timeout = '1h' }").await;
        let large = |id| Payload::validate(Signal::Traces, request(Signal::Traces, [id], 1_500_000)).unwrap();
        let start = Instant::now();
        let fates: Vec<Fate> = (0..3).map(|id| bench.held(&cell, large(id))).collect();
        assert_eq!(fates[1].end().await, Outcome::Delivered);
        assert_eq!(batches(), [[0, 1]]);
        assert!(start.elapsed() < secs(1) && fates[2].outcome().is_none());
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, fates[2].outcome()), (1, Some(Outcome::Delivered)));
        assert!(seen().iter().all(|seen| seen.bytes <= 4 << 20));
    });
}

#[test]
fn a_batch_that_can_take_no_more_does_not_wait() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.batch = { min_size = 8000, flush_timeout = '1h' }";
        let cell = exporter(&bench, settings).await;
        let huge = request(Signal::Traces, 0..5, 1_000_000);
        let fate = bench.held(&cell, Payload::validate(Signal::Traces, huge).unwrap());
        let start = Instant::now();
        assert_eq!(fate.end().await, Outcome::Delivered);
        assert!(start.elapsed() < secs(1));
        assert_eq!(batches().concat(), [0, 1, 2, 3, 4]);
        assert!(seen().len() > 1 && seen().iter().all(|seen| seen.bytes <= 4 << 20));
        bench.end().await;
    });
}

#[test]
fn an_idle_exporter_sends_what_is_awaited_and_a_busy_one_collects() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.num_consumers = 1\nsending_queue.batch = { flush_timeout = '1h' }";
        let cell = exporter(&bench, settings).await;
        let gate = gate();
        let start = Instant::now();
        let first = bench.awaited(&cell, spans([0]), secs(8));
        until("an export", || seen().len() == 1).await;
        assert!(start.elapsed() < ms(5));
        let more: Vec<_> = (1..6).map(|id| bench.awaited(&cell, spans([id]), secs(8))).collect();
        tokio::time::sleep(secs(1)).await;
        assert_eq!(batches(), [[0]]);
        gate.add_permits(2);
        assert_eq!(first.await, Outcome::Delivered);
        for receipt in more {
            assert_eq!(receipt.await, Outcome::Delivered);
        }
        assert_eq!(batches(), [vec![0], vec![1, 2, 3, 4, 5]]);
        assert!(start.elapsed() < secs(2));
        bench.end().await;
    });
}

#[test]
fn a_busy_exporter_with_consumers_left_waits_no_longer_than_its_time() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.num_consumers = 2\nsending_queue.batch = { flush_timeout = '200ms' }";
        let cell = exporter(&bench, settings).await;
        let gate = gate();
        let first = bench.awaited(&cell, spans([0]), secs(8));
        until("an export", || in_flight() == 1).await;
        let start = Instant::now();
        let second = bench.awaited(&cell, spans([1]), secs(8));
        until("another export", || in_flight() == 2).await;
        assert!(start.elapsed() >= ms(199) && start.elapsed() < ms(210), "{:?}", start.elapsed());
        gate.add_permits(2);
        assert_eq!((first.await, second.await), (Outcome::Delivered, Outcome::Delivered));
        bench.end().await;
    });
}

#[test]
fn only_messages_of_one_pipeline_and_signal_are_merged() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.batch = {}").await;
        let mut fates = Vec::new();
        for id in 0..12 {
            let signal = Signal::ALL[id as usize % 3];
            let pipeline = if id % 2 == 0 { "even" } else { "odd" };
            let fate = Fate::default();
            bench.put(&cell, pipeline, payload(signal, [id]), Guard::held(Arc::new(fate.clone())));
            fates.push(fate);
        }
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        let mut batches = batches();
        batches.sort();
        assert_eq!(batches, [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]);
        for seen in seen() {
            assert_eq!(seen.signal, Signal::ALL[seen.ids[0] as usize % 3]);
            assert_eq!(seen.pipeline, if seen.ids[0] % 2 == 0 { "even" } else { "odd" });
        }
        bench.end().await;
    });
}

/// From a tenant, if there is one.
fn from(tenant: &'static str) -> Origin {
    let mut headers = http::HeaderMap::new();
    if !tenant.is_empty() {
        headers.append("X-Tenant", http::HeaderValue::from_static(tenant));
        headers.append("other", http::HeaderValue::from_static("whatever"));
    }
    Origin { metadata: Metadata::new(headers), ..Origin::default() }
}

fn put(bench: &Bench, cell: &Cell<Message>, origin: Origin, id: u32) -> Fate {
    let fate = Fate::default();
    let guard = Guard::held(Arc::new(fate.clone()));
    let message = bench.message("traces", origin, payload(Signal::Traces, [id]), guard);
    cell.try_reserve(message.weight()).unwrap().send(message);
    fate
}

#[test]
fn messages_of_different_partitions_are_kept_apart() {
    paused(async {
        let bench = Bench::new();
        let partition = "sending_queue.batch.partition = { metadata_keys = ['x-tenant'] }";
        let cell = exporter(&bench, partition).await;
        let origins = ["a", "b", "a", "", "b", "a", ""].map(from);
        let fates: Vec<_> = (0..).zip(origins).map(|(id, origin)| put(&bench, &cell, origin, id)).collect();
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        let mut batches = batches();
        batches.sort();
        assert_eq!(batches, [&[0, 2, 5][..], &[1, 4], &[3, 6]]);
        bench.end().await;
    });
}

#[test]
fn no_more_batches_grow_than_the_cardinality_limit_allows() {
    paused(async {
        let bench = Bench::new();
        let partition = "partition = { metadata_keys = ['x-tenant'], metadata_cardinality_limit = 2 }";
        let settings = format!("sending_queue.batch = {{ flush_timeout = '1h', {partition} }}");
        let cell = exporter(&bench, &settings).await;
        for (id, tenant) in (0..).zip(["a", "b", "a", "c"]) {
            put(&bench, &cell, from(tenant), id);
            // So that one is the oldest.
            tokio::time::sleep(ms(5)).await;
        }
        // The third partition sends the oldest batch, and no other.
        assert_eq!(batches(), [[0, 2]]);
        put(&bench, &cell, from("a"), 4);
        until("another batch", || seen().len() == 2).await;
        assert_eq!(batches()[1], [1]);
        bench.end().await;
        let mut rest = batches().split_off(2);
        rest.sort();
        assert_eq!(rest, [[3], [4]]);
    });
}

#[test]
fn what_two_identities_sent_is_never_merged_where_requests_depend_on_them() {
    let sent = |identity| {
        paused(async move {
            let before = batches().len();
            let bench = Bench::new();
            depend_on(Dependence { identity, ..Dependence::default() });
            let cell = exporter(&bench, "sending_queue.batch = {}").await;
            let identity = |who: &str| Identity([("subject".to_owned(), who.to_owned())].into());
            for (id, who) in (0..).zip(["a", "b", "a", "", "b"]) {
                // Each proves it anew.
                let auth = (!who.is_empty()).then(|| Arc::new(identity(who)));
                put(&bench, &cell, Origin { auth, ..Origin::default() }, id);
            }
            bench.end().await;
            let mut batches = batches().split_off(before);
            batches.sort();
            batches
        })
    };
    assert_eq!(sent(true), [&[0, 2][..], &[1, 4], &[3]]);
    assert_eq!(sent(false), [[0, 1, 2, 3, 4]]);
}

#[test]
fn a_message_larger_than_a_request_is_sent_in_parts_and_ends_with_the_last() {
    paused(async {
        let bench = Bench::new();
        let settings =
            "sending_queue.num_consumers = 1\nsending_queue.batch = { min_size = 2, max_size = 4 }";
        let cell = exporter(&bench, settings).await;
        let gate = gate();
        let receipt = bench.awaited(&cell, spans(0..10), secs(8));
        for part in 1..=3 {
            until("the next part", || seen().len() == part).await;
            assert_eq!((receipt.outcome(), in_flight()), (None, 1));
            gate.add_permits(1);
        }
        assert_eq!(receipt.await, Outcome::Delivered);
        assert_eq!(batches(), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
        assert_eq!(bench.metric("otelcol_exporter_sent_spans{exporter=\"sink\"}"), 10);
        bench.end().await;
    });
}

#[test]
fn without_a_least_size_every_message_goes_at_once() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.batch = { min_size = 0, max_size = 2, flush_timeout = '0s' }";
        let cell = exporter(&bench, settings).await;
        let (one, two) = (bench.held(&cell, spans([1])), bench.held(&cell, spans([2, 3, 4])));
        assert_eq!((one.end().await, two.end().await), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!(batches(), [vec![1], vec![2, 3], vec![4]]);
        bench.end().await;
    });
}

#[test]
fn as_many_are_in_flight_as_there_are_consumers() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.num_consumers = 3").await;
        let gate = gate();
        let fates: Vec<Fate> = (0..8).map(|id| bench.held(&cell, spans([id]))).collect();
        until("exports", || in_flight() == 3).await;
        tokio::time::sleep(secs(1)).await;
        assert_eq!((in_flight(), cell.observe().queued), (3, 5));
        gate.add_permits(8);
        for fate in fates {
            assert_eq!(fate.end().await, Outcome::Delivered);
        }
        assert_eq!(most_in_flight(), 3);
        bench.end().await;
    });
}

#[test]
fn what_was_withdrawn_in_the_queue_is_not_sent() {
    paused(async {
        let bench = Bench::new();
        for batch in ["", "batch = {}"] {
            let settings = format!("[sending_queue]\nnum_consumers = 1\n{batch}");
            let cell = exporter(&bench, &settings).await;
            let (gate, before) = (gate(), seen().len());
            let first = bench.awaited(&cell, spans([0]), secs(8));
            until("an export", || in_flight() == 1).await;
            let gone = bench.awaited(&cell, spans([1]), secs(8));
            let stays = bench.awaited(&cell, spans([2]), secs(8));
            drop(gone);
            gate.add_permits(2);
            assert_eq!((first.await, stays.await), (Outcome::Delivered, Outcome::Delivered));
            assert_eq!(batches()[before..], [[0], [2]]);
        }
        bench.end().await;
    });
}

#[test]
fn what_was_withdrawn_in_a_growing_batch_is_not_sent() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.num_consumers = 2\nsending_queue.batch = { flush_timeout = '1s' }";
        let cell = exporter(&bench, settings).await;
        let gate = gate();
        let first = bench.awaited(&cell, spans([0]), secs(8));
        until("an export", || in_flight() == 1).await;
        let (gone, stays) =
            (bench.awaited(&cell, spans([1]), secs(8)), bench.awaited(&cell, spans([2]), secs(8)));
        until("both are in hand", || cell.observe().in_hand == 3).await;
        drop(gone);
        gate.add_permits(2);
        assert_eq!((first.await, stays.await), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!(batches(), [[0], [2]]);
        bench.end().await;
    });
}

#[test]
fn a_drain_sends_what_was_collected() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, BY_SIZE).await;
        let fates: Vec<Fate> = (0..7).map(|id| bench.held(&cell, spans([id]))).collect();
        until("a full batch", || seen().len() == 1).await;
        let start = Instant::now();
        let reports = bench.end().await;
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
        assert!(start.elapsed() < secs(1));
        assert_eq!(batches(), [vec![0, 1, 2, 3], vec![4, 5, 6]]);
        assert!(fates.iter().all(|fate| fate.outcome() == Some(Outcome::Delivered)));
    });
}

#[test]
fn what_comes_while_the_last_jobs_run_is_sent_too() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "sending_queue.num_consumers = 2").await;
        let gate = gate();
        let first = bench.held(&cell, spans([0]));
        until("an export", || in_flight() == 1).await;
        let (reports, late) = tokio::join!(bench.drain(), async {
            until("the queue was found empty", || cell.state() == State::Draining).await;
            tokio::time::sleep(ms(10)).await;
            let late = bench.held(&cell, spans([1]));
            gate.add_permits(2);
            late.end().await
        });
        assert_eq!((first.end().await, late), (Outcome::Delivered, Outcome::Delivered));
        assert_eq!((reports[0].drained, reports[0].aborted.len()), (1, 0));
        bench.nothing_left();
    });
}

#[test]
fn the_end_of_a_lease_ends_the_sending() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue.batch = { min_size = 2, flush_timeout = '1s' }";
        let cell = exporter(&bench, settings).await;
        let gate = gate();
        let sent = bench.held(&cell, spans([0, 1]));
        let kept = bench.held(&cell, spans([2]));
        until("both are in hand", || cell.observe().in_hand == 2 && in_flight() == 1).await;
        cell.close("torn down");
        assert_refused(&sent.end().await, Cause::Shutdown);
        assert_refused(&kept.end().await, Cause::Shutdown);
        until("the export is dropped", || in_flight() == 0).await;
        gate.add_permits(9);
        tokio::time::sleep(secs(5)).await;
        assert_eq!(batches(), [[0, 1]]);
        bench.nothing_left();
    });
}

#[test]
fn no_setting_is_too_large_for_the_clock() {
    paused(async {
        let bench = Bench::new();
        let settings = "timeout = '9000000000h'\nsending_queue.batch = { min_size = 2, flush_timeout = '5000000000000h' }";
        let cell = exporter(&bench, settings).await;
        let (one, two) = (bench.held(&cell, spans([1])), bench.held(&cell, spans([2])));
        assert_eq!((one.end().await, two.end().await), (Outcome::Delivered, Outcome::Delivered));
        bench.end().await;
    });
}
