//! The configurations that the scenarios run: what an "ok" is worth, and who gets the data.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;
use watershed_testkit::reserve;

/// Whose the data is once it was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Custody {
    /// The exporters' queues', in memory.
    Accepted,
    /// The destinations'.
    Delivered,
    /// A journal's, at the head of the pipeline.
    Journal,
    /// The exporters' queues', on disk.
    Queues,
}

/// The memory that an agent may use unless told, in MiB.
pub const LIMIT_MIB: u64 = 256;

/// How long an agent may take to drain unless told, in seconds.
pub const SHUTDOWN_SECONDS: u64 = 3;

/// What a queue sends at once, where a failed attempt is to explain few copies.
pub const SMALL_BATCHES: &str = r#"batch = { flush_timeout = "20ms", min_size = 500, max_size = 500 }"#;

/// Items in one of [`SMALL_BATCHES`].
pub const SMALL_BATCH: u64 = 500;

/// A rate and a burst that nobody here reaches, in requests.
const UNLIMITED: (u64, u64) = (1_000_000, 1_000_000);

/// Where an agent is spoken to.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// OTLP over gRPC.
    pub grpc: SocketAddr,
    /// OTLP over HTTP.
    pub http: SocketAddr,
    /// `service.health.endpoint`.
    pub health: SocketAddr,
    /// `service.telemetry.metrics.address`.
    pub metrics: SocketAddr,
}

/// A destination of the pipeline.
#[derive(Clone, Debug)]
pub struct Branch {
    name: &'static str,
    to: To,
    timeout_ms: u64,
    queue: Vec<String>,
}

/// Who is at the end of a branch.
#[derive(Clone, Debug)]
enum To {
    Grpc(SocketAddr),
    Http(SocketAddr),
    /// The gateways that a file lists, by trace id.
    Listed {
        file: PathBuf,
        ring: &'static str,
    },
}

/// One pipeline for traces.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Whose acknowledged data is.
    pub custody: Custody,
    /// Where it goes.
    pub branches: Vec<Branch>,
    /// Kinds of processors behind a journal, if there is one, and their tables.
    pub processors: Vec<(&'static str, String)>,
    /// Whether messages are merged on their way.
    pub merges: bool,
    /// The most requests that it takes from one address, in a second and at once; `None` for as many as there are.
    pub rate_limit: Option<(u64, u64)>,
    /// The memory it may use, in MiB.
    pub limit_mib: u64,
    /// How long it may take to drain, in seconds.
    pub shutdown_seconds: u64,
    /// What a journal or a queue may take on disk.
    pub max_size: &'static str,
    /// How journals store what they are given.
    pub compression: &'static str,
    /// Whether it leaves for good when it is told to end, and its disk with it: then it leaves nothing there.
    pub leaves: bool,
}

impl Custody {
    /// The kind that the program must have for it.
    pub fn needs(self) -> Option<&'static str> {
        match self {
            Custody::Accepted | Custody::Delivered => None,
            Custody::Journal => Some("processor/journal"),
            Custody::Queues => Some("extension/file_storage"),
        }
    }

    /// Whose it is in a gateway behind an agent of this custody: a gateway may die at any time.
    pub fn behind(self) -> Custody {
        if self.is_stored() { self } else { Custody::Delivered }
    }

    /// Whether acknowledged data outlives its process.
    pub fn is_stored(self) -> bool {
        self.needs().is_some()
    }

    fn ack(self) -> &'static str {
        match self {
            Custody::Accepted => "accepted",
            Custody::Delivered => "delivered",
            Custody::Journal | Custody::Queues => "journaled",
        }
    }
}

impl fmt::Display for Custody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Custody::Journal => "journal",
            Custody::Queues => "queues",
            others => others.ack(),
        })
    }
}

impl Ports {
    /// Four free ones on loopback.
    pub fn reserve() -> Ports {
        Ports { grpc: reserve(), http: reserve(), health: reserve(), metrics: reserve() }
    }

    /// The usual ones of a machine of its own.
    pub fn of(machine: IpAddr) -> Ports {
        let [grpc, http, health, metrics] =
            [4317, 4318, 13133, 8888].map(|port| SocketAddr::new(machine, port));
        Ports { grpc, http, health, metrics }
    }
}

impl Branch {
    /// A destination that speaks gRPC.
    pub fn new(name: &'static str, to: SocketAddr) -> Branch {
        Branch { name, to: To::Grpc(to), timeout_ms: 5_000, queue: Vec::new() }
    }

    /// The gateways that `file` lists, a trace to each, as a ring says.
    pub fn listed(name: &'static str, file: PathBuf, ring: &'static str) -> Branch {
        Branch { name, to: To::Listed { file, ring }, timeout_ms: 5_000, queue: Vec::new() }
    }

    /// A destination that speaks HTTP instead, if `http`.
    pub fn over_http(mut self, http: bool) -> Branch {
        if let (To::Grpc(to), true) = (&self.to, http) {
            self.to = To::Http(*to);
        }
        self
    }

    /// How long an attempt may take.
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Branch {
        self.timeout_ms = timeout_ms;
        self
    }

    /// A line more for its `sending_queue`.
    pub fn queue(mut self, line: impl Into<String>) -> Branch {
        self.queue.push(line.into());
        self
    }

    /// The id of its exporter.
    pub fn id(&self) -> String {
        let kind = match self.to {
            To::Grpc(_) => "otlp",
            To::Http(_) => "otlphttp",
            To::Listed { .. } => "load_balancing",
        };
        format!("{kind}/{}", self.name)
    }

    fn toml(&self, custody: Custody) -> String {
        let Branch { to, timeout_ms, .. } = self;
        let id = self.id();
        // Intervals are compressed: a back-off of half a minute shows nothing that one of 100 ms does not.
        let common = format!(
            r#"
compression = "none"
timeout = "{timeout_ms}ms"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}
"#
        );
        let (own, protocol) = match to {
            To::Grpc(to) | To::Http(to) => (format!("endpoint = \"http://{to}\""), ""),
            To::Listed { file, ring } => (
                format!(
                    r#"
resolver.file = {{ path = {file:?}, interval = "100ms" }}
ring = "{ring}"
[exporters."{id}".protocol.otlp]
tls.insecure = true"#
                ),
                ".protocol.otlp",
            ),
        };
        let mut queue = self.queue.clone();
        if custody == Custody::Queues {
            queue.push("storage = \"file_storage\"".into());
        }
        format!(
            r#"
[exporters."{id}"]
{own}{common}[exporters."{id}"{protocol}.sending_queue]
{queue}
"#,
            queue = queue.join("\n"),
        )
    }
}

impl Topology {
    /// One branch or several, no processors of note.
    pub fn new(custody: Custody, branches: impl IntoIterator<Item = Branch>) -> Topology {
        let branches = branches.into_iter().collect();
        Topology {
            custody,
            branches,
            processors: Vec::new(),
            merges: true,
            rate_limit: None,
            limit_mib: LIMIT_MIB,
            shutdown_seconds: SHUTDOWN_SECONDS,
            max_size: "1GiB",
            compression: "lz4",
            leaves: false,
        }
    }

    /// What a reload makes of it: other settings of its receiver and of its exporters, and a processor more.
    pub fn second(&self) -> Topology {
        let mut second = self.clone();
        second.rate_limit = Some(UNLIMITED);
        second.branches.iter_mut().for_each(|branch| branch.timeout_ms += 500);
        let actions = r#"actions = [{ key = "reloaded", value = "yes", action = "upsert" }]"#;
        second.processors.push(("attributes", actions.to_owned()));
        second
    }

    /// The text of a collector that keeps its data under `data`.
    pub fn toml(&self, ports: &Ports, data: &Path) -> String {
        let Ports { grpc, http, health, metrics } = ports;
        let Topology { limit_mib, shutdown_seconds, max_size, compression, .. } = self;
        let on_shutdown = if self.leaves { "empty" } else { "keep" };
        let storage = format!(
            "directory = {data:?}\nmax_size = {max_size:?}\ncompression = {compression:?}\non_shutdown = {on_shutdown:?}\n"
        );
        let (mut tables, mut processors) = (String::new(), vec!["memory_limiter"]);
        match self.custody {
            Custody::Accepted | Custody::Delivered => {}
            Custody::Journal => {
                tables += &format!("[processors.journal]\n{storage}");
                processors.push("journal");
            }
            Custody::Queues => tables += &format!("[extensions.file_storage]\n{storage}"),
        }
        for (kind, settings) in &self.processors {
            tables += &format!("[processors.{kind}]\n{settings}\n");
            processors.push(kind);
        }
        if self.merges {
            tables += "[processors.batch]\ntimeout = \"50ms\"\n";
            processors.push("batch");
        }
        for branch in &self.branches {
            tables += &branch.toml(self.custody);
        }
        let limit = self.rate_limit.map_or(String::new(), |(second, burst)| {
            format!("grpc.rate_limit = {{ requests_per_second = {second}, burst = {burst} }}\n")
        });
        let exporters: Vec<_> = self.branches.iter().map(Branch::id).collect();
        let ack = self.custody.ack();
        format!(
            r#"
[service]
shutdown_timeout = "{shutdown_seconds}s"
health.endpoint = "{health}"
telemetry.metrics.address = "{metrics}"

[receivers.otlp.protocols]
grpc.endpoint = "{grpc}"
http.endpoint = "{http}"
{limit}
[processors.memory_limiter]
limit_mib = {limit_mib}

{tables}
[pipelines.traces]
receivers = ["otlp"]
processors = {processors:?}
exporters = {exporters:?}
ack = "{ack}"
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use watershed::engine::config::{Plan, Sources, load};

    use super::*;

    fn plan(topology: &Topology) -> Plan {
        let here = "127.0.0.1:1".parse().unwrap();
        let ports = Ports { grpc: here, http: here, health: here, metrics: here };
        let text = topology.toml(&ports, Path::new("/data"));
        let sources = Sources { inline: vec![("chaos.toml".to_owned(), text)], ..Sources::default() };
        load(&sources, &watershed::kinds()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn a_reload_has_a_part_of_each_kind_to_exchange_under_any_custody() {
        for custody in [Custody::Accepted, Custody::Delivered, Custody::Journal, Custody::Queues] {
            let branches = [
                Branch::new("sink", "127.0.0.1:2".parse().unwrap()),
                Branch::listed("gateways", "/gateways".into(), "otelcol"),
            ];
            let first = Topology::new(custody, branches);
            let diff = plan(&first).diff(&plan(&first.second()));
            assert_eq!(diff.obstacles, [""; 0], "{custody}");
            let told = diff.summary();
            for part in [
                "receiver otlp",
                "processor attributes",
                "exporter otlp/sink",
                "exporter load_balancing/gateways",
            ] {
                assert!(told.contains(part), "{custody}: no {part} in {told}");
            }
        }
    }
}
