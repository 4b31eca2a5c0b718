//! kill -9 at random points under load, while it starts up too.

use std::time::Duration;

use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, finish, progress, sink};
use crate::topology::{Branch, Custody};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "kill",
    about: "kill -9 at random points under load and during the start; lost 0, copies only of what was in flight or \
            completed in the last 50 ms. Seconds: the longest life",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Delivered],
    short: Pace { rounds: 5, seconds: 0.4, rate: 0.0 },
    long: Pace { rounds: 200, seconds: 0.6, rate: 0.0 },
    run: |run| Box::pin(kills(run)),
};

async fn kills(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let sink = sink().await?;
    let mut agent = run.agent([Branch::new("sink", sink.addr())]).await?;
    let load = run.loader(&agent).start();
    let mut doubt = 0;
    for round in 0..run.pace.rounds {
        // One in four dies before it is ready, while it still reads what the last one has left.
        if round == 0 || !dice.one_in(4) {
            agent.ready().await?;
            progress(&load, &agent).await?;
        }
        tokio::time::sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        doubt += agent.kill([&sink]).await?[0];
        agent.start()?;
    }
    agent.ready().await?;
    progress(&load, &agent).await?;
    let mut outcome = finish(load, &sink, &mut agent).await?;
    if run.custody.is_stored() {
        outcome.twice_bound += doubt;
    }
    Ok(outcome)
}
