//! How many requests of a lane may be in flight: additive increase, multiplicative decrease, by what each attempt came to
//! and how long it took.
//!
//! It is pure: it reads no clock. A round trip is one attempt, without the waits between attempts.

use std::time::Duration;

use tokio::time::Instant;

/// How much of a round trip's time counts in the long run.
const WEIGHT: f64 = 0.4;

/// So many deviations above the mean are more than chance.
const DEVIATIONS: f64 = 4.0;

/// What is slower by less than this is not worth slowing down for, in seconds.
const GRACE: f64 = 0.010;

pub(super) struct Concurrency {
    ceiling: usize,
    adaptive: bool,
    limit: usize,
    in_flight: usize,
    /// The limit doubles until there is a sign of trouble.
    doubles: bool,
    /// Whether the limit was reached since the last turn.
    reached: bool,
    /// The most that were in flight since then. Other lanes may have left less than the limit.
    peak: usize,
    /// When the limit was lowered: what began before then was sent under another.
    lowered: Option<Instant>,
    round: Round,
    usual: Option<Usual>,
}

/// What an attempt says of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trip {
    /// It took the request.
    Taken,
    /// It failed, as it does under too much load.
    Failed,
    /// Nothing: the attempt was cut short, or rejected for what was in it.
    Mute,
}

/// Round trips since the limit was last thought over.
#[derive(Default)]
struct Round {
    since: Option<Instant>,
    seconds: f64,
    trips: usize,
}

/// Round trips in the long run, in seconds.
struct Usual {
    mean: f64,
    variance: f64,
}

// === impl Concurrency ===

impl Concurrency {
    /// Begins with what the configuration allows: there is no sign of trouble yet.
    pub(super) fn new(ceiling: usize, adaptive: bool) -> Self {
        Self {
            ceiling,
            adaptive,
            limit: ceiling,
            in_flight: 0,
            doubles: false,
            reached: false,
            peak: 0,
            lowered: None,
            round: Round::default(),
            usual: None,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.limit
    }

    pub(super) fn begins(&mut self) {
        self.in_flight += 1;
        self.reached |= self.in_flight >= self.limit;
        self.peak = self.peak.max(self.in_flight);
    }

    pub(super) fn ends(&mut self, began: Instant, now: Instant, trip: Trip) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.lowered.is_some_and(|lowered| began < lowered) {
            return;
        }
        match trip {
            Trip::Mute => {}
            Trip::Failed => self.lower(now, self.limit.min(self.peak) / 2),
            Trip::Taken => {
                self.round.add(began, now.saturating_duration_since(began));
                // Once a round trip, and by as many answers as may be in flight: one that is late is no sign.
                if self.round.trips >= self.limit && self.round.lasts(now, self.usual.as_ref()) {
                    self.turn(now);
                }
            }
        }
    }

    /// The destination is down: what waits for it comes back slowly.
    pub(super) fn restart(&mut self) {
        (self.limit, self.doubles, self.reached) = (1, true, false);
    }

    /// Thinks the limit over.
    fn turn(&mut self, now: Instant) {
        let mean = self.round.mean();
        let is_slow = self.usual.as_ref().is_some_and(|usual| usual.is_exceeded_by(mean));
        match &mut self.usual {
            Some(usual) => usual.learn(mean),
            None => self.usual = Some(Usual { mean, variance: 0.0 }),
        }
        if is_slow {
            self.lower(now, self.limit.min(self.peak) * 9 / 10);
        } else if self.reached {
            let more = if self.doubles { self.limit } else { 1 };
            self.limit = (self.limit + more).min(self.ceiling);
        }
        self.begin_round(now);
    }

    fn lower(&mut self, now: Instant, limit: usize) {
        if self.adaptive {
            (self.limit, self.doubles, self.lowered) = (limit.max(1), false, Some(now));
            self.begin_round(now);
        }
    }

    fn begin_round(&mut self, now: Instant) {
        (self.reached, self.peak) = (false, self.in_flight);
        self.round = Round { since: Some(now), ..Round::default() };
    }
}

// === impl Round ===

impl Round {
    fn add(&mut self, began: Instant, trip: Duration) {
        self.since.get_or_insert(began);
        self.seconds += trip.as_secs_f64();
        self.trips += 1;
    }

    /// Whether it has lasted for as long as a round trip does.
    fn lasts(&self, now: Instant, usual: Option<&Usual>) -> bool {
        let elapsed = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        usual.is_none_or(|usual| elapsed >= usual.mean)
    }

    fn mean(&self) -> f64 {
        self.seconds / self.trips.max(1) as f64
    }
}

// === impl Usual ===

impl Usual {
    fn is_exceeded_by(&self, trip: f64) -> bool {
        trip > self.mean + DEVIATIONS * self.variance.sqrt() + GRACE
    }

    fn learn(&mut self, trip: f64) {
        let off = trip - self.mean;
        self.mean += WEIGHT * off;
        self.variance = (1.0 - WEIGHT) * (self.variance + WEIGHT * off * off);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane that always has something to send, and a clock.
    struct Busy {
        concurrency: Concurrency,
        now: Instant,
    }

    impl Busy {
        fn new(ceiling: usize, adaptive: bool) -> Self {
            Self { concurrency: Concurrency::new(ceiling, adaptive), now: Instant::now() }
        }

        /// Sends as much as there is room for, and has all of it answered at once after `ms`; the limit then.
        fn round(&mut self, ms: u64, trip: Trip) -> usize {
            let began = self.now;
            let mut sent = 0;
            while self.concurrency.has_room() {
                self.concurrency.begins();
                sent += 1;
            }
            self.now += Duration::from_millis(ms);
            for _ in 0..sent {
                self.concurrency.ends(began, self.now, trip);
            }
            assert_eq!(self.concurrency.in_flight(), 0);
            self.now += Duration::from_millis(1);
            self.concurrency.limit()
        }

        fn rounds(&mut self, ms: u64, trip: Trip, count: usize) -> Vec<usize> {
            (0..count).map(|_| self.round(ms, trip)).collect()
        }
    }

    #[test]
    fn a_healthy_destination_gets_all_that_the_configuration_allows() {
        let mut lane = Busy::new(10, true);
        assert_eq!(lane.rounds(50, Trip::Taken, 100), [10; 100]);
    }

    #[test]
    fn what_fails_together_halves_the_limit_once_and_each_good_round_trip_gives_one_back() {
        let mut lane = Busy::new(10, true);
        assert_eq!(lane.rounds(50, Trip::Failed, 5), [5, 2, 1, 1, 1]);
        assert_eq!(lane.rounds(50, Trip::Taken, 11), [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]);
    }

    #[test]
    fn after_a_rest_it_doubles_until_something_fails() {
        let mut lane = Busy::new(20, true);
        lane.concurrency.restart();
        assert_eq!(lane.rounds(50, Trip::Taken, 3), [2, 4, 8]);
        assert_eq!(lane.round(50, Trip::Failed), 4);
        assert_eq!(lane.rounds(50, Trip::Taken, 2), [5, 6]);
    }

    #[test]
    fn it_does_not_rise_where_nobody_asks_for_more() {
        let mut lane = Busy::new(10, true);
        lane.rounds(50, Trip::Failed, 1);
        for _ in 0..20 {
            let began = lane.now;
            lane.concurrency.begins();
            lane.now += Duration::from_millis(50);
            lane.concurrency.ends(began, lane.now, Trip::Taken);
        }
        assert_eq!(lane.concurrency.limit(), 5);
    }

    #[test]
    fn round_trips_that_grow_lower_it() {
        let mut lane = Busy::new(10, true);
        lane.rounds(50, Trip::Taken, 20);
        let slower = lane.rounds(100, Trip::Taken, 3);
        assert!(slower.iter().any(|limit| *limit < 10), "{slower:?}");
        // In the long run that is how long it takes.
        assert_eq!(lane.rounds(100, Trip::Taken, 20).last(), Some(&10));
    }

    #[test]
    fn a_few_milliseconds_more_are_nothing() {
        let mut lane = Busy::new(10, true);
        lane.rounds(1, Trip::Taken, 20);
        assert_eq!(lane.round(10, Trip::Taken), 10);
    }

    #[test]
    fn what_says_nothing_of_the_destination_changes_nothing() {
        let mut lane = Busy::new(10, true);
        assert_eq!(lane.rounds(5000, Trip::Mute, 5), [10; 5]);
    }

    #[test]
    fn where_it_does_not_adapt_only_a_rest_lowers_it() {
        let mut lane = Busy::new(10, false);
        assert_eq!(lane.rounds(50, Trip::Failed, 5), [10; 5]);
        lane.concurrency.restart();
        assert_eq!(lane.rounds(50, Trip::Taken, 5), [2, 4, 8, 10, 10]);
    }
}
