//! A stage that panics over and over under load.

use watershed_testkit::wait_until;

use crate::agent::{Agent, PATIENCE};
use crate::outcome::Outcome;
use crate::program::PANICS;
use crate::scenario::{Pace, Run, Scenario, Skipped, finish, progress, sink};
use crate::topology::{Branch, Custody};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "panics",
    about: "a processor panics again and again under load; lost 0, at most what was in hand twice, nobody is refused \
            for good. Seconds: how long each of its lives is",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Delivered],
    short: Pace { rounds: 10, seconds: 0.3, rate: 4_000.0 },
    long: Pace { rounds: 200, seconds: 0.3, rate: 20_000.0 },
    run: |run| Box::pin(panics(run)),
};

async fn panics(run: &Run) -> anyhow::Result<Outcome> {
    let program =
        run.panicking.as_ref().ok_or_else(|| Skipped("no program with a stage that panics".into()))?;
    run.needs_of(program)?;
    let sink = sink().await?;
    let mut topology = run.topology([Branch::new("sink", sink.addr())]);
    topology.processors.push((PANICS, format!("after = \"{}ms\"", run.pace.lasts().as_millis())));
    let mut agent = Agent::new(program, &topology, None)?.started().await?;
    let load = run.loader(&agent).start();
    let wanted = run.pace.rounds;
    let panicked = "watershed_actor_restarts{actor=\"collector/traces/panics@";
    let mut panics = 0;
    let enough = async || {
        panics = agent.metrics().await.map_or(0, |metrics| metrics.sum(panicked));
        panics >= u64::from(wanted)
    };
    let enough = wait_until(enough, PATIENCE + run.pace.lasts() * wanted).await;
    progress(&load, &agent).await?;
    let mut outcome = finish(load, &sink, &mut agent).await?;
    outcome.expect(enough, || format!("{panics} panics of {wanted}"));
    outcome.note(format!("{panics} panics"));
    Ok(outcome)
}
