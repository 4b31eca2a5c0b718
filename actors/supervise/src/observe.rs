//! What can be seen of a cell from outside.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{Limits, Weight};

/// Where a cell is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waiting for an incarnation to say that it has started. Takes mail.
    Starting,
    /// Served. Takes mail.
    Running,
    /// Between two incarnations. Takes mail.
    BackingOff,
    /// Restarted too often without progress: refuses mail until the next chance.
    Open,
    /// Asked to finish what it holds and end. Takes mail until it has ended.
    Draining,
    /// Ended in order.
    Stopped,
    /// Given up.
    Failed,
}

/// How an incarnation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Its future completed without error.
    Ended,
    /// Its future completed with an error.
    Failed,
    /// It panicked.
    Panicked,
    /// It was busy for longer than its stall timeout, or did not start in time, and was aborted.
    Stalled,
    /// It was aborted for a reason that was not its own: a drain's deadline, the restart of its group.
    Aborted,
}

/// How often a child was restarted, by the end of the incarnation before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// After it ended without being asked to.
    pub ended: u64,
    /// After an error.
    pub failed: u64,
    /// After a panic.
    pub panicked: u64,
    /// After a stall.
    pub stalled: u64,
    /// With its group.
    pub aborted: u64,
}

/// The last failure of a stage.
#[derive(Clone, Debug)]
pub struct LastFailure {
    /// How the incarnation ended.
    pub exit: Exit,
    /// What it said.
    pub message: Arc<str>,
    /// When.
    pub at: Instant,
}

/// A cell at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The stage's name.
    pub name: Arc<str>,
    /// Where it is in its life.
    pub state: State,
    /// The number of the incarnation that serves it, or served it last.
    pub generation: u64,
    /// How often it was restarted.
    pub restarts: Restarts,
    /// Its last failure.
    pub last_failure: Option<LastFailure>,
    /// What this cell holds: in its lane, under suspicion, and in hand.
    pub held: Weight,
    /// What its quota holds, over all cells that share it, and what was promised to senders.
    pub used: Weight,
    /// The bounds of its quota.
    pub limits: Limits,
    /// Messages waiting in the lane.
    pub queued: usize,
    /// Messages handed out and not finished.
    pub in_hand: usize,
    /// Messages that will be handed out again, one at a time.
    pub suspects: usize,
    /// Messages finished.
    pub handled: u64,
    /// Messages rejected as poison.
    pub poisoned: u64,
    /// Messages refused without being finished: failures without proof, an open circuit, tear-down, and what
    /// the stage gave back.
    pub refused: u64,
    /// Messages cut out because their sender was answered or gone.
    pub withdrawn: u64,
    /// How long its stage waited for room downstream, in microseconds.
    pub blocked_micros: u64,
}

// === impl State ===

impl State {
    /// Whether a cell in this state will never change again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

/// One word for each, as it appears in logs and metrics.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $type {
            /// One word, as it appears in logs and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(State {
    Starting = "starting",
    Running = "running",
    BackingOff = "backing_off",
    Open = "open",
    Draining = "draining",
    Stopped = "stopped",
    Failed = "failed",
});

words!(Exit {
    Ended = "ended",
    Failed = "failed",
    Panicked = "panicked",
    Stalled = "stalled",
    Aborted = "aborted",
});

// === impl Restarts ===

impl Restarts {
    /// All restarts.
    pub fn total(&self) -> u64 {
        self.ended + self.failed + self.panicked + self.stalled + self.aborted
    }

    pub(crate) fn count(&mut self, exit: Exit) {
        *match exit {
            Exit::Ended => &mut self.ended,
            Exit::Failed => &mut self.failed,
            Exit::Panicked => &mut self.panicked,
            Exit::Stalled => &mut self.stalled,
            Exit::Aborted => &mut self.aborted,
        } += 1;
    }
}
