//! What a stage holds: it is owed in parts, outlives the stage's panic, and is dealt out by trace.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_delivery::{Guard, Outcome};
use watershed_stage::{
    Context, Downstream, Env, Error, Failure, Hold, Lent, Message, Outlet, Part, Payload, Placement,
    Processor, Registry, Settings, Signal, deal,
};
use watershed_supervise::{Cell as StageCell, Weight};
use watershed_telemetry::wire::put_bytes_field;

use crate::common::{Bench, End, ids, paused, secs, spans, until};
use crate::kept::kept;

const LOST: &str = "watershed_pipeline_lost_items{pipeline=\"traces\",cause=\"abandoned\"}";

thread_local! {
    /// Panics on its next message.
    static BREAKS: Cell<bool> = const { Cell::new(false) };
}

/// Holds all it is given. A message of one span sends that span's number of the held ones on, and lets the others go
/// where it is 0.
struct Hoarder {
    held: Lent<BTreeMap<u32, (Arc<Hold>, Payload)>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

impl Settings for NoSettings {}

impl Processor for Hoarder {
    type Settings = NoSettings;

    fn placement(_: &NoSettings) -> Placement {
        Placement::Keyed
    }

    fn holds(_: &NoSettings) -> bool {
        true
    }

    fn build(_: &Arc<NoSettings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self { held: env.shelf.take() })
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        let numbers = ids(&payload);
        if numbers.len() > 1 {
            let hold = Arc::new(outlet.hold(numbers.len()));
            assert!(!BREAKS.take(), "on what it was about to hold");
            self.held.extend(numbers.into_iter().map(|id| (id, (hold.clone(), spans([id])))));
            return Ok(());
        }
        for _ in 0..numbers[0] {
            if let Some((_, (hold, payload))) = self.held.pop_first() {
                outlet.pass([(&*hold, 1)], payload);
                outlet.release(Arc::try_unwrap(hold), None);
            }
        }
        assert!(!BREAKS.take(), "after what it has released");
        if numbers[0] == 0 {
            let held = std::mem::take(&mut *self.held).into_values().map(|(hold, _)| hold);
            outlet.release(held.filter_map(|hold| Arc::try_unwrap(hold).ok()), None);
        }
        Ok(())
    }
}

async fn hoarder(bench: &Bench, end: &End) -> StageCell<Message> {
    let registry = Registry::new().processor::<Hoarder>("hoarder", &[]);
    let spec = registry.parse_processor("hoarder", toml::Table::new().into()).unwrap().unwrap();
    let Part::Stage(stage) = spec.part() else { panic!("a stage") };
    let cell = bench.cell("hoarder", 1000);
    let behind = Downstream::Cell("end".into(), end.cell.clone());
    bench.start(&cell, stage.clone().launch(bench.env("hoarder"), behind)).await;
    cell
}

#[test]
fn a_part_goes_on_and_the_rest_is_still_owed() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = hoarder(&bench, &end).await;
        let fate = kept(&bench, &cell, spans([1, 2, 3]));
        let waits = bench.awaited(&cell, spans([4, 5]), secs(8));
        assert_eq!(waits.await, Outcome::Delivered, "to who waits, holding is the ok");
        bench.held(&cell, spans([2]));
        assert_eq!(end.finish(Outcome::Delivered).await, [1]);
        assert_eq!(end.finish(Outcome::Delivered).await, [2]);
        assert_eq!(fate.outcome(), None);
        bench.held(&cell, spans([1]));
        assert_eq!(end.finish(Outcome::Delivered).await, [3]);
        assert_eq!(fate.end().await, Outcome::Delivered);
        bench.held(&cell, spans([1]));
        assert_eq!(end.finish(Outcome::Delivered).await, [4]);
        bench.held(&cell, spans([0]));
        until("the rest is let go", || bench.budget.used() == 0).await;
        let dropped = "otelcol_processor_dropped_spans{processor=\"hoarder\",pipeline=\"traces\"}";
        // The five messages that say what to do, and span 5.
        assert_eq!(bench.metric(dropped), 4 + 1);
        bench.end().await;
    });
}

#[test]
fn what_is_held_outlives_a_panic_and_is_not_held_twice() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = hoarder(&bench, &end).await;
        let first = kept(&bench, &cell, spans([1, 2]));
        until("it is held", || cell.observe().handled == 1).await;
        BREAKS.set(true);
        let second = kept(&bench, &cell, spans([3, 4]));
        until("it is held, too", || cell.observe().handled == 2).await;
        assert_eq!(cell.observe().restarts.panicked, 1);
        // What was released before the panic goes on, and what asked for it comes again.
        BREAKS.set(true);
        bench.held(&cell, spans([1]));
        for id in 1..=2 {
            assert_eq!(end.finish(Outcome::Delivered).await, [id]);
        }
        assert_eq!(first.end().await, Outcome::Delivered);
        bench.held(&cell, spans([2]));
        for id in 3..=4 {
            assert_eq!(end.finish(Outcome::Delivered).await, [id]);
        }
        assert_eq!(second.end().await, Outcome::Delivered);
        assert_eq!(cell.observe().restarts.panicked, 2);
        assert!(!bench.metrics.render().contains(LOST));
        bench.end().await;
    });
}

/// A request of a span for each of these traces.
fn traces(ids: impl IntoIterator<Item = u8>) -> Payload {
    let mut scope = Vec::new();
    for id in ids {
        let mut span = Vec::new();
        put_bytes_field(&mut span, 1, &[id; 16]);
        put_bytes_field(&mut span, 2, &[7; 8]);
        put_bytes_field(&mut span, 5, id.to_string().as_bytes());
        put_bytes_field(&mut scope, 2, &span);
    }
    let (mut resource, mut request) = (Vec::new(), Vec::new());
    put_bytes_field(&mut resource, 2, &scope);
    put_bytes_field(&mut request, 1, &resource);
    Payload::validate(Signal::Traces, Bytes::from(request)).unwrap()
}

#[test]
fn a_message_is_dealt_out_by_trace_and_owed_by_all_parts() {
    paused(async {
        let bench = Bench::new();
        let mut ends: Vec<End> = (0..3).map(|end| End::new(&bench, &format!("shard{end}"), 9)).collect();
        let behind = End::new(&bench, "behind", 9);
        let shards: Arc<[StageCell<Message>]> = ends.iter().map(|end| end.cell.clone()).collect();
        let dealer = bench.cell("deal", 9);
        let behind = Downstream::Cell("behind".into(), behind.cell.clone());
        bench.start(&dealer, deal(bench.env("hoarder"), shards, behind)).await;
        let mut where_is = BTreeMap::new();
        for round in 0..3 {
            let waits = bench.awaited(&dealer, traces(1..=60), secs(8));
            until("it is dealt", || ends.iter().all(|end| !end.is_empty())).await;
            let mut all = Vec::new();
            for (number, end) in ends.iter_mut().enumerate() {
                assert_eq!(waits.outcome(), None);
                let dealt = end.finish(Outcome::Delivered).await;
                assert!(dealt.len() > 5 && end.is_empty(), "one message, and a fair share: {dealt:?}");
                for id in &dealt {
                    assert_eq!(*where_is.entry(*id).or_insert(number), number, "round {round}");
                }
                all.extend(dealt);
            }
            all.sort_unstable();
            assert_eq!(all, (1..=60).collect::<Vec<_>>());
            assert_eq!(waits.await, Outcome::Delivered);
        }
        // A full one holds up the message as a whole; nobody has a part of what is withdrawn.
        let one = Weight { requests: 1, ..Weight::default() };
        let full: Vec<_> = std::iter::from_fn(|| ends[1].cell.try_reserve(one).ok()).collect();
        let (guard, receipt) = Guard::awaited(None);
        bench.put(&dealer, "traces", traces(1..=60), guard);
        until("it waits", || dealer.observe().in_hand == 1).await;
        drop(receipt);
        drop(full);
        until("it is cut", || dealer.observe().in_hand == 0).await;
        assert!(ends.iter().all(End::is_empty));
        bench.end().await;
    });
}
