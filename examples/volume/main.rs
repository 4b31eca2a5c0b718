//! The volume story: a hundred thousand spans a second are made, a thousand travel, a hundred are kept.
//!
//! ```sh
//! cargo run --release --example volume                            # the mission's rate, 10 s each
//! cargo run --example volume -- --rate 5000 --seconds 4           # less of it, on any machine
//! ```
//!
//! Five applications with the OpenTelemetry SDK make traces of five spans; one of a hundred has failed, one of a hundred
//! is slow. They send them to an agent, the agent to a gateway, the gateway to a backend that counts: `pipelines.toml`
//! beside this file. It is told three times: the applications sample 1 % (the SDK does), the agents do (`agents.toml`),
//! and nobody does before the gateway has seen the whole trace. What every stage took in and gave out is printed beside
//! the mission's figures, and what is not as it should be is said and ends it with 1.

mod applications;
mod backend;
mod figures;
mod telling;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use telling::Head;

/// What may be said on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "volume",
    about = "The volume story: what sampling, batching and compression leave of 100,000 spans a second"
)]
struct Args {
    /// Spans that the applications make in a second
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(500..))]
    rate: u64,
    /// How long they do, in each telling
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("could not start: {error}")),
    };
    let seconds = Duration::from_secs(args.seconds);
    println!("{} spans a second for {} s; the mission: 100K -> 1K -> 100\n", args.rate, args.seconds);
    let mut mistakes = Vec::new();
    for head in [Head::Sdk, Head::Agents, Head::Nobody] {
        match runtime.block_on(telling::tell(head, args.rate, seconds)) {
            Ok(figures) => {
                println!("{figures}");
                mistakes.extend(figures.mistakes());
            }
            Err(error) => return failed(&format!("{head}: {error}")),
        }
    }
    match mistakes.is_empty() {
        true => ExitCode::SUCCESS,
        false => failed(&mistakes.join("\n        ")),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("volume: {why}");
    ExitCode::FAILURE
}
