//! What a relay costs that has nothing to do.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::case::PLAIN;
use crate::cli::{Cli, Relay};
use crate::launch::RelayProcess;
use crate::sink::SinkProcess;
use crate::{peers, table};

const WAIT: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Outcome {
    relay: Relay,
    rss_bytes: u64,
    peak_rss_bytes: u64,
    /// From start-up to the end of the wait, start-up included.
    cpu_ns: u64,
    /// In the last two of the three seconds, per second.
    idle_cpu_ns_per_second: u64,
}

/// Measures each relay alone and prints.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let nowhere = Path::new("");
    let sink = SinkProcess::start(PLAIN.tls, nowhere)?;
    let relays: Vec<Relay> = [Relay::Watershed, Relay::Floor].into_iter().chain(peers::installed()).collect();
    let mut outcomes = Vec::new();
    for relay in cli.relays(&relays) {
        let process = RelayProcess::start(relay, PLAIN, cli, sink.addr, nowhere, cli.merge.unwrap_or(8))?;
        // Waiting is the measurement.
        std::thread::sleep(WAIT / 3);
        let settled = process.usage()?;
        std::thread::sleep(WAIT * 2 / 3);
        let usage = process.usage()?;
        outcomes.push(Outcome {
            relay,
            rss_bytes: usage.rss,
            peak_rss_bytes: usage.peak_rss,
            cpu_ns: usage.cpu.as_nanos() as u64,
            idle_cpu_ns_per_second: (usage.since(settled) / 2).as_nanos() as u64,
        });
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&outcomes)?);
        return Ok(());
    }
    let rows = outcomes.iter().map(|outcome| {
        vec![
            outcome.relay.to_string(),
            table::mib(outcome.rss_bytes),
            table::mib(outcome.peak_rss_bytes),
            table::millis(outcome.cpu_ns),
            table::millis(outcome.idle_cpu_ns_per_second),
        ]
    });
    let head = ["relay", "RSS after 3 s", "peak RSS", "CPU since start", "CPU a second idle"];
    table::print(&head, &rows.collect::<Vec<_>>());
    Ok(())
}
