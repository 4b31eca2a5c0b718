//! What moves between cells: admitted requests into a receiver, messages everywhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use watershed_delivery::{Charge, Guard, Outcome, Permit};
use watershed_supervise::{Mail, Weight};
use watershed_telemetry::{Payload, Signal};

use crate::origin::Origin;

/// One message on its way: wire bytes, where they came from, the debt of an outcome and the memory they hold.
#[derive(Debug)]
pub struct Message {
    /// The telemetry, as OTLP wire bytes.
    pub payload: Payload,
    /// Where it came from.
    pub context: Arc<Context>,
    /// Owes somebody exactly one outcome.
    pub guard: Guard,
    /// The memory its bytes were granted.
    pub permit: Permit,
    /// What it holds of its queue's share, once it is in a queue that has one.
    pub charge: Option<Charge>,
}

/// Where and when a message came. Only messages that agree on [`Context::pipeline`] may be merged.
#[derive(Debug)]
pub struct Context {
    /// Id of the receiver.
    pub receiver: Arc<str>,
    /// Id of the pipeline it entered by.
    pub pipeline: Arc<str>,
    /// Who sent it, and what was sent along.
    pub origin: Origin,
    /// When it came, in nanoseconds since 1970. Stays what it was through a journal: whoever keeps time by the data
    /// (a tail sampler) decides on what is replayed as it did at first.
    pub arrived: u64,
}

/// The body of a request, inflated.
#[derive(Clone, Debug)]
pub struct Body {
    /// What it is written in, as receiver and connection have agreed on. Empty where there is only one way.
    pub format: &'static str,
    /// The body itself.
    pub bytes: Bytes,
}

/// A request a receiver has admitted and not yet looked into.
#[derive(Debug)]
pub struct Request {
    /// What it claims to be.
    pub signal: Signal,
    /// What came.
    pub body: Body,
    /// Who sent it, and what was sent along.
    pub origin: Origin,
    pub(crate) guard: Guard,
    pub(crate) permit: Permit,
    pub(crate) items: Arc<Counted>,
}

/// How many items a request turned out to hold: written by the receiver's stage, read by whoever answers.
#[derive(Debug, Default)]
pub(crate) struct Counted(AtomicUsize);

// === impl Message ===

impl Mail for Message {
    fn weight(&self) -> Weight {
        weight_of(&self.payload)
    }

    fn is_withdrawn(&self) -> bool {
        self.guard.is_withdrawn()
    }

    /// A message of several requests divides between them; the debts of the halves join again.
    fn bisect(self) -> Result<(Self, Self), Self> {
        let middle = self.payload.requests().len() / 2;
        if middle == 0 {
            return Err(self);
        }
        let mut first = self.payload.clone().split_requests();
        let second = first.split_off(middle.min(first.len()));
        let (Some(first), Some(second)) = (Payload::concat(first), Payload::concat(second)) else {
            return Err(self);
        };
        let (guard, other) = self.guard.bisect();
        let half = Self {
            payload: second,
            context: self.context.clone(),
            guard: other,
            permit: self.permit.clone(),
            charge: None,
        };
        Ok((Self { payload: first, guard, ..self }, half))
    }

    fn settle(self, outcome: Outcome) {
        self.guard.resolve(outcome);
    }
}

/// What a message takes besides its bytes, about: its slots, its guard, its context. Many small ones would otherwise
/// take more than the budget.
pub const OVERHEAD: usize = 1024;

/// What a payload weighs in a queue.
pub(crate) fn weight_of(payload: &Payload) -> Weight {
    Weight { requests: 1, items: payload.items(), bytes: payload.bytes() }
}

// === impl Context ===

/// The time by the wall clock, in nanoseconds since 1970, as [`Context::arrived`] has it.
pub fn wall_clock() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the time by which data is dated, not measured")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

// === impl Body ===

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self { format: "", bytes }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

// === impl Request ===

impl Mail for Request {
    fn weight(&self) -> Weight {
        Weight { requests: 1, items: 0, bytes: self.body.bytes.len() }
    }

    fn is_withdrawn(&self) -> bool {
        self.guard.is_withdrawn()
    }

    fn bisect(self) -> Result<(Self, Self), Self> {
        Err(self)
    }

    fn settle(self, outcome: Outcome) {
        self.guard.resolve(outcome);
    }
}

// === impl Counted ===

impl Counted {
    pub(crate) fn set(&self, items: usize) {
        self.0.store(items, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}
