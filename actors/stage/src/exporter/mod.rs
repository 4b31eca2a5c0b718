//! Exporters: what one is. Queue, batching, retries and withdrawal are around it, the same for all.

mod batch;
mod circuit;
mod concurrency;
mod counters;
mod ends;
mod lane;
mod pace;
mod rate;
mod seat;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, watch};
use watershed_supervise::{Cell, Failure, Launch};
use watershed_telemetry::{Payload, Signal};

use self::circuit::Circuit;
pub use self::rate::Rate;
pub use self::seat::{Nursery, Seat, Seating, Tried};
use crate::extension::{Dependence, Reference, Role};
use crate::message::{Context, Message};
use crate::origin::TraceContext;
use crate::receiver::Listener;
use crate::registry::{Env, ExporterSpec, KeyError, Placement, Settings};
use crate::settings::{BatchSettings, Interval, QueueSettings, RetrySettings};

/// The end of a pipeline: it sends a batch somewhere and says how that ended. Nothing else.
///
/// Calls may be in flight beside each other. A panic in one ends this incarnation; all that was in flight is
/// handed to the next, singly.
pub trait Exporter: Sized + 'static {
    /// Its settings.
    type Settings: Settings;

    /// The signals it can take.
    fn signals() -> &'static [Signal] {
        &Signal::ALL
    }

    /// Where its copies stand.
    fn placement(_settings: &Self::Settings) -> Placement {
        Placement::Lane
    }

    /// The sockets it wants, where its destination comes to fetch rather than is sent to. What is fetched outlives the
    /// exporter's incarnations, and is therefore shared by way of its settings.
    fn listeners(_settings: &Arc<Self::Settings>) -> Vec<Listener<()>> {
        Vec::new()
    }

    /// Queue, batching, retries and timeout.
    fn sending(settings: &Self::Settings) -> Sending;

    /// Builds one copy, on the lane it will stand on.
    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure>;

    /// What of the messages' origin its requests depend on.
    fn depends(&self) -> Dependence {
        Dependence::default()
    }

    /// Sends one batch. Dropped when its timeout has passed.
    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError>;

    /// No batch is under way or waits for another attempt: what is remembered of one that was given up may go. Called
    /// again and again.
    fn rest(&self) {}
}

/// How an exporter is sent to.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The longest one attempt may take; `None` is as long as the sender waits.
    pub timeout: Option<Duration>,
    /// What happens after a failed attempt.
    pub retry: RetrySettings,
    /// What waits before an attempt.
    pub queue: QueueSettings,
}

impl Sending {
    /// What most exporters say of it: `timeout`, `retry_on_failure` and `sending_queue`.
    pub fn of(timeout: Interval, retry: &RetrySettings, queue: &QueueSettings) -> Self {
        Self { timeout: timeout.positive(), retry: retry.clone(), queue: queue.clone() }
    }

    /// What is wrong with it, under these keys.
    pub fn errors(&self) -> impl Iterator<Item = KeyError> {
        let retry = self.retry.check().into_iter().map(|error| error.under("retry_on_failure"));
        retry.chain(self.queue.check().into_iter().map(|error| error.under("sending_queue")))
    }
}

/// What is sent at once: one or more messages of one signal from one pipeline.
#[derive(Debug)]
pub struct Batch {
    /// The telemetry.
    pub payload: Payload,
    /// Where it came from; for several messages, where the first came from. They agree in the pipeline and in the
    /// metadata by which they are partitioned, and perhaps in nothing else.
    pub context: Arc<Context>,
    /// The trace that all of it belongs to, if it is one.
    pub trace: Option<TraceContext>,
    /// What is left for this attempt, to be passed on to the destination.
    pub timeout: Option<Duration>,
    /// It is several messages. If it is rejected, each of them is sent again alone, before anyone is blamed.
    pub merged: bool,
}

/// What a destination that took a batch said of parts of it. The default is that it took everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partial {
    /// Items it rejected for good.
    pub rejected: u64,
    /// Which those are, by their number in the batch, rising, where it says so.
    pub which: Option<Vec<u32>>,
    /// Why, or a warning about what it took.
    pub message: String,
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// It may be taken later.
    #[error("{reason}")]
    Retryable {
        /// What stood in the way.
        reason: Cow<'static, str>,
        /// How long the destination asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It will never be taken in one piece. Its parts may be.
    #[error("{reason}")]
    TooLarge {
        /// The destination's status, as a gRPC code.
        code: i32,
        /// What it said.
        reason: Cow<'static, str>,
    },
    /// What it would have to be sent as is too much at once, and so the destination was not asked. Its parts may not be.
    #[error("{reason}")]
    TooMuch {
        /// What makes so much of it.
        reason: Cow<'static, str>,
    },
    /// It will never be taken.
    #[error("{reason}")]
    Permanent {
        /// The destination's status, as a gRPC code.
        code: i32,
        /// What it said.
        reason: Cow<'static, str>,
    },
    /// It was tried as often as the exporter's own settings say: what is left of it is given up, though another attempt
    /// might have helped.
    #[error("{reason}")]
    Exhausted {
        /// What stood in the way at last.
        reason: Cow<'static, str>,
        /// How long the destination asks to be left alone.
        retry_after: Option<Duration>,
        /// The items that are left, by their number in the batch, rising.
        left: Vec<u32>,
        /// Those that the destination rejected for good, in the same way. It took all others.
        rejected: Vec<u32>,
    },
}

/// What an exporter's copy runs with.
#[derive(Clone)]
pub struct ExporterParts {
    /// Id, lane, budget, metrics.
    pub env: Env,
    /// How batches are formed of what comes from each pipeline, where its `batch` processor says so.
    pub batching: Arc<HashMap<Arc<str>, PipelineBatch>>,
    /// Where it starts actors of its own.
    pub nursery: Nursery,
    /// Its place, where it is one of several destinations of another exporter.
    pub seat: Option<Seat>,
    /// Who takes over from it, once another plan has replaced it: from then on it sends nothing, and everything that is
    /// not on the wire goes there.
    pub heir: watch::Receiver<Option<Cell<Message>>>,
}

/// How what comes from one pipeline is batched.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineBatch {
    /// The `batch` processor that says so.
    pub processor: Arc<str>,
    /// What it says.
    pub settings: BatchSettings,
}

/// An exporter kind with its settings.
pub(crate) struct Configured<E: Exporter> {
    settings: Arc<E::Settings>,
    shared: Shared,
}

/// What an exporter's copies have in common, since they have one destination.
#[derive(Clone)]
struct Shared {
    /// What one of them learns of it holds for all.
    circuit: Arc<Circuit>,
    /// What it may be sent in a second, where it has no [`Seat`].
    rate: Arc<Rate>,
    /// As many as `num_consumers`. Whoever has something to send takes one, so that none rests on a lane where little
    /// comes in while another lane's messages wait; who waits for one is served in turn.
    consumers: Arc<Semaphore>,
}

/// An exporter kind with its settings, to be launched by another one.
pub fn configured<E: Exporter>(settings: E::Settings) -> Arc<dyn ExporterSpec> {
    Arc::new(Configured::<E>::new(settings))
}

// === impl Configured ===

impl<E: Exporter> Configured<E> {
    pub(crate) fn new(settings: E::Settings) -> Self {
        let sending = E::sending(&settings);
        let consumers = sending.queue.num_consumers.min(Semaphore::MAX_PERMITS);
        let shared = Shared {
            circuit: Arc::new(Circuit::new(&sending.retry)),
            rate: Arc::new(Rate::new(sending.queue.items_per_second)),
            consumers: Arc::new(Semaphore::new(consumers)),
        };
        Self { settings: Arc::new(settings), shared }
    }
}

impl<E: Exporter> ExporterSpec for Configured<E> {
    fn signals(&self) -> &'static [Signal] {
        E::signals()
    }

    fn placement(&self) -> Placement {
        E::placement(&self.settings)
    }

    fn listeners(&self) -> Vec<Listener<()>> {
        E::listeners(&self.settings)
    }

    fn sending(&self) -> Sending {
        E::sending(&self.settings)
    }

    fn references(&self) -> Vec<Reference> {
        let mut references = self.settings.references();
        let storage = E::sending(&self.settings).queue.storage;
        let key = "sending_queue.storage".to_owned();
        references.extend(storage.map(|id| Reference { key, id, role: Role::Storage }));
        references
    }

    fn launch(&self, parts: ExporterParts) -> Launch<Message> {
        let (settings, shared) = (self.settings.clone(), self.shared.clone());
        Arc::new(move |lease| {
            let (settings, shared, parts) = (settings.clone(), shared.clone(), parts.clone());
            async move {
                let exporter = E::build(&settings, &parts.env)?;
                lane::Lane::new(exporter, E::sending(&settings), parts, lease, shared).run().await
            }
            .boxed_local()
        })
    }
}
