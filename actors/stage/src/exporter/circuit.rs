//! The circuit breaker of an exporter, shared by its copies: a destination that keeps failing is left alone, but for one
//! probe each back-off interval.
//!
//! It is pure: it reads no clock, and draws no interval.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::settings::{RetrySettings, later};

pub(super) struct Circuit {
    /// So many failures in a row open it; `None` is never.
    threshold: Option<u32>,
    state: watch::Sender<State>,
}

/// What whoever wants to send is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    /// Send.
    Closed,
    /// One may try.
    Due,
    /// Nobody is to try before then.
    Resting(Instant),
}

/// What all copies know.
#[derive(Default)]
pub(super) struct State {
    /// Failures since the last success, and when the last of them was counted.
    failures: u32,
    counted: Option<Instant>,
    open: Option<Open>,
    /// How often it has closed.
    closings: u64,
}

struct Open {
    /// How many intervals it has been open for, this one included.
    intervals: u32,
    /// When this one ends.
    until: Instant,
    /// When its probe began; the first one has none.
    probed: Option<Instant>,
}

// === impl Circuit ===

impl Circuit {
    pub(super) fn new(retry: &RetrySettings) -> Self {
        let breaker = &retry.circuit_breaker;
        // Without retries nothing waits for a better time.
        let enabled = retry.enabled && breaker.enabled;
        Self { threshold: enabled.then_some(breaker.failure_threshold), state: watch::Sender::default() }
    }

    pub(super) fn stance(&self, now: Instant) -> Stance {
        match &self.state.borrow().open {
            None => Stance::Closed,
            Some(open) if now < open.until => Stance::Resting(open.until),
            Some(_) => Stance::Due,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state.borrow().open.is_some()
    }

    /// Whether an attempt may begin. If it is the probe, the next interval begins with it, so whatever becomes of it,
    /// there will be another; `interval` is the length of that of a number.
    pub(super) fn admits(&self, now: Instant, interval: impl FnOnce(u32) -> Duration) -> bool {
        match self.stance(now) {
            Stance::Closed => true,
            Stance::Resting(_) => false,
            Stance::Due => self.state.send_if_modified(|state| match &mut state.open {
                Some(open) if now >= open.until => {
                    open.intervals = open.intervals.saturating_add(1);
                    open.until = later(now, interval(open.intervals));
                    open.probed = Some(now);
                    true
                }
                // Another lane was faster, and knows more.
                _ => false,
            }),
        }
    }

    /// An attempt ended before the destination was asked anything. If it was the probe, another may take its place.
    pub(super) fn unasked(&self, began: Instant) {
        self.state.send_if_modified(|state| match &mut state.open {
            Some(open) if open.probed == Some(began) => {
                open.intervals = open.intervals.saturating_sub(1);
                (open.until, open.probed) = (began, None);
                true
            }
            _ => false,
        });
    }

    /// The destination answered. Whether that closed the circuit.
    pub(super) fn succeeded(&self) -> bool {
        let is_calm = |state: &State| state.failures == 0 && state.open.is_none();
        // As it nearly always is: a look is cheaper than a change.
        if is_calm(&self.state.borrow()) {
            return false;
        }
        self.state.send_if_modified(|state| {
            let closes = state.open.is_some();
            *state = State { closings: state.closings + u64::from(closes), ..State::default() };
            closes
        })
    }

    /// An attempt failed. Whether that opened the circuit, for `interval`; in any case it stays open for as long as the
    /// destination has `wished`.
    pub(super) fn failed(&self, began: Instant, now: Instant, interval: Duration, wished: Duration) -> bool {
        let Some(threshold) = self.threshold else { return false };
        let mut opens = false;
        self.state.send_if_modified(|state| {
            if let Some(open) = &mut state.open {
                let longer = later(now, wished) > open.until;
                open.until = open.until.max(later(now, wished));
                return longer;
            }
            // What was in flight when another failed tells nothing new: a connection takes all of its requests with it.
            if state.counted.is_some_and(|counted| began < counted) {
                return false;
            }
            (state.failures, state.counted) = (state.failures.saturating_add(1), Some(now));
            opens = state.failures >= threshold;
            if opens {
                let until = later(now, interval.max(wished));
                state.open = Some(Open { intervals: 1, until, probed: None });
            }
            opens
        });
        opens
    }

    /// Told whenever it opens, is probed or closes.
    pub(super) fn changes(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The next time that it closes.
    pub(super) fn closing(&self) -> impl Future<Output = ()> + 'static {
        let mut state = self.state.subscribe();
        let before = state.borrow().closings;
        async move {
            if state.wait_for(|state| state.closings != before).await.is_err() {
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NO_WISH: Duration = Duration::ZERO;

    fn circuit(settings: &str) -> (Circuit, Instant) {
        (Circuit::new(&toml::from_str(settings).unwrap()), Instant::now())
    }

    /// Opens at `now`, for a second.
    fn opened(settings: &str) -> (Circuit, Instant) {
        let (circuit, start) = circuit(settings);
        let mut now = start;
        while !circuit.failed(now, now, SECOND, NO_WISH) {
            now += SECOND;
        }
        (circuit, now)
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row() {
        let (circuit, start) = circuit("circuit_breaker.failure_threshold = 3");
        let fails =
            |second| circuit.failed(start + second * SECOND, start + second * SECOND, SECOND, NO_WISH);
        assert!(!fails(1) && !fails(2));
        assert!(!circuit.succeeded());
        assert!(!fails(3) && !fails(4));
        assert_eq!(circuit.stance(start + 4 * SECOND), Stance::Closed);
        assert!(fails(5));
        assert_eq!(circuit.stance(start + 5 * SECOND), Stance::Resting(start + 6 * SECOND));
    }

    #[test]
    fn what_fails_together_is_one_failure() {
        let (circuit, start) = circuit("circuit_breaker.failure_threshold = 2");
        for _ in 0..10 {
            assert!(!circuit.failed(start, start + SECOND, SECOND, NO_WISH));
        }
        assert!(circuit.failed(start + 2 * SECOND, start + 2 * SECOND, SECOND, NO_WISH));
    }

    #[test]
    fn each_interval_has_one_probe_whatever_becomes_of_it() {
        let (circuit, now) = opened("");
        let two_seconds = |number| {
            assert_eq!(number, 2);
            2 * SECOND
        };
        assert!(!circuit.admits(now, |_| unreachable!()));
        let due = now + SECOND;
        assert_eq!(circuit.stance(due), Stance::Due);
        assert!(circuit.admits(due, two_seconds));
        assert!(!circuit.admits(due, |_| unreachable!()));
        // Nobody said how it ended.
        assert_eq!(circuit.stance(due), Stance::Resting(due + 2 * SECOND));
        assert!(circuit.admits(due + 2 * SECOND, |_| SECOND));
    }

    #[test]
    fn a_probe_that_asked_nothing_gives_way_to_another() {
        let (circuit, now) = opened("");
        let due = now + SECOND;
        circuit.unasked(now);
        assert_eq!(circuit.stance(now), Stance::Resting(due), "it began before");
        for _ in 0..3 {
            assert!(circuit.admits(due, |number| number * SECOND));
            assert_eq!(circuit.stance(due), Stance::Resting(due + 2 * SECOND));
            circuit.unasked(due);
            assert_eq!(circuit.stance(due), Stance::Due);
        }
    }

    #[test]
    fn a_success_closes_it_and_the_count_begins_anew() {
        let (circuit, now) = opened("circuit_breaker.failure_threshold = 2");
        assert!(circuit.succeeded());
        assert!(!circuit.succeeded());
        assert_eq!(circuit.stance(now), Stance::Closed);
        assert!(!circuit.failed(now + SECOND, now + SECOND, SECOND, NO_WISH));
        assert!(circuit.failed(now + 2 * SECOND, now + 2 * SECOND, SECOND, NO_WISH));
    }

    #[test]
    fn it_stays_open_for_as_long_as_the_destination_wishes() {
        let (circuit, now) = opened("");
        assert!(!circuit.failed(now, now, SECOND, 20 * SECOND));
        assert_eq!(circuit.stance(now), Stance::Resting(now + 20 * SECOND));
        circuit.failed(now, now, SECOND, SECOND);
        assert_eq!(circuit.stance(now), Stance::Resting(now + 20 * SECOND));
    }

    #[test]
    fn it_never_opens_where_it_is_not_wanted() {
        for settings in ["circuit_breaker.enabled = false", "enabled = false"] {
            let (circuit, start) = circuit(settings);
            for second in 0..100 {
                let now = start + second * SECOND;
                assert!(!circuit.failed(now, now, SECOND, NO_WISH), "{settings}");
            }
        }
    }
}
