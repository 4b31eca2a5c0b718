//! The arrows of a topology: what went over each, and why something did not.
//!
//! An arrow belongs to the stage it leaves. What came to that stage either went over it (`passed`) or is booked on
//! it with a reason: the next stage had no room (`refused`), the stage itself found fault or broke (`rejected`,
//! `refused`), or left it out (`dropped`). So the arrow beside the cause is the one that shows it.

use std::sync::Arc;

use parking_lot::Mutex;
use watershed_delivery::Outcome;

use crate::message::Message;
use crate::metrics::{Counter, Metrics};
use crate::registry::Env;

/// Where an exporter's arrows end.
const DESTINATION: &str = "destination";

/// Why an arrow took nothing: the queue behind it was full.
pub(crate) const QUEUE_FULL: &str = "queue_full";

/// Why an arrow took nothing: the queue's share of memory was used up.
pub(crate) const MEMORY: &str = "memory";

/// Why an arrow took nothing: the disk of the queue behind it was used up.
pub(crate) const DISK: &str = "disk";

/// Why items went no further: a stage left them out on purpose.
const POLICY: &str = "policy";

/// One arrow.
pub(crate) struct Edge {
    metrics: Metrics,
    pipeline: Arc<str>,
    from: Arc<str>,
    to: Arc<str>,
    passed: Counter,
    /// What did not pass, by outcome and reason; looked up once each, so that overload costs no formatting.
    stopped: Mutex<Vec<(&'static str, &'static str, Counter)>>,
}

/// The arrows from an exporter to its destination, one a pipeline.
pub(crate) struct Outward {
    metrics: Metrics,
    exporter: Arc<str>,
    edges: Mutex<Vec<Arc<Edge>>>,
}

// === impl Edge ===

impl Edge {
    pub(crate) fn new(metrics: &Metrics, pipeline: &Arc<str>, from: &Arc<str>, to: &Arc<str>) -> Self {
        let (metrics, pipeline, from, to) = (metrics.clone(), pipeline.clone(), from.clone(), to.clone());
        let passed = counter(&metrics, [&pipeline, &from, &to], "passed", "");
        Self { metrics, pipeline, from, to, passed, stopped: Mutex::default() }
    }

    /// Items that went over it.
    pub(crate) fn passed(&self, items: usize) {
        self.passed.add(items as u64);
    }

    /// Items that the other end had no room for; nobody has them.
    pub(crate) fn refused(&self, items: usize, reason: &'static str) {
        self.stopped("refused", reason, items as u64);
    }

    /// Items that went without the other end.
    pub(crate) fn dropped(&self, items: usize, reason: &'static str) {
        self.stopped("dropped", reason, items as u64);
    }

    /// Items that a policy left out.
    pub(crate) fn left_out(&self, items: usize) {
        self.dropped(items, POLICY);
    }

    /// Items that ended before the arrow. Those that are delivered have no place here.
    pub(crate) fn ended(&self, items: usize, outcome: &Outcome) {
        match outcome {
            Outcome::Refused(refusal) => self.refused(items, refusal.cause.as_str()),
            Outcome::Rejected(rejection) => self.stopped("rejected", rejection.fault.as_str(), items as u64),
            Outcome::Dropped { .. } => self.left_out(items),
            Outcome::Delivered => {}
        }
    }

    fn stopped(&self, outcome: &'static str, reason: &'static str, items: u64) {
        if items == 0 {
            return;
        }
        let mut stopped = self.stopped.lock();
        if let Some((.., counter)) = stopped.iter().find(|(o, r, _)| (*o, *r) == (outcome, reason)) {
            return counter.add(items);
        }
        let counter = counter(&self.metrics, [&self.pipeline, &self.from, &self.to], outcome, reason);
        counter.add(items);
        stopped.push((outcome, reason, counter));
    }
}

fn counter(metrics: &Metrics, arrow: [&str; 3], outcome: &str, reason: &str) -> Counter {
    let [pipeline, from, to] = arrow;
    metrics.counter(
        "watershed_edge_items",
        "Items that came to the start of an arrow of the topology, by what became of them and why.",
        &[("pipeline", pipeline), ("from", from), ("to", to), ("outcome", outcome), ("reason", reason)],
    )
}

// === impl Outward ===

impl Outward {
    pub(crate) fn new(env: &Env) -> Self {
        Self { metrics: env.metrics.clone(), exporter: env.id.clone(), edges: Mutex::default() }
    }

    /// Books a message that left the exporter, whichever way: what its outcome does not account for has arrived.
    pub(crate) fn settled(&self, pipeline: &Arc<str>, items: usize, outcome: &Outcome) {
        let edge = self.edge(pipeline);
        let lost = match outcome {
            Outcome::Delivered => 0,
            Outcome::Refused(_) => items,
            Outcome::Rejected(rejection) => usize::try_from(rejection.items).unwrap_or(items).min(items),
            Outcome::Dropped { items: dropped } => usize::try_from(*dropped).unwrap_or(items).min(items),
        };
        edge.ended(lost, outcome);
        edge.passed(items - lost);
    }

    fn edge(&self, pipeline: &Arc<str>) -> Arc<Edge> {
        let mut edges = self.edges.lock();
        let same = |edge: &&Arc<Edge>| Arc::ptr_eq(&edge.pipeline, pipeline) || edge.pipeline == *pipeline;
        if let Some(edge) = edges.iter().find(same) {
            return edge.clone();
        }
        let edge = Arc::new(Edge::new(&self.metrics, pipeline, &self.exporter, &DESTINATION.into()));
        edges.push(edge.clone());
        edge
    }
}

/// Counts what the cell of an exporter ends by itself.
pub fn exporter_ended(env: &Env) -> impl Fn(&Message, &Outcome) + Send + Sync + use<> {
    let outward = Outward::new(env);
    move |message, outcome| outward.settled(&message.context.pipeline, message.payload.items(), outcome)
}
