//! A case: one thing that is done over and over, and how long it takes.

use std::time::{Duration, Instant};

/// How long a repetition takes, about: less than a time slice, so that some are not interrupted.
const REPETITION: Duration = Duration::from_millis(5);

/// How often each case is measured.
const REPETITIONS: usize = 150;

/// Something that is done over and over.
pub struct Case {
    /// What it is called, here and in the baseline.
    pub name: &'static str,
    /// What its cost is given for.
    pub unit: &'static str,
    /// How many of these an operation handles.
    pub items: usize,
    /// What an operation reads, in bytes; zero where speed in bytes says nothing.
    pub bytes: usize,
    /// Not ours: there to compare with, so its instructions are nobody's business.
    pub is_foreign: bool,
    operation: Box<dyn FnMut()>,
}

/// How long an item takes, in nanoseconds.
pub struct Timing {
    /// In the best repetition, since the machine may be shared.
    pub least: f64,
    /// In the one in the middle.
    pub median: f64,
}

// === impl Case ===

impl Case {
    /// An operation on `items`, each of them a `unit`.
    pub fn new(
        name: &'static str,
        (items, unit): (usize, &'static str),
        operation: impl FnMut() + 'static,
    ) -> Self {
        Self { name, unit, items, bytes: 0, is_foreign: false, operation: Box::new(operation) }
    }

    /// An operation reads so many bytes.
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// It is there to compare with.
    pub fn foreign(self) -> Self {
        Self { is_foreign: true, ..self }
    }

    /// Does it so many times.
    pub fn run(&mut self, operations: u64) {
        (0..operations).for_each(|_| (self.operation)());
    }

    /// Measures it.
    pub fn time(&mut self) -> Timing {
        let operations = self.calibrate();
        let items = operations as f64 * self.items as f64;
        let mut each: Vec<f64> =
            (0..REPETITIONS).map(|_| self.elapsed(operations).as_secs_f64() * 1e9 / items).collect();
        each.sort_by(f64::total_cmp);
        Timing { least: each[0], median: each[REPETITIONS / 2] }
    }

    /// How many operations a repetition is. Finding out is the warm-up.
    fn calibrate(&mut self) -> u64 {
        let mut operations = 1;
        loop {
            let elapsed = self.elapsed(operations);
            if elapsed > REPETITION / 8 {
                let one = elapsed.as_secs_f64() / operations as f64;
                return (REPETITION.as_secs_f64() / one).ceil() as u64;
            }
            operations *= 2;
        }
    }

    fn elapsed(&mut self, operations: u64) -> Duration {
        let start = Instant::now();
        self.run(operations);
        start.elapsed()
    }
}
