//! The command line, of the driver and of its children.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::case::{CASES, Case, Work};
use crate::relay::Options;

/// Watershed beside the floor and the conventional relay: CPU per span, peak memory, latency, exact delivery.
#[derive(Debug, Parser)]
#[command(name = "watershed-bench")]
pub struct Cli {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Scenario::Throughput)]
    pub scenario: Scenario,
    /// Which relays, in the order of their turns; by default all that are there (overload: watershed alone)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub relay: Vec<Relay>,
    /// Throughput: which loads; see `benches/README.md`
    #[arg(long, value_delimiter = ',', default_value = "relay")]
    pub case: Vec<Case>,
    /// Throughput: every load but tail sampling, whose turns take long
    #[arg(long, conflicts_with = "case")]
    pub all: bool,
    /// Rounds; every relay has a turn in each, or three where a single process tells little (see `benches/README.md`)
    #[arg(long, default_value_t = 8)]
    pub rounds: usize,
    /// Seconds of load in a turn (1.2, tail sampling 15, overload 10)
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds of unmeasured load before it
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Connections of the loader, in place of the case's (overload: 100)
    #[arg(long)]
    pub connections: Option<usize>,
    /// Requests in flight: per connection under throughput (4), in total under overload (4000)
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// Items in a request, in place of the case's (scrape: series of the target, 20000)
    #[arg(long)]
    pub items: Option<usize>,
    /// Requests that floor and conventional merge into one; by default as many as watershed merged in the
    /// round before or while it warmed up, or 8 without watershed
    #[arg(long)]
    pub merge: Option<usize>,
    /// Threads of floor and conventional
    #[arg(long, value_enum, default_value_t = Shape::Single)]
    pub shape: Shape,
    /// KiB that the loader puts into a DATA frame at most: 16 is what most clients do, whatever they may
    #[arg(long, default_value_t = 16)]
    pub frame_kib: usize,
    /// Overload: spans a second offered; the sink takes a tenth
    #[arg(long, default_value_t = 300_000.0)]
    pub rate: f64,
    /// Throughput: MiB that a relay may have acknowledged and not delivered; beyond them, senders wait. At least two
    /// merged requests
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(8..))]
    pub ahead_mib: u16,
    /// Watershed's memory budget in MiB
    #[arg(long, default_value_t = 256)]
    pub budget_mib: u64,

    /// "Ok" means that the sink has it, whatever the case says
    #[arg(long)]
    pub delivered: bool,
    /// Keys of the journal's table, in TOML: `sync = "interval"`
    #[arg(long, value_name = "TOML", default_value = "")]
    pub journal: String,
    /// Where journals are written: each turn in a directory of its own, removed after it
    #[arg(long, default_value = ".")]
    pub journal_directory: PathBuf,
    /// Backlog: MiB on disk before the restart
    #[arg(long, default_value_t = 1024)]
    pub backlog_mib: u64,
    /// Print JSON in place of tables
    #[arg(long)]
    pub json: bool,
    /// Throughput: write what was measured to this file as JSON too, and a chart of it beside that as SVG
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Play a part in place of driving
    #[arg(long = "as", value_enum)]
    pub role: Option<Role>,
    /// Of a part: where to listen
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Of a part: where to send
    #[arg(long)]
    pub target: Option<SocketAddr>,
    /// Of the part watershed: its TOML file
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Of the part sink: its certificates; without them it speaks plain text
    #[arg(long)]
    pub certificates: Option<PathBuf>,
    /// Of the part sink: clients need a certificate too
    #[arg(long)]
    pub mutual: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// CPU per span at a closed loop
    Throughput,
    /// Ten times more than the sink takes, at an open loop
    Overload,
    /// Memory and CPU of a relay that has nothing to do
    Idle,
    /// A journal that grows while its destination is away: memory on the way, and how long a restart takes
    Backlog,
    /// CPU per series of a target that is scraped each second
    Scrape,
}

/// What stands between loader and sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Relay {
    /// The product
    Watershed,
    /// Bytes in, bytes out, over bare tonic
    Floor,
    /// Decodes and re-encodes with prost
    Conventional,
    /// The OpenTelemetry Collector, if `tests/peers/install otelcol` has been run, and `otelcol-full` for some cases
    Otelcol,
    /// rotel, if `tests/peers/install rotel` has been run
    Rotel,
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Relay::Watershed => "watershed",
            Relay::Floor => "floor",
            Relay::Conventional => "conventional",
            Relay::Otelcol => "otelcol",
            Relay::Rotel => "rotel",
        })
    }
}

/// The parts a child process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The counting sink; commands on stdin
    Sink,
    /// A loader on `--target`; prints its report
    Load,
    /// Bytes in, bytes out
    Floor,
    /// Decode, merge, encode
    Conventional,
    /// The product
    Watershed,
    /// Nothing, on every core and all the time
    Awake,
}

/// Where a hand-written relay's work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// One current-thread runtime
    Single,
    /// A current-thread runtime a core, connections dealt round-robin
    Cores,
    /// One multi-thread runtime
    Multi,
}

impl Cli {
    /// The relays to measure.
    pub fn relays(&self, default: &[Relay]) -> Vec<Relay> {
        if self.relay.is_empty() { default.to_vec() } else { self.relay.clone() }
    }

    /// The loads to measure.
    pub fn cases(&self) -> Vec<Case> {
        let short = || CASES.into_iter().filter(|case| case.work != Work::TailSampling).collect();
        let cases: Vec<_> = if self.all { short() } else { self.case.clone() };
        cases.into_iter().map(|case| self.adapt(case)).collect()
    }

    /// A case with what the command line says otherwise.
    pub fn adapt(&self, case: Case) -> Case {
        Case {
            items: self.items.unwrap_or(case.items),
            connections: self.connections.unwrap_or(case.connections),
            delivered: self.delivered || case.delivered,
            ..case
        }
    }

    /// Bytes that a relay may have acknowledged and not delivered.
    pub fn ahead(&self) -> usize {
        usize::from(self.ahead_mib) << 20
    }

    /// How long a turn's load lasts.
    pub fn duration(&self, default: f64) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(default))
    }

    /// What a relay's part needs.
    pub fn relay_options(&self) -> anyhow::Result<Options> {
        let [case] = self.cases()[..] else { anyhow::bail!("a relay plays one case") };
        Ok(Options {
            listen: self.listen.context("--listen is missing")?,
            target: self.target.context("--target is missing")?,
            merge: self.merge.unwrap_or(8).max(1),
            shape: self.shape,
            signal: case.signal,
            waits: case.delivered,
            ahead: self.ahead(),
        })
    }

    /// What watershed's part needs.
    pub fn config(&self) -> anyhow::Result<&Path> {
        self.config.as_deref().context("--config is missing")
    }
}
