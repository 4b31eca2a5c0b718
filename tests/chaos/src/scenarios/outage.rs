//! A destination that is down for longer than anybody would wait, and an agent that is restarted meanwhile.

use std::time::Duration;

use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, finish, progress, sink};
use crate::topology::{Branch, Custody, SHUTDOWN_SECONDS};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "outage",
    about: "the destination is down, and the agent is restarted meanwhile, by SIGTERM and by SIGKILL in turn; all \
            arrives. Seconds: how long it is down; in the long form that is past every default",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Delivered],
    short: Pace { rounds: 2, seconds: 1.5, rate: 1_000.0 },
    long: Pace { rounds: 10, seconds: 330.0, rate: 1_000.0 },
    run: |run| Box::pin(outage(run)),
};

async fn outage(run: &Run) -> anyhow::Result<Outcome> {
    let sink = sink().await?;
    let mut agent = run.agent([Branch::new("sink", sink.addr())]).await?;
    let load = run.loader(&agent).start();
    progress(&load, &agent).await?;
    sink.stop().await;
    let mut ends = Vec::new();
    for restart in 0..run.pace.rounds {
        tokio::time::sleep(run.pace.lasts() / run.pace.rounds).await;
        if restart % 2 == 0 {
            ends.push(agent.terminate().await?);
        } else {
            agent.kill_now()?;
        }
        agent.start()?;
        agent.ready().await?;
        if run.custody.is_stored() {
            progress(&load, &agent).await?;
        }
    }
    sink.restart().await?;
    progress(&load, &agent).await?;
    let mut outcome = finish(load, &sink, &mut agent).await?;
    for (code, took) in ends {
        let in_time = took <= Duration::from_secs(SHUTDOWN_SECONDS + 2);
        outcome.expect(in_time && matches!(code, Some(0 | 3)), || {
            format!("it ended with {code:?} after {took:?}")
        });
    }
    Ok(outcome)
}
