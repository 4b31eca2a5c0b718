//! CPU per span: every relay in turn, for some rounds, at the same closed loop.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use watershed_testkit::{LoadReport, Loader, Verdict};

use crate::cli::{Cli, Relay};
use crate::launch::RelayProcess;
use crate::process::own_usage;
use crate::sink::SinkProcess;
use crate::table;

/// How long what was acknowledged may take to arrive once the load has ended.
const DRAIN: Duration = Duration::from_secs(15);

/// One relay's turn in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    relay: Relay,
    round: usize,
    /// The setting of the hand-written relays.
    merge: usize,
    /// Requests in over requests out, as measured.
    merge_factor: f64,
    spans: u64,
    spans_per_second: f64,
    cpu_us_per_span: f64,
    spans_per_cpu_second: f64,
    sink_cpu_us_per_span: f64,
    loader_cpu_us_per_span: f64,
    peak_rss_bytes: u64,
    p50_ns: u64,
    p99_ns: u64,
    /// Requests refused for each one acknowledged: their cost is in the CPU too.
    refused_per_ok: f64,
    verdict: Verdict,
}

/// Runs all rounds, prints, and fails if anything acknowledged was lost or nothing moved.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let relays = cli.relays(&[Relay::Watershed, Relay::Floor, Relay::Conventional]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sink = SinkProcess::start()?;
    let mut turns: Vec<Turn> = Vec::new();
    for round in 0..cli.rounds {
        for relay in &relays {
            let like = turns.iter().rev().find(|turn| turn.relay.is_watershed());
            let like = like.map(|turn| turn.merge_factor.round() as usize);
            let merge = cli.merge.or(like).unwrap_or(8).max(1);
            let turn = take_turn(cli, &runtime, &mut sink, *relay, round, merge);
            let turn = turn.with_context(|| format!("round {round}, {relay}"))?;
            eprintln!("round {round} {relay:<12} {:.3} us a span", turn.cpu_us_per_span);
            turns.push(turn);
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&turns)?);
    } else {
        print(cli, &relays, &turns);
    }
    Ok(())
}

/// The load of `cli`.
pub fn loader(cli: &Cli, relay: Relay, target: std::net::SocketAddr) -> Loader {
    let loader = Loader::new(target)
        .closed(cli.connections.unwrap_or(4), cli.in_flight.unwrap_or(4))
        .spans_per_request(cli.spans)
        .frame(cli.frame_kib << 10)
        // As a client has to: it waits as long as a refusal says, and sends the same again.
        .retry(true);
    if relay == Relay::Http { loader.http() } else { loader }
}

fn take_turn(
    cli: &Cli,
    runtime: &tokio::runtime::Runtime,
    sink: &mut SinkProcess,
    relay: Relay,
    round: usize,
    merge: usize,
) -> anyhow::Result<Turn> {
    let process = RelayProcess::start(relay, cli, sink.addr, merge)?;
    let load = loader(cli, relay, process.addr);

    sink.reset()?;
    let warm = runtime.block_on(load.clone().duration(Duration::from_secs_f64(cli.warmup)).run());
    ensure!(sink.settle(&warm, DRAIN)?.1.nothing_lost(), "the warm-up did not arrive: {warm}");

    sink.reset()?;
    let (before, sink_before, own_before) = (process.usage()?, sink.usage()?, own_usage()?);
    // Another run than the warm-up's, so a copy of that is no arrival of this.
    let load = load.run_id(round as u64 + 1).duration(cli.duration(4.0));
    let report = runtime.block_on(load.run());
    let own_after = own_usage()?;
    let (counts, verdict) = sink.settle(&report, DRAIN)?;
    let (after, sink_after) = (process.usage()?, sink.usage()?);
    if report.refusals() + report.transport_errors > 0 {
        eprintln!("round {round} {relay}: {report}");
    }
    ensure!(verdict.acknowledged > 0, "nothing moved: {report}");
    ensure!(verdict.lost == 0, "lost {} of what was acknowledged: {report}", verdict.lost);
    let per_span = |cpu: Duration| cpu.as_secs_f64() * 1e6 / verdict.arrived as f64;
    let cpu = after.cpu - before.cpu;
    Ok(Turn {
        relay,
        round,
        merge,
        merge_factor: report.latency.count() as f64 / counts.taken as f64,
        spans: verdict.arrived,
        spans_per_second: verdict.arrived as f64 / report.elapsed.as_secs_f64(),
        cpu_us_per_span: per_span(cpu),
        spans_per_cpu_second: verdict.arrived as f64 / cpu.as_secs_f64(),
        sink_cpu_us_per_span: per_span(sink_after.cpu - sink_before.cpu),
        loader_cpu_us_per_span: per_span(own_after.cpu - own_before.cpu),
        peak_rss_bytes: after.peak_rss,
        p50_ns: report.latency.quantile(0.5),
        p99_ns: report.latency.quantile(0.99),
        refused_per_ok: report.refusals() as f64 / report.latency.count() as f64,
        verdict,
    })
}

fn print(cli: &Cli, relays: &[Relay], turns: &[Turn]) {
    println!(
        "{} connections x {} in flight, {} spans a request; {} rounds of {:?}; floor and conventional: {:?}\n",
        cli.connections.unwrap_or(4),
        cli.in_flight.unwrap_or(4),
        cli.spans,
        cli.rounds,
        cli.duration(4.0),
        cli.shape,
    );
    let of = |relay: Relay, value: fn(&Turn) -> f64| -> Vec<f64> {
        turns.iter().filter(|turn| turn.relay == relay).map(value).collect()
    };
    let cpu = |relay| table::median(of(relay, |turn| turn.cpu_us_per_span));
    let floor = cpu(Relay::Floor);
    let rows: Vec<Vec<String>> = relays
        .iter()
        .map(|relay| {
            let median = |value| table::median(of(*relay, value));
            let peak = of(*relay, |turn| turn.peak_rss_bytes as f64).into_iter().fold(0.0, f64::max);
            let ratio = if floor > 0.0 { format!("{:.2}", cpu(*relay) / floor) } else { "-".into() };
            vec![
                relay.to_string(),
                table::spread(&of(*relay, |turn| turn.cpu_us_per_span)),
                format!("{:.2} M", median(|turn| turn.spans_per_cpu_second) / 1e6),
                ratio,
                format!("{:.1}", median(|turn| turn.merge_factor)),
                table::mib(peak as u64),
                table::millis(median(|turn| turn.p50_ns as f64) as u64),
                table::millis(median(|turn| turn.p99_ns as f64) as u64),
                format!("{:.0} k", median(|turn| turn.spans_per_second) / 1e3),
                format!("{:.2}", median(|turn| turn.refused_per_ok)),
                format!("{:.0}", of(*relay, |turn| turn.verdict.twice as f64).iter().sum::<f64>()),
                format!("{:.3}", median(|turn| turn.sink_cpu_us_per_span)),
                format!("{:.3}", median(|turn| turn.loader_cpu_us_per_span)),
            ]
        })
        .collect();
    let head = [
        "relay",
        "CPU us a span",
        "spans a CPU-s",
        "to floor",
        "merged",
        "peak RSS",
        "p50",
        "p99",
        "spans/s",
        "refused",
        "twice",
        "sink us",
        "loader us",
    ];
    table::print(&head, &rows);
}

/// The part `--as load`: the same load on any target, and its report as JSON.
pub fn load_alone(cli: &Cli) -> anyhow::Result<()> {
    let target = cli.target.context("--target is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report: LoadReport =
        runtime.block_on(loader(cli, Relay::Watershed, target).duration(cli.duration(4.0)).run());
    eprintln!("{report}");
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
