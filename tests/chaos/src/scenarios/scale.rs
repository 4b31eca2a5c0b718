//! From three gateways to ten and back.

use std::time::Duration;

use tokio::time::sleep;

use crate::agent::PATIENCE;
use crate::census::Census;
use crate::fleet::{Fleet, Plan};
use crate::outcome::Outcome;
use crate::ring::Ring;
use crate::scenario::{Pace, Run, Scenario};
use crate::topology::Custody;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "scale",
    about: "three gateways behind two agents become ten, some at a time, and three again, under load; each gets what the \
            ring has for it and leaves nothing on its disk. Rounds: once with the Go collector's ring, once with the \
            even one, and so on; seconds: the longest time between two steps",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Delivered],
    short: Pace { rounds: 1, seconds: 0.2, rate: 1_000.0 },
    long: Pace { rounds: 4, seconds: 5.0, rate: 20_000.0 },
    run: |run| Box::pin(scales(run)),
};

const FEW: usize = 3;
const MANY: usize = 10;

async fn scales(run: &Run) -> anyhow::Result<Outcome> {
    let mut total = Outcome::default();
    for round in 0..run.pace.rounds {
        let ring = if round % 2 == 0 { Ring::Otelcol } else { Ring::Even };
        total.add(scale(run, ring).await?);
    }
    Ok(total)
}

async fn scale(run: &Run, ring: Ring) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let mut outcome = Outcome::default();
    let mut fleet = Fleet::start(run, Plan { gateways: FEW, ring, ..Plan::default() }).await?;
    let load = fleet.load();
    note(&fleet.census(1).await?, ring, &mut outcome);
    while fleet.places().len() < MANY {
        load.goes_on(1).await?;
        sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        let missing = (MANY - fleet.places().len()) as u64;
        fleet.grow(1 + dice.below(missing) as usize).await?;
    }
    note(&fleet.census(2).await?, ring, &mut outcome);
    while fleet.places().len() > FEW {
        load.goes_on(1).await?;
        sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        let Some(leaver) = dice.pick(&fleet.places()).copied() else { break };
        let left = fleet.retire(leaver, dice.one_in(2), &mut outcome).await?;
        outcome.expect(left == 0, || format!("{left} records are left on the disk of one that has gone"));
    }
    note(&fleet.census(1).await?, ring, &mut outcome);
    outcome.add(fleet.finish(load, PATIENCE).await?.1);
    Ok(outcome)
}

fn note(census: &Census, ring: Ring, outcome: &mut Outcome) {
    census.judge(outcome);
    let (most, least) = census.spread;
    let apart = census.shares.iter().map(|(_, had, due)| had.abs_diff(*due)).max().unwrap_or(0);
    outcome.note(format!(
        "{} gateways, ring {}: it has {least:.2} to {most:.2} of an equal share for each; of {} traces each had its part, give or \
         take {apart}",
        census.shares.len(),
        ring.name(),
        census.traces
    ));
}
