//! Every actor as JSON: where it hurts, what restarted and why.

use crate::engine::Observation;
use serde_json::{Value, json};

/// All actors, in the order of their names.
pub(super) fn render(mut observations: Vec<Observation>) -> Value {
    observations.sort_by(|a, b| a.name.cmp(&b.name));
    json!({ "actors": observations.iter().map(actor).collect::<Vec<_>>() })
}

fn actor(seen: &Observation) -> Value {
    let restarts = &seen.restarts;
    let last_failure = seen.last_failure.as_ref().map(|failure| {
        json!({
            "exit": failure.exit.as_str(),
            "message": &*failure.message,
            "ago_seconds": failure.at.elapsed().as_secs_f64(),
        })
    });
    json!({
        "name": &*seen.name,
        "state": seen.state.as_str(),
        "generation": seen.generation,
        "restarts": {
            "total": restarts.total(),
            "panicked": restarts.panicked,
            "failed": restarts.failed,
            "stalled": restarts.stalled,
            "aborted": restarts.aborted,
            "ended": restarts.ended,
        },
        "queue": {
            "messages": seen.queued,
            "in_hand": seen.in_hand,
            "suspects": seen.suspects,
            "items": seen.held.items,
            "bytes": seen.held.bytes,
        },
        "handled": seen.handled,
        "refused": seen.refused,
        "withdrawn": seen.withdrawn,
        "poisoned": seen.poisoned,
        "blocked_us": seen.blocked_micros,
        "last_failure": last_failure,
    })
}
