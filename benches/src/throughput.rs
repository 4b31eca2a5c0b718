//! What an item costs: every relay in turn, for some rounds, under the same load.

use anyhow::Context;
use watershed_testkit::{LoadReport, Loader};

use crate::case::{Case, Way, Work};
use crate::certificates::Certificates;
use crate::cli::{Cli, Relay};
use crate::player::{Bench, Player, Turn};
use crate::process::awake;
use crate::{peers, report};

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
    let _awake = awake()?;
    let cases = cli.cases();
    let mut turns: Vec<Turn> = Vec::new();
    // A disturbed minute is a round of many cases, not all rounds of one.
    for round in 0..cli.rounds {
        for (case, turn) in cases.iter().flat_map(|case| (0..case.turns()).map(move |turn| (case, turn))) {
            let round = round * case.turns() + turn;
            let merged = turns.iter().rfind(|turn| turn.relay == Relay::Watershed && turn.case == case.name);
            let merged = merged.map(|turn| turn.merge_factor);
            let played = play(&bench, &relays, *case, round, merged);
            turns.append(&mut played.with_context(|| format!("{}, round {round}", case.name))?);
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

/// One round of a case, in which hand-written relays merge as many requests as Watershed has `merged`. Turns are played in
/// parts, one of each relay after the other, so that a disturbed second is a part of all.
fn play(
    bench: &Bench<'_>,
    relays: &[Relay],
    case: Case,
    round: usize,
    mut merged: Option<f64>,
) -> anyhow::Result<Vec<Turn>> {
    let mut players = Vec::new();
    for relay in relays.iter().copied().filter(|relay| can(*relay, case)) {
        let merge = bench.cli.merge.or(merged.map(|factor| factor.round() as usize)).unwrap_or(8).max(1);
        let player = Player::start(bench, case, relay, merge).with_context(|| relay.to_string())?;
        if relay == Relay::Watershed {
            merged = merged.or(Some(player.warm_factor));
        }
        players.push(player);
    }
    for part in 0..case.parts() {
        for player in &mut players {
            player.play(bench, part).with_context(|| player.relay.to_string())?;
        }
    }
    let turns = players.into_iter().map(|player| player.turn(round));
    Ok(turns
        .inspect(|turn| eprintln!("{} {round} {:<12} {:.3} us", case.name, turn.relay, turn.cpu_us_per_item))
        .collect())
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
