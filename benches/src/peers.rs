//! Other collectors, with the configurations of `benches/peers`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::Context;
use watershed_testkit::Coding;
use watershed_testkit::requests::Foreign;

use crate::case::{Case, PLAIN, Tls, Way, Work};
use crate::cli::{Cli, Relay, Scenario};
use crate::launch::Site;

/// Where the configurations are.
const CONFIGURATIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// The program that becomes a peer.
const START: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/start");

/// What it ends with where there is none.
const ABSENT: i32 = 69;

/// The collector's memory limit, in MiB.
const LIMIT_MIB: u64 = 256;

/// The same where traces are held.
const LIMIT_MIB_OF_TRACES: u64 = 4_096;

/// The collector with more than most cases need.
const FULL: &str = "otelcol-full";

/// Whether the collector is installed with all that Watershed is compared with.
pub static HAS_FULL: LazyLock<bool> = LazyLock::new(|| has(FULL));

/// Those that are installed.
pub fn installed() -> Vec<Relay> {
    let mut relays = vec![Relay::Otelcol, Relay::Rotel];
    relays.retain(|relay| has(&relay.to_string()));
    relays
}

fn has(peer: &str) -> bool {
    let asked = Command::new(START).args([peer, "--version"]).stdin(Stdio::null()).output();
    let there = asked.is_ok_and(|output| output.status.code() != Some(ABSENT));
    if !there {
        eprintln!("{peer} is left out: `tests/peers/install {peer}` installs it");
    }
    there
}

/// Whether a peer can do what a case asks.
pub fn can(relay: Relay, case: Case) -> bool {
    match relay {
        // It compresses whatever it is told, and knows no other way.
        Relay::Rotel => case.coding_out == Some(Coding::Gzip) && case.work == Work::Relay && !case.delivered,
        // What waits for the sink is configured for the plain relay alone.
        _ if case.delivered => {
            case == Case { name: case.name, about: case.about, rate: case.rate, delivered: true, ..PLAIN }
        }
        _ if build(case) == FULL && !*HAS_FULL => false,
        _ => case.lanes.is_none() && !matches!(case.work, Work::Journal | Work::Branches),
    }
}

/// The build of the collector that a case is for: the short one wherever it will do, since it is smaller.
fn build(case: Case) -> &'static str {
    let is_long = case.work == Work::TailSampling || matches!(case.way_in, Way::Foreign(_));
    if is_long { FULL } else { "otelcol" }
}

/// The OpenTelemetry Collector: the base, and what is another in this case.
pub fn otelcol(case: Case, cli: &Cli, site: &Site<'_>) -> Command {
    let mut command = peer(build(case));
    let configuration = |name: &str| format!("{CONFIGURATIONS}/otelcol/{name}.yaml");
    command.args(["--config", &configuration("relay")]);
    let is_zipkin = matches!(case.way_in, Way::Foreign(Foreign::Zipkin | Foreign::ZipkinJson));
    let overlays = [
        (case.work == Work::Attributes, "attributes"),
        (case.work == Work::TailSampling, "tail_sampling"),
        (case.tls == Tls::Server, "tls"),
        (case.tls == Tls::Mutual, "mtls"),
        (case.way_in == Way::Http, "http"),
        (case.way_in == Way::Json, "json"),
        (case.way_in == Way::Foreign(Foreign::Jaeger), "jaeger"),
        (is_zipkin, "zipkin"),
        (case.delivered, "deliver"),
    ];
    let overlays = overlays.into_iter().filter(|(is, _)| *is).map(|(_, name)| name);
    for overlay in overlays.chain(case.coding_out.map(Coding::name)) {
        command.args(["--config", &configuration(overlay)]);
    }
    command.env("LISTEN", site.listen.to_string()).env("SINK", site.sink.to_string());
    command.env("CERTS", site.certificates);
    let usual = if case.work == Work::TailSampling { LIMIT_MIB_OF_TRACES } else { LIMIT_MIB };
    limit(&mut command, case.limit_mib(usual));
    if cli.scenario == Scenario::Throughput {
        command.env("AHEAD", cli.ahead().to_string());
    } else {
        // The memory limit is what bounds it.
        command.env("AHEAD", (1_u64 << 40).to_string()).env("WAITS", "false");
    }
    command
}

/// Bounds the collector's memory; Go's own bound is 80 % of that, as the memory limiter's documentation asks for.
fn limit(command: &mut Command, mib: u64) {
    command.env("LIMIT_MIB", mib.to_string()).env("GOMEMLIMIT", format!("{}MiB", mib * 4 / 5));
}

/// rotel, by its environment.
pub fn rotel(site: &Site<'_>) -> anyhow::Result<Command> {
    let mut command = peer("rotel");
    let settings = Path::new(CONFIGURATIONS).join("rotel/gzip.env");
    let settings = std::fs::read_to_string(&settings).with_context(|| settings.display().to_string())?;
    let settings =
        settings.replace("$LISTEN", &site.listen.to_string()).replace("$SINK", &site.sink.to_string());
    command
        .envs(settings.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')));
    Ok(command)
}

/// The collector with all that Watershed is compared with, with one of the configurations.
pub fn full_collector(configuration: &str) -> Command {
    let mut command = peer(FULL);
    command.args(["--config", &format!("{CONFIGURATIONS}/otelcol/{configuration}.yaml")]);
    limit(&mut command, LIMIT_MIB);
    command
}

fn peer(name: &str) -> Command {
    let mut command = Command::new(START);
    command.arg(name).stdin(Stdio::null()).stdout(Stdio::null());
    command
}
