//! How far the demo is: one line that is updated on a terminal, plain lines otherwise.

use std::io::{IsTerminal as _, Write as _, stderr};

use super::count::Counts;

/// Plain lines there are at most.
const LINES: usize = 10;

/// The progress of a demo.
pub(super) struct Progress {
    stories: usize,
    live: bool,
    shown: usize,
}

// === impl Progress ===

impl Progress {
    /// Whether there is a terminal to update a line on.
    pub(super) fn is_live() -> bool {
        stderr().is_terminal()
    }

    pub(super) fn new(stories: usize) -> Self {
        Self { stories, live: Self::is_live(), shown: 0 }
    }

    /// Shows that so many are told.
    pub(super) fn show(&mut self, told: usize, counts: &Counts) {
        if self.live {
            self.write("\r\x1b[K", told, counts, "");
        } else if (told - self.shown) * LINES >= self.stories {
            self.shown = told;
            self.write("", told, counts, "\n");
        }
    }

    /// Leaves the last line standing.
    pub(super) fn end(&mut self, counts: &Counts) {
        if self.live {
            self.write("\r\x1b[K", self.stories, counts, "\n");
        } else if self.shown != self.stories {
            self.write("", self.stories, counts, "\n");
        }
    }

    fn write(&self, before: &str, told: usize, counts: &Counts, after: &str) {
        let (spans, points, records) =
            (counts.traces.acknowledged(), counts.metrics.acknowledged(), counts.logs.acknowledged());
        let stories = self.stories;
        // Progress that nobody can read is no reason to stop.
        let _ = write!(
            stderr().lock(),
            "{before}{told}/{stories} checkouts, acknowledged: {spans} spans, {points} data points, \
             {records} log records{after}"
        );
        let _ = stderr().flush();
    }
}
