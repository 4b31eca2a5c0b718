//! How many items an exporter sends in a second at most (`sending_queue.items_per_second`): the generic cell rate
//! algorithm, over all lanes, and over all destinations where there are several.
//!
//! It is pure: it reads no clock.

use std::num::NonZeroU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::settings::later;

/// What may follow at once after a pause: as much as goes out in this time. It makes up for timers that are late.
const SLACK: Duration = Duration::from_millis(50);

/// How fast an exporter may send.
#[derive(Debug, Default)]
pub struct Rate {
    per_second: Option<NonZeroU64>,
    /// When all that was booked so far is through.
    through: Mutex<Option<Instant>>,
}

// === impl Rate ===

impl Rate {
    /// So many items a second; any number, where none is told.
    pub fn new(per_second: Option<u64>) -> Self {
        Self { per_second: per_second.and_then(NonZeroU64::new), through: Mutex::default() }
    }

    /// Books a request of so many items: when it may be sent. Whoever books one at a time is served in turn.
    pub(super) fn book(&self, items: usize, now: Instant) -> Instant {
        let Some(per_second) = self.per_second else { return now };
        let takes = Duration::try_from_secs_f64(items as f64 / per_second.get() as f64);
        let mut through = self.through.lock();
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        let at = through.map_or(now, |through| through.max(earliest));
        *through = Some(later(at, takes.unwrap_or(Duration::MAX)));
        at
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// When each of these many items goes, where all wait from the beginning on and each timer is late by so much.
    fn sent(per_second: u64, items: &[usize], late: Duration) -> Vec<Duration> {
        let rate = Rate::new(Some(per_second));
        let began = Instant::now();
        let mut now = began;
        let go = |items: &usize| {
            let at = rate.book(*items, now);
            now = if at > now { at + late } else { now };
            now - began
        };
        items.iter().map(go).collect()
    }

    #[test]
    fn a_request_waits_until_those_before_it_are_through() {
        let ms = Duration::from_millis;
        assert_eq!(sent(100, &[10, 200, 1, 1], ms(0)), [ms(0), ms(100), ms(2_100), ms(2_110)]);
    }

    #[test]
    fn timers_that_are_late_do_not_slow_it_down() {
        let last = *sent(1_000, &[10; 1_001], Duration::from_millis(7)).last().unwrap();
        assert!(last < Duration::from_secs(10) + SLACK, "{last:?}");
    }

    #[test]
    fn a_pause_is_not_saved_up() {
        let rate = Rate::new(Some(100));
        let now = Instant::now();
        rate.book(1, now);
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.book(100, later), later - SLACK);
        assert_eq!(rate.book(100, later), later + Duration::from_secs(1) - SLACK);
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let (rate, now) = (Rate::new(None), Instant::now());
        assert_eq!((rate.book(usize::MAX, now), rate.book(1, now)), (now, now));
    }

    proptest! {
        #[test]
        fn in_no_time_does_more_go_than_the_rate_allows(
            per_second in 1_u64..10_000,
            items in prop::collection::vec(1_usize..2_000, 1..60),
            late in 0_u64..200,
        ) {
            let late = Duration::from_millis(late);
            let sent = sent(per_second, &items, late);
            for first in 0..items.len() {
                for last in first..items.len() {
                    // The last of them takes its time after it is sent, and the first may have been late.
                    let before: usize = items[first..last].iter().sum();
                    let time = (sent[last] - sent[first] + SLACK.max(late)).as_secs_f64() + 1e-6;
                    prop_assert!(before as f64 <= time * per_second as f64, "{first}..{last}: {sent:?}");
                }
            }
        }
    }
}
