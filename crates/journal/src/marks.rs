//! What is known of a segment's records: a few bits for each.

/// A set of small numbers; what was never put in is not in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

/// Which records of a segment are done, for whom, and how often they were tried.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    count: u32,
    /// For each branch, the records that it has completed.
    done: Vec<Bits>,
    /// For each branch, how many it has not completed.
    owed: Vec<u32>,
    /// How many are owed to somebody.
    live: u32,
    /// How often each was tried, and tried alone; empty until one was.
    attempts: Vec<u8>,
    alone: Vec<u8>,
}

// === impl Bits ===

impl Bits {
    pub fn get(&self, at: u32) -> bool {
        self.0.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Puts `at` in; whether it was not.
    pub fn set(&mut self, at: u32) -> bool {
        let (word, bit) = (at as usize / 64, 1 << (at % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// The first number from `from` on and below `end` that is not in it.
    pub fn next_clear(&self, from: u32, end: u32) -> Option<u32> {
        let mut at = from;
        while at < end {
            let free = !self.0.get(at as usize / 64).copied().unwrap_or(0) >> (at % 64);
            if free != 0 {
                return Some(at + free.trailing_zeros()).filter(|found| *found < end);
            }
            at = at.saturating_add(64 - at % 64);
        }
        None
    }
}

// === impl Marks ===

impl Marks {
    pub fn new(branches: usize) -> Self {
        Self {
            count: 0,
            done: vec![Bits::default(); branches],
            owed: vec![0; branches],
            live: 0,
            attempts: Vec::new(),
            alone: Vec::new(),
        }
    }

    /// One more record, owed to everybody.
    pub fn push(&mut self) {
        self.count += 1;
        self.live += 1;
        self.owed.iter_mut().for_each(|owed| *owed += 1);
    }

    /// How many records there are, done ones and lost ones included.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many are owed to somebody.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// How many each branch is owed.
    pub fn owed(&self) -> &[u32] {
        &self.owed
    }

    /// Whom record `at` is owed to, a bit for each branch.
    pub fn owed_to(&self, at: u32) -> u64 {
        if at >= self.count {
            return 0;
        }
        self.done.iter().enumerate().fold(0, |mask, (branch, done)| mask | u64::from(!done.get(at)) << branch)
    }

    /// The first record that is owed to somebody.
    pub fn next_live(&self) -> Option<u32> {
        (0..self.done.len()).filter_map(|branch| self.next_owed(branch, 0)).min()
    }

    /// The first record from `from` on that `branch` is owed.
    pub fn next_owed(&self, branch: usize, from: u32) -> Option<u32> {
        // A branch that has everything is not searched, however often it is asked.
        self.owed.get(branch).filter(|owed| **owed > 0)?;
        self.done.get(branch)?.next_clear(from, self.count)
    }

    /// `branch` has completed record `at`; whether it had not.
    pub fn complete(&mut self, at: u32, branch: usize) -> bool {
        if at >= self.count || !self.done.get_mut(branch).is_some_and(|done| done.set(at)) {
            return false;
        }
        self.owed[branch] -= 1;
        self.live -= u32::from(self.owed_to(at) == 0);
        true
    }

    /// Everybody has; whether somebody had not.
    pub fn complete_all(&mut self, at: u32) -> bool {
        (0..self.done.len()).filter(|branch| self.complete(at, *branch)).count() > 0
    }

    /// Record `at` was tried once more.
    pub fn attempted(&mut self, at: u32) {
        count_up(&mut self.attempts, at, self.count);
    }

    /// It was tried once more with nothing beside it.
    pub fn tried_alone(&mut self, at: u32) {
        count_up(&mut self.alone, at, self.count);
    }

    /// Nothing speaks against record `at` any more.
    pub fn acquit(&mut self, at: u32) {
        for counts in [&mut self.attempts, &mut self.alone] {
            if let Some(count) = counts.get_mut(at as usize) {
                *count = 0;
            }
        }
    }

    pub fn attempts(&self, at: u32) -> u8 {
        self.attempts.get(at as usize).copied().unwrap_or(0)
    }

    pub fn alone(&self, at: u32) -> u8 {
        self.alone.get(at as usize).copied().unwrap_or(0)
    }

    /// Takes the records from `at` on out, into marks of their own that count from zero.
    pub fn split_off(&mut self, at: u32) -> Self {
        let mut tail = Self::new(self.done.len());
        let mut head = Self::new(self.done.len());
        for index in 0..self.count {
            let (to, place) = if index < at { (&mut head, index) } else { (&mut tail, index - at) };
            to.push();
            (0..self.done.len()).filter(|branch| self.done[*branch].get(index)).for_each(|branch| {
                to.complete(place, branch);
            });
            (0..self.attempts(index)).for_each(|_| to.attempted(place));
            (0..self.alone(index)).for_each(|_| to.tried_alone(place));
        }
        *self = head;
        tail
    }
}

fn count_up(counts: &mut Vec<u8>, at: u32, count: u32) {
    if at < count {
        if counts.len() <= at as usize {
            counts.resize(at as usize + 1, 0);
        }
        let count = &mut counts[at as usize];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_clear_number_is_found_across_words_and_below_the_end() {
        let mut bits = Bits::default();
        (0..130).for_each(|at| assert!(bits.set(at)));
        assert!(!bits.set(64));
        assert_eq!((bits.next_clear(0, 131), bits.next_clear(0, 130)), (Some(130), None));
        assert_eq!((bits.next_clear(500, 501), bits.next_clear(7, 3)), (Some(500), None));
    }

    #[test]
    fn a_record_is_done_when_the_last_branch_is() {
        let mut marks = Marks::new(2);
        (0..3).for_each(|_| marks.push());
        assert!(
            marks.complete(1, 0) && !marks.complete(1, 0) && !marks.complete(3, 0) && !marks.complete(0, 2)
        );
        assert_eq!(
            (marks.live(), marks.owed_to(1), marks.owed(), marks.next_owed(0, 1)),
            (3, 2, &[2, 3][..], Some(2))
        );
        assert!(marks.complete_all(1) && !marks.complete_all(1));
        assert_eq!((marks.live(), marks.owed_to(1), marks.owed()), (2, 0, &[2, 2][..]));
    }

    #[test]
    fn splitting_keeps_what_is_known_of_each_record() {
        let mut marks = Marks::new(2);
        (0..5).for_each(|_| marks.push());
        marks.complete(1, 0);
        marks.complete(3, 1);
        marks.attempted(3);
        marks.tried_alone(4);
        let tail = marks.split_off(2);
        assert_eq!((marks.count(), marks.owed_to(1), marks.owed()), (2, 2, &[1, 2][..]));
        assert_eq!((tail.count(), tail.owed_to(1), tail.owed()), (3, 1, &[3, 2][..]));
        assert_eq!((tail.attempts(1), tail.alone(2), tail.attempts(0)), (1, 1, 0));
    }
}
