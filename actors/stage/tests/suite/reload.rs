//! Ways that are exchanged while messages are on them, and exporters that another takes over from.

use tokio::sync::watch;
use watershed_delivery::Outcome;
use watershed_stage::{Downstream, Message, Partial, Switch, Way};
use watershed_supervise::Cell as StageCell;

use crate::common::{Bench, End, paused, secs, spans, until};
use crate::kinds::{batches, on_export, retryable};

/// A processor, and the switch on its way to `end`.
async fn processor(bench: &Bench, end: &End) -> (StageCell<Message>, Switch<Way>) {
    let spec = Bench::registry().parse_processor("script", toml::Table::new().into()).unwrap().unwrap();
    let watershed_stage::Part::Stage(stage) = spec.part() else { panic!("a stage") };
    let (cell, onward) = (bench.cell("script", 1000), Switch::from(way(bench, end)));
    bench.start(&cell, stage.clone().launch(bench.env("script"), onward.clone())).await;
    (cell, onward)
}

fn way(bench: &Bench, end: &End) -> Way {
    let downstream = Downstream::Cell(end.cell.name().clone(), end.cell.clone());
    Way::new(downstream, &bench.env("script"), &"traces".into())
}

#[test]
fn what_comes_after_an_exchange_goes_by_the_new_way() {
    paused(async {
        let bench = Bench::new();
        let (mut one, mut other) = (End::new(&bench, "one", 9), End::new(&bench, "other", 9));
        let (cell, onward) = processor(&bench, &one).await;
        let fates = [bench.held(&cell, spans([1])), {
            assert_eq!(one.finish(Outcome::Delivered).await, [1]);
            let before = onward.exchange(way(&bench, &other));
            assert_eq!(std::sync::Arc::strong_count(&before), 1, "nobody uses it any more");
            bench.held(&cell, spans([2]))
        }];
        assert_eq!(other.finish(Outcome::Delivered).await, [2]);
        assert!(one.is_empty() && fates.iter().all(|fate| fate.outcome() == Some(Outcome::Delivered)));
        drop((one, other));
        bench.end().await;
    });
}

#[test]
fn who_waits_for_room_on_a_way_holds_it() {
    paused(async {
        let bench = Bench::new();
        let (mut one, mut other) = (End::new(&bench, "one", 1), End::new(&bench, "other", 9));
        let (cell, onward) = processor(&bench, &one).await;
        for id in [1, 2] {
            bench.held(&cell, spans([id]));
        }
        until("the second waits for room", || cell.observe().in_hand == 1 && !one.is_empty()).await;
        let before = onward.exchange(way(&bench, &other));
        bench.held(&cell, spans([3]));
        assert!(std::sync::Arc::strong_count(&before) > 1);
        assert_eq!(one.finish(Outcome::Delivered).await, [1]);
        assert_eq!(one.finish(Outcome::Delivered).await, [2]);
        assert_eq!(other.finish(Outcome::Delivered).await, [3]);
        assert_eq!(std::sync::Arc::strong_count(&before), 1);
        drop((one, other));
        bench.end().await;
    });
}

#[test]
fn an_heir_has_all_that_is_not_on_the_wire() {
    paused(async {
        let bench = Bench::new();
        let settings = "sending_queue = { num_consumers = 2, batch = { min_size = 1, max_size = 1 } }
            retry_on_failure = { initial_interval = '60s', max_interval = '60s' }";
        let spec =
            Bench::registry().parse_exporter("sink", toml::from_str(settings).unwrap()).unwrap().unwrap();
        let (cell, mut back) = (bench.cell("sink", 1000), End::new(&bench, "heir", 1000));
        let heir = watch::Sender::new(None);
        let mut parts = bench.parts(bench.env("sink"));
        parts.heir = heir.subscribe();
        let exporter = bench.start(&cell, spec.launch(parts)).await;
        // One fails and waits for its next attempt, one is on the wire, the others wait behind them.
        on_export(|seen| async move {
            if seen.ids == [1] {
                return retryable(None);
            }
            tokio::time::sleep(secs(5)).await;
            Ok(Partial::default())
        });
        let fates: Vec<_> = (1..=4).map(|id| bench.held(&cell, spans([id]))).collect();
        until("it comes to that", || batches().len() >= 2).await;
        heir.send_replace(Some(back.cell.clone()));
        let late = bench.held(&cell, spans([5]));
        let mut moved = Vec::new();
        for _ in 0..4 {
            moved.extend(back.finish(Outcome::Delivered).await);
        }
        moved.sort_unstable();
        assert_eq!(moved, [1, 3, 4, 5]);
        let drained = bench.supervisor.drain(&[exporter], tokio::time::Instant::now() + secs(60)).await;
        assert_eq!((drained.drained, drained.aborted.len()), (1, 0));
        assert!(fates.iter().chain([&late]).all(|fate| fate.outcome() == Some(Outcome::Delivered)));
        assert_eq!(batches(), [[1], [2]]);
        drop(back);
        bench.end().await;
    });
}
