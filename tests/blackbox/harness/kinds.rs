//! Kinds that fail on cue: a receiver, a processor and an exporter that share a [`Faults`] by name with the test.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;
use watershed::stage::delivery::Permit;
use watershed::stage::{
    Batch, Body, Context, Env, Error, ExportError, Exporter, Failure, Hold, Interval, Listener, Outlet,
    Partial, Payload, Placement, Processor, QueueSettings, Receiver, Registry, RetrySettings, Sending,
    Settings, Signal,
};
use watershed_net::{Client, ClientOptions};
use watershed_testkit::grpc;

/// What an injected panic says.
const INJECTED: &str = "injected fault";

/// The bundled kinds, and `flaky` of each class.
pub fn registry() -> Registry {
    watershed::kinds()
        .receiver::<FlakyReceiver>("flaky", &[])
        .processor::<FlakyProcessor>("flaky", &[])
        .processor::<Hoard>("hoard", &[])
        .processor::<Lethal>("lethal", &[])
        .processor::<crate::live::Stops>("stops", &[])
        .exporter::<FlakyExporter>("flaky", &[])
}

/// Ends the process, as a stack that overflows does, on every request of the loader's run 666.
struct Lethal;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LethalSettings {}

impl Settings for LethalSettings {}

impl Processor for Lethal {
    type Settings = LethalSettings;

    fn build(_: &Arc<LethalSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        if payload.requests().iter().any(|request| holds(request, &666_u64.to_be_bytes())) {
            std::process::abort();
        }
        outlet.send(payload);
        Ok(())
    }
}

/// Holds spans by trace until data has come that is later than a trace's first span by `decision_wait`, and then passes
/// those traces on that had so many spans by then. A sampler in small: its clock are the arrivals.
struct Hoard {
    settings: Arc<HoardSettings>,
    traces: BTreeMap<Vec<u8>, Trace>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct HoardSettings {
    decision_wait: Interval,
    min_spans: usize,
}

struct Trace {
    since: u64,
    held: Vec<Hold>,
    parts: Vec<Payload>,
}

impl Default for HoardSettings {
    fn default() -> Self {
        Self { decision_wait: Interval::secs(1), min_spans: 1 }
    }
}

impl Settings for HoardSettings {}

impl Processor for Hoard {
    type Settings = HoardSettings;

    fn placement(_: &HoardSettings) -> Placement {
        Placement::Single
    }

    fn holds(_: &HoardSettings) -> bool {
        true
    }

    fn build(settings: &Arc<HoardSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self { settings: settings.clone(), traces: BTreeMap::new() })
    }

    async fn handle(
        &mut self,
        payload: Payload,
        context: &Arc<Context>,
        outlet: &mut Outlet,
    ) -> Result<(), Error> {
        let now = context.arrived;
        let wait = self.settings.decision_wait.0.as_nanos() as u64;
        let due: Vec<_> = self.traces.iter().filter(|(_, trace)| trace.since + wait < now).collect();
        let due: Vec<_> = due.into_iter().map(|(id, _)| id.clone()).collect();
        for trace in due.iter().filter_map(|id| self.traces.remove(id)) {
            let spans: usize = trace.parts.iter().map(Payload::items).sum();
            let kept = (spans >= self.settings.min_spans).then(|| Payload::concat(trace.parts)).flatten();
            outlet.release(trace.held, kept);
        }
        // The loader's run, which makes up one half of its trace ids, stands for a trace.
        let id = {
            let scopes = payload.resources().flat_map(|group| group.scopes());
            let mut spans = scopes.flat_map(|scope| scope.spans());
            spans.next().map(|span| span.trace_id()[..8].to_vec()).unwrap_or_default()
        };
        let held = outlet.hold(payload.items());
        let trace =
            self.traces.entry(id).or_insert(Trace { since: now, held: Vec::new(), parts: Vec::new() });
        trace.held.push(held);
        trace.parts.push(payload);
        Ok(())
    }
}

/// Keeps injected panics out of the output, where hundreds of them would hide the one that matters.
pub fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&INJECTED) {
                others(info);
            }
        }));
    });
}

/// When a `flaky` component panics.
#[derive(Clone, Default)]
pub enum Rule {
    /// It does not.
    #[default]
    Never,
    /// On everything.
    Always,
    /// Once in this time, on whatever is in hand then.
    Every(Duration),
    /// On every request that holds these bytes.
    Marked(Vec<u8>),
}

/// The faults of one component, over all its copies and incarnations.
#[derive(Default)]
pub struct Faults {
    rule: Mutex<(Rule, Option<Instant>)>,
    panics: AtomicU64,
    recovery: Mutex<Recovery>,
}

#[derive(Default)]
struct Recovery {
    /// When the copy on this lane panicked, until it has finished another message.
    down: HashMap<usize, Instant>,
    took: Vec<Duration>,
}

static FAULTS: LazyLock<Mutex<HashMap<String, Arc<Faults>>>> = LazyLock::new(Mutex::default);

/// The faults that components with `faults = "<name>"` share. Names are the tests' own.
pub fn faults(name: &str) -> Arc<Faults> {
    FAULTS.lock().entry(name.to_owned()).or_default().clone()
}

impl Faults {
    /// Panics by this rule from now on.
    pub fn set(&self, rule: Rule) {
        *self.rule.lock() = (rule, Some(Instant::now()));
    }

    /// How often it has panicked.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// From each panic to the next finished message of that copy.
    pub fn recoveries(&self) -> Vec<Duration> {
        self.recovery.lock().took.clone()
    }

    fn is_due<'a>(&self, requests: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let mut rule = self.rule.lock();
        match &*rule {
            (Rule::Never, _) => false,
            (Rule::Always, _) => true,
            (Rule::Marked(mark), _) => requests.into_iter().any(|request| holds(request, mark)),
            (Rule::Every(time), since) => {
                let due = since.is_none_or(|since| since.elapsed() >= *time);
                if due {
                    rule.1 = Some(Instant::now());
                }
                due
            }
        }
    }

    fn panic(&self, lane: usize) -> ! {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.recovery.lock().down.entry(lane).or_insert_with(Instant::now);
        std::panic::panic_any(INJECTED)
    }

    fn finish(&self, lane: usize) {
        let mut recovery = self.recovery.lock();
        if let Some(since) = recovery.down.remove(&lane) {
            recovery.took.push(since.elapsed());
        }
    }
}

fn holds(request: &[u8], mark: &[u8]) -> bool {
    request.windows(mark.len()).any(|window| window == mark)
}

/// The `otlp` receiver whose decoder panics.
struct FlakyReceiver {
    faults: Arc<Faults>,
    lane: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReceiverSettings {
    faults: String,
    #[schemars(with = "String")]
    protocols: toml::Value,
}

impl Settings for ReceiverSettings {}

impl Receiver for FlakyReceiver {
    type Settings = ReceiverSettings;

    fn listeners(settings: &Arc<ReceiverSettings>) -> Vec<Listener> {
        let table = toml::Table::from_iter([("protocols".to_owned(), settings.protocols.clone())]);
        let otlp = watershed::kinds().parse_receiver("otlp", toml::Value::Table(table));
        otlp.expect("a bundled kind").expect("its settings").listeners()
    }

    fn build(settings: &Arc<ReceiverSettings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self { faults: faults(&settings.faults), lane: env.lane })
    }

    fn decode(&self, signal: Signal, body: Body, _: &Permit) -> Result<Payload, Error> {
        if self.faults.is_due([&body.bytes[..]]) {
            self.faults.panic(self.lane);
        }
        let payload =
            Payload::validate(signal, body.bytes).map_err(|invalid| Error::reject(invalid.to_string()))?;
        self.faults.finish(self.lane);
        Ok(payload)
    }
}

/// A processor that changes nothing and panics.
struct FlakyProcessor {
    faults: Arc<Faults>,
    lane: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProcessorSettings {
    faults: String,
}

impl Settings for ProcessorSettings {}

impl Processor for FlakyProcessor {
    type Settings = ProcessorSettings;

    fn build(settings: &Arc<ProcessorSettings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self { faults: faults(&settings.faults), lane: env.lane })
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        let due = self.faults.is_due(payload.requests().iter().map(|request| &request[..]));
        // What was given to the outlet before a panic must not leave.
        outlet.send(payload);
        if due {
            self.faults.panic(self.lane);
        }
        self.faults.finish(self.lane);
        Ok(())
    }
}

/// An OTLP exporter that panics: before its destination has the batch, and under [`Rule::Every`] by turns after.
struct FlakyExporter {
    faults: Arc<Faults>,
    client: Client,
    lane: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExporterSettings {
    faults: String,
    endpoint: String,
    #[serde(default)]
    sending_queue: QueueSettings,
    #[serde(default)]
    retry_on_failure: RetrySettings,
}

impl Settings for ExporterSettings {}

impl Exporter for FlakyExporter {
    type Settings = ExporterSettings;

    fn sending(settings: &ExporterSettings) -> Sending {
        Sending {
            timeout: Some(Duration::from_secs(5)),
            retry: settings.retry_on_failure.clone(),
            queue: settings.sending_queue.clone(),
        }
    }

    fn build(settings: &Arc<ExporterSettings>, env: &Env) -> Result<Self, Failure> {
        let client = Client::new(ClientOptions::new(settings.endpoint.clone()));
        let client = client.map_err(|error| Failure::from_error(&error))?;
        Ok(Self { faults: faults(&settings.faults), client, lane: env.lane })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let due = self.faults.is_due(batch.payload.requests().iter().map(|request| &request[..]));
        let after = matches!(&*self.faults.rule.lock(), (Rule::Every(_), _)) && self.faults.panics() % 2 == 1;
        if due && !after {
            self.faults.panic(self.lane);
        }
        let path = match batch.payload.signal() {
            Signal::Traces => grpc::Signal::Traces.path(),
            Signal::Metrics => grpc::Signal::Metrics.path(),
            Signal::Logs => grpc::Signal::Logs.path(),
        };
        let sent =
            self.client.unary(path, &http::HeaderMap::new(), batch.payload.requests(), batch.timeout).await;
        if due {
            self.faults.panic(self.lane);
        }
        sent.map_err(|error| ExportError::Retryable {
            reason: error.to_string().into(),
            retry_after: error.status.retry_after,
        })?;
        self.faults.finish(self.lane);
        Ok(Partial::default())
    }
}
