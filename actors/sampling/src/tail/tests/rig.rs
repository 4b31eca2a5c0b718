//! A sampler under the real supervisor, in paused time, and what comes out of it.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, System};
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use tokio::time::Instant;
use watershed_delivery::{Budget, Guard, Holder, Outcome};
use watershed_stage::{
    Context, Downstream, Env, Extensions, Failure, LARGEST_NOTE, Message, Metrics, Note, Notes, Origin, Part,
    Payload, Pick, Registry, Shelf, Signal, Tracing, Unfinished, Way,
};
use watershed_supervise::{Cell, ChildId, ChildSpec, Lease, Limits, Policy, Quota, Supervisor};

/// A second of the data's time.
pub const SECOND: u64 = 1_000_000_000;

/// When data begins to come: long ago, so that the sampler's clock are its arrivals alone.
pub const BEGIN: u64 = 1_000_000 * SECOND;

const POLICY: Policy = Policy {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(30),
    intensity: 50,
    window: Duration::from_secs(60),
    cool_down: Duration::from_secs(10),
    start_timeout: Duration::from_secs(30),
    abort_grace: Duration::from_secs(1),
    seed: Some(42),
};

pub fn paused<F: Future>(test: F) -> F::Output {
    System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    })
    .block_on(test)
}

/// What is written down for the next process.
#[derive(Clone, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
pub struct Pages {
    pub notes: Vec<Note>,
    /// Nothing can be written.
    pub is_closed: bool,
    /// How often it was read, and how often something was to be written.
    pub used: (usize, usize),
}

impl Book {
    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock()
    }
}

impl Notes for Book {
    fn read(&self, _: &Arc<str>, pick: Pick) -> LocalBoxFuture<'static, Result<Vec<Note>, Failure>> {
        let mut pages = self.pages();
        pages.used.0 += 1;
        let picked = pages.notes.iter().map(|note| Note { text: pick(note.text.clone()), ..*note });
        let picked: Vec<Note> = picked.filter(|note| !note.text.is_empty()).collect();
        async { Ok(picked) }.boxed_local()
    }

    fn write(&self, _: &Arc<str>, note: Note) -> LocalBoxFuture<'static, Result<(), Failure>> {
        let mut pages = self.pages();
        pages.used.1 += 1;
        if pages.is_closed || note.text.len() > LARGEST_NOTE {
            return async { Err(Failure::new("no room")) }.boxed_local();
        }
        pages.notes.push(note);
        async { Ok(()) }.boxed_local()
    }

    fn unfinished(&self) -> Unfinished {
        Unfinished::all()
    }
}

/// How many messages ended, and how.
#[derive(Clone, Default)]
pub struct Ends(Arc<Mutex<BTreeMap<&'static str, usize>>>);

struct Keeper {
    ends: Ends,
    number: u64,
    branches: u64,
}

impl Holder for Keeper {
    fn settled(&self, outcome: Outcome) {
        let kind = match outcome {
            Outcome::Delivered => "delivered",
            Outcome::Dropped { .. } => "dropped",
            Outcome::Refused(_) => "refused",
            Outcome::Rejected(_) => "rejected",
        };
        *self.ends.0.lock().entry(kind).or_default() += 1;
    }

    fn keeps(&self) -> bool {
        true
    }

    fn number(&self) -> Option<u64> {
        Some(self.number)
    }

    fn branches(&self) -> u64 {
        self.branches
    }
}

pub struct Rig {
    supervisor: Supervisor,
    child: ChildId,
    pub cell: Cell<Message>,
    budget: Arc<Budget>,
    pub metrics: Metrics,
    lease: Lease<Message>,
    pub ends: Ends,
    kept: bool,
    pub came: Vec<Payload>,
    /// To whom each was owed.
    pub owed: Vec<u64>,
    pub sent: usize,
}

impl Rig {
    /// A sampler of these settings; behind who keeps what it is sent if there is a book.
    pub async fn start(settings: &str, book: Option<&Book>) -> Self {
        let registry = crate::register(Registry::new());
        let settings = toml::from_str(settings).unwrap();
        let spec =
            registry.parse_processor("tail_sampling", settings).unwrap().unwrap_or_else(|e| panic!("{e:?}"));
        let Part::Stage(stage) = spec.part() else { panic!("a stage") };
        let (budget, metrics) = (Budget::new(1 << 30), Metrics::default());
        let notes = book.map(|book| -> Arc<dyn Notes> { Arc::new(book.clone()) });
        let env = Env {
            id: "tail_sampling".into(),
            pipeline: Some("traces".into()),
            lane: 0,
            copies: 1,
            budget: budget.clone(),
            metrics: metrics.clone(),
            tracing: Tracing::default(),
            extensions: Extensions::default(),
            shelf: Shelf::default(),
            notes,
            ends: Arc::default(),
        };
        let cell =
            |name: &str| Cell::new(name, Quota::new(Limits { requests: Some(100_000), ..Limits::default() }));
        let (sampler, end) = (cell("tail_sampling"), cell("end"));
        let lease = end.lend();
        lease.started();
        let onward = Way::new(Downstream::Cell("end".into(), end), &env, &"traces".into());
        let launch = stage.clone().launch(env, onward.into());
        let supervisor = Supervisor::start(POLICY);
        let child =
            supervisor.supervise(sampler.clone(), ChildSpec::new(Arbiter::current()), launch).await.unwrap();
        let (ends, kept, came) = (Ends::default(), book.is_some(), Vec::new());
        let owed = Vec::new();
        Self { supervisor, child, cell: sampler, budget, metrics, lease, ends, kept, came, owed, sent: 0 }
    }

    /// Sends what came then.
    pub async fn send(&mut self, arrived: u64, spans: Vec<Span>) {
        self.send_payload(arrived, payload(vec![("orders", spans)])).await;
    }

    pub async fn send_payload(&mut self, arrived: u64, payload: Payload) {
        self.send_record(arrived, payload, self.sent as u64, u64::MAX).await;
    }

    /// Sends the record of this number, which came then, for these.
    pub async fn send_record(&mut self, arrived: u64, payload: Payload, number: u64, branches: u64) {
        let context = Arc::new(Context {
            receiver: "rx".into(),
            pipeline: "traces".into(),
            origin: Origin::default(),
            arrived,
        });
        let permit = self.budget.overdraw(payload.bytes() as u64);
        let (guard, _receipt) = match self.kept {
            true => {
                let ends = self.ends.clone();
                (Guard::held(Arc::new(Keeper { ends, number, branches })), None)
            }
            false => {
                let (guard, receipt) = Guard::awaited(None);
                (guard, Some(receipt))
            }
        };
        let message = Message { payload, context, guard, permit, charge: None };
        self.sent += 1;
        let room = self.cell.try_reserve(watershed_supervise::Mail::weight(&message)).unwrap();
        room.send(message);
        for _ in 0..1_000_000 {
            let seen = self.cell.observe();
            if seen.queued + seen.in_hand + seen.suspects == 0 {
                return self.collect();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes what has come out, and says that it is delivered.
    pub fn collect(&mut self) {
        while let Some(ticket) = self.lease.try_next() {
            let taken = self.lease.take(ticket).unwrap();
            let (Message { payload, guard, .. }, _) = taken.into_parts();
            self.owed.push(guard.branches());
            guard.resolve(Outcome::Delivered);
            self.came.push(payload);
        }
    }

    /// Until time that has leapt is believed.
    pub async fn linger(&mut self) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.collect();
    }

    /// Until nothing comes any more.
    pub async fn rest(&mut self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.collect();
    }

    /// Ends it in order; what came of each trace: the ids of its spans, with how often each came.
    pub async fn end(mut self) -> (HashMap<Vec<u8>, BTreeMap<u64, usize>>, Self) {
        self.supervisor.drain(&[self.child], Instant::now() + Duration::from_secs(10)).await;
        self.collect();
        let mut traces: HashMap<Vec<u8>, BTreeMap<u64, usize>> = HashMap::new();
        for payload in &self.came {
            for span in spans(payload) {
                let number = u64::from_be_bytes(span.span_id[..].try_into().unwrap());
                *traces.entry(span.trace_id).or_default().entry(number).or_default() += 1;
            }
        }
        self.came.clear();
        self.owed.clear();
        assert_eq!(self.budget.used(), 0, "memory was not given back");
        (traces, self)
    }

    pub fn ended(&self, how: &str) -> usize {
        self.ends.0.lock().get(how).copied().unwrap_or(0)
    }

    /// The sum of the series that hold these texts.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.metrics.render();
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    }
}

pub fn spans(payload: &Payload) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(payload.to_bytes()).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|group| group.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

pub fn payload(groups: Vec<(&str, Vec<Span>)>) -> Payload {
    let group = |(service, spans): (&str, Vec<Span>)| ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", service)], ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };
    let request = ExportTraceServiceRequest { resource_spans: groups.into_iter().map(group).collect() };
    Payload::validate(Signal::Traces, request.encode_to_vec().into()).unwrap()
}

/// Span `number` of trace `trace`: 10 ms long, the child of another.
pub fn span(trace: u64, number: u64) -> Span {
    let start = BEGIN + number * 1_000_000;
    Span {
        trace_id: id(trace),
        span_id: (number + 1).to_be_bytes().to_vec(),
        parent_span_id: vec![9; 8],
        name: "GET /orders".into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + 10_000_000,
        ..Span::default()
    }
}

pub fn failed(span: Span) -> Span {
    Span { status: Some(Status { code: 2, ..Status::default() }), ..span }
}

pub fn slow(span: Span) -> Span {
    Span { end_time_unix_nano: span.start_time_unix_nano + 2 * SECOND, ..span }
}

/// Spread over all bits, as random ids are.
pub fn id(trace: u64) -> Vec<u8> {
    let mix = |seed: u64| {
        let z = (trace + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB)
    };
    [mix(1).to_be_bytes(), mix(1 << 40).to_be_bytes()].concat()
}

pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}
