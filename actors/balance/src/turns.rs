//! Whose turn it is, where any backend will do.

/// Whose turn it is.
#[derive(Default)]
pub(crate) struct Turns {
    /// What each backend is owed, where they take turns.
    credits: Vec<f64>,
    turn: usize,
}

// === impl Turns ===

impl Turns {
    /// There are others, of so many, to take turns.
    pub(crate) fn begin(&mut self, count: usize) {
        self.credits = vec![0.0; count];
    }

    /// The next of so many.
    pub(crate) fn next(&mut self, count: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn.checked_rem(count).unwrap_or_default()
    }

    /// Whose turn it is where each gets its part, and no one several times while others wait.
    pub(crate) fn weighted(&mut self, parts: &[f64]) -> usize {
        self.credits.resize(parts.len(), 0.0);
        self.credits.iter_mut().zip(parts).for_each(|(credit, part)| *credit += part);
        let most = |best: usize, at: usize| if self.credits[at] > self.credits[best] { at } else { best };
        let best = (0..parts.len()).fold(0, most);
        if let Some(credit) = self.credits.get_mut(best) {
            *credit -= parts.iter().sum::<f64>();
        }
        best
    }

    /// Who has least; of several, each in turn.
    pub(crate) fn least(&mut self, loads: &[f64]) -> usize {
        let first = self.next(loads.len());
        let order = (first..loads.len()).chain(0..first);
        order.reduce(|best, at| if loads[at] < loads[best] { at } else { best }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut turn: impl FnMut() -> usize, count: usize) -> [usize; 3] {
        let mut taken = [0; 3];
        (0..count).for_each(|_| taken[turn()] += 1);
        taken
    }

    #[test]
    fn turns_go_by_parts() {
        let mut turns = Turns::default();
        assert_eq!(taken(|| turns.weighted(&[1.0, 1.0, 1.0]), 300), [100, 100, 100]);
        assert_eq!(taken(|| turns.weighted(&[1.0, 0.1, 1.0]), 210), [100, 10, 100]);
    }

    #[test]
    fn the_least_loaded_is_taken_and_of_equals_each() {
        let mut turns = Turns::default();
        assert_eq!(taken(|| turns.least(&[2.0, 1.0, 3.0]), 10), [0, 10, 0]);
        assert_eq!(taken(|| turns.least(&[1.0, 5.0, 1.0]), 30)[1], 0);
        assert_eq!(taken(|| turns.least(&[1.0, 1.0, 1.0]), 30), [10, 10, 10]);
    }
}
