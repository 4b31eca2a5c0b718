//! SIGSTOP and SIGCONT: a process that stands still while its clocks run on.

use std::time::Duration;

use watershed_testkit::wait_until;

use crate::agent::{Doubt, PATIENCE};
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, finish, progress, sink};
use crate::topology::{Branch, Custody};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "stop",
    about: "SIGSTOP and SIGCONT under load from senders that wait for a second; lost 0, copies only of what was in \
            flight. Seconds: the longest stop",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Delivered],
    short: Pace { rounds: 3, seconds: 1.5, rate: 4_000.0 },
    long: Pace { rounds: 50, seconds: 8.0, rate: 20_000.0 },
    run: |run| Box::pin(stops(run)),
};

async fn stops(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let sink = sink().await?;
    // Shorter than the longest stops of the long form.
    let mut agent = run.agent([Branch::new("sink", sink.addr()).timeout_ms(3_000)]).await?;
    let load = run.loader(&agent).timeout(Duration::from_secs(1)).start();
    let mut doubt = 0;
    for _ in 0..run.pace.rounds {
        progress(&load, &agent).await?;
        tokio::time::sleep(dice.time(Duration::ZERO..Duration::from_millis(300))).await;
        let taken = Doubt::open([&sink]).await;
        agent.signal("STOP")?;
        let stopped = wait_until(async || agent.is_stopped(), PATIENCE).await;
        anyhow::ensure!(stopped, "it does not stop");
        tokio::time::sleep(dice.time(Duration::from_millis(50)..run.pace.lasts())).await;
        agent.signal("CONT")?;
        doubt += taken.close([&sink])[0];
    }
    progress(&load, &agent).await?;
    let mut outcome = finish(load, &sink, &mut agent).await?;
    outcome.twice_bound += doubt;
    Ok(outcome)
}
