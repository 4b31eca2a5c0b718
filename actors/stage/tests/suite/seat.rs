//! An exporter that stands among others: what it gives back when it leaves its place.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::watch;
use watershed_delivery::{Fault, Outcome, Rejection};
use watershed_stage::{ExportError, Message, Nursery, Partial, Seat, Seating};
use watershed_supervise::{Cell, ChildId, Failure, Lease, State};

use crate::common::{Bench, End, Fate, paused, secs, spans, until};
use crate::kinds::{batches, on_export, permanent, retryable};

/// An exporter with a seat.
struct Seated {
    cell: Cell<Message>,
    back: End,
    seating: watch::Sender<Seating>,
    tried: Arc<Mutex<Vec<Attempt>>>,
}

/// How long an attempt took, whether it succeeded, and whether the destination works by it.
type Attempt = (Duration, bool, Option<bool>);

impl Seated {
    async fn new(bench: &Bench, settings: &str) -> Self {
        let spec =
            Bench::registry().parse_exporter("sink", toml::from_str(settings).unwrap()).unwrap().unwrap();
        let (cell, back) = (bench.cell("sink", 1000), End::new(bench, "back", 1000));
        let (seating, tried) = (watch::Sender::new(Seating::Taken), Arc::<Mutex<Vec<_>>>::default());
        let seen = tried.clone();
        let seat = Seat {
            seating: seating.subscribe(),
            back: back.cell.clone(),
            tried: Arc::new(move |took, result, works| seen.lock().push((took, result.is_ok(), works))),
            rate: Arc::default(),
            returned: bench.metrics.counter("returned", "", &[]),
        };
        let mut parts = bench.parts(bench.env("sink"));
        parts.seat = Some(seat);
        bench.start(&cell, spec.launch(parts)).await;
        Self { cell, back, seating, tried }
    }
}

#[test]
fn who_leaves_gives_back_all_that_is_not_on_the_wire_and_what_fails_there() {
    paused(async {
        let bench = Bench::new();
        let mut seated = Seated::new(&bench, "sending_queue = { num_consumers = 2 }").await;
        on_export(|seen| async move {
            tokio::time::sleep(secs(5)).await;
            if seen.ids == [1] { retryable(None) } else { Ok(Partial::default()) }
        });
        let fates: Vec<_> = (1..=4).map(|id| bench.held(&seated.cell, spans([id]))).collect();
        until("it comes to that", || batches().len() == 2).await;
        seated.seating.send_replace(Seating::Vacant);
        for id in [3, 4] {
            assert_eq!(seated.back.finish(Outcome::Delivered).await, [id]);
        }
        // What comes late is not its own, either.
        let late = bench.held(&seated.cell, spans([5]));
        assert_eq!(seated.back.finish(Outcome::Delivered).await, [5]);
        assert!(seated.back.is_empty() && batches().len() == 2);
        assert_eq!(seated.back.finish(Outcome::Delivered).await, [1]);
        until("it comes to that", || {
            fates.iter().chain([&late]).all(|fate| fate.outcome() == Some(Outcome::Delivered))
        })
        .await;
        assert_eq!(batches(), [[1], [2]]);
        assert_eq!(*seated.tried.lock(), [(secs(5), false, Some(false)), (secs(5), true, Some(true))]);
        assert_eq!(bench.metric("returned"), 4);
        seated.seating.send_replace(Seating::Taken);
        let again = bench.held(&seated.cell, spans([6]));
        until("it comes to that", || again.outcome() == Some(Outcome::Delivered)).await;
        drop(seated);
        bench.end().await;
    });
}

#[test]
fn what_waits_for_another_attempt_goes_back_at_once() {
    paused(async {
        let bench = Bench::new();
        let mut seated =
            Seated::new(&bench, "retry_on_failure = { initial_interval = '60s', max_interval = '60s' }")
                .await;
        on_export(|_| async { retryable(None) });
        let fate = bench.held(&seated.cell, spans([1]));
        until("it comes to that", || batches().len() == 1).await;
        let left = tokio::time::Instant::now();
        seated.seating.send_replace(Seating::Vacant);
        assert_eq!(seated.back.finish(Outcome::Delivered).await, [1]);
        assert!(left.elapsed() < secs(1));
        assert_eq!(fate.outcome(), Some(Outcome::Delivered));
        drop(seated);
        bench.end().await;
    });
}

#[test]
fn what_is_on_the_wire_to_nobody_goes_back_and_is_no_attempt_of_the_destinations() {
    paused(async {
        let bench = Bench::new();
        let mut seated = Seated::new(&bench, "").await;
        on_export(|_| std::future::pending());
        let fate = bench.held(&seated.cell, spans([1]));
        until("it comes to that", || batches().len() == 1).await;
        seated.seating.send_replace(Seating::Vacant);
        // What was only left alone may still be answered.
        tokio::time::sleep(secs(1)).await;
        assert!(seated.back.is_empty());
        seated.seating.send_replace(Seating::Lost);
        assert_eq!(seated.back.finish(Outcome::Delivered).await, [1]);
        assert_eq!((fate.outcome(), seated.tried.lock().len()), (Some(Outcome::Delivered), 0));
        seated.seating.send_replace(Seating::Taken);
        on_export(|_| async { Ok(Partial::default()) });
        let again = bench.held(&seated.cell, spans([2]));
        until("it comes to that", || again.outcome() == Some(Outcome::Delivered)).await;
        drop(seated);
        bench.end().await;
    });
}

/// Two of three items are through when the seat becomes vacant.
async fn part_through(bench: &Bench) -> (Seated, Fate) {
    let seated = Seated::new(bench, "sending_queue = { batch = { min_size = 2, max_size = 2 } }").await;
    on_export(
        |seen| async move { if seen.ids == [1, 2] { Ok(Partial::default()) } else { retryable(None) } },
    );
    let fate = bench.held(&seated.cell, spans([1, 2, 3]));
    until("it comes to that", || batches().len() == 2).await;
    seated.seating.send_replace(Seating::Vacant);
    (seated, fate)
}

#[test]
fn of_a_message_of_which_a_part_is_through_only_the_rest_goes_back() {
    paused(async {
        let bench = Bench::new();
        let (mut seated, fate) = part_through(&bench).await;
        assert_eq!(seated.back.finish(Outcome::Delivered).await, [3]);
        assert_eq!(fate.outcome(), Some(Outcome::Delivered));
        drop(seated);
        bench.end().await;
    });
}

#[test]
fn what_is_said_of_the_items_of_a_rest_is_not_said_of_the_message() {
    paused(async {
        let bench = Bench::new();
        let (mut seated, fate) = part_through(&bench).await;
        let fault = Fault::Destination(3);
        let rejection = Rejection { fault, reason: "bad".into(), items: 1, which: None };
        assert_eq!(seated.back.finish(rejection.clone().of([0]).into()).await, [3]);
        // Its first item is another.
        assert_eq!(fate.outcome(), Some(rejection.into()));
        drop(seated);
        bench.end().await;
    });
}

/// A sender that cuts an attempt short says nothing of the destination.
#[test]
fn an_attempt_that_had_no_time_is_not_held_against_the_destination() {
    paused(async {
        let bench = Bench::new();
        let seated = Seated::new(&bench, "").await;
        on_export(|_| async {
            tokio::time::sleep(secs(60)).await;
            retryable(None)
        });
        let _ = bench.awaited(&seated.cell, spans([1]), Duration::from_millis(100)).await;
        until("it comes to that", || seated.tried.lock().len() == 1).await;
        let (_, ok, works) = seated.tried.lock()[0];
        assert_eq!((ok, works), (false, None));
        drop(seated);
        bench.end().await;
    });
}

#[test]
fn what_a_destination_was_not_asked_is_no_attempt_of_its() {
    paused(async {
        let bench = Bench::new();
        let seated = Seated::new(&bench, "").await;
        on_export(|_| async { Err(ExportError::TooMuch { reason: "a resource of a gigabyte".into() }) });
        bench.held(&seated.cell, spans([1, 2])).end().await;
        assert_eq!((batches().len(), seated.tried.lock().len()), (3, 0));
        drop(seated);
        bench.end().await;
    });
}

/// An exporter that tries by itself gives up in the end, and that is as good as any other failure.
#[test]
fn whoever_took_nothing_does_not_work_however_the_exporter_says_so() {
    let exhausted = |left: &[u32], retry_after| {
        Err(ExportError::Exhausted {
            reason: "busy".into(),
            retry_after,
            left: left.into(),
            rejected: vec![],
        })
    };
    for (answer, works) in [
        (retryable(None), false),
        (retryable(Some(secs(1))), true),
        (permanent(), true),
        (exhausted(&[0, 1], None), false),
        (exhausted(&[0, 1], Some(secs(1))), true),
        (exhausted(&[1], None), true),
    ] {
        paused(async move {
            let bench = Bench::new();
            let seated = Seated::new(&bench, "retry_on_failure.enabled = false").await;
            let said = answer.clone();
            on_export(move |_| std::future::ready(said.clone()));
            bench.held(&seated.cell, spans([1, 2])).end().await;
            assert_eq!(*seated.tried.lock(), [(Duration::ZERO, false, Some(works))], "{answer:?}");
            drop(seated);
            bench.end().await;
        });
    }
}

/// An actor of a nursery that runs on, or ends as soon as it has started.
async fn started(nursery: &Nursery, cell: &Cell<Message>, runs: bool) -> ChildId {
    let launch = move |lease: Lease<Message>| {
        async move {
            lease.started();
            if runs { std::future::pending().await } else { Err(Failure::new("as always")) }
        }
        .boxed_local()
    };
    nursery.start(cell.clone(), Arc::new(launch)).await.unwrap()
}

/// During a reload there are two of each name: the one that keeps failing, and the one that is to work instead.
#[test]
fn whoever_is_given_up_takes_nobody_of_its_name_along() {
    paused(async {
        let bench = Bench::new();
        let nursery = bench.parts(bench.env("lb")).nursery;
        let (old, new) = (bench.cell("lb/a:4317", 9), bench.cell("lb/a:4317", 9));
        let fails = started(&nursery, &old, false).await;
        let works = started(&nursery, &new, true).await;
        until("it is given up", || old.state() == State::Failed).await;
        assert_eq!((new.state(), new.observe().restarts.aborted), (State::Running, 0));
        nursery.drain(&[fails, works], tokio::time::Instant::now()).await;
        bench.end().await;
    });
}
