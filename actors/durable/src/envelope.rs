//! What is kept beside a message's bytes: where it came from, and of a dead letter why it is one.
//!
//! Written as JSON, since it has to be read by releases to come, and by people. Keys may be added; none is ever taken
//! away or given another meaning.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use watershed_journal::{Record, Stored};
use watershed_stage::{Context, Identity, Metadata, Origin, Payload, Signal, TraceContext};

/// Where a stored message came from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Envelope<'a> {
    /// Id of the receiver.
    #[serde(borrow)]
    pub receiver: Cow<'a, str>,
    /// Id of the pipeline it entered by.
    #[serde(borrow)]
    pub pipeline: Cow<'a, str>,
    /// The sender's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// Request headers that were kept, in the order in which they came.
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Who the sender proved to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<BTreeMap<String, String>>,
    /// The caller's trace, as `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Its `tracestate`.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<Cow<'a, str>>,
    /// Why it is a dead letter, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<Letter>,
}

/// Why a message could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The exporter it was for, or the stage that it broke.
    pub to: String,
    /// The fault as one word: `rejected`, `poison`, `exhausted`, ...
    pub fault: String,
    /// What was said of it.
    pub reason: String,
    /// How many of its items that concerns.
    pub items: u64,
    /// When it was given up, in nanoseconds since 1970.
    pub at: u64,
}

/// Why a stored message can not be read. It was not written by this program, or by a later one that broke a promise.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Its kind is no signal.
    #[error("kind {0} is no signal")]
    Kind(u8),
    /// Its context is no envelope.
    #[error("its context is not readable: {0}")]
    Envelope(#[from] serde_json::Error),
    /// Its payload is no telemetry.
    #[error("its payload is not readable: {0}")]
    Payload(String),
}

/// The kinds of records are signals, by their place here. The order is a part of the format.
const KINDS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

// === impl Envelope ===

impl<'a> Envelope<'a> {
    /// What is to be kept of a message's context.
    pub(crate) fn of(context: &'a Context) -> Self {
        let Context { receiver, pipeline, origin, .. } = context;
        let trace = origin.trace.as_ref();
        let headers = origin.metadata.iter();
        Self {
            receiver: (&**receiver).into(),
            pipeline: (&**pipeline).into(),
            peer: origin.peer,
            metadata: headers.map(|(name, value)| (name.into(), value.into())).collect(),
            identity: origin.auth.as_ref().map(|identity| identity.0.clone()),
            traceparent: trace.map(ToString::to_string),
            tracestate: trace.and_then(|trace| trace.state.as_deref()).map(Into::into),
            letter: None,
        }
    }

    /// Reads what was kept beside a record.
    pub fn read(context: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(context)
    }

    /// The same, of its own.
    pub fn into_owned(self) -> Envelope<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Envelope {
            receiver: owned(self.receiver),
            pipeline: owned(self.pipeline),
            metadata: self.metadata.into_iter().map(|(name, value)| (owned(name), owned(value))).collect(),
            tracestate: self.tracestate.map(owned),
            peer: self.peer,
            identity: self.identity,
            traceparent: self.traceparent,
            letter: self.letter,
        }
    }

    /// As it is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Maps with keys of text: nothing that JSON can not write.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn origin(&self) -> Origin {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.metadata {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(&**name), HeaderValue::try_from(&**value)) {
                headers.append(name, value);
            }
        }
        let mut trace: Option<TraceContext> =
            self.traceparent.as_deref().and_then(|parent| parent.parse().ok());
        if let Some(trace) = &mut trace {
            trace.state = self.tracestate.as_deref().map(Into::into);
        }
        Origin {
            peer: self.peer,
            metadata: if headers.is_empty() { Metadata::default() } else { Metadata::new(headers) },
            auth: self.identity.clone().map(|identity| Arc::new(Identity(identity))),
            trace,
        }
    }
}

/// The signal of records of this kind.
pub fn signal(kind: u8) -> Option<Signal> {
    KINDS.get(usize::from(kind)).copied()
}

/// A message as a record, beside which its envelope is kept.
pub(crate) fn record<'a>(payload: &'a Payload, context: &Context, envelope: &'a [u8]) -> Record<'a> {
    let kind = KINDS.iter().position(|kind| *kind == payload.signal());
    Record {
        kind: kind.map_or(u8::MAX, |place| place as u8),
        items: u32::try_from(payload.items()).unwrap_or(u32::MAX),
        arrived: context.arrived,
        attempts: 0,
        context: envelope,
        payload: payload.requests(),
    }
}

/// Reads a record as the message it was.
pub fn open(stored: Stored) -> Result<(Payload, Arc<Context>), Unreadable> {
    let envelope = Envelope::read(&stored.context)?;
    let signal = signal(stored.kind).ok_or(Unreadable::Kind(stored.kind))?;
    let context = Context {
        receiver: (&*envelope.receiver).into(),
        pipeline: (&*envelope.pipeline).into(),
        origin: envelope.origin(),
        arrived: stored.arrived,
    };
    let payload =
        Payload::validate(signal, stored.payload).map_err(|error| Unreadable::Payload(error.to_string()))?;
    Ok((payload, Arc::new(context)))
}
