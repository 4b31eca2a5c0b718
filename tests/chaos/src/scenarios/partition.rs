//! Agents that reach no gateway, for longer than memory lasts, and what comes when they do again.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::census::Load;
use crate::fleet::{Fleet, Plan};
use crate::net::Trouble;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario};
use crate::topology::{Custody, SMALL_BATCHES, Topology};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition",
    about: "every packet between two agents and three gateways is lost, each on a machine of its own (network namespaces); \
            the agents go on taking, within their memory and their disk, and then get rid of it at twice the usual rate at the \
            most, as each is told (every second round: as fast as it goes). Seconds: how long",
    custodies: &[Custody::Journal, Custody::Queues],
    short: Pace { rounds: 1, seconds: 10.0, rate: 4_000.0 },
    long: Pace { rounds: 2, seconds: 600.0, rate: 20_000.0 },
    run: |run| Box::pin(partitions(run)),
};

/// The memory of an agent, and what it may need beside it.
const LIMIT_MIB: u64 = 64;
const BESIDE_MIB: u64 = 64;

/// What an agent may have on disk, as a setting and in bytes.
const MAX_SIZE: (&str, u64) = ("1GiB", 1 << 30);

/// How much more than usual gateways may be sent.
const PEAK: f64 = 2.0;

async fn partitions(run: &Run) -> anyhow::Result<Outcome> {
    let mut total = Outcome::default();
    for round in 0..run.pace.rounds {
        total.add(partition(run, round % 2 == 0).await?);
    }
    Ok(total)
}

async fn partition(run: &Run, limited: bool) -> anyhow::Result<Outcome> {
    let mut fleet = Fleet::start(run, plan(run, limited)).await?;
    let load = fleet.load();
    let mut watch = Watch::default();
    // The usual, once everybody is warm.
    load.goes_on(2 * run.pace.rate as u64).await?;
    watch.over(&fleet, Duration::from_secs(3)).await?;
    let usual = std::mem::take(&mut watch.peak);

    let gateways: Vec<_> = fleet.gateways.iter().map(|gateway| gateway.process.ports.grpc.ip()).collect();
    for machine in fleet.agents.iter().filter_map(|agent| agent.machine()) {
        gateways.iter().try_for_each(|gateway| machine.suffer(Trouble::Drop(*gateway)))?;
    }
    let before = load.acknowledged();
    watch.over(&fleet, run.pace.lasts()).await?;
    let taken = load.acknowledged() - before;
    let refused = load.refusals();
    watch.peak = 0.0;
    for machine in fleet.agents.iter().filter_map(|agent| agent.machine()) {
        machine.heal()?;
    }
    let healed = Instant::now();
    // Until they are less than a second behind.
    while behind(&fleet, &load) > run.pace.rate as u64 {
        watch.over(&fleet, Duration::from_secs(1)).await?;
        anyhow::ensure!(
            healed.elapsed() < 4 * run.pace.lasts() + Duration::from_secs(60),
            "{}",
            fleet.logs()
        );
    }
    let recovered = healed.elapsed();
    let peak = watch.peak;

    let mut outcome = Outcome::default();
    let mut resident = 0;
    for agent in &fleet.agents {
        resident = resident.max(agent.peak_rss()? >> 20);
    }
    outcome.expect(resident <= LIMIT_MIB + BESIDE_MIB, || format!("{resident} MiB resident of {LIMIT_MIB}"));
    outcome.expect(watch.disk <= MAX_SIZE.1, || format!("{} bytes on the disk of one agent", watch.disk));
    outcome.expect(taken > 0, || "nothing was taken meanwhile".into());
    outcome.expect(!limited || peak <= PEAK * run.pace.rate, || {
        format!("gateways were sent {peak:.0} spans/s, where {} are usual", run.pace.rate)
    });
    outcome.note(format!(
        "{}: {taken} spans taken in {:.0} s without a gateway, {refused} requests refused; {resident} MiB resident of \
         {LIMIT_MIB}, {} MiB on disk at the most; usual {usual:.0} spans/s, afterwards {peak:.0} at the most; caught up in {recovered:.1?}",
        if limited { "at a rate of its own" } else { "as fast as it goes" },
        run.pace.seconds,
        watch.disk >> 20,
    ));
    fleet.census(1).await?.judge(&mut outcome);
    outcome.add(fleet.finish(load, 2 * run.pace.lasts() + Duration::from_secs(60)).await?.1);
    Ok(outcome)
}

fn plan(run: &Run, limited: bool) -> Plan {
    // Half of the load to each agent; the rest is for what is under way when a second is looked at.
    let most = ((PEAK - 0.5) * run.pace.rate / 2.0) as u64;
    let queue = if limited { format!("items_per_second = {most}") } else { String::new() };
    let agent = |topology: &mut Topology| {
        topology.merges = false;
        topology.limit_mib = LIMIT_MIB;
        topology.max_size = MAX_SIZE.0;
        topology.compression = "none";
    };
    Plan {
        queue: format!("{SMALL_BATCHES}\n{queue}"),
        agent: Box::new(agent),
        machines: true,
        timeout_ms: 2_000,
        ..Plan::default()
    }
}

fn behind(fleet: &Fleet, load: &Load) -> u64 {
    let arrived = fleet.arrived().runs.get(&load.run()).map_or(0, |run| run.seen.len());
    load.acknowledged().saturating_sub(arrived)
}

/// What is looked at all the time.
#[derive(Default)]
struct Watch {
    /// When gateways had taken how much, over the last second.
    taken: VecDeque<(Instant, u64)>,
    /// The most that they took in a second.
    peak: f64,
    /// The most bytes on the disk of one agent.
    disk: u64,
}

impl Watch {
    async fn over(&mut self, fleet: &Fleet, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(Duration::from_millis(200)).await;
            let mut taken = 0;
            for gateway in &fleet.gateways {
                taken += gateway.process.metrics().await?.sum("otelcol_receiver_accepted_spans");
            }
            self.took(Instant::now(), taken);
            for agent in &fleet.agents {
                self.disk = self.disk.max(size(&agent.data()));
            }
        }
        Ok(())
    }

    fn took(&mut self, now: Instant, taken: u64) {
        self.taken.push_back((now, taken));
        // The oldest that is a second old or more.
        while self.taken.get(1).is_some_and(|(at, _)| now - *at >= Duration::from_secs(1)) {
            self.taken.pop_front();
        }
        if let Some((at, before)) = self.taken.front().filter(|(at, _)| now - *at >= Duration::from_secs(1)) {
            self.peak = self.peak.max((taken - before) as f64 / (now - *at).as_secs_f64());
        }
    }
}

/// Bytes of all files below a directory; what goes meanwhile counts for nothing.
fn size(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => size(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}
