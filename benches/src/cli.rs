//! The command line, of the driver and of its children.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::relay::Options;

/// Watershed beside the floor and the conventional relay: CPU per span, peak memory, latency, exact delivery.
#[derive(Debug, Parser)]
#[command(name = "watershed-bench")]
pub struct Cli {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Scenario::Throughput)]
    pub scenario: Scenario,
    /// Which relays, in the order of their turns (overload: watershed alone)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub relay: Vec<Relay>,
    /// Rounds; every relay has one turn in each
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of load in a turn (overload: 10)
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds of unmeasured load before it
    #[arg(long, default_value_t = 0.5)]
    pub warmup: f64,
    /// Connections of the loader (throughput: 4, overload: 100)
    #[arg(long)]
    pub connections: Option<usize>,
    /// Requests in flight: per connection under throughput (4), in total under overload (4000)
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// Spans in a request, about 404 B each
    #[arg(long, default_value_t = 100)]
    pub spans: usize,
    /// Requests that floor and conventional merge into one; by default as many as watershed merged in the
    /// same round, or 8 without watershed
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
    /// Watershed's memory budget in MiB
    #[arg(long, default_value_t = 256)]
    pub budget_mib: u64,

    /// What Watershed's "ok" means; floor and conventional always say it when a request is queued
    #[arg(long, value_name = "ACK", value_parser = ["accepted", "delivered"], default_value = "accepted")]
    pub ack: String,
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
}

/// What stands between loader and sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Relay {
    /// Bytes in, bytes out, over bare tonic
    Floor,
    /// Decodes and re-encodes with prost
    Conventional,
    /// The product
    Watershed,
    /// The product, over HTTP/1.1 with protobuf at both ends
    Http,
    /// The product, with three attribute actions on every span
    Attributes,
    /// The product, with a journal at the head: on the disk before it says "ok"
    Journal,
}

impl Relay {
    /// Whether it is Watershed, however configured.
    pub fn is_watershed(self) -> bool {
        matches!(self, Relay::Watershed | Relay::Http | Relay::Attributes | Relay::Journal)
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Relay::Floor => "floor",
            Relay::Conventional => "conventional",
            Relay::Watershed => "watershed",
            Relay::Http => "http",
            Relay::Attributes => "attributes",
            Relay::Journal => "journal",
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

    /// How long a turn's load lasts.
    pub fn duration(&self, default: f64) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(default))
    }

    /// What a relay's part needs.
    pub fn relay_options(&self) -> anyhow::Result<Options> {
        Ok(Options {
            listen: self.listen.context("--listen is missing")?,
            target: self.target.context("--target is missing")?,
            merge: self.merge.unwrap_or(8).max(1),
            shape: self.shape,
        })
    }

    /// The bound of Watershed's sending queue, in requests: the default where it is to relay, out of reach where its
    /// memory budget is to be what bounds it.
    pub fn queue_size(&self) -> u64 {
        match self.scenario {
            Scenario::Throughput | Scenario::Idle | Scenario::Backlog => 1000,
            Scenario::Overload => 1_000_000,
        }
    }

    /// What watershed's part needs.
    pub fn config(&self) -> anyhow::Result<&Path> {
        self.config.as_deref().context("--config is missing")
    }
}
