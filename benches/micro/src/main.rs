//! What the parts of Watershed cost: in nanoseconds, and in instructions against a baseline.
//!
//! `cargo run --release -p watershed-micro` prints how long each part takes; `benches/instructions` counts. See
//! `benches/micro/README.md`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "no stage lives here: a bench reads the clock, and its fixtures are constants"
)]

mod baseline;
mod case;
mod count;
mod handling;
mod jaeger;
mod journal;
#[cfg(feature = "relay")]
mod relay;
mod scrape;
mod telemetry;
mod zipkin;

use std::process::ExitCode;

use anyhow::Context;
use baseline::{Baseline, Counts, Findings};
use case::Case;
use clap::Parser;

/// What the parts of Watershed cost. Without an option: how long each takes.
#[derive(Parser)]
struct Cli {
    /// Only what has this in its name.
    filter: Option<String>,
    /// Count instructions (which takes valgrind) and compare with the baseline; fail if one takes over 5 % more.
    #[arg(long)]
    check: bool,
    /// Count instructions and make them the baseline.
    #[arg(long, conflicts_with_all = ["check", "filter"])]
    write: bool,
    /// Do this one so many times, for what counts.
    #[arg(long, hide = true, requires = "operations")]
    count: Option<String>,
    #[arg(long, hide = true)]
    operations: Option<u64>,
    /// Be the relay of this configuration, until stdin ends.
    #[cfg(feature = "relay")]
    #[arg(long, hide = true)]
    relay: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("watershed-micro: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "relay")]
    if let Some(config) = &cli.relay {
        return relay::be(config);
    }
    let mut cases = telemetry::cases();
    cases.extend(handling::cases());
    cases.extend(journal::cases());
    cases.extend(scrape::cases());
    cases.extend(zipkin::cases());
    cases.extend(jaeger::cases());
    if let (Some(name), Some(operations)) = (&cli.count, cli.operations) {
        let case = cases.iter_mut().find(|case| case.name == name);
        case.with_context(|| format!("there is no {name:?}"))?.run(operations);
        return Ok(ExitCode::SUCCESS);
    }
    let is_meant = |name: &str| cli.filter.as_ref().is_none_or(|filter| name.contains(filter));
    if cli.write {
        Baseline::write(&count(&cases, is_meant)?)?;
    } else if cli.check {
        let baseline = Baseline::read()?;
        return Ok(compare(&baseline, &count(&cases, is_meant)?, cli.filter.is_none()));
    } else {
        time(&mut cases, is_meant);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how long each case takes.
fn time(cases: &mut [Case], is_meant: impl Fn(&str) -> bool) {
    let line = |[what, least, median, unit, items, speed]: [&str; 6]| {
        println!("| {what:<51} | {least:>8} | {median:>8} | {unit:>7} | {items:>11} | {speed:>6} |");
    };
    line(["what", "least ns", "median", "a", "items an op", "MB/s"]);
    line(["---", "---:", "---:", "---:", "---:", "---:"]);
    for case in cases.iter_mut().filter(|case| is_meant(case.name)) {
        let timing = case.time();
        let (least, median) = (format!("{:.1}", timing.least), format!("{:.1}", timing.median));
        let speed = match case.bytes {
            0 => String::new(),
            bytes => format!("{:.0}", bytes as f64 / case.items as f64 / timing.least * 1e3),
        };
        line([case.name, &least, &median, case.unit, &case.items.to_string(), &speed]);
    }
}

/// Prints how many instructions an item takes in each case that is ours.
fn count(cases: &[Case], is_meant: impl Fn(&str) -> bool) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    let mut add = |name: &str, count: f64| {
        println!("{count:>10.1}  {name}");
        counts.insert(name.to_owned(), count);
    };
    for case in cases.iter().filter(|case| !case.is_foreign && is_meant(case.name)) {
        add(case.name, count::per_item(case).context(case.name)?);
    }
    #[cfg(feature = "relay")]
    if is_meant(relay::NAME) {
        add(relay::NAME, relay::per_span().context(relay::NAME)?);
    }
    Ok(counts)
}

/// Says what differs from the baseline.
fn compare(baseline: &Baseline, counts: &Counts, are_all: bool) -> ExitCode {
    let findings = baseline.compare(counts, are_all);
    findings.failures.iter().for_each(|finding| eprintln!("worse  {finding}"));
    findings.gains.iter().for_each(|finding| eprintln!("better {finding}"));
    if findings == Findings::default() {
        return ExitCode::SUCCESS;
    }
    if let Some(tools) = baseline.other_tools() {
        eprintln!("The baseline was {tools}: that may be all of it.");
    }
    eprintln!("If that is as it should be: `benches/instructions --write`, and commit {}.", Baseline::PATH);
    if findings.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
