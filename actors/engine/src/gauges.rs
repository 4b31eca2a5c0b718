//! What budgets, queues and actors show of themselves.

use std::sync::Arc;

use watershed_delivery::Budget;
use watershed_net::DatagramSocket;
use watershed_stage::Metrics;
use watershed_supervise::{Cell, Mail, Observation, Quota, Restarts, State};

/// A number read off an actor.
type Read = fn(&Observation) -> f64;

/// A count of restarts.
type Count = fn(&Restarts) -> u64;

const ACTOR: [(&str, &str, Read); 6] = [
    ("watershed_actor_up", "1 while the actor is served.", |seen| {
        f64::from(u8::from(matches!(seen.state, State::Running | State::Draining)))
    }),
    ("watershed_actor_queue_messages", "Messages in the mailbox.", |seen| seen.queued as f64),
    ("watershed_actor_queue_items", "Items held: queued, suspect and in hand.", |seen| {
        seen.held.items as f64
    }),
    ("watershed_actor_queue_bytes", "Bytes held: queued, suspect and in hand.", |seen| {
        seen.held.bytes as f64
    }),
    ("watershed_actor_in_hand", "Messages in hand.", |seen| seen.in_hand as f64),
    ("watershed_actor_generation", "The number of the incarnation that serves it.", |seen| {
        seen.generation as f64
    }),
];

const COUNTS: [(&str, &str, Read); 3] = [
    ("watershed_actor_handled", "Messages finished.", |seen| seen.handled as f64),
    ("watershed_actor_poisoned", "Messages rejected as poison.", |seen| seen.poisoned as f64),
    ("watershed_actor_blocked_microseconds", "Time spent waiting for room downstream.", |seen| {
        seen.blocked_micros as f64
    }),
];

const RESTARTS: [(&str, Count); 5] = [
    ("panicked", |restarts| restarts.panicked),
    ("failed", |restarts| restarts.failed),
    ("stalled", |restarts| restarts.stalled),
    ("aborted", |restarts| restarts.aborted),
    ("ended", |restarts| restarts.ended),
];

/// What the kernel loses of what comes to a socket.
pub(crate) fn datagrams(metrics: &Metrics, receiver: &str, transport: &str, socket: &Arc<DatagramSocket>) {
    // A socket that is given up is to close.
    let seen = Arc::downgrade(socket);
    metrics.count(
        "watershed_receiver_socket_overflows",
        "Datagrams the kernel threw away because the socket's buffer was full (Linux).",
        &[("receiver", receiver), ("transport", transport)],
        Arc::new(move || seen.upgrade().map_or(0.0, |socket| socket.overflows() as f64)),
    );
}

/// The gauges of an actor.
pub(crate) fn actor<M: Mail>(metrics: &Metrics, cell: &Cell<M>) {
    for (name, help, read) in ACTOR {
        let seen = cell.clone();
        metrics.gauge(name, help, &[("actor", cell.name())], Arc::new(move || read(&seen.observe())));
    }
    for (name, help, read) in COUNTS {
        let seen = cell.clone();
        metrics.count(name, help, &[("actor", cell.name())], Arc::new(move || read(&seen.observe())));
    }
    for (reason, count) in RESTARTS {
        let seen = cell.clone();
        metrics.count(
            "watershed_actor_restarts",
            "Restarts, by the end of the incarnation before.",
            &[("actor", cell.name()), ("reason", reason)],
            Arc::new(move || count(&seen.observe().restarts) as f64),
        );
    }
}

/// The gauges of an exporter's queue, over all lanes. `unit` of the quota's are one of the sizer's.
pub(crate) fn queue(metrics: &Metrics, exporter: &str, quota: &Arc<Quota>, unit: usize) {
    let labels = [("exporter", exporter)];
    let limits = quota.limits();
    let capacity = limits.requests.or(limits.items).or(limits.bytes).unwrap_or(0) / unit;
    let used = {
        let quota = quota.clone();
        move || {
            let (used, limits) = (quota.used(), quota.limits());
            let size = match (limits.requests, limits.items) {
                (Some(_), _) => used.requests,
                (None, Some(_)) => used.items,
                (None, None) => used.bytes,
            };
            size.div_ceil(unit) as f64
        }
    };
    let help = "What the sending queue holds, what is in flight included, in its sizer's units.";
    metrics.gauge("otelcol_exporter_queue_size", help, &labels, Arc::new(used));
    let help = "The bound of the sending queue, in its sizer's units.";
    metrics.gauge("otelcol_exporter_queue_capacity", help, &labels, Arc::new(move || capacity as f64));
}

/// The gauges of a role's memory.
pub(crate) fn budget(metrics: &Metrics, budget: &Arc<Budget>) {
    let gauge = |name, help, read: fn(&Budget) -> u64| {
        let budget = budget.clone();
        metrics.gauge(name, help, &[], Arc::new(move || read(&budget) as f64));
    };
    gauge("watershed_budget_bytes", "The memory budget, in bytes.", Budget::limit);
    gauge("watershed_budget_used_bytes", "What is taken of the memory budget, in bytes.", Budget::used);
    gauge("watershed_budget_peak_bytes", "The most that was ever taken at once, in bytes.", Budget::peak);
    let refusals = budget.clone();
    let help = "How often the memory budget said no.";
    metrics.count("watershed_budget_refusals", help, &[], Arc::new(move || refusals.refused() as f64));
}
