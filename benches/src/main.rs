//! The end-to-end bench: Watershed beside the floor and the conventional relay, in one run.
//!
//! One binary. The driver loads; sink and relays are this binary again (`--as`), each a process of its own, so
//! that CPU and memory of each are its own. See `benches/README.md`.

#![allow(
    clippy::disallowed_methods,
    reason = "no stage lives here: the driver blocks on purpose, and the relays are measured without a supervisor"
)]

mod backlog;
mod cli;
mod idle;
mod launch;
mod overload;
mod process;
mod relay;
mod sink;
mod table;
mod throughput;
mod watershed;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Role, Scenario};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.role {
        Some(role) => play(role, &cli),
        None => match cli.scenario {
            Scenario::Throughput => throughput::run(&cli),
            Scenario::Overload => overload::run(&cli),
            Scenario::Idle => idle::run(&cli),
            Scenario::Backlog => backlog::run(&cli),
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
    if matches!(role, Role::Floor | Role::Conventional | Role::Watershed) {
        process::exit_with_stdin();
    }
    match role {
        Role::Sink => sink::serve(),
        Role::Load => throughput::load_alone(cli),
        Role::Floor => relay::run::<relay::Raw>(&cli.relay_options()?),
        Role::Conventional => relay::run::<relay::Decoded>(&cli.relay_options()?),
        Role::Watershed => watershed::run_watershed(cli.config()?),
    }
}
