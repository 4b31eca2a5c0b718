//! What is counted by the second: by all copies of a sampler together, since a limit is that of all of them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// The meters of a sampler, by the pipeline it stands in: each of its copies builds the same policies, in the same order,
/// and so does the next incarnation of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Meters(Arc<Mutex<HashMap<String, Vec<Shared>>>>);

/// A meter that copies share.
pub(super) type Shared = Arc<Mutex<Meter>>;

/// Hands the meters of a pipeline out, one after the other.
pub(super) struct Turn<'m> {
    meters: MutexGuard<'m, HashMap<String, Vec<Shared>>>,
    pipeline: &'m str,
    next: usize,
}

/// So much a second, by the time of the data. Copies may be apart in time: it goes on with the one that is ahead.
#[derive(Debug)]
pub(super) enum Meter {
    /// Tokens that come back by and by.
    Bucket { per_second: f64, burst: f64, left: f64, at: u64 },
    /// What each of several may have of one second, and has had of this one; and what none may be above.
    Window { most: u64, second: u64, parts: Vec<(u64, u64)> },
}

// === impl Meters ===

impl Meters {
    /// Those of a pipeline, from the first.
    pub(super) fn of<'m>(&'m self, pipeline: &'m str) -> Turn<'m> {
        Turn { meters: self.0.lock(), pipeline, next: 0 }
    }
}

// === impl Turn ===

impl Turn<'_> {
    /// The next one, which is `new` for the first copy that asks.
    pub(super) fn next(&mut self, new: impl FnOnce() -> Meter) -> Shared {
        let meters = self.meters.entry(self.pipeline.to_owned()).or_default();
        if meters.len() == self.next {
            meters.push(Arc::new(Mutex::new(new())));
        }
        self.next += 1;
        meters[self.next - 1].clone()
    }
}

// === impl Meter ===

impl Meter {
    /// So many tokens a second; `burst` at once, where 0 is twice as many.
    pub(super) fn bucket(per_second: u64, burst: u64) -> Self {
        let burst = if burst == 0 { per_second.saturating_mul(2) } else { burst } as f64;
        Self::Bucket { per_second: per_second as f64, burst, left: burst, at: 0 }
    }

    /// So much in each second, of which the parts may have so much.
    pub(super) fn window(most: u64, parts: impl Iterator<Item = u64>) -> Self {
        Self::Window { most, second: 0, parts: parts.map(|most| (most, 0)).collect() }
    }

    /// Takes an amount for one of the parts, if there is as much.
    pub(super) fn take(&mut self, part: usize, amount: u64, now: u64) -> bool {
        match self {
            Self::Bucket { per_second, burst, left, at } => {
                let since = now.saturating_sub(*at);
                *at = now.max(*at);
                *left = (*left + since as f64 / 1e9 * *per_second).min(*burst);
                let takes = amount as f64 <= *left;
                if takes {
                    *left -= amount as f64;
                }
                takes
            }
            Self::Window { most, second, parts } => {
                if now / 1_000_000_000 > *second {
                    *second = now / 1_000_000_000;
                    parts.iter_mut().for_each(|(_, taken)| *taken = 0);
                }
                let Some((share, taken)) = parts.get_mut(part) else { return false };
                // One that does not fit leaves room for a smaller one.
                let with = *taken + amount;
                let fits = with <= *share && with <= *most;
                if fits {
                    *taken = with;
                }
                fits
            }
        }
    }
}
