//! A rolling update of three gateways: one more than needed, never one less.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;
use watershed_testkit::LoadReport;

use crate::agent::PATIENCE;
use crate::fleet::{Fleet, Plan};
use crate::outcome::Outcome;
use crate::proxy::Proxy;
use crate::scenario::{Pace, Run, Scenario};
use crate::topology::Custody;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "rolling",
    about: "three gateways are replaced as a Deployment with maxSurge 1 and maxUnavailable 0 does it, behind two agents and \
            behind a service's address; a new one is ready before an old one hears SIGTERM, before or after the agents \
            hear that it goes. Nobody at an agent notices; at the service's address there is nothing that a retry does \
            not cover, nobody is left without a connection, and no journal is left behind. Rounds: updates; seconds: the longest \
            time between two steps",
    custodies: &[Custody::Journal, Custody::Delivered],
    short: Pace { rounds: 1, seconds: 1.0, rate: 2_000.0 },
    long: Pace { rounds: 10, seconds: 4.0, rate: 20_000.0 },
    run: |run| Box::pin(rolling(run)),
};

async fn rolling(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let mut fleet = Fleet::start(run, Plan::default()).await?;
    let load = fleet.load();
    let service = Proxy::start(fleet.driver(), endpoints(&fleet)).await?;
    let direct = run.loader_at(service.address).open(2, 64, run.pace.rate / 4.0).start();
    let mut outcome = Outcome::default();
    for _ in 0..3 * run.pace.rounds {
        load.goes_on(1).await?;
        sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        let old = *fleet.places().first().context("no gateway")?;
        fleet.grow(1).await?;
        service.lead_to(endpoints(&fleet));
        fleet.settled().await?;
        service.lead_to(endpoints(&fleet).into_iter().skip(1).collect());
        // Who hears first that a pod goes, itself or those who send to it, is a matter of chance.
        let left = fleet.retire(old, dice.one_in(2), &mut outcome).await?;
        outcome.expect(left == 0, || format!("{left} records are left on the disk of one that has gone"));
    }
    fleet.census(1).await?.judge(&mut outcome);
    direct.stop();
    let direct = direct.finish().await;
    outcome
        .expect(fleet.has_arrived(&direct, PATIENCE).await, || format!("not all arrives: {}", fleet.logs()));
    outcome.expect(direct.connect_errors == 0, || format!("nobody took a connection: {direct}"));
    outcome.expect(direct.refused_for_good() == 0, || format!("refused for good: {direct}"));
    outcome.note(format!("at the service's address: {direct}"));
    outcome.add(Outcome::between(&direct, &fleet.arrived()));
    let (load, own) = fleet.finish(load, PATIENCE).await?;
    outcome.expect(errors(&load) == 0, || format!("somebody at an agent noticed: {load}"));
    outcome.add(own);
    Ok(outcome)
}

fn errors(load: &LoadReport) -> u64 {
    load.refusals() + load.timeouts + load.transport_errors + load.connect_errors
}

/// What a service leads to.
fn endpoints(fleet: &Fleet) -> Vec<SocketAddr> {
    fleet.listed().map(|gateway| gateway.process.ports.grpc).collect()
}
