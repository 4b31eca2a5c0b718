//! Batches in the making: messages of one signal, one pipeline and one partition, collected until they are worth a
//! request.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;
use watershed_delivery::Outcome;
use watershed_supervise::{Lease, Ticket};
use watershed_telemetry::Payload;

use super::counters::BatchProcessor;
use super::lane::Consumer;
use crate::extension::Dependence;
use crate::message::{Context, Message};
use crate::metrics::Held;
use crate::origin::TraceContext;
use crate::settings::{BatchSettings, Sizer, later};

/// No batch is larger than this many bytes unless the configuration says so: it is what every gRPC server takes.
const LARGEST_BATCH: usize = 4 << 20;

/// One message taken from the queue. Its guard and permit stay in its slot; this is what is sent of it.
pub(super) struct Member {
    pub(super) ticket: Ticket,
    pub(super) payload: Payload,
    pub(super) context: Arc<Context>,
    /// Somebody waits for the outcome, until then.
    pub(super) deadline: Option<Instant>,
    pub(super) awaited: bool,
    /// It is safe on disk, and handed out again after a refusal.
    pub(super) kept: bool,
}

/// A batch that still grows.
pub(super) struct Pending {
    settings: BatchSettings,
    members: Vec<Member>,
    items: usize,
    bytes: usize,
    awaited: bool,
    since: Instant,
    /// What counts it, and that it is there, where a `batch` processor has it formed.
    counted: Option<(Rc<BatchProcessor>, Held)>,
}

/// A batch on its way: the messages it settles, and what is still to be sent for them.
pub(super) struct Job {
    pub(super) members: Vec<Member>,
    /// One request, or several where a single message is larger than a request may be.
    pub(super) parts: VecDeque<Payload>,
    /// The most items and bytes of a request.
    bounds: Option<(usize, usize)>,
    /// How often the first of the parts has been tried.
    pub(super) attempts: u32,
    /// When the first attempt at the first of the parts began.
    pub(super) started: Option<Instant>,
    /// What the parts before it came to.
    pub(super) outcome: Outcome,
    /// How many items were in those.
    pub(super) past: usize,
    /// While it is sent or waits for another attempt; a circuit's probe may do without.
    pub(super) consumer: Option<Consumer>,
}

// === impl Member ===

impl Member {
    /// What there is to know of a message that was handed out; `None` if it is no longer ours.
    pub(super) fn of(ticket: Ticket, lease: &Lease<Message>) -> Option<Self> {
        let looked = lease.with(&ticket, |mail| {
            let deadline = mail.guard.deadline().map(Instant::from_std);
            let (awaited, kept) = (mail.guard.is_awaited(), mail.guard.is_kept());
            (mail.payload.clone(), mail.context.clone(), deadline, awaited, kept)
        });
        let (payload, context, deadline, awaited, kept) = looked?;
        Some(Self { ticket, payload, context, deadline, awaited, kept })
    }
}

// === impl Pending ===

impl Pending {
    pub(super) fn new(settings: BatchSettings, now: Instant, processor: Option<&Rc<BatchProcessor>>) -> Self {
        let counted = processor.map(|processor| (processor.clone(), processor.forming.hold()));
        Self { settings, members: Vec::new(), items: 0, bytes: 0, awaited: false, since: now, counted }
    }

    /// The `batch` processor that has it formed.
    pub(super) fn processor(&self) -> Option<&BatchProcessor> {
        self.counted.as_ref().map(|(processor, _)| &**processor)
    }

    /// Items and bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.items, self.bytes)
    }

    /// Whether `other` may be merged with those that are here. `depends` is what the exporter's own requests depend
    /// on.
    pub(super) fn takes(&self, other: &Member, depends: &Dependence) -> bool {
        let mut keys = self.settings.partition.metadata_keys.iter();
        self.members.first().is_some_and(|member| {
            let (ours, theirs) = (&member.context, &other.context);
            member.payload.signal() == other.payload.signal()
                && (Arc::ptr_eq(&ours.pipeline, &theirs.pipeline) || ours.pipeline == theirs.pipeline)
                && keys.all(|key| ours.origin.metadata.get(key).eq(theirs.origin.metadata.get(key)))
                && depends.agree(&ours.origin, &theirs.origin)
        })
    }

    /// Whether another payload would make the batch larger than it may be.
    pub(super) fn overflows(&self, payload: &Payload) -> bool {
        let (items, bytes) = (self.items + payload.items(), self.bytes + payload.bytes());
        let (most_items, most_bytes) = bounds(&self.settings);
        !self.members.is_empty() && (items > most_items || bytes > most_bytes)
    }

    pub(super) fn push(&mut self, member: Member) {
        self.items += member.payload.items();
        self.bytes += member.payload.bytes();
        self.awaited |= member.awaited;
        self.members.push(member);
    }

    /// Whether it is worth a request by its size, or can take no more.
    pub(super) fn is_full(&self) -> bool {
        let size = if self.settings.sizer == Sizer::Bytes { self.bytes } else { self.items };
        let (most_items, most_bytes) = bounds(&self.settings);
        size >= self.settings.min_size || self.items >= most_items || self.bytes >= most_bytes
    }

    /// Whether somebody waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// When it is sent however small it is.
    pub(super) fn flush_at(&self) -> Instant {
        later(self.since, self.settings.flush_timeout.0)
    }

    pub(super) fn into_job(self) -> Job {
        let bounds = Some(bounds(&self.settings));
        Job::new(self.members, bounds)
    }
}

/// The most items and bytes of one batch.
fn bounds(settings: &BatchSettings) -> (usize, usize) {
    match (settings.max_size, settings.sizer) {
        (0, _) => (
            usize::MAX,
            LARGEST_BATCH.max(if settings.sizer == Sizer::Bytes { settings.min_size } else { 0 }),
        ),
        (size, Sizer::Bytes) => (usize::MAX, size),
        (size, _) => (size, LARGEST_BATCH),
    }
}

// === impl Job ===

impl Job {
    /// A job of one message, sent as it is.
    pub(super) fn single(member: Member) -> Self {
        Self::unbounded(vec![member])
    }

    /// A job of a few messages, sent as one request.
    pub(super) fn unbounded(members: Vec<Member>) -> Self {
        Self::new(members, None)
    }

    fn new(members: Vec<Member>, bounds: Option<(usize, usize)>) -> Self {
        let parts = VecDeque::new();
        let mut job = Self {
            members,
            parts,
            bounds,
            attempts: 0,
            started: None,
            outcome: Outcome::Delivered,
            past: 0,
            consumer: None,
        };
        job.assemble();
        job
    }

    /// Cuts the first of the parts down to what a request may be. Only a single message can exceed that; the batch was
    /// closed before. Not all parts at once: each repeats its resource, and all of them may be more than there is memory.
    pub(super) fn carve(&mut self) {
        let Some((items, bytes)) = self.bounds else { return };
        while let Some(first) = self.parts.front().filter(|first| first.items() > items) {
            // As many as are full requests.
            let half = first.items().div_ceil(items).div_ceil(2) * items;
            self.cut_first(|first| first.split_by_items(half));
        }
        if self.parts.front().is_some_and(|first| first.bytes() > bytes) {
            self.cut_first(|first| first.split_by_bytes(bytes));
        }
    }

    /// Cuts the first of the parts.
    pub(super) fn cut_first(&mut self, cut: impl FnOnce(Payload) -> Vec<Payload>) {
        let cut = self.parts.pop_front().map(cut).unwrap_or_default();
        cut.into_iter().rev().for_each(|part| self.parts.push_front(part));
    }

    /// Forms the request anew of the members that are left.
    pub(super) fn assemble(&mut self) {
        self.parts =
            Payload::concat(self.members.iter().map(|member| member.payload.clone())).into_iter().collect();
    }

    /// The latest time at which anybody still waits; `None` if nobody does or somebody waits without a limit.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let mut latest = None;
        for member in &self.members {
            latest = latest.max(Some(member.deadline?));
        }
        latest
    }

    /// The traces that its messages belong to.
    pub(super) fn traces(&self) -> impl Iterator<Item = Option<&TraceContext>> {
        self.members.iter().map(|member| member.context.origin.trace.as_ref())
    }

    /// The trace that all of it belongs to, if it is one. Of what Watersheds tell of themselves any will do.
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        let mut traces = self.traces();
        let first = traces.next()??;
        let agrees = |trace: &TraceContext| trace == first || (first.is_own() && trace.is_own());
        traces.all(|trace| trace.is_some_and(agrees)).then_some(first)
    }

    /// How many items are still to be sent.
    pub(super) fn items(&self) -> usize {
        self.parts.iter().map(Payload::items).sum()
    }
}

#[cfg(test)]
mod tests {
    use watershed_telemetry::{Signal, json};

    use super::*;

    #[test]
    fn a_message_that_is_many_requests_is_not_all_of_them_at_once() {
        let spans: Vec<String> = (1..=999).map(|id| format!("{{\"spanId\":\"{id:016x}\"}}")).collect();
        let text = format!(
            "{{\"resourceSpans\":[{{\"schemaUrl\":\"{}\",\"scopeSpans\":[{{\"spans\":[{}]}}]}}]}}",
            "x".repeat(100_000),
            spans.join(",")
        );
        let request = json::decode(Signal::Traces, text.as_bytes(), &mut |_| true).unwrap();
        let whole = Payload::validate(Signal::Traces, request.into()).unwrap();
        let most = 12 * whole.bytes();
        let mut job = Job::new(Vec::new(), Some((2, usize::MAX)));
        job.parts.push_back(whole);
        let mut sizes = Vec::new();
        loop {
            job.carve();
            let held: usize = job.parts.iter().map(Payload::bytes).sum();
            assert!(held < most, "{held} bytes in {} parts", job.parts.len());
            let Some(part) = job.parts.pop_front() else { break };
            sizes.push(part.items());
        }
        assert_eq!(sizes, [&[2; 499][..], &[1]].concat());
    }
}
