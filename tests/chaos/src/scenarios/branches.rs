//! Three branches: one dead, one slow, one healthy. The healthy one must not notice.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;
use watershed_testkit::{Answer, LoadReport, Sink, verdict, wait_until};

use crate::agent::{Agent, PATIENCE};
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, sink};
use crate::topology::{Branch, Custody, LIMIT_MIB};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "branches",
    about: "of three branches one is dead and one slow (300 ms); the third gets everything at full rate and exactly \
            once. In memory the others go without, counted; from disk they get it later, across a kill -9, and it no \
            second time. Seconds: how long the load lasts",
    custodies: &[Custody::Accepted, Custody::Queues, Custody::Journal],
    short: Pace { rounds: 1, seconds: 4.0, rate: 4_000.0 },
    long: Pace { rounds: 1, seconds: 60.0, rate: 40_000.0 },
    run: |run| Box::pin(branches(run)),
};

const SLOW: Duration = Duration::from_millis(300);

/// How long after the load's last answer the healthy branch may still lack something.
const BEHIND: Duration = Duration::from_secs(1);

/// One part in so many may come after the end of the load: the loader shares the machine.
const LATE: u64 = 10;

/// Requests that the queue of the dead branch holds.
const DEAD_HOLDS: u64 = 50;

async fn branches(run: &Run) -> anyhow::Result<Outcome> {
    let (healthy, slow, dead) = (sink().await?, sink().await?, sink().await?);
    slow.answer(Answer::Slow(SLOW));
    dead.stop().await;
    let branch = |name, sink: &Sink| Branch::new(name, sink.addr());
    let (healthy_branch, slow_branch, dead_branch) = if run.custody.is_stored() {
        (branch("healthy", &healthy), branch("slow", &slow), branch("dead", &dead))
    } else {
        let dropping = |name, sink| {
            branch(name, sink)
                .queue("required = false")
                .queue("on_full = \"drop\"")
                .queue("sizer = \"items\"")
        };
        (
            branch("healthy", &healthy).queue("required = true"),
            dropping("slow", &slow).queue("queue_size = 500"),
            dropping("dead", &dead).queue("queue_size = 5_000"),
        )
    };
    let ids = [slow_branch.id(), dead_branch.id()];
    let mut agent = run.agent([healthy_branch, slow_branch, dead_branch]).await?;

    let load =
        run.loader(&agent).open(8, 256, run.pace.rate).duration(run.pace.lasts()).start().finish().await;
    let answered = Instant::now();
    let exact = healthy.settle(&load, PATIENCE).await;
    let behind = answered.elapsed();
    let mut outcome = Outcome::of(&load, &healthy);
    outcome.expect(exact.is_exact(), || format!("the healthy branch: {exact}"));
    at_full_rate(run, &load, behind, &mut outcome);
    within_its_share(&agent, &mut outcome).await?;

    if run.custody.is_stored() {
        after_a_kill(run, &load, &mut agent, [&healthy, &slow, &dead], &mut outcome).await?;
    } else {
        gone_without(&load, &agent, &ids, &slow, &mut outcome).await?;
    }
    Ok(outcome)
}

/// The load was taken as it was offered, and passed on as it came.
fn at_full_rate(run: &Run, load: &LoadReport, behind: Duration, outcome: &mut Outcome) {
    let offered = (run.pace.rate * run.pace.seconds) as u64;
    let taken = load.acknowledged.len();
    outcome.expect(taken >= offered - offered / LATE, || {
        format!("{taken} of {offered} spans were taken: {load}")
    });
    outcome.expect(load.refusals() == 0, || format!("somebody was refused: {load}"));
    outcome.expect(behind <= BEHIND, || format!("the healthy branch was {behind:?} behind"));
    outcome.note(format!("healthy: {behind:.0?} behind; {load}"));
}

async fn within_its_share(agent: &Agent, outcome: &mut Outcome) -> anyhow::Result<()> {
    let metrics = agent.metrics().await?;
    let (peak, budget) = (metrics.sum("watershed_budget_peak_bytes"), metrics.sum("watershed_budget_bytes"));
    ensure!(budget > 0, "no watershed_budget_bytes");
    outcome.expect(peak <= budget, || format!("{peak} bytes of a budget of {budget}"));
    let resident = agent.peak_rss()? >> 20;
    outcome.expect(resident <= LIMIT_MIB + 64, || format!("{resident} MiB resident of {LIMIT_MIB}"));
    outcome.note(format!(
        "budget: {} of {} MiB at the most; {resident} MiB resident",
        peak >> 20,
        budget >> 20
    ));
    Ok(())
}

/// What is owed after a crash is owed to those who have not got it, and once there is nobody dead any more, all have.
async fn after_a_kill(
    run: &Run,
    load: &LoadReport,
    agent: &mut Agent,
    sinks: [&Sink; 3],
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let doubts = agent.kill(sinks).await?;
    let [_, _, dead] = sinks;
    dead.restart().await?;
    agent.start()?;
    agent.ready().await?;
    for sink in sinks {
        sink.settle(load, PATIENCE + 2 * run.pace.lasts()).await;
    }
    let (code, took) = agent.terminate().await?;
    outcome.expect(code == Some(0), || format!("it drained to code {code:?} after {took:?}"));
    for ((name, sink), doubt) in ["healthy", "slow", "dead"].into_iter().zip(sinks).zip(doubts) {
        let balance = verdict(load, &sink.snapshot());
        let holds = balance.nothing_lost() && balance.twice <= doubt;
        outcome.expect(holds, || format!("the {name} branch: {balance}, {doubt} copies explained"));
    }
    outcome.balance = verdict(load, &sinks[0].snapshot());
    outcome.twice_bound += doubts[0];
    Ok(())
}

/// What the slow and the dead branch did not get is counted.
async fn gone_without(
    load: &LoadReport,
    agent: &Agent,
    [slow_id, dead_id]: &[String; 2],
    slow: &Sink,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let acknowledged = load.acknowledged.len();
    let dropped = async |id: &str| -> anyhow::Result<u64> {
        Ok(agent.metrics().await?.sum(&format!("otelcol_exporter_enqueue_failed_spans{{exporter=\"{id}\"")))
    };
    let slow_dropped = dropped(slow_id).await?;
    let complete = wait_until(async || slow.arrived() + slow_dropped >= acknowledged, PATIENCE).await;
    let arrived = slow.arrived();
    outcome.expect(complete && arrived + slow_dropped == acknowledged, || {
        format!("slow: {arrived} arrived and {slow_dropped} dropped, of {acknowledged}")
    });
    let dead_dropped = dropped(dead_id).await?;
    let held = acknowledged.saturating_sub(dead_dropped);
    outcome.expect(dead_dropped <= acknowledged && held <= DEAD_HOLDS * load.spans_per_request, || {
        format!("dead: {dead_dropped} dropped of {acknowledged}")
    });
    outcome.note(format!("slow: {slow_dropped} dropped; dead: {dead_dropped} dropped"));
    Ok(())
}
