//! A relay between loader and sink, and what its turn in one round comes to.

use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use watershed_testkit::{Answer, Histogram, LoadReport, Loader, SinkSnapshot, Verdict};

use crate::case::{Case, Work};
use crate::certificates::{self, Certificates};
use crate::cli::{Cli, Relay};
use crate::launch::RelayProcess;
use crate::process::own_usage;
use crate::sink::SinkProcess;
use crate::throughput::loader;

/// How long what was acknowledged may take to arrive once the load has ended.
const DRAIN: Duration = Duration::from_secs(30);

/// For how long nobody was answered "ok" when senders wait for the sink, and how long that may take to come about.
const STILL: Duration = Duration::from_millis(250);
const FULL: Duration = Duration::from_secs(3);

/// What the sink takes for an answer then, while the relay goes on warming up.
const SLOW: Duration = Duration::from_millis(250);

/// One relay's turn at one case in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    pub case: &'static str,
    pub relay: Relay,
    pub round: usize,
    /// The setting of the hand-written relays.
    pub merge: usize,
    /// Requests in over requests out, as measured.
    pub merge_factor: f64,
    pub items: u64,
    pub items_per_second: f64,
    pub cpu_us_per_item: f64,
    /// Of one core, while the load lasted.
    pub cpu_percent: f64,
    pub sink_cpu_us_per_item: f64,
    pub loader_cpu_us_per_item: f64,
    pub peak_rss_bytes: u64,
    /// What the sink received, as it was compressed.
    pub bytes_out_per_item: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    /// Requests refused for each one acknowledged: their cost is in the CPU too.
    pub refused_per_ok: f64,
    pub verdict: Verdict,
}

/// What all turns share.
pub struct Bench<'a> {
    pub cli: &'a Cli,
    pub runtime: tokio::runtime::Runtime,
    pub certificates: Certificates,
}

/// A relay that runs in front of a sink of its own, and what its parts have come to.
pub struct Player {
    pub relay: Relay,
    case: Case,
    merge: usize,
    /// Requests in over requests out while it warmed up.
    pub warm_factor: f64,
    // Ended before the sink, which it would miss.
    process: RelayProcess,
    sink: SinkProcess,
    load: Loader,
    /// How long a part of the turn is.
    part: Duration,
    sums: Sums,
}

/// Of all parts.
#[derive(Default)]
struct Sums {
    cpu: Duration,
    /// Of it, while the load lasted.
    loaded: Duration,
    sink_cpu: Duration,
    loader_cpu: Duration,
    elapsed: Duration,
    peak_rss: u64,
    latency: Histogram,
    refusals: u64,
    taken: u64,
    bytes: u64,
    verdict: Verdict,
}

impl Player {
    /// Starts `relay` and warms it up.
    pub fn start(bench: &Bench<'_>, case: Case, relay: Relay, merge: usize) -> anyhow::Result<Player> {
        let Bench { cli, runtime, certificates } = bench;
        let part = cli.duration(case.seconds()) / case.parts();
        let case = if matches!(relay, Relay::Floor | Relay::Conventional) { case.bare() } else { case };
        let directory = certificates.directory();
        let sink = SinkProcess::start(case.tls, &directory)?;
        let process = RelayProcess::start(relay, case, cli, sink.addr, &directory, merge)?;
        let load = loader(cli, case, process.addr);
        let load = match certificates.client(case.tls) {
            Some(config) => load.tls(config, certificates::HOST),
            None => load,
        }
        .keep_connections();
        let sums = Sums::default();
        let mut player = Player { relay, case, merge, warm_factor: 0.0, sink, process, load, part, sums };
        let warm = runtime.block_on(player.warm_up(Duration::from_secs_f64(cli.warmup)))?;
        let (counts, verdict) = player.settle(&warm)?;
        ensure!(verdict.nothing_lost(), "the warm-up did not arrive: {warm}");
        player.warm_factor = merge_factor(warm.latency.count(), counts.taken);
        Ok(player)
    }

    /// Puts load on it for `time`. Who says "ok" first fills its bound before that, since no answer comes from the sink: so
    /// its peak does not depend on who gets how much CPU.
    async fn warm_up(&mut self, time: Duration) -> anyhow::Result<LoadReport> {
        if !self.case.delivered {
            self.sink.answer(Answer::Withheld)?;
        }
        let load = self.load.clone().start();
        if self.fills() {
            let still = async {
                let mut before = 0;
                while before == 0 || before != load.acknowledged() {
                    before = load.acknowledged();
                    tokio::time::sleep(STILL).await;
                }
            };
            // Slower than that, it is as full as it gets.
            let _ = tokio::time::timeout(FULL, still).await;
            // A collector of garbage has its peak when much comes and goes while it is full.
            self.sink.answer(Answer::Slow(SLOW))?;
        }
        tokio::time::sleep(time).await;
        load.stop();
        self.sink.answer(Answer::Ok)?;
        Ok(load.finish().await)
    }

    /// Whether senders come to wait for the sink.
    fn fills(&self) -> bool {
        let Player { relay, case, .. } = self;
        // A journal takes what the disk does, and rotel has no bound to set.
        !case.delivered && case.rate.is_none() && case.work != Work::Journal && *relay != Relay::Rotel
    }

    fn settle(&mut self, load: &LoadReport) -> anyhow::Result<(SinkSnapshot, Verdict)> {
        match self.case.work {
            Work::TailSampling => self.sink.settle_sampled(load, DRAIN),
            _ => self.sink.settle(load, DRAIN),
        }
    }

    /// Plays one part of its turn.
    pub fn play(&mut self, bench: &Bench<'_>, part: u32) -> anyhow::Result<()> {
        self.sink.reset()?;
        let (before, sink_before, own_before) = (self.process.usage()?, self.sink.usage()?, own_usage()?);
        // Another run than those before it, so a copy of theirs is no arrival of this.
        let report =
            bench.runtime.block_on(self.load.clone().run_id(u64::from(part) + 1).duration(self.part).run());
        let (loaded, own_after) = (self.process.usage()?, own_usage()?);
        let (counts, verdict) = self.settle(&report)?;
        let (after, sink_after) = (self.process.usage()?, self.sink.usage()?);
        if report.refusals() + report.transport_errors > 0 {
            eprintln!("{} {}: {report}", self.case.name, self.relay);
        }
        ensure!(verdict.acknowledged > 0, "nothing moved: {report}");
        ensure!(verdict.lost == 0, "lost {} of what was acknowledged: {report}", verdict.lost);
        let sums = &mut self.sums;
        sums.cpu += after.since(before);
        sums.loaded += loaded.since(before);
        sums.sink_cpu += sink_after.since(sink_before);
        sums.loader_cpu += own_after.since(own_before);
        sums.elapsed += report.elapsed;
        sums.peak_rss = after.peak_rss;
        sums.latency.merge(&report.latency);
        sums.refusals += report.refusals();
        sums.taken += counts.taken;
        sums.bytes += counts.bytes;
        sums.verdict.acknowledged += verdict.acknowledged;
        sums.verdict.arrived += verdict.arrived;
        sums.verdict.twice += verdict.twice;
        Ok(())
    }

    /// What its parts come to.
    pub fn turn(self, round: usize) -> Turn {
        let Player { relay, case, merge, sums, .. } = self;
        let items = sums.verdict.arrived;
        let per_item = |cpu: Duration| cpu.as_secs_f64() * 1e6 / items as f64;
        Turn {
            case: case.name,
            relay,
            round,
            merge,
            merge_factor: merge_factor(sums.latency.count(), sums.taken),
            items,
            items_per_second: items as f64 / sums.elapsed.as_secs_f64(),
            cpu_us_per_item: per_item(sums.cpu),
            cpu_percent: 100.0 * sums.loaded.as_secs_f64() / sums.elapsed.as_secs_f64(),
            sink_cpu_us_per_item: per_item(sums.sink_cpu),
            loader_cpu_us_per_item: per_item(sums.loader_cpu),
            peak_rss_bytes: sums.peak_rss,
            bytes_out_per_item: sums.bytes as f64 / items as f64,
            p50_ns: sums.latency.quantile(0.5),
            p99_ns: sums.latency.quantile(0.99),
            refused_per_ok: sums.refusals as f64 / sums.latency.count() as f64,
            verdict: sums.verdict,
        }
    }
}

fn merge_factor(requests_in: u64, requests_out: u64) -> f64 {
    requests_in as f64 / requests_out as f64
}
