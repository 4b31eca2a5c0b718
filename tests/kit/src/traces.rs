//! Traces of several spans each, scattered over requests, and what a sampler made of them.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{LoadReport, SinkSnapshot};

/// Spans of a trace.
pub const SPANS: u64 = 5;

/// How far apart they are in the order of numbers: so many traces are under way at once.
pub const APART: u64 = 1_000;

/// The place in a hundred of traces whose spans have all failed.
pub const FAILED: u64 = 19;

/// The place in a hundred of traces that take two seconds.
pub const SLOW: u64 = 50;

/// The trace that a span belongs to.
pub fn trace_of(seq: u64) -> u64 {
    seq / (SPANS * APART) * APART + seq % APART
}

/// The second half of the trace id of trace number `trace`: as even as random ones, since samplers choose by it.
pub fn id_of(trace: u64) -> u64 {
    let mixed = trace.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 32
}

/// The spans of a trace.
pub fn spans_of(trace: u64) -> impl Iterator<Item = u64> {
    let first = trace / APART * SPANS * APART + trace % APART;
    (0..SPANS).map(move |number| first + number * APART)
}

/// Whether it is slow or has failed.
pub fn is_wanted(trace: u64) -> bool {
    matches!(trace % 100, FAILED | SLOW)
}

/// What came of the traces that were acknowledged whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// Acknowledged whole.
    pub traces: u64,
    /// Of these, slow or failed.
    pub wanted: u64,
    /// Of these, not there at all.
    pub missing: u64,
    /// Others that are there.
    pub others: u64,
    /// Traces that are there in part.
    pub partial: u64,
}

impl Sampled {
    /// All that is wanted is there, and nothing is there in part.
    pub fn is_right(&self) -> bool {
        self.traces > 0 && self.wanted > 0 && self.missing == 0 && self.partial == 0
    }
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sampled { traces, wanted, missing, others, partial } = self;
        write!(f, "{traces} traces: {wanted} wanted, {missing} missing; {others} others; {partial} in part")
    }
}

/// Compares what was acknowledged of a load of [traces](crate::Loader::traces) with what reached the sink.
pub fn sampled(load: &LoadReport, sink: &SinkSnapshot) -> Sampled {
    let mut sampled = Sampled::default();
    let last = load.acknowledged.ranges().last().map_or(0, |range: &Range<u64>| range.end);
    for trace in 0..last.div_ceil(SPANS * APART) * APART {
        if !spans_of(trace).all(|seq| load.acknowledged.contains(seq)) {
            continue;
        }
        let came = |seq: &u64| sink.runs.get(&load.run).is_some_and(|run| run.seen.contains(*seq));
        let came = spans_of(trace).filter(came).count() as u64;
        sampled.traces += 1;
        sampled.wanted += u64::from(is_wanted(trace));
        sampled.missing += u64::from(is_wanted(trace) && came == 0);
        sampled.others += u64::from(!is_wanted(trace) && came > 0);
        sampled.partial += u64::from(came > 0 && came < SPANS);
    }
    sampled
}
