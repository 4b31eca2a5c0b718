//! What the exporter counts of documents, where the shared counters count items.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use watershed_stage::{Counter, Env, Histogram, Metrics};

/// Kinds of errors that are told apart. They are the destination's words, so their number is bounded.
const KINDS: usize = 64;

/// All kinds beyond those.
const OTHER: &str = "other";

/// Bounds of the time to an answer, in milliseconds.
const MILLIS: &[u64] = &[5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];

pub(crate) struct Counters {
    metrics: Metrics,
    exporter: Arc<str>,
    /// Requests by what became of them.
    pub(crate) requests: [Counter; 4],
    pub(crate) latency: Histogram,
    pub(crate) bytes: Counter,
    pub(crate) created: Counter,
    pub(crate) known: Counter,
    pub(crate) rejected: Counter,
    pub(crate) exhausted: Counter,
    pub(crate) retried: Counter,
    pub(crate) split: Counter,
    pub(crate) ejected: Counter,
    pub(crate) returned: Counter,
    reasons: RefCell<HashMap<Box<str>, Counter>>,
}

/// Documents by what kind of error they were rejected for.
#[derive(Debug, Default)]
pub(crate) struct Kinds(Vec<(Box<str>, u64)>);

/// What became of a request.
#[derive(Clone, Copy)]
pub(crate) enum Ended {
    Taken,
    Busy,
    Failed,
    Unanswered,
}

impl Counters {
    pub(crate) fn new(env: &Env) -> Self {
        let labels = [("exporter", &*env.id)];
        let counter = |name, help| env.metrics.counter(name, help, &labels);
        let processed = |outcome: &str| {
            let labels = [("exporter", &*env.id), ("outcome", outcome)];
            let help = "Documents by what became of them.";
            env.metrics.counter("otelcol_elasticsearch_docs_processed", help, &labels)
        };
        let requests = ["success", "too_many", "failed", "no_answer"].map(|outcome| {
            let labels = [("exporter", &*env.id), ("outcome", outcome)];
            let help = "Requests to `_bulk`, by what became of them as a whole.";
            env.metrics.counter("otelcol_elasticsearch_bulk_requests_count", help, &labels)
        });
        let counters = Self {
            metrics: env.metrics.clone(),
            exporter: env.id.clone(),
            requests,
            latency: env.metrics.histogram(
                "watershed_elasticsearch_request_milliseconds",
                "How long requests to `_bulk` took until they were answered.",
                MILLIS,
                &labels,
            ),
            bytes: counter(
                "otelcol_elasticsearch_flushed_uncompressed_bytes",
                "Bytes of bodies that were sent, before compression.",
            ),
            created: processed("success"),
            known: processed("duplicate"),
            rejected: processed("failed"),
            exhausted: processed("exhausted"),
            retried: counter("otelcol_elasticsearch_docs_retried", "Documents that are sent again."),
            split: counter(
                "watershed_elasticsearch_split_requests",
                "Requests that were too large for the destination, and sent in halves.",
            ),
            ejected: counter(
                "watershed_elasticsearch_nodes_ejected",
                "How often a node failed and was left out.",
            ),
            returned: counter(
                "watershed_elasticsearch_nodes_returned",
                "How often a node that was left out came back.",
            ),
            reasons: RefCell::default(),
        };
        // There before the first of them, so that whoever watches for one sees that there are none.
        counters.reason("too_large");
        counters
    }

    pub(crate) fn ended(&self, how: Ended) {
        if let Some(counter) = self.requests.get(how as usize) {
            counter.add(1);
        }
    }

    /// Counts documents that will never be taken.
    pub(crate) fn rejected(&self, Kinds(kinds): &Kinds) {
        for (kind, documents) in kinds {
            self.rejected.add(*documents);
            self.reason(kind).add(*documents);
        }
    }

    fn reason(&self, kind: &str) -> Counter {
        let mut reasons = self.reasons.borrow_mut();
        if let Some(counter) = reasons.get(kind) {
            return counter.clone();
        }
        let kind = if reasons.len() < KINDS { kind } else { OTHER };
        let counter = self.metrics.counter(
            "watershed_elasticsearch_rejected_documents",
            "Documents that will never be taken, by what kind of error that is.",
            &[("exporter", &self.exporter), ("reason", kind)],
        );
        reasons.insert(kind.into(), counter.clone());
        counter
    }
}

// === impl Kinds ===

impl Kinds {
    pub(crate) fn add(&mut self, kind: &str) {
        let Self(kinds) = self;
        let place = |kind: &str| kinds.iter().position(|(known, _)| **known == *kind);
        let (kind, at) = match place(kind) {
            None if kinds.len() >= KINDS => (OTHER, place(OTHER)),
            at => (kind, at),
        };
        match at.and_then(|at| kinds.get_mut(at)) {
            Some((_, documents)) => *documents += 1,
            None => kinds.push((kind.into(), 1)),
        }
    }
}
