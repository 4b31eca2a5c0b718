//! SIGTERM while the destination hangs or is gone.

use std::time::Duration;

use watershed_testkit::Answer;

use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, finish, progress, sink};
use crate::topology::{Branch, Custody, SHUTDOWN_SECONDS};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "shutdown",
    about: "SIGTERM under load while the destination hangs or is gone; it ends within its deadline, and everything is \
            there after the restart. Seconds: how long there is no destination before",
    custodies: &[Custody::Queues, Custody::Journal, Custody::Delivered],
    short: Pace { rounds: 2, seconds: 0.3, rate: 1_000.0 },
    long: Pace { rounds: 20, seconds: 1.0, rate: 5_000.0 },
    run: |run| Box::pin(shutdown(run)),
};

async fn shutdown(run: &Run) -> anyhow::Result<Outcome> {
    let sink = sink().await?;
    let mut agent = run.agent([Branch::new("sink", sink.addr())]).await?;
    let load = run.loader(&agent).start();
    let (mut ends, mut doubt) = (Vec::new(), 0);
    for round in 0..run.pace.rounds {
        progress(&load, &agent).await?;
        // What it took and whose "ok" it could not give any more comes again.
        let before = sink.snapshot().spans;
        if round % 2 == 0 {
            sink.answer(Answer::Hang);
        } else {
            sink.stop().await;
        }
        tokio::time::sleep(run.pace.lasts()).await;
        ends.push(agent.terminate().await?);
        doubt += sink.snapshot().spans - before;
        sink.answer(Answer::Ok);
        sink.restart().await?;
        agent.start()?;
        agent.ready().await?;
    }
    progress(&load, &agent).await?;
    let mut outcome = finish(load, &sink, &mut agent).await?;
    outcome.twice_bound += doubt;
    let longest = ends.iter().map(|(_, took)| *took).max().unwrap_or_default();
    outcome.note(format!("it ended after {:.1} s at the most", longest.as_secs_f64()));
    for (code, took) in ends {
        let in_time = took <= Duration::from_secs(SHUTDOWN_SECONDS + 2);
        outcome.expect(in_time && matches!(code, Some(0 | 3)), || {
            format!("it ended with {code:?} after {took:?}")
        });
    }
    Ok(outcome)
}
