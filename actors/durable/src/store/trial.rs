//! Records that were in hand when an earlier process died, again and again: one of them may be why.
//!
//! They are tried before anything else is handed out, one at a time, with nothing beside them, and marked as that
//! first. What is still there after a moment is acquitted, and goes on like any other. What the process dies of each
//! time is not: after so many deaths alone it is a dead letter. An innocent would have to be hit by as many deaths from
//! outside, each within its moment.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use watershed_journal::Tried;

/// In hand at so many deaths, a record is a suspect.
const DEATHS: u32 = 3;

/// After so many deaths alone it is guilty.
const DEATHS_ALONE: u32 = 5;

/// The moment in which it would have to happen.
const MOMENT: Duration = Duration::from_millis(100);

/// How many are tried before the rest has to go on; the most suspect first.
const MOST: usize = 32;

/// The trial of the suspects.
#[derive(Default)]
pub(super) struct Trial {
    suspects: VecDeque<Tried>,
    /// Who is tried, and until when.
    current: Option<(u64, Instant)>,
    /// What was handed out here and has not ended, by branch.
    in_hand: Vec<(u64, usize)>,
    /// What came of it alive, and has not ended either: somebody holds it, or has refused it for now.
    survived: Vec<(u64, usize)>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Let this one go on like any other.
    Acquit(u64),
    /// Hand out this one, alone.
    Try(u64),
    /// Keep this one as a dead letter.
    Condemn(u64),
    /// Wait for the one who is tried.
    Wait(Instant),
    /// Nothing is left to try.
    Over,
}

// === impl Trial ===

impl Trial {
    pub(super) fn of(tried: Vec<Tried>) -> Self {
        let mut suspects: Vec<Tried> =
            tried.into_iter().filter(|tried| tried.attempts >= DEATHS || tried.alone > 0).collect();
        suspects.sort_by_key(|tried| (std::cmp::Reverse((tried.alone, tried.attempts)), tried.sequence));
        suspects.truncate(MOST);
        Self { suspects: suspects.into(), ..Self::default() }
    }

    /// Whether nothing else may be handed out.
    pub(super) fn is_on(&self) -> bool {
        self.current.is_some() || !self.suspects.is_empty()
    }

    /// When the one who is tried is acquitted.
    pub(super) fn until(&self) -> Option<Instant> {
        self.current.map(|(_, until)| until)
    }

    /// Who is tried, and has not died of it.
    pub(super) fn tried(&self) -> Option<u64> {
        self.current.map(|(sequence, _)| sequence)
    }

    pub(super) fn step(&mut self, now: Instant) -> Step {
        if let Some((sequence, until)) = self.current {
            let out = self.in_hand.iter().any(|(tried, _)| *tried == sequence);
            if out && now < until {
                return Step::Wait(until);
            }
            self.current = None;
            return Step::Acquit(sequence);
        }
        match self.suspects.pop_front() {
            None => Step::Over,
            Some(Tried { sequence, alone, .. }) if alone >= DEATHS_ALONE => Step::Condemn(sequence),
            Some(Tried { sequence, .. }) => {
                self.current = Some((sequence, now + MOMENT));
                Step::Try(sequence)
            }
        }
    }

    /// It is handed out to one branch.
    pub(super) fn given(&mut self, sequence: u64, place: usize) {
        self.in_hand.push((sequence, place));
    }

    /// One branch holds it for a while, or has refused it for now: whoever is tried, it is not this.
    pub(super) fn survived(&mut self, sequence: u64, place: usize) {
        let tried = (sequence, place);
        self.survived.extend(self.in_hand.extract_if(.., |it| *it == tried));
    }

    /// One branch has ended it.
    pub(super) fn ended(&mut self, sequence: u64, place: usize) {
        for out in [&mut self.in_hand, &mut self.survived] {
            out.retain(|tried| *tried != (sequence, place));
        }
    }

    /// Whether this branch was given it here, so that it is not handed out in its turn as well.
    pub(super) fn has_given(&self, sequence: u64, place: usize) -> bool {
        self.in_hand.contains(&(sequence, place)) || self.survived.contains(&(sequence, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(sequence: u64, attempts: u32, alone: u32) -> Tried {
        Tried { sequence, attempts, alone }
    }

    #[test]
    fn suspects_are_tried_one_by_one_and_who_is_still_there_goes_on() {
        let now = Instant::now();
        let mut trial = Trial::of(vec![tried(1, 2, 0), tried(2, 3, 0), tried(3, 7, 0), tried(4, 3, 5)]);
        assert!(trial.is_on());
        assert_eq!(trial.step(now), Step::Condemn(4));
        assert_eq!(trial.step(now), Step::Try(3));
        trial.given(3, 0);
        assert_eq!(trial.step(now), Step::Wait(now + MOMENT));
        assert_eq!(trial.step(now + MOMENT), Step::Acquit(3), "it may have to wait for its destination");
        assert!(trial.has_given(3, 0) && !trial.has_given(3, 1));
        assert_eq!(trial.step(now), Step::Try(2));
        trial.given(2, 0);
        trial.ended(2, 0);
        assert_eq!(trial.step(now), Step::Acquit(2));
        assert_eq!(trial.step(now), Step::Over, "two deaths are no suspicion");
        assert!(!trial.is_on());
    }

    #[test]
    fn what_is_held_or_refused_is_acquitted_and_not_handed_out_in_its_turn() {
        let now = Instant::now();
        let mut trial = Trial::of(vec![tried(1, 3, 0)]);
        assert_eq!(trial.step(now), Step::Try(1));
        trial.given(1, 0);
        trial.survived(1, 0);
        assert_eq!(trial.step(now), Step::Acquit(1), "without a wait");
        assert!(trial.has_given(1, 0));
        trial.ended(1, 0);
        assert!(!trial.has_given(1, 0));
    }

    #[test]
    fn a_crowd_does_not_hold_up_the_rest() {
        let trial = Trial::of((0..1_000).map(|sequence| tried(sequence, 3, 0)).collect());
        assert_eq!(trial.suspects.len(), MOST);
    }
}
