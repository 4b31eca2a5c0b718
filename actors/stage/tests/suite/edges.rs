//! What is booked on the arrows.

use watershed_delivery::{Cause, Fault, Outcome};
use watershed_stage::{Ack, Downstream, Error, OnFull, Partial, exporter_ended};

use crate::common::{Bench, End, assert_refused, assert_rejected, ids, paused, secs, spans, until};
use crate::fanout::{branch, pipeline};
use crate::kinds::{exporter, on_export, on_handle, permanent, retryable};
use crate::processor::processor;

/// The count of an arrow of pipeline `traces`.
fn arrow(bench: &Bench, from: &str, to: &str, outcome: &str, reason: &str) -> u64 {
    let labels = format!("from=\"{from}\",to=\"{to}\",outcome=\"{outcome}\",reason=\"{reason}\"");
    total(bench, &format!("watershed_edge_items{{pipeline=\"traces\",{labels}}}"))
}

/// The sum of the series that start so; 0 where nothing was counted yet.
fn total(bench: &Bench, start: &str) -> u64 {
    let text = bench.metrics.render();
    let series = text.lines().filter(|line| line.starts_with(start));
    series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[test]
fn of_what_comes_to_a_stage_all_is_booked_on_its_arrow() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        on_handle(|payload| async move {
            match ids(&payload)[0] {
                1 => Ok(vec![spans([1])]),
                2 => Ok(Vec::new()),
                _ => Err(Error::reject("wrong")),
            }
        });
        let [some, none, wrong] =
            [vec![1, 10, 11], vec![2, 20], vec![3]].map(|ids| bench.awaited(&cell, spans(ids), secs(8)));
        assert_eq!(end.finish(Outcome::Delivered).await, [1]);
        assert_eq!(some.await, Outcome::Delivered);
        assert_eq!(none.await, Outcome::Dropped { items: 2 });
        assert_rejected(&wrong.await, Fault::Invalid, 1);
        let arrow = |outcome, reason| arrow(&bench, "script", "end", outcome, reason);
        assert_eq!(
            (arrow("passed", ""), arrow("dropped", "policy"), arrow("rejected", "invalid")),
            (1, 4, 1)
        );
        assert_eq!(total(&bench, "otelcol_processor_dropped_spans"), 4);
        assert_eq!(total(&bench, "otelcol_processor_refused_spans"), 1);
        bench.end().await;
    });
}

#[test]
fn a_full_queue_is_booked_on_the_arrow_that_leads_to_it() {
    paused(async {
        let bench = Bench::new();
        let (mut a, mut b, mut c) =
            (End::new(&bench, "a", 2), End::new(&bench, "b", 9), End::new(&bench, "c", 1));
        let branches = vec![
            branch(&bench, &a, true, OnFull::Refuse),
            branch(&bench, &b, true, OnFull::Refuse),
            branch(&bench, &c, false, OnFull::Drop),
        ];
        let cell = pipeline(&bench, Ack::Accepted, branches).await;
        for id in [1, 2] {
            assert_eq!(bench.awaited(&cell, spans([id]), secs(8)).await, Outcome::Delivered);
        }
        assert_refused(&bench.awaited(&cell, spans([3]), secs(8)).await, Cause::Overload);
        let arrow = |to, outcome, reason| arrow(&bench, "script", to, outcome, reason);
        for (to, passed, refused, dropped) in [("a", 2, 1, 0), ("b", 2, 0, 0), ("c", 1, 0, 1)] {
            assert_eq!(arrow(to, "passed", ""), passed, "{to}");
            assert_eq!(arrow(to, "refused", "queue_full"), refused, "{to}");
            assert_eq!(arrow(to, "dropped", "queue_full"), dropped, "{to}");
        }
        for (end, held) in [(&mut a, 2), (&mut b, 2), (&mut c, 1)] {
            for _ in 0..held {
                end.finish(Outcome::Delivered).await;
            }
        }
        bench.end().await;
    });
}

#[test]
fn an_arrow_that_is_waited_for_in_vain_shows_the_deadline() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 1);
        let cell = processor(&bench, "", Downstream::Cell("end".into(), end.cell.clone())).await;
        let first = bench.awaited(&cell, spans([1]), secs(8));
        assert_refused(&bench.awaited(&cell, spans([2, 3]), secs(2)).await, Cause::Deadline);
        until("it is booked", || arrow(&bench, "script", "end", "refused", "deadline") == 2).await;
        end.finish(Outcome::Delivered).await;
        assert_eq!(first.await, Outcome::Delivered);
        bench.end().await;
    });
}

#[test]
fn an_exporter_books_how_its_messages_left_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "retry_on_failure = { max_elapsed_time = '1s' }").await;
        on_export(|seen| async move {
            match seen.ids[0] {
                1 => Ok(Partial::default()),
                2 => permanent(),
                _ => retryable(None),
            }
        });
        for ids in [vec![1, 10], vec![2], vec![3, 30, 31]] {
            bench.held(&cell, spans(ids)).end().await;
        }
        bench.awaited(&cell, spans([4]), secs(1)).await;
        let arrow = |outcome, reason| arrow(&bench, "sink", "destination", outcome, reason);
        assert_eq!((arrow("passed", ""), arrow("rejected", "rejected")), (2, 1));
        assert_eq!((arrow("rejected", "exhausted"), arrow("refused", "destination")), (3, 1));
        let failed = |reason| {
            total(&bench, &format!("watershed_exporter_failed_items{{exporter=\"sink\",reason=\"{reason}\""))
        };
        assert_eq!((failed("rejected"), failed("exhausted"), failed("too_large")), (1, 3, 0));
        assert_eq!(total(&bench, "otelcol_exporter_in_flight_requests"), 0);
        bench.end().await;
    });
}

#[test]
fn poison_is_booked_although_no_stage_finishes_it() {
    paused(async {
        let bench = Bench::new();
        let cell = exporter(&bench, "").await;
        cell.on_ended(exporter_ended(&bench.env("sink")));
        on_export(|seen| async move {
            assert!(seen.ids[0] != 1, "on purpose");
            Ok(Partial::default())
        });
        let poison = bench.held(&cell, spans([1]));
        let good = bench.held(&cell, spans([2]));
        assert_eq!(good.end().await, Outcome::Delivered);
        poison.end().await;
        assert_eq!(arrow(&bench, "sink", "destination", "rejected", "poison"), 1);
        assert_eq!(arrow(&bench, "sink", "destination", "passed", ""), 1);
        bench.end().await;
    });
}
