//! Telemetry whose items are numbered, senders that wait or do not, and a bench to put one stage on.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, System};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use watershed_delivery::{Budget, Cause, Fault, Guard, Holder, Outcome, Receipt, Share};
use watershed_stage::{
    Context, Env, ExporterParts, Extensions, Message, Metrics, Nursery, Origin, Payload, Registry, Shelf,
    Signal, Tracing,
};
use watershed_supervise::{
    Cell, ChildId, ChildSpec, DrainReport, Launch, Lease, Limits, Mail, Next, Policy, Quota, Supervisor,
    Taken, Weight,
};
use watershed_telemetry::wire::put_bytes_field;

use crate::kinds;

const POLICY: Policy = Policy {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(30),
    intensity: 5,
    window: Duration::from_secs(60),
    cool_down: Duration::from_secs(10),
    start_timeout: Duration::from_secs(30),
    abort_grace: Duration::from_secs(1),
    seed: Some(42),
};

/// Runs a test on one runtime in paused time.
pub fn paused<F: Future>(test: F) -> F::Output {
    System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    })
    // Days of patience cost nothing in paused time.
    .block_on(async {
        tokio::time::timeout(Duration::from_secs(1_000_000), test).await.expect("the test hangs")
    })
}

/// Waits until something is so; looks every millisecond.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..2_000_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

// === telemetry ===

/// A request of these items; each is named after its number and padded to `size` bytes.
pub fn request(signal: Signal, ids: impl IntoIterator<Item = u32>, size: usize) -> Bytes {
    let mut scope = Vec::new();
    for id in ids {
        let name = format!("{id}:{}", "x".repeat(size));
        let mut item = Vec::new();
        match signal {
            Signal::Traces => {
                put_bytes_field(&mut item, 1, &[7; 16]);
                put_bytes_field(&mut item, 2, &[7; 8]);
                put_bytes_field(&mut item, 5, name.as_bytes());
            }
            Signal::Metrics => {
                let mut gauge = Vec::new();
                put_bytes_field(&mut gauge, 1, &[]);
                put_bytes_field(&mut item, 1, name.as_bytes());
                put_bytes_field(&mut item, 5, &gauge);
            }
            Signal::Logs => put_bytes_field(&mut item, 3, name.as_bytes()),
        }
        put_bytes_field(&mut scope, 2, &item);
    }
    let (mut resource, mut request) = (Vec::new(), Vec::new());
    put_bytes_field(&mut resource, 2, &scope);
    put_bytes_field(&mut request, 1, &resource);
    request.into()
}

pub fn payload(signal: Signal, ids: impl IntoIterator<Item = u32>) -> Payload {
    Payload::validate(signal, request(signal, ids, 0)).unwrap()
}

pub fn spans(ids: impl IntoIterator<Item = u32>) -> Payload {
    payload(Signal::Traces, ids)
}

/// The numbers of the items, in order.
pub fn ids(payload: &Payload) -> Vec<u32> {
    let mut names = Vec::new();
    for scope in payload.resources().flat_map(|resource| resource.scopes()) {
        names.extend(scope.spans().map(|span| span.name().to_owned()));
        names.extend(scope.metrics().map(|metric| metric.name().to_owned()));
        names.extend(scope.log_records().map(|record| record.severity_text().to_owned()));
    }
    assert_eq!(names.len(), payload.items());
    names.iter().map(|name| name.split(':').next().unwrap().parse().unwrap()).collect()
}

// === senders ===

/// How a message ended whose sender has had its "ok".
#[derive(Clone, Default)]
pub struct Fate(Arc<Mutex<Option<Outcome>>>);

impl Holder for Fate {
    fn settled(&self, outcome: Outcome) {
        assert!(self.0.lock().replace(outcome).is_none(), "settled twice");
    }
}

impl Fate {
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.lock().clone()
    }

    pub async fn end(&self) -> Outcome {
        until("an outcome", || self.0.lock().is_some()).await;
        self.outcome().unwrap()
    }
}

#[track_caller]
pub fn assert_refused(outcome: &Outcome, cause: Cause) -> Option<Duration> {
    match outcome {
        Outcome::Refused(refusal) if refusal.cause == cause => refusal.retry_after,
        other => panic!("expected a refusal ({cause:?}), not {other:?}"),
    }
}

#[track_caller]
pub fn assert_rejected(outcome: &Outcome, fault: Fault, items: u64) {
    match outcome {
        Outcome::Rejected(rejection) if rejection.fault == fault => assert_eq!(rejection.items, items),
        other => panic!("expected a rejection ({fault:?}), not {other:?}"),
    }
}

// === the bench ===

/// Everything stages share, and a check that all of it comes back.
pub struct Bench {
    pub supervisor: Supervisor,
    pub budget: Arc<Budget>,
    pub share: Arc<Share>,
    pub metrics: Metrics,
    quotas: RefCell<Vec<Arc<Quota>>>,
    children: RefCell<Vec<ChildId>>,
}

impl Bench {
    pub fn new() -> Self {
        let budget = Budget::new(1 << 30);
        Self {
            supervisor: Supervisor::start(POLICY),
            share: budget.share(1 << 20),
            budget,
            metrics: Metrics::default(),
            quotas: RefCell::default(),
            children: RefCell::default(),
        }
    }

    pub fn registry() -> Registry {
        Registry::new()
            .receiver::<kinds::Rx>("rx", &[])
            .processor::<kinds::Script>("script", &[])
            .exporter::<kinds::Sink>("sink", &[])
    }

    pub fn env(&self, id: &str) -> Env {
        Env {
            id: id.into(),
            pipeline: Some("traces".into()),
            lane: 0,
            copies: 1,
            budget: self.budget.clone(),
            metrics: self.metrics.clone(),
            tracing: Tracing::default(),
            extensions: Extensions::default(),
            shelf: Shelf::default(),
            notes: None,
            ends: Arc::default(),
        }
    }

    /// A cell with room for so many requests.
    pub fn cell<M: Mail>(&self, name: &str, requests: usize) -> Cell<M> {
        let quota = Quota::new(Limits { requests: Some(requests), ..Limits::default() });
        self.quotas.borrow_mut().push(quota.clone());
        Cell::new(name, quota)
    }

    /// What an exporter's copy runs with.
    pub fn parts(&self, env: Env) -> ExporterParts {
        let nursery = Nursery::new(self.supervisor.clone(), ChildSpec::new(Arbiter::current()));
        let heir = watch::Sender::new(None).subscribe();
        ExporterParts { env, batching: Arc::default(), nursery, seat: None, heir }
    }

    pub async fn start<M: Mail>(&self, cell: &Cell<M>, launch: Launch<M>) -> ChildId {
        self.start_as(cell, ChildSpec::new(Arbiter::current()), launch).await
    }

    pub async fn start_as<M: Mail>(&self, cell: &Cell<M>, spec: ChildSpec, launch: Launch<M>) -> ChildId {
        let id = self.supervisor.supervise(cell.clone(), spec, launch).await.unwrap();
        self.children.borrow_mut().push(id);
        id
    }

    pub fn message(&self, pipeline: &str, origin: Origin, payload: Payload, guard: Guard) -> Message {
        let permit = self.budget.try_take(payload.bytes() as u64).unwrap();
        let charge = Some(self.share.try_charge(payload.bytes() as u64).unwrap());
        let context =
            Arc::new(Context { receiver: "rx".into(), pipeline: pipeline.into(), origin, arrived: 0 });
        Message { payload, context, guard, permit, charge }
    }

    pub fn put(&self, cell: &Cell<Message>, pipeline: &str, payload: Payload, guard: Guard) {
        let message = self.message(pipeline, Origin::default(), payload, guard);
        cell.try_reserve(message.weight()).expect("room").send(message);
    }

    /// Sends for somebody who has had its "ok".
    pub fn held(&self, cell: &Cell<Message>, payload: Payload) -> Fate {
        let fate = Fate::default();
        self.put(cell, "traces", payload, Guard::held(Arc::new(fate.clone())));
        fate
    }

    /// Sends for somebody who waits, for a limited time.
    pub fn awaited(&self, cell: &Cell<Message>, payload: Payload, patience: Duration) -> Receipt {
        let (guard, receipt) = Guard::awaited(Some((Instant::now() + patience).into_std()));
        self.put(cell, "traces", payload, guard);
        receipt
    }

    /// The value of a series, by its line up to the value.
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }

    /// Drains the stages, the first started last, and checks that everything was returned.
    pub async fn end(self) -> Vec<DrainReport> {
        let reports = self.drain().await;
        self.nothing_left();
        reports
    }

    pub async fn drain(&self) -> Vec<DrainReport> {
        let mut reports = Vec::new();
        for child in self.children.take().into_iter().rev() {
            reports.push(self.supervisor.drain(&[child], Instant::now() + secs(10)).await);
        }
        reports
    }

    pub fn nothing_left(&self) {
        for quota in self.quotas.borrow().iter() {
            assert_eq!(quota.used(), Weight::default());
        }
        assert_eq!((self.budget.used(), self.share.used()), (0, 0));
    }
}

/// A queue that the test itself serves.
pub struct End {
    pub cell: Cell<Message>,
    lease: Lease<Message>,
}

impl End {
    pub fn new(bench: &Bench, name: &str, requests: usize) -> Self {
        let cell = bench.cell(name, requests);
        let lease = cell.lend();
        lease.started();
        Self { cell, lease }
    }

    /// The next message, with the room it takes.
    pub async fn take(&mut self) -> Taken<Message> {
        match self.lease.next().await {
            Next::Mail(ticket) => self.lease.take(ticket).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Ends the next message; what was in it.
    pub async fn finish(&mut self, outcome: Outcome) -> Vec<u32> {
        let (mail, room) = self.take().await.into_parts();
        let ids = ids(&mail.payload);
        mail.settle(outcome);
        drop(room);
        ids
    }

    pub fn is_empty(&self) -> bool {
        self.cell.observe().queued == 0
    }
}
