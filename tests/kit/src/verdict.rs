//! What was promised against what came.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LoadReport, SinkSnapshot};

/// The exact balance of one run, in spans, or what items its signal has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Spans whose request was answered "ok".
    pub acknowledged: u64,
    /// Different spans of the run that reached the sink, acknowledged or not.
    pub arrived: u64,
    /// Copies beyond the first.
    pub twice: u64,
    /// Acknowledged and not arrived.
    pub lost: u64,
}

impl Verdict {
    /// The head of the table that [`Verdict`]'s `Display` fills by rows.
    pub const HEADER: &str = "| acknowledged | arrived | twice | lost |\n|---:|---:|---:|---:|";

    /// Something was acknowledged, all of it arrived, and nothing arrived twice.
    pub fn is_exact(&self) -> bool {
        self.nothing_lost() && self.twice == 0
    }

    /// Something was acknowledged and all of it arrived.
    pub fn nothing_lost(&self) -> bool {
        self.acknowledged > 0 && self.lost == 0
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { acknowledged, arrived, twice, lost } = self;
        write!(f, "| {acknowledged} | {arrived} | {twice} | {lost} |")
    }
}

/// Compares what `load` was promised with what reached the sink. Spans of other runs do not count.
pub fn verdict(load: &LoadReport, sink: &SinkSnapshot) -> Verdict {
    let arrivals = sink.runs.get(&load.run);
    let lost = match arrivals {
        Some(arrivals) => load.acknowledged.missing_from(&arrivals.seen),
        None => load.acknowledged.len(),
    };
    Verdict {
        acknowledged: load.acknowledged.len(),
        arrived: arrivals.map_or(0, |arrivals| arrivals.seen.len()),
        twice: arrivals.map_or(0, |arrivals| arrivals.extra),
        lost,
    }
}
