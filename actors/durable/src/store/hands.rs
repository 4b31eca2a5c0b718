//! The debts of what is handed out: each ends on the desk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use watershed_delivery::{Claim, Guard, Holder, Outcome};

use super::{Desk, Ended, Parked};

/// One message, as one branch owes it.
struct One {
    desk: Arc<Desk>,
    sequence: u64,
    branch: usize,
    bytes: u64,
    /// Somebody holds it for a while.
    parked: AtomicBool,
}

/// One message, as several branches owe it. Each ends for itself: what is refused to one is handed out again to that
/// one. A branch's share of what happens to the message before it reaches the fan-out is in its guard here.
struct Several {
    desk: Arc<Desk>,
    sequence: u64,
    branches: Vec<(usize, Mutex<Option<Guard>>)>,
}

/// The debt of the `branches` (bit n for branch n) of which each owes the message; `None` of none.
pub(super) fn debt(desk: &Arc<Desk>, sequence: u64, bytes: u64, branches: u64) -> Option<Guard> {
    let one = |branch| {
        Guard::held(Arc::new(One {
            desk: desk.clone(),
            sequence,
            branch,
            bytes,
            parked: AtomicBool::new(false),
        }))
    };
    match branches.count_ones() {
        0 => None,
        1 => Some(one(branches.trailing_zeros() as usize)),
        _ => {
            let branches = (0..desk.ends.len()).filter(|branch| branches & 1 << branch != 0);
            let branches = branches.map(|branch| (branch, Mutex::new(Some(one(branch))))).collect();
            Some(Guard::held(Arc::new(Several { desk: desk.clone(), sequence, branches })))
        }
    }
}

// === impl One ===

impl Holder for One {
    fn settled(&self, outcome: Outcome) {
        let Self { sequence, branch, bytes, ref parked, .. } = *self;
        // What was parked is out of hand already.
        let bytes = (!parked.load(Ordering::Relaxed)).then_some(bytes);
        self.desk.end(Ended { sequence, branch: Some(branch), bytes, outcome });
    }

    fn parked(&self) {
        if !self.parked.swap(true, Ordering::Relaxed) {
            let Self { sequence, branch, bytes, .. } = *self;
            self.desk.park(Parked { sequence, branch, bytes });
        }
    }

    fn keeps(&self) -> bool {
        true
    }

    fn branch(&self, id: &str) -> Claim {
        if &*self.desk.ends[self.branch] == id { Claim::Part } else { Claim::Paid }
    }

    fn number(&self) -> Option<u64> {
        Some(self.sequence)
    }

    fn branches(&self) -> u64 {
        1 << self.branch
    }
}

// === impl Several ===

impl Holder for Several {
    fn settled(&self, outcome: Outcome) {
        for (_, guard) in &self.branches {
            if let Some(guard) = guard.lock().take() {
                guard.resolve(outcome.clone());
            }
        }
    }

    fn parked(&self) {
        for (_, guard) in &self.branches {
            if let Some(guard) = &*guard.lock() {
                guard.park();
            }
        }
    }

    fn keeps(&self) -> bool {
        true
    }

    fn branch(&self, id: &str) -> Claim {
        let owed = self.branches.iter().find(|(branch, _)| &*self.desk.ends[*branch] == id);
        let guard = owed.and_then(|(_, guard)| guard.lock().as_ref().map(Guard::fork));
        guard.map_or(Claim::Paid, Claim::Own)
    }

    fn number(&self) -> Option<u64> {
        Some(self.sequence)
    }

    fn branches(&self) -> u64 {
        self.branches.iter().fold(0, |all, (branch, _)| all | 1 << branch)
    }
}
