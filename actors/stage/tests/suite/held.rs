//! What a stage holds: it is owed in parts, outlives the stage's panic, and is dealt out by trace.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use actix_rt::Arbiter;
use bytes::Bytes;
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_delivery::{Guard, Holder, Outcome};
use watershed_stage::{
    Context, Downstream, Env, Error, Failure, Hold, Lent, Message, Outlet, Part, Payload, Placement,
    Processor, Registry, Settings, Signal, Way, deal,
};
use watershed_supervise::{Cell as StageCell, ChildSpec, Launch, Next, Weight};
use watershed_telemetry::wire::put_bytes_field;

use crate::common::{Bench, End, Fate, ids, paused, secs, spans, until};
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
    /// The last number of a message.
    numbers: Option<u64>,
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
        Ok(Self { held: env.shelf.take(), numbers: None })
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        let numbers = ids(&payload);
        let again = outlet.number().is_some_and(|number| self.numbers.replace(number) == Some(number));
        if let Some((hold, _)) = self.held.values().next().filter(|_| again) {
            outlet.join([&**hold], self.held.len());
            return Ok(());
        }
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
    let env = bench.env("hoarder");
    let behind = Way::new(Downstream::Cell("end".into(), end.cell.clone()), &env, &"traces".into());
    let spec = ChildSpec { group: Some("traces".into()), ..ChildSpec::new(Arbiter::current()) };
    bench.start_as(&cell, spec, stage.clone().launch(env, behind.into())).await;
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

#[test]
fn what_waits_for_room_outlives_a_restart_and_its_memory_is_known() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 1);
        let cell = hoarder(&bench, &end).await;
        let fate = kept(&bench, &cell, spans([1, 2, 3]));
        bench.awaited(&cell, spans([4, 5, 6]), secs(8)).await;
        let held = bench.budget.used();
        bench.held(&cell, spans([4]));
        until("one has left", || !end.is_empty()).await;
        let copies = 4 * spans([1]).bytes() as u64;
        assert!(bench.budget.used() >= held + copies, "what waits is there beside what it was made of");
        // Another of its group fails until all of it is begun anew.
        let ill: StageCell<Message> = bench.cell("ill", 1);
        let spec = ChildSpec { group: Some("traces".into()), ..ChildSpec::new(Arbiter::current()) };
        let watched = cell.clone();
        let launch: Launch<Message> = Arc::new(move |mut lease| {
            let watched = watched.clone();
            async move {
                lease.started();
                if watched.observe().restarts.total() == 0 {
                    return Err(Failure::new("ill"));
                }
                while !matches!(lease.next().await, Next::Drained) {}
                Ok(())
            }
            .boxed_local()
        });
        bench.start_as(&ill, spec, launch).await;
        until("it is begun anew", || cell.observe().restarts.total() > 0).await;
        for id in 1..=4 {
            assert_eq!(end.finish(Outcome::Delivered).await, [id]);
        }
        assert_eq!(fate.end().await, Outcome::Delivered);
        bench.held(&cell, spans([0]));
        until("the rest is let go", || bench.budget.used() == 0).await;
        assert!(!bench.metrics.render().contains(LOST));
        bench.end().await;
    });
}

/// Keeps a message that is handed out for one branch after the other.
struct Numbered(Fate, u64, u64);

impl Holder for Numbered {
    fn settled(&self, outcome: Outcome) {
        self.0.settled(outcome);
    }

    fn keeps(&self) -> bool {
        true
    }

    fn number(&self) -> Option<u64> {
        Some(self.1)
    }

    fn branches(&self) -> u64 {
        self.2
    }
}

#[test]
fn what_is_held_can_be_owed_to_more_than_one() {
    paused(async {
        let bench = Bench::new();
        let mut end = End::new(&bench, "end", 9);
        let cell = hoarder(&bench, &end).await;
        let hand_out = |number: u64, branches: u64| {
            let fate = Fate::default();
            let guard = Guard::held(Arc::new(Numbered(fate.clone(), number, branches)));
            bench.put(&cell, "traces", spans([1, 2]), guard);
            fate
        };
        let first = hand_out(7, 0b01);
        bench.held(&cell, spans([1]));
        let Message { payload, guard, .. } = end.take().await.into_parts().0;
        assert_eq!((ids(&payload), guard.branches()), (vec![1], 0b01));
        guard.resolve(Outcome::Delivered);
        // Of what is held of it, the second comes to owe the rest.
        let second = hand_out(7, 0b10);
        until("it has joined", || cell.observe().handled == 3).await;
        assert_eq!((first.outcome(), second.outcome()), (None, None));
        bench.held(&cell, spans([1]));
        let Message { payload, guard, .. } = end.take().await.into_parts().0;
        assert_eq!((ids(&payload), guard.branches()), (vec![2], 0b11));
        guard.resolve(Outcome::Delivered);
        // The hoarder does not tell what has become of the other one.
        let left_out = Outcome::Dropped { items: 1 };
        assert_eq!((first.end().await, second.end().await), (Outcome::Delivered, left_out));
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
        let env = bench.env("hoarder");
        let behind = Downstream::Cell("behind".into(), behind.cell.clone());
        let behind = Way::new(behind, &env, &"traces".into());
        bench.start(&dealer, deal(env, shards, behind.into())).await;
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
