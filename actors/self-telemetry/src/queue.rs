//! What waits to be told: bounded, and what does not fit is left out and counted.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use watershed_stage::{Env, Metrics, Signal};

/// The most that waits, of one signal.
const MOST_ITEMS: usize = 4096;

/// The most bytes that wait, of one signal.
const MOST_BYTES: usize = 1 << 20;

/// Items of one signal that wait. Dropped with them, it counts them as lost.
pub(crate) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    losses: Losses,
}

struct Waiting<T> {
    items: Vec<T>,
    bytes: usize,
}

/// Counts what was left out of one signal, by reason.
#[derive(Clone)]
pub(crate) struct Losses {
    receiver: Arc<str>,
    metrics: Metrics,
    signal: Signal,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(crate) fn new(losses: Losses) -> Self {
        Self { waiting: Mutex::new(Waiting { items: Vec::new(), bytes: 0 }), losses }
    }

    /// Counts what was left out.
    pub(crate) fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Everything that waits.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.items)
    }
}

impl<T: Message> Queue<T> {
    /// Keeps an item, if there is room.
    pub(crate) fn push(&self, item: T) {
        let bytes = item.encoded_len();
        let mut waiting = self.waiting.lock();
        if waiting.items.len() < MOST_ITEMS && waiting.bytes + bytes <= MOST_BYTES {
            waiting.bytes += bytes;
            waiting.items.push(item);
        } else {
            drop(waiting);
            self.losses.add("queue_full", 1);
        }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.losses.add("shutdown", self.take().len());
    }
}

/// The SDK asks for it; nobody reads it.
impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

// === impl Losses ===

impl Losses {
    pub(crate) fn new(env: &Env, signal: Signal) -> Self {
        Self { receiver: env.id.clone(), metrics: env.metrics.clone(), signal }
    }

    /// The signal whose losses these are.
    pub(crate) fn signal(&self) -> Signal {
        self.signal
    }

    pub(crate) fn add(&self, reason: &str, items: usize) {
        if items > 0 {
            let signal = self.signal.to_string();
            let labels = [("receiver", &*self.receiver), ("signal", &signal), ("reason", reason)];
            let help = "What Watershed had to tell of itself and could not, by reason.";
            let lost = self.metrics.counter("watershed_self_telemetry_lost_items", help, &labels);
            lost.add(items as u64);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use opentelemetry_proto::tonic::logs::v1::LogRecord;
    use watershed_stage::delivery::Budget;
    use watershed_stage::{Extensions, Shelf, Tracing};

    use super::*;

    pub(crate) fn env() -> Env {
        Env {
            id: "self_telemetry".into(),
            pipeline: None,
            lane: 0,
            copies: 1,
            budget: Budget::new(1 << 24),
            metrics: Metrics::default(),
            tracing: Tracing::default(),
            extensions: Extensions::default(),
            shelf: Shelf::default(),
            notes: None,
            ends: Arc::default(),
        }
    }

    pub(crate) fn lost(env: &Env) -> u64 {
        env.metrics.total("watershed_self_telemetry_lost_items")
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let env = env();
        let queue = Queue::new(Losses::new(&env, Signal::Logs));
        let large = LogRecord { severity_text: "x".repeat(MOST_BYTES / 2), ..LogRecord::default() };
        for _ in 0..3 {
            queue.push(large.clone());
        }
        assert_eq!((queue.take().len(), lost(&env)), (1, 2));
        for _ in 0..MOST_ITEMS + 7 {
            queue.push(LogRecord::default());
        }
        assert_eq!(lost(&env), 9);
        drop(queue);
        assert_eq!(lost(&env), 9 + MOST_ITEMS as u64);
        assert!(env.metrics.render().contains(r#"signal="logs",reason="shutdown"} 4096"#));
    }
}
