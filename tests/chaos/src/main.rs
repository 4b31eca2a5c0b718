//! `cargo chaos`: the scenarios, one row of a table for each run.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use watershed_chaos::{ALL, Custody, Format, Pace, Program, Row, Run, Scenario, find, play};

/// What goes wrong, on purpose and by a seed: acknowledged, arrived, twice, lost.
#[derive(Debug, Parser)]
#[command(name = "cargo chaos")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["scenario", "all", "list"])))]
struct Cli {
    /// Which scenarios, in this order
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    scenario: Vec<String>,
    /// Every scenario
    #[arg(long)]
    all: bool,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
    /// The long forms: what docs/reliability.md publishes. Use a release build
    #[arg(long)]
    long: bool,
    /// Whose the data is once it was acknowledged; by default, each that makes sense
    #[arg(long, value_enum)]
    custody: Option<Custody>,
    /// What the dice begin with; by default, something new
    #[arg(long)]
    seed: Option<u64>,
    /// How often it happens
    #[arg(long)]
    rounds: Option<u32>,
    /// How long something lasts: `--list` says what
    #[arg(long)]
    seconds: Option<f64>,
    /// Spans a second offered; 0 for as many as are answered
    #[arg(long)]
    rate: Option<f64>,
    /// How rows are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The program to put to the test; by default, that of $WATERSHED_CHAOS_PROGRAM, or the `watershed` beside this one
    #[arg(long, value_name = "PATH")]
    watershed: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The program with the stage that panics is this one.
    if let Some(code) = play() {
        return code.into();
    }
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<bool> {
    if cli.list {
        list();
        return Ok(true);
    }
    let named =
        cli.watershed.clone().or_else(|| std::env::var_os("WATERSHED_CHAOS_PROGRAM").map(PathBuf::from));
    let program = named.map_or_else(Program::beside_this, Program::new)?;
    eprintln!("chaos: {}", program.path().display());
    let scenarios = if cli.all {
        ALL.iter().collect()
    } else {
        let known =
            |name: &String| find(name).with_context(|| format!("there is no scenario `{name}`: --list"));
        cli.scenario.iter().map(known).collect::<Result<Vec<_>, _>>()?
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Whoever breaks it off takes the children with it.
    runtime.block_on(async {
        tokio::select! {
            held = all(cli, &program, &scenarios) => held,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("broken off"),
        }
    })
}

fn list() {
    for Scenario { name, about, custodies, short, long, .. } in ALL {
        let custodies: Vec<_> = custodies.iter().map(Custody::to_string).collect();
        println!("{name} ({})\n  {about}\n  {}; long: {}", custodies.join(", "), pace(short), pace(long));
    }
}

fn pace(pace: &Pace) -> String {
    let Pace { rounds, seconds, rate } = pace;
    let rate =
        if *rate > 0.0 { format!("{rate} spans a second") } else { "as many spans as are answered".into() };
    format!("{rounds} rounds, {seconds} s, {rate}")
}

async fn all(cli: &Cli, program: &Program, scenarios: &[&Scenario]) -> anyhow::Result<bool> {
    let seed = cli.seed.unwrap_or_else(fresh_seed);
    if cli.format != Format::Json {
        println!("{}", Row::HEADER);
    }
    let mut held = true;
    for scenario in scenarios {
        let form = if cli.long { scenario.long } else { scenario.short };
        let pace = Pace {
            rounds: cli.rounds.unwrap_or(form.rounds),
            seconds: cli.seconds.unwrap_or(form.seconds),
            rate: cli.rate.unwrap_or(form.rate),
        };
        for custody in
            scenario.custodies.iter().filter(|custody| cli.custody.is_none_or(|only| only == **custody))
        {
            let panicking = Some(Program::panicking(&[])?);
            let run = Run { program: program.clone(), panicking, custody: *custody, seed, pace };
            let row = scenario.run(&run).await?;
            row.print(cli.format)?;
            held &= row.holds();
        }
    }
    Ok(held)
}

fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Short enough to be typed again.
    RandomState::new().hash_one(std::process::id()) % 1_000_000
}
