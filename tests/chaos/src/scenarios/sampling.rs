//! Whole traces sampled by one gateway, and by three that agents share them out between.

use anyhow::ensure;
use watershed_testkit::traces::sampled;
use watershed_testkit::{LoadReport, SeqSet, wait_until};

use super::tail::sampler;
use crate::agent::PATIENCE;
use crate::fleet::{Fleet, Plan};
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario};
use crate::topology::{Custody, Topology};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sampling",
    about: "the same traces, half of each through either of two agents, to one gateway that samples them whole and to three; \
            both keep the same spans. Rounds: thousands of traces",
    custodies: &[Custody::Journal],
    short: Pace { rounds: 10, seconds: 0.0, rate: 10_000.0 },
    long: Pace { rounds: 200, seconds: 0.0, rate: 20_000.0 },
    run: |run| Box::pin(sampling(run)),
};

/// Does not hang on when it is asked, or on what else there is.
const SHARE: &str = r#"type = "probabilistic", probabilistic = { sampling_percentage = 10 }"#;

async fn sampling(run: &Run) -> anyhow::Result<Outcome> {
    let (one, load) = kept(run, 1).await?;
    let (three, _) = kept(run, 3).await?;
    let mut outcome = Outcome::default();
    outcome.balance.acknowledged = load.acknowledged.len();
    outcome.balance.arrived = three.len();
    let (missing, more) = (one.missing_from(&three), three.missing_from(&one));
    outcome.expect(missing == 0 && more == 0, || {
        format!("of {} spans three gateways lack {missing}, and have {more} more", one.len())
    });
    outcome.note(format!("{} of {} spans kept, by one as by three", one.len(), load.acknowledged.len()));
    Ok(outcome)
}

/// What so many gateways keep of the run of this seed.
async fn kept(run: &Run, gateways: usize) -> anyhow::Result<(SeqSet, LoadReport)> {
    let samples = |topology: &mut Topology| topology.processors.push(sampler(SHARE));
    let plan = Plan { gateways, gateway: Box::new(samples), ..Plan::default() };
    let mut fleet = Fleet::start(run, plan).await?;
    let load = fleet.send(run.seed, run.pace.rounds.into()).await;
    ensure!(load.refused_for_good() == 0 && load.unresolved == 0, "{load}");
    let held = "otelcol_processor_tail_sampling_sampling_traces_on_memory";
    let decided = async || {
        for gateway in &fleet.gateways {
            if !gateway.process.metrics().await.is_ok_and(|metrics| metrics.sum(held) == 0) {
                return false;
            }
        }
        sampled(&load, &fleet.arrived()).is_right()
    };
    ensure!(wait_until(decided, PATIENCE).await, "it is never decided: {}", fleet.logs());
    let mut outcome = Outcome::default();
    fleet.end(&mut outcome).await?;
    ensure!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    let arrived = fleet.arrived();
    let kept = sampled(&load, &arrived);
    ensure!(kept.is_right() && kept.others > 0, "{kept}");
    let seen = arrived.runs.get(&load.run).map(|run| run.seen.clone());
    Ok((seen.unwrap_or_default(), load))
}
