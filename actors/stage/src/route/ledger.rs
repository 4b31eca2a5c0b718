//! What is lost after its sender had its "ok": counted, and kept where dead letters are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use watershed_delivery::{Guard, Holder, Outcome};
use watershed_telemetry::{Payload, retain};

use crate::extension::{DeadLetter, Letters};
use crate::message::{Context, Message};
use crate::metrics::{Counter, Metrics};

/// The counter of what was lost after its sender had its "ok".
pub const LOST_ITEMS: &str = "watershed_pipeline_lost_items";

/// A pipeline's losses after an "ok", by cause.
pub struct Ledger {
    metrics: Metrics,
    pipeline: Arc<str>,
    /// Where that is kept which nobody will ever take.
    letters: Option<Arc<dyn Letters>>,
}

/// The holder of a message whose sender has had its "ok".
pub(crate) struct Custody {
    ledger: Arc<Ledger>,
    items: AtomicU64,
    /// The message, and whom it is for, where dead letters are kept. It has the memory of the message that it is held
    /// for.
    letter: Option<(Arc<str>, Payload, Arc<Context>)>,
}

// === impl Ledger ===

impl Ledger {
    /// The ledger of one pipeline.
    pub fn new(pipeline: Arc<str>, metrics: &Metrics) -> Arc<Self> {
        Self::with_letters(pipeline, metrics, None)
    }

    /// The ledger of one pipeline that keeps dead letters.
    pub fn with_letters(
        pipeline: Arc<str>,
        metrics: &Metrics,
        letters: Option<Arc<dyn Letters>>,
    ) -> Arc<Self> {
        let ledger = Self { metrics: metrics.clone(), pipeline, letters };
        if ledger.letters.is_some() {
            // There before the first of them, so that whoever watches for one sees that there are none.
            ledger.dead("rejected");
        }
        Arc::new(ledger)
    }

    /// A guard for `items` items whose sender has had its "ok": what is lost of them is counted here.
    pub(crate) fn hold(self: &Arc<Self>, items: usize) -> Guard {
        Guard::held(self.custody(items))
    }

    /// The same, to be held for a while and [handed over](Custody::hand_over) in parts.
    pub(crate) fn custody(self: &Arc<Self>, items: usize) -> Arc<Custody> {
        Arc::new(Custody { ledger: self.clone(), items: AtomicU64::new(items as u64), letter: None })
    }

    /// The same for a message on its way to the exporter `to`.
    pub(super) fn hold_for(self: &Arc<Self>, to: &Arc<str>, message: &Message) -> Guard {
        let letter = || (to.clone(), message.payload.clone(), message.context.clone());
        let letter = self.letters.as_ref().map(|_| letter());
        let items = AtomicU64::new(message.payload.items() as u64);
        Guard::held(Arc::new(Custody { ledger: self.clone(), items, letter }))
    }

    fn dead(&self, fault: &str) -> Counter {
        self.metrics.counter(
            "watershed_pipeline_dead_letter_items",
            "Items kept as dead letters, since nobody will ever take them, by cause.",
            &[("pipeline", &self.pipeline), ("cause", fault)],
        )
    }

    /// What is lost for this cause.
    pub fn lost(&self, cause: &str) -> Counter {
        self.metrics.counter(
            LOST_ITEMS,
            "Items that were lost after their sender had its ok, by cause.",
            &[("pipeline", &self.pipeline), ("cause", cause)],
        )
    }
}

impl Custody {
    /// So many items are somebody else's from now on.
    pub(crate) fn hand_over(&self, items: usize) {
        self.items.fetch_sub(items as u64, Ordering::Relaxed);
    }
}

impl Holder for Custody {
    fn settled(&self, outcome: Outcome) {
        match outcome {
            Outcome::Refused(refusal) => {
                self.ledger.lost(refusal.cause.as_str()).add(self.items.load(Ordering::Relaxed));
            }
            Outcome::Rejected(rejection) => {
                let (fault, items) = (rejection.fault.as_str(), rejection.items);
                let kept = match (&self.ledger.letters, self.letter.clone()) {
                    (Some(letters), Some((to, payload, context))) => {
                        let payload = match &rejection.which {
                            Some(which) => retain::only(&payload, which),
                            None => payload,
                        };
                        letters.post(DeadLetter { to, payload, context, rejection: *rejection })
                    }
                    _ => false,
                };
                if kept { self.ledger.dead(fault) } else { self.ledger.lost(fault) }.add(items);
            }
            // A policy's drop is no loss, and is counted where the policy is.
            Outcome::Dropped { .. } | Outcome::Delivered => {}
        }
    }
}
