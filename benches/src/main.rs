//! The end-to-end bench: Watershed beside the floor and the conventional relay, in one run.
//!
//! One binary. The driver loads; sink and relays are this binary again (`--as`), each a process of its own, so
//! that CPU and memory of each are its own. See `benches/README.md`.

#![allow(
    clippy::disallowed_methods,
    reason = "no stage lives here: the driver blocks on purpose, and the relays are measured without a supervisor"
)]

mod backlog;
mod case;
mod certificates;
mod cli;
mod idle;
mod launch;
mod overload;
mod peers;
mod player;
mod process;
mod relay;
mod report;
mod scrape;
mod sink;
mod table;
mod throughput;
mod watershed;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Role, Scenario};

/// The product's, for all parts. The floor costs with it what it costs with the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.role {
        Some(role) => play(role, &cli),
        None => match cli.scenario {
            Scenario::Throughput => throughput::run(&cli),
            Scenario::Overload => overload::run(&cli),
            Scenario::Idle => idle::run(&cli),
            Scenario::Backlog => backlog::run(&cli),
            Scenario::Scrape => scrape::run(&cli),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watershed-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(role: &Role, cli: &Cli) -> anyhow::Result<()> {
    if matches!(role, Role::Floor | Role::Conventional | Role::Watershed | Role::Awake) {
        process::exit_with_stdin();
        // Whoever runs a relay collects its log. Without that, `tracing` asks the `log` crate at every step of HTTP/2.
        tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new())?;
    }
    match role {
        Role::Sink => sink::serve(cli),
        Role::Load => throughput::load_alone(cli),
        Role::Floor => relay::run::<relay::Raw>(&cli.relay_options()?),
        Role::Conventional => relay::run::<relay::Decoded>(&cli.relay_options()?),
        Role::Watershed => watershed::run_watershed(cli.config()?),
        Role::Awake => process::stay_awake(),
    }
}
