//! Kinds that start late, or not, or have something left.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard, mpsc};
use watershed_stage::{
    Batch, Context, Env, Error, ExportError, Exporter, Failure, Intake, Listener, Message, Outlet, Partial,
    Payload, Placement, Processor, QueueSettings, Receiver, Registry, RetrySettings, Security, Sending,
    Settings, Signal, StageSpec, Stop, Switch, Way, wall_clock,
};
use watershed_supervise::{Launch, Next};

/// Whether a keeper has something.
pub(crate) static KEEPS: Flag = Flag(AtomicBool::new(false), Mutex::const_new(()));

/// What the tests of one process share, one after another.
pub(crate) struct Flag(AtomicBool, Mutex<()>);

impl Flag {
    pub(crate) async fn alone(&self) -> MutexGuard<'_, ()> {
        self.1.lock().await
    }

    pub(crate) fn set(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }
}

pub(crate) fn registry() -> Registry {
    Registry::new()
        .receiver::<Nothing>("none", &[])
        .receiver::<Listens>("socket", &[])
        .processor::<Never>("never", &[])
        .stage::<Keeper>("keeper")
        .exporter::<Sink>("sink", &[])
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoSettings {}

impl Settings for NoSettings {}

/// Receives nothing.
struct Nothing;

impl Receiver for Nothing {
    type Settings = NoSettings;

    fn build(_: &Arc<NoSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }
}

/// Listens, and holds on to whoever connects.
struct Listens;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Socket {
    endpoint: String,
    ready: bool,
}

impl Settings for Socket {}

impl Receiver for Listens {
    type Settings = Socket;

    fn listeners(settings: &Arc<Socket>) -> Vec<Listener> {
        let ready = settings.ready;
        let serve = |_: Intake, mut connections: mpsc::Receiver<TcpStream>, stop: Stop| {
            let serve = async move {
                let mut open = Vec::new();
                loop {
                    tokio::select! {
                        () = stop.stopped() => return,
                        Some(connection) = connections.recv() => open.push(connection),
                    }
                }
            };
            serve.boxed_local()
        };
        vec![Listener {
            address: settings.endpoint.clone(),
            key: "endpoint",
            transport: "tcp",
            security: Security::default(),
            open: Arc::new(move |_| {
                if ready { Ok(Arc::new(serve)) } else { Err(Failure::new("there is no certificate")) }
            }),
        }]
    }

    fn build(_: &Arc<Socket>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }
}

/// Never has started.
struct Never;

impl Processor for Never {
    type Settings = NoSettings;

    fn build(_: &Arc<NoSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn start(&mut self) -> Result<(), Failure> {
        std::future::pending().await
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(payload);
        Ok(())
    }
}

/// Keeps messages on disk, by its own account.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keeper {}

impl Settings for Keeper {}

impl From<Keeper> for Arc<dyn StageSpec> {
    fn from(keeper: Keeper) -> Self {
        Arc::new(keeper)
    }
}

impl StageSpec for Keeper {
    fn signals(&self) -> &'static [Signal] {
        &Signal::ALL
    }

    fn placement(&self) -> Placement {
        Placement::Lane
    }

    fn holds(&self) -> bool {
        false
    }

    fn keeps(&self) -> bool {
        true
    }

    fn owes(&self, _: Option<&Arc<str>>) -> Option<u64> {
        KEEPS.0.load(Ordering::SeqCst).then(wall_clock)
    }

    fn launch(self: Arc<Self>, env: Env, _: Switch<Way>) -> Launch<Message> {
        let pipeline = env.pipeline.as_deref().unwrap_or_default();
        let labels = [("journal", &*format!("{}/{pipeline}", env.id)), ("pipeline", pipeline)];
        for label in labels {
            env.metrics.gauge("held", "By a keeper.", &[label], Arc::new(|| 1.0));
        }
        Arc::new(|mut lease| {
            async move {
                lease.started();
                loop {
                    if matches!(lease.next().await, Next::Drained) {
                        return Ok(());
                    }
                }
            }
            .boxed_local()
        })
    }
}

/// Takes everything.
struct Sink;

impl Exporter for Sink {
    type Settings = NoSettings;

    fn sending(_: &NoSettings) -> Sending {
        Sending { timeout: None, retry: RetrySettings::default(), queue: QueueSettings::default() }
    }

    fn build(_: &Arc<NoSettings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn export(&self, _: &Batch) -> Result<Partial, ExportError> {
        Ok(Partial::default())
    }
}
