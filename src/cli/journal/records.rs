//! The records of a journal, each once, whoever they are owed to.

use std::io;
use std::ops::Range;

use watershed_journal::{Files, Inspection, Journal, Loss, OpenError, Options, Recovery, Stored};

use super::Failed;
use super::bar::Bar;

/// More than any journal has: nothing is written that could go beyond it.
const MAX_BYTES: u64 = 1 << 50;

/// The records of a journal that are owed to somebody.
pub(crate) struct Records<F: Files> {
    pub(crate) journal: Journal<F>,
    /// The branches whose records are wanted.
    wanted: Range<usize>,
    /// The one that is read now.
    branch: usize,
    /// Records that can not be read any more.
    lost: u64,
}

// === impl Records ===

impl<F: Files> Records<F> {
    /// Opens a journal that `inspection` is about. `only` is the branch whose records are wanted, if not all.
    pub(crate) fn open(
        files: F,
        inspection: &Inspection,
        only: Option<&str>,
        bar: &Bar,
    ) -> Result<Self, Failed> {
        let place = files.place().display().to_string();
        let mut branches = branches(inspection);
        let wanted = match only {
            None => 0..branches.len().max(1),
            Some(only) => {
                let at = branches.iter().position(|branch| branch == only).ok_or_else(|| {
                    let known = branches.join("`, `");
                    Failed::argument(format_args!(
                        "--exporter {only}: {place} owes it nothing: it knows `{known}`"
                    ))
                })?;
                at..at + 1
            }
        };
        if branches.is_empty() {
            // Nobody can say who: what is there is owed all the same.
            branches.push("unknown".into());
        }
        let options = Options { max_bytes: MAX_BYTES, ..Options::new(branches) };
        let (journal, recovery) = Journal::open(files, options).map_err(can_not_open)?;
        let branch = wanted.start;
        let mut records = Self { journal, wanted, branch, lost: 0 };
        let Recovery { lost, .. } = recovery;
        lost.iter().for_each(|loss| records.lose(loss, bar));
        Ok(records)
    }

    /// The next records, up to `bytes` of them or one; none at the end.
    pub(crate) fn next(&mut self, bytes: usize, bar: &Bar) -> Result<Vec<Stored>, Failed> {
        let mut read = Vec::new();
        while read.is_empty() && self.branch < self.wanted.end {
            let result = self.journal.read(self.branch, bytes, &mut read);
            for loss in self.journal.losses() {
                self.lose(&loss, bar);
            }
            match result {
                Ok(()) if read.is_empty() => self.branch += 1,
                Ok(()) => {}
                // Whoever has the journal has removed it meanwhile, since it was done.
                Err(error) if error.source.source.kind() == io::ErrorKind::NotFound => {
                    self.journal.skip(error.sequence, self.branch);
                }
                Err(error) => return Err(Failed::incomplete(error)),
            }
            let wanted = self.wanted.clone();
            let first = |record: &Stored| wanted.clone().find(|branch| record.owed >> branch & 1 == 1);
            // Those who come later were given what they share with this one.
            read.retain(|record| first(record) == Some(self.branch));
        }
        Ok(read)
    }

    /// Records that were owed, and can not be read.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// The branch whose records alone are wanted, if it is one of several.
    pub(crate) fn only(&self) -> Option<usize> {
        (self.wanted.len() < self.journal.options().branches.len()).then_some(self.wanted.start)
    }

    fn lose(&mut self, loss: &Loss, bar: &Bar) {
        self.lost += loss.records;
        let Loss { from, to, records, reason, .. } = loss;
        bar.complain(format_args!("warning: {records} records of {from} to {to} are lost: {reason}"));
    }
}

/// Everybody whom records of a journal are or were owed to.
pub(crate) fn branches(inspection: &Inspection) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in inspection.segments.iter().flat_map(|segment| &segment.owed) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Why a journal can not be looked at, or had.
pub(crate) fn can_not_open(error: OpenError) -> Failed {
    match error {
        OpenError::Locked(path) => Failed::start(format_args!(
            "{} is in use by a running process: stop that first, or let it deliver",
            path.display()
        )),
        error => Failed::start(error),
    }
}
