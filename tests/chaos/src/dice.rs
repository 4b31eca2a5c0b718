//! Chance by a seed: the same seed makes the same decisions. When they fall is left to the machine.

use std::ops::Range;
use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that begin at `seed`.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias is below one in 10^12 for every bound used here.
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A time in this range, in milliseconds from its start.
    pub fn time(&mut self, range: Range<Duration>) -> Duration {
        let width = range.end.saturating_sub(range.start).as_millis() as u64;
        range.start + Duration::from_millis(self.below(width))
    }

    /// The numbers below `count` in any order.
    pub fn deck(&mut self, count: u64) -> Vec<u64> {
        let mut deck: Vec<u64> = (0..count).collect();
        for at in (1..deck.len()).rev() {
            deck.swap(at, self.below(at as u64 + 1) as usize);
        }
        deck
    }

    /// One of these; `None` where there is none.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.below(among.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_everything_is_possible() {
        let throws = |seed| {
            (0..1_000).map({
                let mut dice = Dice::new(seed);
                move |_| dice.below(6)
            })
        };
        assert!(throws(7).eq(throws(7)));
        assert!(!throws(7).eq(throws(8)));
        assert!((0..6).all(|face| throws(7).filter(|seen| *seen == face).count() > 100));
        let mut deck = Dice::new(1).deck(50);
        assert!(!deck.is_sorted());
        deck.sort_unstable();
        assert!(deck.into_iter().eq(0..50));
        let second = Duration::from_secs(1);
        assert!((second..3 * second).contains(&Dice::new(1).time(second..3 * second)));
        assert_eq!((Dice::new(1).below(0), Dice::new(1).pick::<u8>(&[])), (0, None));
    }
}
