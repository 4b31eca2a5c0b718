//! Two agents and three gateways, of which one after the other is killed.

use std::time::Duration;

use tokio::time::sleep;

use crate::agent::PATIENCE;
use crate::fleet::{Fleet, Plan};
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario};
use crate::topology::Custody;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "gateways",
    about: "of three gateways behind two agents one after the other is killed and comes back; it is left out within a \
            second, what waits for it goes to the others, and traces begun after that are whole, and where the ring has \
            them. Seconds: the longest life and the longest absence",
    custodies: &[Custody::Journal, Custody::Queues, Custody::Accepted, Custody::Delivered],
    short: Pace { rounds: 3, seconds: 0.5, rate: 2_000.0 },
    long: Pace { rounds: 30, seconds: 6.0, rate: 20_000.0 },
    run: |run| Box::pin(gateways(run)),
};

/// How soon a gateway that was killed gets nothing any more.
const LEFT_OUT: Duration = Duration::from_secs(1);

async fn gateways(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let mut fleet = Fleet::start(run, Plan::default()).await?;
    let load = fleet.load();
    let mut outcome = Outcome::default();
    let mut slowest = Duration::ZERO;
    for round in 0..run.pace.rounds as usize {
        load.goes_on(1).await?;
        sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        let gateway = round % 3;
        fleet.kill_gateway(gateway, &load).await?;
        let took = fleet.left_out(gateway).await?;
        slowest = slowest.max(took);
        outcome
            .expect(took <= LEFT_OUT, || format!("gateway {gateway} was used for {took:?} after its death"));
        sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        let process = &mut fleet.gateways[gateway].process;
        process.start()?;
        process.ready().await?;
        fleet.census(1).await?.judge(&mut outcome);
    }
    let rerouted = fleet.sum("watershed_loadbalancer_rerouted_items").await?;
    outcome.expect(rerouted > 0, || "nothing that waited for a dead one was counted as re-routed".into());
    outcome.note(format!("left out after {slowest:.0?} at the latest; {rerouted} items re-routed"));
    outcome.add(fleet.finish(load, PATIENCE).await?.1);
    Ok(outcome)
}
