//! The outcome of a message, and how outcomes of its parts join.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// How a message ended.
///
/// Outcomes are ordered by strength, strongest first as declared; [`Outcome::join`] keeps the strongest, so a
/// message that was cloned or split ends as its worst part did.
///
/// What is not "ok" is boxed: every message carries an outcome through its guard, and almost all of them are delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not taken, or not for long enough. The sender may send the same again.
    Refused(Box<Refusal>),
    /// Will never be taken. Sending it again can not help.
    Rejected(Box<Rejection>),
    /// Left out on purpose by a policy of the pipeline (a sampler, a filter, an optional branch that was full).
    Dropped {
        /// How many items (spans, data points, log records) were left out.
        items: u64,
    },
    /// Reached the point that the pipeline's `ack` names.
    Delivered,
}

/// A retryable refusal: why, and how long the sender should wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What stood in the way.
    pub cause: Cause,
    /// One sentence for the sender's log.
    pub reason: Cow<'static, str>,
    /// How long to wait before sending again, where that is known.
    pub retry_after: Option<Duration>,
}

/// What stood in the way of a refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The budget or a queue is full.
    Overload,
    /// The deadline of a waiting sender passed.
    Deadline,
    /// The sender went away before an answer was known.
    Withdrawn,
    /// The destination could not be reached or refused for now.
    Destination,
    /// The process, pipeline or stage is going down, or is down for now.
    Shutdown,
    /// A stage failed on it, without proof that the message was to blame.
    Failure,
    /// A guard was dropped unresolved: a defect, but not a loss.
    Abandoned,
}

/// A permanent rejection: whose fault, why, and how many items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What is wrong.
    pub fault: Fault,
    /// One sentence for the sender's log.
    pub reason: Cow<'static, str>,
    /// How many items (spans, data points, log records) are rejected.
    pub items: u64,
    /// Which those are, by their number in the message that was rejected, rising; `None` if that is all of it, or not
    /// known. Whoever had the message in another form before can make nothing of it.
    pub which: Option<Arc<[u32]>>,
}

/// What makes a rejection permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The bytes are not what they claim to be.
    Invalid,
    /// Larger than what can ever be taken.
    TooLarge,
    /// A destination said so, with this gRPC status code.
    Destination(i32),
    /// A stage panicked on this message, and finished others since.
    Poison,
    /// Retried for as long as the configuration allows.
    Exhausted,
}

// === impl Cause, Fault ===

impl Cause {
    /// The cause as one word, for a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Deadline => "deadline",
            Self::Withdrawn => "withdrawn",
            Self::Destination => "destination",
            Self::Shutdown => "shutdown",
            Self::Failure => "failure",
            Self::Abandoned => "abandoned",
        }
    }
}

impl Fault {
    /// The fault as one word, for a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Destination(_) => "rejected",
            Self::Poison => "poison",
            Self::Exhausted => "exhausted",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// A refusal with no hint of when to try again.
    pub fn refused(cause: Cause, reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal { cause, reason: reason.into(), retry_after: None }.into()
    }

    /// A refusal that asks the sender to wait.
    pub fn refused_for(cause: Cause, reason: impl Into<Cow<'static, str>>, wait: Duration) -> Self {
        Refusal { cause, reason: reason.into(), retry_after: Some(wait) }.into()
    }

    /// A permanent rejection of `items` items.
    pub fn rejected(fault: Fault, items: u64, reason: impl Into<Cow<'static, str>>) -> Self {
        Rejection { fault, items, reason: reason.into(), which: None }.into()
    }

    /// Whether the sender may take this as "ok": delivered, or dropped by a policy it agreed to.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Delivered | Self::Dropped { .. })
    }

    /// Joins the outcomes of two parts of one message. Commutative up to the choice between two reasons of
    /// equal strength (the first is kept), associative, with [`Outcome::Delivered`] as its identity.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        use Outcome::{Delivered, Dropped, Refused, Rejected};
        match (self, other) {
            (Refused(a), Refused(b)) => {
                // The later of two hints satisfies both.
                Refusal { retry_after: a.retry_after.max(b.retry_after), ..*a }.into()
            }
            (Refused(a), _) | (_, Refused(a)) => Refused(a),
            (Rejected(a), Rejected(b)) => a.join(*b).into(),
            (Rejected(a), _) | (_, Rejected(a)) => Rejected(a),
            (Dropped { items: a }, Dropped { items: b }) => Dropped { items: a.saturating_add(b) },
            (Dropped { items }, _) | (_, Dropped { items }) => Dropped { items },
            (Delivered, Delivered) => Delivered,
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<Rejection> for Outcome {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(Box::new(rejection))
    }
}

// === impl Rejection ===

impl Rejection {
    /// Names the items that are rejected.
    #[must_use]
    pub fn of(self, which: impl Into<Arc<[u32]>>) -> Self {
        Self { which: Some(which.into()), ..self }
    }

    fn join(self, other: Self) -> Self {
        let which = self.which.clone().zip(other.which).map(|(ours, theirs)| {
            let mut all = [&*ours, &*theirs].concat();
            all.sort_unstable();
            all.into()
        });
        Self { items: self.items.saturating_add(other.items), which, ..self }
    }
}
