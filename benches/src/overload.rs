//! Ten times more than the sink takes, from thousands of callers that do not slow down.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde::Serialize;
use watershed_testkit::{Answer, Loader, Refusal, Verdict};

use crate::case::PLAIN;
use crate::cli::{Cli, Relay};
use crate::launch::RelayProcess;
use crate::sink::SinkProcess;
use crate::table;

/// How long a relay may take to deliver what it holds, once the sink takes everything again.
const DRAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Outcome {
    relay: Relay,
    budget_mib: u64,
    offered_spans_per_second: f64,
    sink_spans_per_second: u64,
    peak_rss_bytes: u64,
    rss_after_drain_bytes: u64,
    cpu_us_per_offered_span: f64,
    sent_requests: u64,
    acknowledged_requests: u64,
    refused: Vec<Refusal>,
    with_retry_info: u64,
    timeouts: u64,
    transport_errors: u64,
    connect_errors: u64,
    unresolved: u64,
    ok_p99_ns: u64,
    refusal_p99_ns: u64,
    verdict: Verdict,
}

/// Runs the scenario for each relay, prints, and fails if anything acknowledged was lost or nothing moved.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut outcomes = Vec::new();
    for relay in cli.relays(&[Relay::Watershed]) {
        outcomes.push(overload(cli, &runtime, relay)?);
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
    } else {
        outcomes.iter().for_each(print);
    }
    for Outcome { relay, verdict, .. } in &outcomes {
        ensure!(
            verdict.nothing_lost(),
            "{relay}: acknowledged {}, lost {}",
            verdict.acknowledged,
            verdict.lost
        );
    }
    Ok(())
}

fn overload(cli: &Cli, runtime: &tokio::runtime::Runtime, relay: Relay) -> anyhow::Result<Outcome> {
    let case = cli.adapt(PLAIN);
    let nowhere = Path::new("");
    let mut sink = SinkProcess::start(case.tls, nowhere)?;
    let spans_per_sec = (cli.rate / 10.0) as u64;
    sink.answer(Answer::RateLimited { spans_per_sec })?;
    let process = RelayProcess::start(relay, case, cli, sink.addr, nowhere, cli.merge.unwrap_or(8))?;
    let before = process.usage()?;
    let duration = cli.duration(10.0);
    let load = Loader::new(process.addr)
        .open(cli.connections.unwrap_or(100), cli.in_flight.unwrap_or(4_000), cli.rate)
        .spans_per_request(case.items)
        .frame(cli.frame_kib << 10)
        .duration(duration);
    let report = runtime.block_on(load.run());
    let peak = process.usage()?;
    sink.answer(Answer::Ok)?;
    let (_, verdict) = sink.settle(&report, DRAIN)?;
    let after = process.usage()?;
    let cpu = after.since(before).as_secs_f64() * 1e6;
    Ok(Outcome {
        relay,
        budget_mib: cli.budget_mib,
        offered_spans_per_second: report.sent_spans as f64 / duration.as_secs_f64(),
        sink_spans_per_second: spans_per_sec,
        peak_rss_bytes: after.peak_rss.max(peak.peak_rss),
        rss_after_drain_bytes: after.rss,
        cpu_us_per_offered_span: cpu / report.sent_spans.max(1) as f64,
        sent_requests: report.sent_requests,
        acknowledged_requests: report.latency.count(),
        with_retry_info: report.with_retry_info,
        timeouts: report.timeouts,
        transport_errors: report.transport_errors,
        connect_errors: report.connect_errors,
        unresolved: report.unresolved,
        ok_p99_ns: report.latency.quantile(0.99),
        refusal_p99_ns: report.refusal_latency.quantile(0.99),
        verdict,
        refused: report.refused,
    })
}

fn print(outcome: &Outcome) {
    println!(
        "{}: {:.0} k spans/s came, the sink took {:.0} k spans/s; budget {} MiB\n",
        outcome.relay,
        outcome.offered_spans_per_second / 1e3,
        outcome.sink_spans_per_second as f64 / 1e3,
        outcome.budget_mib,
    );
    let row = |name: &str, value: String| vec![name.to_string(), value];
    table::print(
        &["of the process", ""],
        &[
            row("peak RSS", table::mib(outcome.peak_rss_bytes)),
            row("RSS after the drain", table::mib(outcome.rss_after_drain_bytes)),
            row("CPU us per span offered", format!("{:.3}", outcome.cpu_us_per_offered_span)),
            row("p99 of an ok", table::millis(outcome.ok_p99_ns)),
            row("p99 of a refusal", table::millis(outcome.refusal_p99_ns)),
        ],
    );
    let mut answers = vec![vec!["OK".into(), String::new(), outcome.acknowledged_requests.to_string()]];
    for Refusal { code, retryable, requests, message } in &outcome.refused {
        let retryable = if *retryable { "yes" } else { "no" };
        answers.push(vec![format!("{code}: {message}"), retryable.into(), requests.to_string()]);
    }
    for (name, count) in [
        ("with RetryInfo", outcome.with_retry_info),
        ("timed out", outcome.timeouts),
        ("broken off", outcome.transport_errors),
        ("not connected", outcome.connect_errors),
        ("unanswered at the end", outcome.unresolved),
    ] {
        answers.push(vec![name.into(), String::new(), count.to_string()]);
    }
    println!();
    table::print(&["answer", "retryable", "requests"], &answers);
    println!("\n{}\n{}\n", Verdict::HEADER, outcome.verdict);
}
