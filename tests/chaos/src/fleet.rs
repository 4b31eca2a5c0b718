//! Agents that share traces out between gateways, each gateway with a sink of its own behind it: so it is known who had
//! what.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use watershed_testkit::traces::{APART, SPANS};
use watershed_testkit::{LoadReport, Loader, Sink, SinkSnapshot, verdict, wait_until};

use crate::agent::{Agent, COMPLETION, PATIENCE};
use crate::census::{Census, Load, split};
use crate::net::{Machine, Net};
use crate::outcome::Outcome;
use crate::proxy::Proxy;
use crate::ring::Ring;
use crate::scenario::Run;
use crate::topology::{Branch, SMALL_BATCH, SMALL_BATCHES, Topology};

/// Agents, to which the load goes by turns.
const AGENTS: usize = 2;

/// What an agent's log says of other backends, of one that is left out, and of one that is used again. Where none works all
/// are used, and with the first that does the others no more.
const CHANGES: [&str; 3] =
    ["the backends have changed", "a backend does not work and is left out", "a backend works again"];

/// What else is to be so in a process.
pub type Setting = Box<dyn Fn(&mut Topology)>;

/// How many of whom, and what is special about them.
pub struct Plan {
    /// Gateways at first.
    pub gateways: usize,
    /// By which agents share traces out.
    pub ring: Ring,
    /// How long an attempt may take that an agent makes.
    pub timeout_ms: u64,
    /// A line for the queues of agents: how they merge.
    pub queue: String,
    /// What else is to be so in an agent.
    pub agent: Setting,
    /// What else is to be so in a gateway.
    pub gateway: Setting,
    /// Whether each has a machine of its own.
    pub machines: bool,
    /// Whether the way to the first gateway leads through a proxy.
    pub far: bool,
}

/// The whole of it. Whoever is left at the end is killed.
pub struct Fleet {
    /// Who takes the load.
    pub agents: Vec<Agent>,
    /// All that ever were.
    pub gateways: Vec<Gateway>,
    /// Copies that blows to processes explain.
    doubt: u64,
    /// Attempts that failed with nobody to say why, of processes that are no more.
    failed: u64,
    /// The run of the last census.
    censuses: u64,
    plan: Plan,
    run: Run,
    home: TempDir,
    net: Option<Net>,
}

/// A gateway, and what came through it.
pub struct Gateway {
    /// The gateway itself.
    pub process: Agent,
    /// Where it sends.
    pub sink: Sink,
    /// The long way to it, if that is how agents reach it.
    pub way: Option<Proxy>,
    /// What agents call it.
    pub name: String,
    /// Whether agents are told of it.
    pub listed: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            gateways: 3,
            ring: Ring::Otelcol,
            timeout_ms: 5_000,
            queue: SMALL_BATCHES.into(),
            agent: Box::new(|_| {}),
            gateway: Box::new(|_| {}),
            machines: false,
            far: false,
        }
    }
}

impl Fleet {
    /// Starts everybody; agents know all gateways.
    pub async fn start(run: &Run, plan: Plan) -> anyhow::Result<Fleet> {
        let net = plan.machines.then(Net::new).transpose()?;
        let gateways = plan.gateways;
        let (run, home) = (run.clone(), tempfile::tempdir()?);
        let mut fleet = Fleet {
            agents: Vec::new(),
            gateways: Vec::new(),
            doubt: 0,
            failed: 0,
            censuses: 0,
            plan,
            run,
            home,
            net,
        };
        fleet.grow(gateways).await?;
        for _ in 0..AGENTS {
            let branch = Branch::listed("gateways", fleet.file(), fleet.plan.ring.name());
            let branch = branch.timeout_ms(fleet.plan.timeout_ms).queue(&fleet.plan.queue);
            let mut topology = fleet.run.topology([branch]);
            (fleet.plan.agent)(&mut topology);
            let machine = fleet.machine()?;
            fleet.agents.push(Agent::on(machine, &fleet.run.program, &topology)?);
        }
        try_join_all(fleet.agents.iter_mut().map(starts)).await?;
        fleet.settled().await?;
        Ok(fleet)
    }

    /// The file that tells agents of gateways.
    fn file(&self) -> PathBuf {
        self.home.path().join("gateways")
    }

    fn machine(&mut self) -> anyhow::Result<Option<Machine>> {
        self.net.as_mut().map(Net::machine).transpose()
    }

    /// Where this process is, for the others.
    pub fn driver(&self) -> IpAddr {
        self.net.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), Net::driver)
    }

    /// So many gateways more, ready before agents are told of them all at once; the place of the first.
    pub async fn grow(&mut self, count: usize) -> anyhow::Result<usize> {
        let first = self.gateways.len();
        for _ in 0..count {
            let sink = Sink::start((self.driver(), 0)).await?;
            let branch = Branch::new("sink", sink.addr()).queue(SMALL_BATCHES);
            let mut topology = Topology::new(self.run.custody.behind(), [branch]);
            topology.shutdown_seconds = PATIENCE.as_secs() / 2;
            topology.leaves = true;
            (self.plan.gateway)(&mut topology);
            let process = Agent::on(self.machine()?, &self.run.program, &topology)?;
            let grpc = process.ports.grpc;
            let way = match self.plan.far && self.gateways.is_empty() {
                true => Some(Proxy::start(self.driver(), vec![grpc]).await?),
                false => None,
            };
            let name = way.as_ref().map_or(grpc, |way| way.address).to_string();
            self.gateways.push(Gateway { process, sink, way, name, listed: true });
        }
        let new = self.gateways.get_mut(first..).unwrap_or_default();
        try_join_all(new.iter_mut().map(|gateway| starts(&mut gateway.process))).await?;
        self.tell()?;
        Ok(first)
    }

    /// Tells agents of a gateway, or that there is none.
    pub fn list(&mut self, gateway: usize, listed: bool) -> anyhow::Result<()> {
        self.gateways[gateway].listed = listed;
        self.tell()
    }

    fn tell(&self) -> anyhow::Result<()> {
        let lines: String = self.listed().map(|gateway| format!("{}\n", gateway.name)).collect();
        let new = self.file().with_extension("new");
        fs::write(&new, lines)?;
        Ok(fs::rename(new, self.file())?)
    }

    /// The gateways that agents are told of.
    pub fn listed(&self) -> impl Iterator<Item = &Gateway> {
        self.gateways.iter().filter(|gateway| gateway.listed)
    }

    /// The places of those.
    pub fn places(&self) -> Vec<usize> {
        (0..self.gateways.len()).filter(|at| self.gateways[*at].listed).collect()
    }

    /// Waits until every agent uses every gateway that it is told of, and no other.
    pub async fn settled(&mut self) -> anyhow::Result<()> {
        for agent in &mut self.agents {
            agent.ready().await?;
        }
        let known = self.listed().count() as u64;
        let settled = async || {
            for agent in &self.agents {
                let Ok(metrics) = agent.metrics().await else { return false };
                let backends = metrics.sum("otelcol_loadbalancer_num_backends");
                let used = metrics.sum("watershed_loadbalancer_backend_used");
                let each = self.listed().all(|gateway| metrics.sum(&used_series(&gateway.name)) == 1);
                if (backends, used) != (known, known) || !each {
                    return false;
                }
            }
            true
        };
        ensure!(wait_until(settled, PATIENCE).await, "agents do not use all gateways: {}", self.logs());
        // Lanes hear of it when they have time to; nothing shows that they have.
        sleep(Duration::from_millis(100)).await;
        Ok(())
    }

    /// Waits until no agent uses this gateway; how long that took.
    pub async fn left_out(&self, gateway: usize) -> anyhow::Result<Duration> {
        let (since, series) = (Instant::now(), used_series(&self.gateways[gateway].name));
        let left_out = async || {
            for agent in &self.agents {
                if !agent.metrics().await.is_ok_and(|metrics| metrics.sum(&series) == 0) {
                    return false;
                }
            }
            true
        };
        ensure!(wait_until(left_out, PATIENCE).await, "it is used for ever: {}", self.logs());
        Ok(since.elapsed())
    }

    /// A sum over the agents.
    pub async fn sum(&self, series: &str) -> anyhow::Result<u64> {
        let mut sum = 0;
        for agent in &self.agents {
            sum += agent.metrics().await?.sum(series);
        }
        Ok(sum)
    }

    /// How often agents have changed their minds about who is there, as they say in their logs: no metric counts those
    /// who come back.
    fn changes(&self) -> usize {
        let logs = self.agents.iter().map(Agent::log);
        logs.map(|log| CHANGES.map(|said| log.matches(said).count()).iter().sum::<usize>()).sum()
    }

    /// A loader of traces for each agent, which number their requests by turns.
    fn loaders(&self, set: impl Fn(Loader) -> Loader) -> Load {
        let of = self.agents.len() as u64;
        let mut run = None;
        let mut parts = Vec::new();
        for (place, agent) in (0..).zip(&self.agents) {
            let mut loader = self.run.loader(agent).traces().in_turn(place, of);
            if let Some(run) = run {
                loader = loader.run_id(run);
            }
            let part = set(loader).start();
            run = Some(part.progress().run);
            parts.push(part);
        }
        Load::of(parts)
    }

    /// A load without an end at the run's rate, half of the spans of each trace to each of two agents.
    pub fn load(&self) -> Load {
        let rate = self.run.pace.rate / self.agents.len() as f64;
        self.loaders(|loader| loader.open(2, 64, rate).timeout(Duration::from_secs(10)))
    }

    /// So many thousand traces of a run through all agents, to the end; what was acknowledged.
    pub async fn send(&self, run: u64, thousands: u64) -> LoadReport {
        let requests = thousands * APART * SPANS / 100 / self.agents.len() as u64;
        self.loaders(|loader| loader.run_id(run).closed(2, 4).requests(requests)).finish().await
    }

    /// Everything that has arrived anywhere.
    pub fn arrived(&self) -> SinkSnapshot {
        let mut arrived = SinkSnapshot::default();
        self.gateways.iter().for_each(|gateway| arrived.join(&gateway.sink.snapshot()));
        arrived
    }

    /// Waits until all that a load was promised has arrived; false if it does not.
    pub async fn has_arrived(&self, load: &LoadReport, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while verdict(load, &self.arrived()).lost > 0 {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// Sends so many thousand traces and looks where each of them is. Nothing may be wrong with anybody.
    pub async fn census(&mut self, thousands: u64) -> anyhow::Result<Census> {
        // An agent may take a gateway for dead that only had no core; then this is no time of peace.
        for _ in 0..5 {
            self.settled().await?;
            let before = self.changes();
            // Who was left out just before that is not counted below, so it has to be back.
            self.settled().await?;
            self.censuses += 1;
            let load = self.send(self.censuses, thousands).await;
            ensure!(load.acknowledged.len() == thousands * APART * SPANS, "not all was acknowledged: {load}");
            ensure!(self.has_arrived(&load, PATIENCE).await, "not all arrives: {}", self.logs());
            if self.changes() == before {
                return Ok(Census::of(&self.gateways, self.plan.ring, load.run, thousands * APART));
            }
        }
        anyhow::bail!("agents change their minds for ever: {}", self.logs())
    }

    /// Does something to processes that makes them send again what they were not yet rid of.
    pub async fn blow(
        &mut self,
        load: &Load,
        strike: impl AsyncFnOnce(&mut Fleet) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let run = load.run();
        let arrived = self.arrived().runs.get(&run).map_or(0, |run| run.seen.len());
        // What arrived before this is written down as complete.
        sleep(COMPLETION).await;
        strike(self).await?;
        self.doubt += load.begun() - arrived;
        Ok(())
    }

    /// kill -9 of a gateway.
    pub async fn kill_gateway(&mut self, gateway: usize, load: &Load) -> anyhow::Result<()> {
        self.failed += failed(&self.gateways[gateway].process).await;
        self.blow(load, async |fleet| fleet.gateways[gateway].process.kill_now()).await
    }

    /// kill -9 of an agent.
    pub async fn kill_agent(&mut self, agent: usize, load: &Load) -> anyhow::Result<()> {
        self.failed += failed(&self.agents[agent]).await;
        self.blow(load, async |fleet| fleet.agents[agent].kill_now()).await
    }

    /// Has a gateway end, before or after agents hear that it goes; what it leaves on its disk, in records.
    pub async fn retire(
        &mut self,
        gateway: usize,
        told_before: bool,
        outcome: &mut Outcome,
    ) -> anyhow::Result<u64> {
        self.failed += failed(&self.gateways[gateway].process).await;
        if told_before {
            self.list(gateway, false)?;
        }
        self.gateways[gateway].process.signal("TERM")?;
        self.list(gateway, false)?;
        let process = &mut self.gateways[gateway].process;
        let left = drained(process, outcome).await?;
        if let (Some(net), Some(machine)) = (&mut self.net, process.machine()) {
            net.spare(machine.clone());
        }
        Ok(left)
    }

    /// Sends on what a gateway that has ended has left on its disk, as an operator would.
    pub fn empty(&mut self, gateway: usize) -> anyhow::Result<()> {
        let Gateway { process, sink, .. } = &self.gateways[gateway];
        // What its last attempts brought is in doubt. A record is what an agent has sent at once.
        self.doubt += process.owed()? * SMALL_BATCH;
        process.empty(sink.addr())
    }

    /// The end: all that was acknowledged arrives, and everybody drains, the agents first.
    pub async fn finish(mut self, load: Load, patience: Duration) -> anyhow::Result<(LoadReport, Outcome)> {
        self.settled().await?;
        load.stop();
        let load = load.finish().await;
        let whole = self.has_arrived(&load, patience).await;
        let mut outcome = Outcome::default();
        outcome.expect(load.refused_for_good() == 0, || format!("refused for good: {load}"));
        outcome.expect(whole, || format!("not all arrives: {}", self.logs()));
        self.end(&mut outcome).await?;
        outcome.add(Outcome::between(&load, &self.arrived()));
        outcome.twice_bound += self.failed * SMALL_BATCH + self.doubt;
        let (split, traces) = split(&self.gateways, load.run);
        outcome.note(format!("{split} of {traces} traces came apart while gateways came and went"));
        Ok((load, outcome))
    }

    /// Has everybody drain, the agents first.
    pub async fn end(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let gateways = self.gateways.iter_mut().map(|gateway| &mut gateway.process);
        for process in self.agents.iter_mut().chain(gateways).filter(|process| process.is_alive()) {
            self.failed += failed(process).await;
            process.signal("TERM")?;
            let left = drained(process, outcome).await?;
            outcome
                .expect(left == 0, || format!("{left} records are left on the disk of one that has drained"));
        }
        Ok(())
    }

    /// What everybody has logged.
    pub fn logs(&self) -> String {
        let gateways = self.gateways.iter().map(|gateway| (gateway.name.clone(), gateway.process.log()));
        let agents =
            (0..).zip(&self.agents).map(|(at, agent): (u32, _)| (format!("agent {at}"), agent.log()));
        agents.chain(gateways).map(|(name, log)| format!("\n{name}:\n{}", tail(&log))).collect()
    }
}

/// Attempts of a process that failed. What does not answer has none that are known of.
async fn failed(process: &Agent) -> u64 {
    let Ok(metrics) = process.metrics().await else { return 0 };
    let balanced = metrics.sum_where("otelcol_loadbalancer_backend_outcome", "success=\"false\"");
    let sent = metrics.sum("watershed_exporter_retries{exporter=\"otlp/sink\"");
    balanced + sent
}

async fn starts(process: &mut Agent) -> anyhow::Result<()> {
    process.start()?;
    process.ready().await
}

/// The end of one that was told to, and what it leaves on its disk, in records.
async fn drained(process: &mut Agent, outcome: &mut Outcome) -> anyhow::Result<u64> {
    let (code, took) = process.ended().await?;
    let left = process.owed()?;
    // Who was to leave nothing and does says so.
    outcome.expect(code == Some(0) || (left > 0 && code == Some(3)), || {
        format!("it drained to code {code:?} after {took:?}, {left} records left: {}", tail(&process.log()))
    });
    Ok(left)
}

fn used_series(name: &str) -> String {
    format!("watershed_loadbalancer_backend_used{{exporter=\"load_balancing/gateways\",endpoint=\"{name}\"}}")
}

fn tail(log: &str) -> &str {
    let from = log.char_indices().rev().nth(3_000).map_or(0, |(at, _)| at);
    &log[from..]
}
