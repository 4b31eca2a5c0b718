//! What a scenario is, and what every one of them needs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;
use watershed_testkit::{LoadReport, Loader, Running, Sink, wait_until};

use crate::agent::{Agent, PATIENCE};
use crate::dice::Dice;
use crate::outcome::{Outcome, Row};
use crate::program::Program;
use crate::topology::{Branch, Custody, Topology};

/// One idea of what may go wrong.
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What happens, and what must hold.
    pub about: &'static str,
    /// Under which custodies it makes sense, the first first.
    pub custodies: &'static [Custody],
    /// Seconds in all, on two cores and a debug build.
    pub short: Pace,
    /// What is published.
    pub long: Pace,
    pub(crate) run: for<'a> fn(&'a Run) -> LocalBoxFuture<'a, anyhow::Result<Outcome>>,
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often it happens.
    pub rounds: u32,
    /// How long something lasts: each scenario says what.
    pub seconds: f64,
    /// Spans a second offered; 0 for as many as are answered.
    pub rate: f64,
}

/// A scenario under way.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is put to the test.
    pub program: Program,
    /// The same with a stage that panics, if there is one.
    pub panicking: Option<Program>,
    /// Whose the data is.
    pub custody: Custody,
    /// What the dice begin with.
    pub seed: u64,
    /// How much of it.
    pub pace: Pace,
}

/// The reason why a scenario can not be run here. Anything else that is wrong is a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skipped(pub String);

impl Scenario {
    /// Runs it once.
    ///
    /// # Errors
    ///
    /// If it could not be carried through. What was tried and did not hold is in the row.
    pub async fn run(&self, run: &Run) -> anyhow::Result<Row> {
        let (custody, seed, rounds) = (run.custody, run.seed, run.pace.rounds);
        let began = Instant::now();
        let doing = || format!("{} under {custody}, seed {seed}", self.name);
        let done = match run.needs_of(&run.program) {
            Ok(()) => (self.run)(run).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(outcome) => Ok(Row::new(self.name, custody, seed, rounds, began.elapsed(), outcome)),
            Err(error) => match error.downcast::<Skipped>() {
                Ok(Skipped(why)) => Ok(Row::skipped(self.name, custody, seed, why)),
                Err(error) => Err(error).with_context(doing),
            },
        }
    }
}

impl Pace {
    /// How long something lasts.
    pub fn lasts(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

impl Run {
    /// Dice that begin with the seed.
    pub fn dice(&self) -> Dice {
        Dice::new(self.seed)
    }

    /// Whether a program has what the custody takes.
    pub fn needs_of(&self, program: &Program) -> anyhow::Result<()> {
        match self.custody.needs() {
            Some(kind) if !program.has(kind)? => Err(Skipped(format!("this program has no {kind}")).into()),
            _ => Ok(()),
        }
    }

    /// A pipeline to these branches under the run's custody.
    pub fn topology(&self, branches: impl IntoIterator<Item = Branch>) -> Topology {
        Topology::new(self.custody, branches)
    }

    /// A started agent with that pipeline.
    pub async fn agent(&self, branches: impl IntoIterator<Item = Branch>) -> anyhow::Result<Agent> {
        Agent::new(&self.program, &self.topology(branches), None)?.started().await
    }

    /// A load without an end that gives up nothing, at the run's rate.
    pub fn loader(&self, agent: &Agent) -> Loader {
        self.loader_at(agent.ports.grpc)
    }

    /// As [`Run::loader`], on whatever listens there.
    pub fn loader_at(&self, address: SocketAddr) -> Loader {
        let loader = Loader::new(address).retry(true).grace(PATIENCE).duration(Duration::MAX);
        match self.pace.rate {
            rate if rate > 0.0 => loader.open(4, 64, rate),
            _ => loader.closed(4, 4),
        }
    }
}

/// A sink on any port.
pub async fn sink() -> anyhow::Result<Sink> {
    Ok(Sink::start("127.0.0.1:0").await?)
}

/// Waits until more is acknowledged than when it was called.
pub async fn progress(load: &Running, agent: &Agent) -> anyhow::Result<()> {
    let before = load.acknowledged();
    let moved = wait_until(async || load.acknowledged() > before, PATIENCE).await;
    anyhow::ensure!(moved, "nothing is acknowledged any more: {}; {}", load.progress(), agent.log());
    Ok(())
}

/// The end of a run: no request more, every sender has its answer, all that was acknowledged arrives, and the agent
/// drains to nothing.
pub async fn settle(load: Running, sink: &Sink, agent: &mut Agent) -> anyhow::Result<(LoadReport, Outcome)> {
    agent.ready().await?;
    load.stop();
    let load = load.finish().await;
    sink.settle(&load, PATIENCE).await;
    let (code, took) = agent.terminate().await?;
    let mut outcome = Outcome::of(&load, sink);
    outcome
        .expect(code == Some(0), || format!("it drained to code {code:?} after {took:?}: {}", agent.log()));
    Ok((load, outcome))
}

/// As [`settle`], where nobody was to be refused for good.
pub async fn finish(load: Running, sink: &Sink, agent: &mut Agent) -> anyhow::Result<Outcome> {
    let (load, mut outcome) = settle(load, sink, agent).await?;
    outcome.expect(load.refused_for_good() == 0, || format!("refused for good: {load}"));
    Ok(outcome)
}
