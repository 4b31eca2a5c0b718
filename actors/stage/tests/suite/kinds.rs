//! A receiver, a processor and an exporter that do what the test says.
//!
//! Settings come from TOML and can hold no closure, so what the test says lies in the thread: each test has one
//! of its own, and so do all its stages.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use watershed_delivery::{Outcome, Permit};
use watershed_stage::{
    Batch, Body, Context, Dependence, Env, Error, ExportError, Exporter, Failure, Intake, Interval, Origin,
    Outlet, Partial, Payload, Placement, Processor, QueueSettings, Receiver, RetrySettings, Sending,
    Settings, Signal,
};
use watershed_supervise::Cell as StageCell;

use crate::common::{Bench, ids, request};

type Handle = Rc<dyn Fn(Payload) -> LocalBoxFuture<'static, Result<Vec<Payload>, Error>>>;
type Make = Rc<dyn Fn() -> Vec<Payload>>;
type Answer = Rc<dyn Fn(Seen) -> LocalBoxFuture<'static, Result<Partial, ExportError>>>;
type Decode = Rc<dyn Fn(Bytes) -> Result<Payload, Error>>;

thread_local! {
    static HANDLE: RefCell<Option<Handle>> = RefCell::default();
    static TICK: RefCell<Option<Make>> = RefCell::default();
    static DRAIN: RefCell<Option<Make>> = RefCell::default();
    static ANSWER: RefCell<Option<Answer>> = RefCell::default();
    static DECODE: RefCell<Option<Decode>> = RefCell::default();
    static DEPENDS: RefCell<Dependence> = RefCell::default();
    static SEEN: RefCell<Vec<Seen>> = RefCell::default();
    static IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
    static MOST_IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
    static RESTS: Cell<usize> = const { Cell::new(0) };
    static FETCHED: RefCell<Vec<Outcome>> = RefCell::default();
}

// === exporter ===

/// An export as the destination saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// How many were before it.
    pub n: usize,
    pub at: Instant,
    pub ids: Vec<u32>,
    pub signal: Signal,
    pub pipeline: String,
    pub bytes: usize,
    pub timeout: Option<Duration>,
}

pub struct Sink;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkSettings {
    #[serde(default)]
    timeout: Option<Interval>,
    #[serde(default)]
    retry_on_failure: RetrySettings,
    #[serde(default)]
    sending_queue: QueueSettings,
}

impl Settings for SinkSettings {}

/// Counts what is in flight, however it ends.
struct InFlight;

impl InFlight {
    fn new() -> Self {
        let now = IN_FLIGHT.get() + 1;
        IN_FLIGHT.set(now);
        MOST_IN_FLIGHT.set(MOST_IN_FLIGHT.get().max(now));
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        IN_FLIGHT.set(IN_FLIGHT.get() - 1);
    }
}

impl Exporter for Sink {
    type Settings = SinkSettings;

    fn sending(settings: &SinkSettings) -> Sending {
        Sending {
            timeout: settings.timeout.map(|timeout| timeout.0),
            retry: settings.retry_on_failure.clone(),
            queue: settings.sending_queue.clone(),
        }
    }

    fn build(_: &Arc<SinkSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn depends(&self) -> Dependence {
        DEPENDS.with_borrow(Clone::clone)
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let _in_flight = InFlight::new();
        let seen = SEEN.with_borrow_mut(|all| {
            all.push(Seen {
                n: all.len(),
                at: Instant::now(),
                ids: ids(&batch.payload),
                signal: batch.payload.signal(),
                pipeline: batch.context.pipeline.to_string(),
                bytes: batch.payload.bytes(),
                timeout: batch.timeout,
            });
            all[all.len() - 1].clone()
        });
        let answer = ANSWER.with_borrow(Clone::clone);
        match answer {
            Some(answer) => answer(seen).await,
            None => Ok(Partial::default()),
        }
    }

    fn rest(&self) {
        RESTS.set(RESTS.get() + 1);
    }
}

/// What the destination answers from now on. Without it, it takes everything at once.
pub fn on_export<F>(answer: impl Fn(Seen) -> F + 'static)
where
    F: Future<Output = Result<Partial, ExportError>> + 'static,
{
    ANSWER.set(Some(Rc::new(move |seen| answer(seen).boxed_local())));
}

/// What requests of exporters built from now on depend on.
pub fn depend_on(depends: Dependence) {
    DEPENDS.set(depends);
}

pub fn seen() -> Vec<Seen> {
    SEEN.with_borrow(Clone::clone)
}

/// The items of each export.
pub fn batches() -> Vec<Vec<u32>> {
    seen().into_iter().map(|seen| seen.ids).collect()
}

/// How often an exporter was told that nothing is under way.
pub fn rests() -> usize {
    RESTS.get()
}

pub fn in_flight() -> usize {
    IN_FLIGHT.get()
}

pub fn most_in_flight() -> usize {
    MOST_IN_FLIGHT.get()
}

pub fn retryable(retry_after: Option<Duration>) -> Result<Partial, ExportError> {
    Err(ExportError::Retryable { reason: "busy".into(), retry_after })
}

pub fn permanent() -> Result<Partial, ExportError> {
    Err(ExportError::Permanent { code: 3, reason: "wrong".into() })
}

/// An exporter on a bench, with room for a thousand messages.
pub async fn exporter(bench: &Bench, settings: &str) -> StageCell<watershed_stage::Message> {
    let [cell] = exporters(bench, settings).await;
    cell
}

/// An exporter with a copy on each of so many lanes.
pub async fn exporters<const N: usize>(
    bench: &Bench,
    settings: &str,
) -> [StageCell<watershed_stage::Message>; N] {
    let settings = toml::from_str(settings).unwrap();
    let spec = Bench::registry().parse_exporter("sink", settings).unwrap().unwrap();
    let cells = std::array::from_fn(|_| bench.cell("sink", 1000));
    for (lane, cell) in cells.iter().enumerate() {
        let mut env = bench.env("sink");
        (env.lane, env.copies) = (lane, N);
        bench.start(cell, spec.launch(bench.parts(env))).await;
    }
    cells
}

// === processor ===

pub struct Script {
    interval: Option<Duration>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScriptSettings {
    #[serde(default)]
    interval: Option<Interval>,
}

impl Settings for ScriptSettings {}

impl Processor for Script {
    type Settings = ScriptSettings;

    fn build(settings: &Arc<ScriptSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self { interval: settings.interval.map(|interval| interval.0) })
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        let outputs = match HANDLE.with_borrow(Clone::clone) {
            Some(handle) => handle(payload).await?,
            None => vec![payload],
        };
        outputs.into_iter().for_each(|output| outlet.send(output));
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        self.interval
    }

    async fn tick(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        let made = TICK.with_borrow(Clone::clone).map(|make| make()).unwrap_or_default();
        made.into_iter().for_each(|output| outlet.send(output));
        Ok(())
    }

    async fn drain(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        let made = DRAIN.with_borrow(Clone::clone).map(|make| make()).unwrap_or_default();
        made.into_iter().for_each(|output| outlet.send(output));
        Ok(())
    }
}

/// What the processor does with a message. Without it, everything passes.
pub fn on_handle<F>(handle: impl Fn(Payload) -> F + 'static)
where
    F: Future<Output = Result<Vec<Payload>, Error>> + 'static,
{
    HANDLE.set(Some(Rc::new(move |payload| handle(payload).boxed_local())));
}

pub fn on_tick(make: impl Fn() -> Vec<Payload> + 'static) {
    TICK.set(Some(Rc::new(make)));
}

pub fn on_drain(make: impl Fn() -> Vec<Payload> + 'static) {
    DRAIN.set(Some(Rc::new(make)));
}

// === receiver ===

pub struct Rx {
    fetch: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RxSettings {
    /// How many requests it fetches by itself; none is none.
    #[serde(default)]
    fetch: u32,
}

impl Settings for RxSettings {}

impl Receiver for Rx {
    type Settings = RxSettings;

    fn placement(_: &RxSettings) -> Placement {
        Placement::Single
    }

    fn build(settings: &Arc<RxSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self { fetch: settings.fetch })
    }

    async fn run(&self, intake: Intake) -> Result<(), Failure> {
        for id in 0..self.fetch {
            let body = request(Signal::Traces, [id], 0);
            let permit = intake.admit(body.len() as u64).map_err(|full| Failure::from_error(&full))?;
            let outcome =
                intake.submit(Signal::Traces, body, Origin::default(), permit, Duration::from_secs(5)).await;
            FETCHED.with_borrow_mut(|all| all.push(outcome));
        }
        std::future::pending().await
    }

    fn decode(&self, signal: Signal, body: Body, _: &Permit) -> Result<Payload, Error> {
        match DECODE.with_borrow(Clone::clone) {
            Some(decode) => decode(body.bytes),
            None => {
                Payload::validate(signal, body.bytes).map_err(|invalid| Error::reject(invalid.to_string()))
            }
        }
    }
}

pub fn on_decode(decode: impl Fn(Bytes) -> Result<Payload, Error> + 'static) {
    DECODE.set(Some(Rc::new(decode)));
}

/// What became of the requests that the receiver fetched by itself.
pub fn fetched() -> Vec<Outcome> {
    FETCHED.with_borrow(Clone::clone)
}
