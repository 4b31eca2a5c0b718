//! Ten times more than the destination takes, over a hundred connections.

use watershed_testkit::{Answer, Loader};

use crate::agent::PATIENCE;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, finish, sink};
use crate::topology::{Branch, Custody, LIMIT_MIB};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "overload",
    about: "the destination takes a tenth of what a hundred connections offer; every refusal is retryable, resident \
            memory stays within the limit and 64 MiB. gRPC and HTTP by turns. Seconds: how long",
    custodies: &[Custody::Accepted, Custody::Journal, Custody::Queues],
    short: Pace { rounds: 2, seconds: 3.0, rate: 200_000.0 },
    long: Pace { rounds: 2, seconds: 20.0, rate: 300_000.0 },
    run: |run| Box::pin(all(run)),
};

const CONNECTIONS: usize = 100;

/// Requests that wait for an answer at once.
const IN_FLIGHT: usize = 4_000;

/// What a process may need beside its budget.
const BESIDE_MIB: u64 = 64;

async fn all(run: &Run) -> anyhow::Result<Outcome> {
    let mut total = Outcome::default();
    for round in 0..run.pace.rounds {
        total.add(overload(run, round % 2 == 1).await?);
    }
    Ok(total)
}

async fn overload(run: &Run, http: bool) -> anyhow::Result<Outcome> {
    let sink = sink().await?;
    sink.answer(Answer::RateLimited { spans_per_sec: (run.pace.rate / 10.0) as u64 });
    // The memory is to be what bounds it; small batches, so that what is on the wire is soon through.
    let mut branch = Branch::new("sink", sink.addr())
        .timeout_ms(60_000)
        .queue("batch = { flush_timeout = \"50ms\", min_size = 1_000, max_size = 1_000 }");
    if !run.custody.is_stored() {
        branch = branch.queue("queue_size = 1_000_000");
    }
    let mut agent = run.agent([branch]).await?;
    let to = if http { agent.ports.http } else { agent.ports.grpc };
    let loader = Loader::new(to).duration(run.pace.lasts()).grace(PATIENCE);
    // Over HTTP each request in flight has a connection of its own.
    let load = if http {
        loader.http().open(CONNECTIONS, CONNECTIONS, run.pace.rate)
    } else {
        loader.open(CONNECTIONS, IN_FLIGHT, run.pace.rate)
    };
    let load = load.start();
    tokio::time::sleep(run.pace.lasts()).await;
    sink.answer(Answer::Ok);
    let refusals = load.progress().refusals();
    let peak = agent.peak_rss()?;
    let mut outcome = finish(load, &sink, &mut agent).await?;
    outcome.expect(peak <= (LIMIT_MIB + BESIDE_MIB) << 20, || {
        format!("{} MiB resident of {LIMIT_MIB}", peak >> 20)
    });
    // What is stored needs no memory.
    outcome.expect(run.custody.is_stored() || refusals > 0, || "this was no overload".into());
    let protocol = if http { "HTTP" } else { "gRPC" };
    outcome.note(format!("{protocol}: {} MiB resident of {LIMIT_MIB}; {refusals} refusals", peak >> 20));
    Ok(outcome)
}
