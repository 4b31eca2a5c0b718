//! The way into a receiver: admission by bytes before a request is read, and the wait for its outcome after.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use watershed_delivery::{Budget, Cause, Exhausted, Fault, Guard, Holder, Outcome, Permit};
use watershed_supervise::{Cell, NoRoom, Weight};
use watershed_telemetry::Signal;

use crate::message::{Body, Counted, Request};
use crate::metrics::{Counter, PerSignal};
use crate::origin::Origin;
use crate::own::{Ended, Span};
use crate::registry::Env;
use crate::route::{Entries, Switch};

/// How long any sender waits for an answer at most.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// How long a refused sender is asked to wait where the refusal does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The way into a receiver's mailbox. Clones are cheap.
#[derive(Clone)]
pub struct Intake {
    inner: Arc<IntakeInner>,
}

struct IntakeInner {
    env: Env,
    cell: Cell<Request>,
    entries: Switch<Entries>,
    transport: &'static str,
    /// Made when something is first counted, so that a way in that nobody uses shows no series.
    counts: OnceLock<Counts>,
}

/// What is counted of one way in: items by signal, requests by how they ended.
struct Counts {
    accepted: PerSignal,
    refused: PerSignal,
    failed: PerSignal,
    success: Counter,
    refusal: Counter,
    failure: Counter,
    reasons: Reasons,
}

/// Why a request was refused before it was whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// There is no memory for it now.
    Memory,
    /// There never is.
    TooLarge,
    /// As many wait as may.
    QueueFull,
    /// Its sender did not prove who it is.
    Unauthenticated,
    /// Its sender comes too often.
    TooOften,
    /// The way it came: cut off, too slow, encoded as nobody can read, for nobody.
    Transport,
    /// A whole connection: there are too many, or its TLS handshake failed.
    Connection,
}

/// Requests that were not taken, by reason.
struct Reasons {
    memory: Counter,
    too_large: Counter,
    queue_full: Counter,
    unauthenticated: Counter,
    too_often: Counter,
    connection: Counter,
    refused: Counter,
    rejected: Counter,
    panic: Counter,
    transport: Counter,
    withdrawn: Counter,
}

/// A request whose sender waits for nothing: what becomes of it is counted.
struct Unanswered {
    intake: Intake,
    signal: Signal,
    items: Arc<Counted>,
    span: Mutex<Option<Box<dyn Span>>>,
    /// Its place among those that may be on their way at once.
    _place: OwnedSemaphorePermit,
}

/// A sender that waits for its answer. One that goes before it has that, which drops this, is counted.
struct Waiting<'a>(Option<&'a Counts>);

// === impl Intake ===

impl Intake {
    /// The way into `cell`, for requests that these pipelines want.
    pub fn new(env: Env, cell: Cell<Request>, entries: Switch<Entries>) -> Self {
        Self::counting(env, cell, entries, "")
    }

    /// The same way in for what comes over `transport` (`grpc`, `http`), which is counted under that label.
    #[must_use]
    pub fn over(&self, transport: &'static str) -> Self {
        let IntakeInner { env, cell, entries, .. } = &*self.inner;
        let over = Self::counting(env.clone(), cell.clone(), entries.clone(), transport);
        over.counts();
        over
    }

    fn counting(env: Env, cell: Cell<Request>, entries: Switch<Entries>, transport: &'static str) -> Self {
        Self { inner: Arc::new(IntakeInner { env, cell, entries, transport, counts: OnceLock::new() }) }
    }

    fn counts(&self) -> &Counts {
        let IntakeInner { env, transport, counts, .. } = &*self.inner;
        counts.get_or_init(|| Counts::new(env, transport))
    }

    /// The receiver's id.
    pub fn id(&self) -> &Arc<str> {
        &self.inner.env.id
    }

    /// What the copy of the receiver runs with.
    pub fn env(&self) -> &Env {
        &self.inner.env
    }

    /// Whether a pipeline wants this signal.
    pub fn wants(&self, signal: Signal) -> bool {
        self.inner.entries.look(|entries| !entries.of(signal).is_empty())
    }

    /// Takes memory for a request before its body is read, or says at once that there is none.
    pub fn admit(&self, bytes: u64) -> Result<Permit, Exhausted> {
        self.budget().try_take(bytes).inspect_err(|exhausted| {
            self.turned_away(match exhausted {
                Exhausted::ForNow => TurnedAway::Memory,
                Exhausted::ForEver => TurnedAway::TooLarge,
            });
        })
    }

    /// Counts a request that was refused before it was whole.
    pub fn turned_away(&self, why: TurnedAway) {
        let Counts { reasons, refusal, .. } = self.counts();
        // A connection is no request.
        if why != TurnedAway::Connection {
            refusal.add(1);
        }
        let reason = match why {
            TurnedAway::Memory => &reasons.memory,
            TurnedAway::TooLarge => &reasons.too_large,
            TurnedAway::QueueFull => &reasons.queue_full,
            TurnedAway::Unauthenticated => &reasons.unauthenticated,
            TurnedAway::TooOften => &reasons.too_often,
            TurnedAway::Transport => &reasons.transport,
            TurnedAway::Connection => &reasons.connection,
        };
        reason.add(1);
    }

    /// The memory of the role.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.inner.env.budget
    }

    /// Hands a request to the receiver and waits for its outcome, for `patience` at most and never longer than
    /// 8 s: what is not on its way by then is withdrawn.
    pub async fn submit(
        &self,
        signal: Signal,
        body: impl Into<Body>,
        mut origin: Origin,
        permit: Permit,
        patience: Duration,
    ) -> Outcome {
        let body = body.into();
        let mut waiting = Waiting(Some(self.counts()));
        let deadline = Instant::now() + patience.min(LONGEST_WAIT);
        let items = Arc::new(Counted::default());
        let span = self.inner.env.tracing.request(self.id(), signal, origin.trace.as_ref());
        if let Some(span) = &span {
            origin.trace = Some(span.context().clone());
        }
        let weight = Weight { requests: 1, items: 0, bytes: body.bytes.len() };
        // The head is as large as connections allow, and was taken already.
        permit.cover(permit.bytes() + origin.bytes() as u64);
        let outcome = match self.inner.cell.try_reserve(weight) {
            Ok(room) => {
                let (guard, receipt) = Guard::awaited(Some(deadline.into_std()));
                room.send(Request { signal, body, origin, guard, permit, items: items.clone() });
                match tokio::time::timeout_at(deadline, receipt).await {
                    Ok(outcome) => outcome,
                    Err(_) => Outcome::refused(Cause::Deadline, "not delivered before the deadline"),
                }
            }
            Err(NoRoom::Full) => Outcome::refused(Cause::Overload, "the receiver's mailbox is full"),
            Err(NoRoom::Closed(_)) => Outcome::refused(Cause::Shutdown, "the receiver is down"),
        };
        waiting.0 = None;
        self.count(signal, items.get(), &outcome);
        if let Some(span) = span {
            span.end(items.get(), &Ended::from(&outcome));
        }
        with_hint(outcome)
    }

    /// Hands in what nobody waits to hear of, as a datagram is, and gives `place` back when it has ended. It has no
    /// deadline, and is never withdrawn; if the pipelines do not take it, it is lost, and counted.
    pub fn offer(
        &self,
        signal: Signal,
        body: impl Into<Body>,
        mut origin: Origin,
        permit: Permit,
        place: OwnedSemaphorePermit,
    ) {
        let (body, items) = (body.into(), Arc::new(Counted::default()));
        let span = self.inner.env.tracing.request(self.id(), signal, origin.trace.as_ref());
        if let Some(span) = &span {
            origin.trace = Some(span.context().clone());
        }
        let weight = Weight { requests: 1, items: 0, bytes: body.bytes.len() };
        let unanswered = Unanswered {
            intake: self.clone(),
            signal,
            items: items.clone(),
            span: Mutex::new(span),
            _place: place,
        };
        match self.inner.cell.try_reserve(weight) {
            Ok(room) => {
                let guard = Guard::held(Arc::new(unanswered));
                room.send(Request { signal, body, origin, guard, permit, items });
            }
            Err(NoRoom::Full) => {
                unanswered.settled(Outcome::refused(Cause::Overload, "the receiver's mailbox is full"));
            }
            Err(NoRoom::Closed(_)) => {
                unanswered.settled(Outcome::refused(Cause::Shutdown, "the receiver is down"));
            }
        }
    }

    /// Tells the supervisor's log of a panic in a connection or request future.
    pub fn panicked(&self, message: &str) {
        self.counts().failure.add(1);
        self.counts().reasons.panic.add(1);
        tracing::error!(receiver = %self.id(), panic = message, "a request panicked; its sender was refused");
    }

    fn count(&self, signal: Signal, items: usize, outcome: &Outcome) {
        let counts = self.counts();
        let (of_items, of_requests) = match outcome {
            Outcome::Dropped { .. } | Outcome::Delivered => (&counts.accepted, &counts.success),
            _ if is_internal(outcome) => (&counts.failed, &counts.failure),
            _ => (&counts.refused, &counts.refusal),
        };
        of_items.add(signal, items);
        of_requests.add(1);
        match outcome {
            Outcome::Refused(_) => counts.reasons.refused.add(1),
            Outcome::Rejected(_) => counts.reasons.rejected.add(1),
            Outcome::Dropped { .. } | Outcome::Delivered => {}
        }
    }
}

/// Whether something in here broke, rather than said no.
fn is_internal(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(refusal) => matches!(refusal.cause, Cause::Failure | Cause::Abandoned),
        Outcome::Rejected(rejection) => rejection.fault == Fault::Poison,
        Outcome::Dropped { .. } | Outcome::Delivered => false,
    }
}

// === impl Counts ===

impl Counts {
    fn new(env: &Env, transport: &str) -> Self {
        let (receiver, metrics) = (&*env.id, &env.metrics);
        let labels = [("receiver", receiver), ("transport", transport)];
        let labels = if transport.is_empty() { &labels[..1] } else { &labels[..] };
        let items = |names, help| metrics.per_signal(names, help, labels);
        let requests = |outcome| {
            let labels = [labels, &[("outcome", outcome)]].concat();
            metrics.counter("otelcol_receiver_requests", "Requests, by how they ended.", &labels)
        };
        let reason = |reason| {
            metrics.counter(
                "watershed_receiver_refused_requests",
                "Requests that were not taken, by reason.",
                &[("receiver", receiver), ("reason", reason)],
            )
        };
        Self {
            accepted: items(
                [
                    "otelcol_receiver_accepted_spans",
                    "otelcol_receiver_accepted_metric_points",
                    "otelcol_receiver_accepted_log_records",
                ],
                "Items whose sender was told ok.",
            ),
            refused: items(
                [
                    "otelcol_receiver_refused_spans",
                    "otelcol_receiver_refused_metric_points",
                    "otelcol_receiver_refused_log_records",
                ],
                "Items whose sender was told to try again, or that they are wrong.",
            ),
            failed: items(
                [
                    "otelcol_receiver_failed_spans",
                    "otelcol_receiver_failed_metric_points",
                    "otelcol_receiver_failed_log_records",
                ],
                "Items that were not taken because something in here broke.",
            ),
            success: requests("success"),
            refusal: requests("refused"),
            failure: requests("failure"),
            reasons: Reasons {
                memory: reason("memory"),
                too_large: reason("too_large"),
                queue_full: reason("queue_full"),
                unauthenticated: reason("unauthenticated"),
                too_often: reason("rate_limit"),
                connection: reason("connection"),
                refused: reason("refused"),
                rejected: reason("rejected"),
                panic: reason("panic"),
                transport: reason("transport"),
                withdrawn: reason("withdrawn"),
            },
        }
    }
}

// === impl Unanswered ===

impl Holder for Unanswered {
    fn settled(&self, outcome: Outcome) {
        let items = self.items.get();
        self.intake.count(self.signal, items, &outcome);
        if let Some(span) = self.span.lock().take() {
            span.end(items, &Ended::from(&outcome));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Self(Some(counts)) = self {
            counts.refusal.add(1);
            counts.reasons.withdrawn.add(1);
        }
    }
}

/// A sender that is refused is told how long to wait, so that it neither hammers nor gives up.
fn with_hint(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Refused(mut refusal) => {
            refusal.retry_after.get_or_insert(RETRY_AFTER);
            Outcome::Refused(refusal)
        }
        other => other,
    }
}
