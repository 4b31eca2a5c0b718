//! A load by way of several agents, and where its traces went.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use futures_util::future::join_all;
use watershed_testkit::traces::{id_of, spans_of, trace_of};
use watershed_testkit::{LoadReport, Running, wait_until};

use crate::agent::PATIENCE;
use crate::fleet::Gateway;
use crate::outcome::Outcome;
use crate::ring::Ring;

/// A load on all agents, as one.
pub struct Load {
    parts: Vec<Running>,
}

/// Where traces went that were begun when nothing changed any more.
pub struct Census {
    /// How many there were.
    pub traces: u64,
    /// Not whole on one gateway.
    pub split: u64,
    /// Whole, and not where the ring has them.
    pub astray: u64,
    /// Of each listed gateway: its name, traces that it had, traces that the ring has for it.
    pub shares: Vec<(String, u64, u64)>,
    /// The most and the least that the ring has for one of them, as parts of an equal share.
    pub spread: (f64, f64),
}

impl Load {
    /// The loads of a run, as one.
    pub fn of(parts: Vec<Running>) -> Load {
        Load { parts }
    }

    /// The run that its spans belong to.
    pub fn run(&self) -> u64 {
        self.parts.first().map_or(0, |part| part.progress().run)
    }

    /// Spans that were ever sent, or are about to be.
    pub fn begun(&self) -> u64 {
        let progress = self.parts.iter().map(Running::progress);
        progress.map(|progress| progress.requests * progress.spans_per_request).sum()
    }

    /// Attempts that were refused so far.
    pub fn refusals(&self) -> u64 {
        self.parts.iter().map(|part| part.progress().refusals()).sum()
    }

    /// Spans acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.parts.iter().map(Running::acknowledged).sum()
    }

    /// Waits until so many more are acknowledged.
    pub async fn goes_on(&self, spans: u64) -> anyhow::Result<()> {
        let enough = self.acknowledged() + spans;
        let moved = wait_until(async || self.acknowledged() >= enough, PATIENCE).await;
        ensure!(moved, "nothing is acknowledged any more");
        Ok(())
    }

    /// Starts no further request.
    pub fn stop(&self) {
        self.parts.iter().for_each(Running::stop);
    }

    /// What became of all of it.
    pub async fn finish(self) -> LoadReport {
        let mut parts = join_all(self.parts.into_iter().map(Running::finish)).await.into_iter();
        let mut all = parts.next().unwrap_or_default();
        parts.for_each(|part| all.join(&part));
        all
    }
}

impl Census {
    /// Looks for so many traces of a run, of which all are there.
    pub fn of(gateways: &[Gateway], ring: Ring, run: u64, traces: u64) -> Census {
        let listed: Vec<&Gateway> = gateways.iter().filter(|gateway| gateway.listed).collect();
        let names: Vec<String> = listed.iter().map(|gateway| gateway.name.clone()).collect();
        let table = ring.table(&names);
        let had: Vec<_> =
            listed.iter().filter_map(|gateway| gateway.sink.snapshot().runs.remove(&run)).collect();
        let mut census = Census {
            traces,
            split: 0,
            astray: 0,
            spread: spread(&table.shares(names.len())),
            shares: names.into_iter().map(|name| (name, 0, 0)).collect(),
        };
        for trace in 0..traces {
            let due = table.owner(&[run.to_be_bytes(), id_of(trace).to_be_bytes()].concat());
            census.shares[due].2 += 1;
            let has = |at: &usize| spans_of(trace).any(|span| had[*at].seen.contains(span));
            match (0..had.len()).filter(has).collect::<Vec<_>>()[..] {
                [one] => {
                    census.shares[one].1 += 1;
                    census.astray += u64::from(one != due);
                }
                _ => census.split += 1,
            }
        }
        census
    }

    /// Notes what does not hold: each trace is whole and where the ring has it, and so each share within three percent.
    pub fn judge(&self, outcome: &mut Outcome) {
        let Census { traces, split, astray, shares, .. } = self;
        outcome.expect(*split == 0, || format!("{split} of {traces} traces came apart in a time of peace"));
        outcome
            .expect(*astray == 0, || format!("{astray} of {traces} traces are not where the ring has them"));
        let close = |(_, had, due): &(String, u64, u64)| had.abs_diff(*due) * 100 <= due * 3;
        outcome.expect(shares.iter().all(close), || format!("shares: {shares:?}"));
    }
}

/// The largest and the smallest, in parts of the mean of shares of one.
fn spread(shares: &[f64]) -> (f64, f64) {
    let parts = shares.iter().map(|share| share * shares.len() as f64);
    parts.fold((0.0, f64::MAX), |(most, least): (f64, f64), part| (most.max(part), least.min(part)))
}

/// Traces of a run that came to several gateways, and all traces of it.
pub fn split(gateways: &[Gateway], run: u64) -> (u64, u64) {
    let mut seen_at = BTreeMap::<u64, BTreeSet<usize>>::new();
    for (at, gateway) in gateways.iter().enumerate() {
        let Some(arrivals) = gateway.sink.snapshot().runs.remove(&run) else { continue };
        for trace in arrivals.seen.ranges().into_iter().flatten().map(trace_of) {
            seen_at.entry(trace).or_default().insert(at);
        }
    }
    let split = seen_at.values().filter(|at| at.len() > 1).count();
    (split as u64, seen_at.len() as u64)
}
