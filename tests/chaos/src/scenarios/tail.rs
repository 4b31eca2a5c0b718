//! kill -9 of a gateway that samples whole traces behind a journal.

use std::time::Duration;

use watershed_testkit::traces::sampled;
use watershed_testkit::wait_until;

use crate::agent::PATIENCE;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, progress, sink};
use crate::topology::{Branch, Custody};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "tail_sampling",
    about: "kill -9 of a gateway that samples traces behind its journal; every failed and slow trace is there, no trace is \
            there in part, whatever was decided before a death. Seconds: the longest life",
    custodies: &[Custody::Journal],
    short: Pace { rounds: 5, seconds: 1.5, rate: 4_000.0 },
    long: Pace { rounds: 20, seconds: 4.0, rate: 20_000.0 },
    run: |run| Box::pin(kills(run)),
};

/// What it lets through hangs on the moment it is asked in, and so on what is remembered of the answer.
const RATE: &str = r#"type = "rate_limiting", rate_limiting = { spans_per_second = 200 }"#;

/// A processor that keeps whole traces: those that failed or are slow, and of the others what this policy does.
pub(super) fn sampler(others: &str) -> (&'static str, String) {
    let settings = format!(
        r#"
decision_wait = "3s"
num_traces = 1_000_000
policies = [
  {{ name = "failed", type = "status_code", status_code = {{ status_codes = ["ERROR"] }} }},
  {{ name = "slow", type = "latency", latency = {{ threshold_ms = 1000 }} }},
  {{ name = "some", {others} }},
]
"#
    );
    ("tail_sampling", settings)
}

async fn kills(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let sink = sink().await?;
    let mut topology = run.topology([Branch::new("sink", sink.addr())]);
    topology.processors.push(sampler(RATE));
    let mut agent = crate::agent::Agent::new(&run.program, &topology, None)?.started().await?;
    let load = run.loader(&agent).traces().start();
    for _ in 0..run.pace.rounds {
        agent.ready().await?;
        progress(&load, &agent).await?;
        tokio::time::sleep(dice.time(Duration::ZERO..run.pace.lasts())).await;
        agent.kill_now()?;
        agent.start()?;
    }
    agent.ready().await?;
    progress(&load, &agent).await?;
    load.stop();
    let load = load.finish().await;
    let arrived = || sampled(&load, &sink.snapshot());
    wait_until(async || arrived().is_right() && sink.snapshot().spans > 0, PATIENCE).await;
    // What is only there in part would show now, as would what is decided last.
    let quiet = async || {
        let before = sink.snapshot().spans;
        tokio::time::sleep(Duration::from_secs(5)).await;
        sink.snapshot().spans == before
    };
    wait_until(quiet, PATIENCE).await;
    let (code, took) = agent.terminate().await?;
    let mut outcome = Outcome::default();
    let kept = arrived();
    outcome.balance.acknowledged = load.acknowledged.len();
    outcome.balance.arrived = sink.snapshot().arrived();
    outcome.note(kept.to_string());
    outcome.expect(load.unresolved == 0, || format!("{} requests without an end: {load}", load.unresolved));
    outcome.expect(kept.is_right(), || format!("{kept}; {}", agent.log()));
    outcome.expect(kept.others > 0, || "the rate has let nothing through".into());
    outcome.expect(kept.others < kept.traces / 2, || format!("the rate has let all through: {kept}"));
    outcome
        .expect(code == Some(0), || format!("it drained to code {code:?} after {took:?}: {}", agent.log()));
    Ok(outcome)
}
