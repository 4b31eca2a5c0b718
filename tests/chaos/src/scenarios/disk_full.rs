//! The disk that holds what was acknowledged is full, and then is not.

use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use watershed_testkit::wait_until;

use crate::agent::{Agent, PATIENCE};
use crate::disk::Disk;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, Skipped, finish, progress, sink};
use crate::topology::{Branch, Custody};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "disk_full",
    about: "a small disk fills up under load, with the destination up or down, and has room again, in some rounds \
            across a kill -9; every refusal is retryable, lost 0. Seconds: how long it is full",
    custodies: &[Custody::Journal, Custody::Queues],
    short: Pace { rounds: 3, seconds: 0.3, rate: 4_000.0 },
    long: Pace { rounds: 50, seconds: 1.0, rate: 10_000.0 },
    run: |run| Box::pin(disk_full(run)),
};

const DISK: u64 = 64 << 20;

async fn disk_full(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let disk = Rc::new(Disk::new(DISK).map_err(|why| Skipped(format!("{why:#}")))?);
    let sink = sink().await?;
    let mut topology = run.topology([Branch::new("sink", sink.addr())]);
    topology.max_size = "64MiB";
    let mut agent = Agent::new(&run.program, &topology, Some(disk.clone()))?.started().await?;
    let load = run.loader(&agent).start();
    let mut doubt = 0;
    for _ in 0..run.pace.rounds {
        progress(&load, &agent).await?;
        let down = dice.one_in(2);
        if down {
            sink.stop().await;
        }
        // Nothing may be written down as complete from here on: what is killed then may repeat all of it.
        let before = sink.snapshot().spans;
        let refusals = load.progress().refusals();
        let refused = async || {
            // What is done gives room again.
            let filled = disk.fill();
            filled.is_ok() && load.progress().refusals() > refusals
        };
        ensure!(
            wait_until(refused, PATIENCE).await,
            "nobody is refused: {}; {}",
            load.progress(),
            agent.log()
        );
        tokio::time::sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        if dice.one_in(3) {
            agent.kill([&sink]).await?;
            doubt += sink.snapshot().spans - before;
            agent.start()?;
            agent.ready().await?;
        }
        disk.free()?;
        if down {
            sink.restart().await?;
        }
    }
    progress(&load, &agent).await?;
    let refusals = load.progress().refusals();
    let mut outcome = finish(load, &sink, &mut agent).await?;
    outcome.twice_bound += doubt;
    outcome.note(format!("{refusals} refusals"));
    Ok(outcome)
}
