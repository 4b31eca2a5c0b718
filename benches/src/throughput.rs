//! What an item costs: every relay in turn, for some rounds, under the same load.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use watershed_testkit::{LoadReport, Loader, Verdict};

use crate::case::{Case, Way, Work};
use crate::certificates::{self, Certificates};
use crate::cli::{Cli, Relay};
use crate::launch::RelayProcess;
use crate::process::own_usage;
use crate::sink::SinkProcess;
use crate::{peers, report};

/// How long what was acknowledged may take to arrive once the load has ended.
const DRAIN: Duration = Duration::from_secs(30);

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

/// Runs all cases and rounds, prints, and fails if anything acknowledged was lost or nothing moved.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let installed = peers::installed();
    let all: Vec<Relay> =
        [Relay::Watershed, Relay::Floor, Relay::Conventional].into_iter().chain(installed).collect();
    let relays = cli.relays(&all);
    let bench = Bench {
        cli,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        certificates: Certificates::new(),
    };
    let cases = cli.cases();
    let mut turns: Vec<Turn> = Vec::new();
    // A disturbed minute is a round of many cases, not all rounds of one.
    for round in 0..cli.rounds {
        for case in &cases {
            for relay in relays.iter().copied().filter(|relay| can(*relay, *case)) {
                let like =
                    turns.iter().rev().find(|turn| turn.relay == Relay::Watershed && turn.case == case.name);
                let like = like.map(|turn| turn.merge_factor.round() as usize);
                let merge = cli.merge.or(like).unwrap_or(8).max(1);
                let turn = bench.take_turn(*case, relay, round, merge);
                let turn = turn.with_context(|| format!("{}, round {round}, {relay}", case.name))?;
                eprintln!("{} {round} {relay:<12} {:.3} us", case.name, turn.cpu_us_per_item);
                turns.push(turn);
            }
        }
    }
    if let Some(record) = &cli.record {
        std::fs::write(record, serde_json::to_string_pretty(&turns)?)?;
        std::fs::write(record.with_extension("svg"), report::chart(&cases, &turns))?;
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&turns)?);
    } else {
        report::print(cli, &cases, &turns);
    }
    Ok(())
}

/// Whether a relay takes part.
fn can(relay: Relay, case: Case) -> bool {
    match relay {
        Relay::Watershed | Relay::Floor => true,
        // What it costs to decode is seen in the plain relay.
        Relay::Conventional => case.name == "relay",
        Relay::Otelcol | Relay::Rotel => peers::can(relay, case),
    }
}

/// The load of `case` as `cli` has it.
pub fn loader(cli: &Cli, case: Case, target: std::net::SocketAddr) -> Loader {
    let in_flight = cli.in_flight.unwrap_or(4);
    let loader = Loader::new(target)
        .signal(case.signal)
        .spans_per_request(case.items)
        .compression(case.coding_in)
        .frame(cli.frame_kib << 10)
        // As a client has to: it waits as long as a refusal says, and sends the same again.
        .retry(true);
    let loader = match case.rate {
        None => loader.closed(case.connections, in_flight),
        // Over HTTP/1.1 each request on its way has a connection of its own.
        Some(rate) => loader.open(case.connections, if case.way_in == Way::Grpc { 1_000 } else { 16 }, rate),
    };
    let loader = if case.work == Work::TailSampling { loader.traces() } else { loader };
    match case.way_in {
        Way::Grpc => loader,
        Way::Http => loader.http(),
        Way::Json => loader.json(),
        Way::Foreign(format) => loader.foreign(format),
    }
}

/// What all turns share.
struct Bench<'a> {
    cli: &'a Cli,
    runtime: tokio::runtime::Runtime,
    certificates: Certificates,
}

impl Bench<'_> {
    fn take_turn(&self, case: Case, relay: Relay, round: usize, merge: usize) -> anyhow::Result<Turn> {
        let Bench { cli, runtime, certificates } = self;
        let case = if matches!(relay, Relay::Floor | Relay::Conventional) { case.bare() } else { case };
        let directory = certificates.directory();
        let mut sink = SinkProcess::start(case.tls, &directory)?;
        let process = RelayProcess::start(relay, case, cli, sink.addr, &directory, merge)?;
        let load = loader(cli, case, process.addr);
        let load = match certificates.client(case.tls) {
            Some(config) => load.tls(config, certificates::HOST),
            None => load,
        };

        let warm = runtime.block_on(load.clone().duration(Duration::from_secs_f64(cli.warmup)).run());
        let settle = |sink: &mut SinkProcess, load: &LoadReport| match case.work {
            Work::TailSampling => sink.settle_sampled(load, DRAIN),
            _ => sink.settle(load, DRAIN),
        };
        ensure!(settle(&mut sink, &warm)?.1.nothing_lost(), "the warm-up did not arrive: {warm}");

        sink.reset()?;
        let (before, sink_before, own_before) = (process.usage()?, sink.usage()?, own_usage()?);
        // Another run than the warm-up's, so a copy of that is no arrival of this.
        let load = load.run_id(round as u64 + 1).duration(cli.duration(case.seconds()));
        let report = runtime.block_on(load.run());
        let (loaded, own_after) = (process.usage()?, own_usage()?);
        let (counts, verdict) = settle(&mut sink, &report)?;
        let (after, sink_after) = (process.usage()?, sink.usage()?);
        if report.refusals() + report.transport_errors > 0 {
            eprintln!("{} {round} {relay}: {report}", case.name);
        }
        ensure!(verdict.acknowledged > 0, "nothing moved: {report}");
        ensure!(verdict.lost == 0, "lost {} of what was acknowledged: {report}", verdict.lost);
        let per_item = |cpu: Duration| cpu.as_secs_f64() * 1e6 / verdict.arrived as f64;
        Ok(Turn {
            case: case.name,
            relay,
            round,
            merge,
            merge_factor: report.latency.count() as f64 / counts.taken as f64,
            items: verdict.arrived,
            items_per_second: verdict.arrived as f64 / report.elapsed.as_secs_f64(),
            cpu_us_per_item: per_item(after.cpu - before.cpu),
            cpu_percent: 100.0 * (loaded.cpu - before.cpu).as_secs_f64() / report.elapsed.as_secs_f64(),
            sink_cpu_us_per_item: per_item(sink_after.cpu - sink_before.cpu),
            loader_cpu_us_per_item: per_item(own_after.cpu - own_before.cpu),
            peak_rss_bytes: after.peak_rss,
            bytes_out_per_item: counts.bytes as f64 / verdict.arrived as f64,
            p50_ns: report.latency.quantile(0.5),
            p99_ns: report.latency.quantile(0.99),
            refused_per_ok: report.refusals() as f64 / report.latency.count() as f64,
            verdict,
        })
    }
}

/// The part `--as load`: the same load on any target, and its report as JSON.
pub fn load_alone(cli: &Cli) -> anyhow::Result<()> {
    let target = cli.target.context("--target is missing")?;
    let case = *cli.cases().first().context("no case")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report: LoadReport = runtime.block_on(loader(cli, case, target).duration(cli.duration(4.0)).run());
    eprintln!("{report}");
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
