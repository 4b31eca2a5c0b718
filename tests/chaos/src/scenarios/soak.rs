//! Everything at once, as it falls.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use watershed_testkit::Answer;

use crate::agent::{Agent, PATIENCE};
use crate::census::Load;
use crate::dice::Dice;
use crate::fleet::{Fleet, Plan};
use crate::net::Trouble;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, Skipped};
use crate::topology::Custody;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "soak",
    about: "two agents and three to six gateways, and up to three faults at a time: kills and stops of agents and gateways, \
            destinations that are gone or answer badly, a long way, and where each can have a machine of its own (network \
            namespaces) lost packets, narrow lines, refused connections and pulled cables; meanwhile gateways come and go, and \
            who runs reloads. Seconds: how long",
    custodies: &[Custody::Journal, Custody::Queues],
    short: Pace { rounds: 1, seconds: 60.0, rate: 1_000.0 },
    long: Pace { rounds: 1, seconds: 3600.0, rate: 5_000.0 },
    run: |run| Box::pin(soak(run)),
};

/// Faults at a time.
const AT_ONCE: usize = 3;

/// Gateways at the least and at the most.
const GATEWAYS: (usize, usize) = (3, 6);

/// Somebody whom something befalls: one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Agent(usize),
    Gateway(usize),
}

/// What ends after a while.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Killed,
    Stopped,
    /// What is behind the gateway is gone.
    NoSink,
    /// It answers, in some way.
    BadSink,
    LongWay,
    Network(Trouble),
}

/// What does not.
#[derive(Clone, Copy, Debug)]
enum Change {
    Join,
    Leave,
    Reload,
}

struct Soak {
    fleet: Fleet,
    dice: Dice,
    under_way: Vec<(Instant, Victim, Fault)>,
    /// How often what happened.
    counts: BTreeMap<&'static str, u64>,
}

async fn soak(run: &Run) -> anyhow::Result<Outcome> {
    let plan = |machines| Plan { machines, far: true, timeout_ms: 2_000, ..Plan::default() };
    let mut outcome = Outcome::default();
    let fleet = match Fleet::start(run, plan(true)).await {
        Err(error) if error.is::<Skipped>() => {
            outcome.note(format!("without faults of the network: {error}"));
            Fleet::start(run, plan(false)).await?
        }
        started => started?,
    };
    let load = fleet.load();
    let mut soak = Soak { fleet, dice: run.dice(), under_way: Vec::new(), counts: BTreeMap::new() };
    let end = Instant::now() + run.pace.lasts();
    while Instant::now() < end {
        sleep(soak.dice.time(Duration::from_millis(50)..Duration::from_millis(1_000))).await;
        soak.cure(Instant::now()).await?;
        if soak.dice.one_in(4) {
            soak.change(&mut outcome).await?;
        } else if soak.under_way.len() < AT_ONCE {
            soak.befall(&load).await?;
        }
    }
    soak.cure(end + 2 * PATIENCE).await?;
    let counts: Vec<_> = soak.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    outcome.note(counts.join(", "));
    let mut fleet = soak.fleet;
    fleet.census(1).await?.judge(&mut outcome);
    outcome.add(fleet.finish(load, 2 * PATIENCE).await?.1);
    Ok(outcome)
}

impl Soak {
    fn process(&mut self, victim: Victim) -> &mut Agent {
        match victim {
            Victim::Agent(at) => &mut self.fleet.agents[at],
            Victim::Gateway(at) => &mut self.fleet.gateways[at].process,
        }
    }

    fn everybody(&self) -> impl Iterator<Item = Victim> {
        let agents = (0..self.fleet.agents.len()).map(Victim::Agent);
        agents.chain(self.fleet.places().into_iter().map(Victim::Gateway))
    }

    /// What is happening to somebody.
    fn suffers(&self, victim: Victim) -> Option<Fault> {
        let found = self.under_way.iter().find(|(_, other, _)| *other == victim);
        found.map(|(_, _, fault)| *fault)
    }

    /// Something befalls somebody to whom nothing is happening.
    async fn befall(&mut self, load: &Load) -> anyhow::Result<()> {
        let well: Vec<Victim> = self.everybody().filter(|victim| self.suffers(*victim).is_none()).collect();
        let Some(victim) = self.dice.pick(&well).copied() else { return Ok(()) };
        let Some(fault) = self.fault(victim) else { return Ok(()) };
        *self.counts.entry(fault.name()).or_default() += 1;
        match (fault, victim) {
            (Fault::Killed, Victim::Agent(at)) => self.fleet.kill_agent(at, load).await?,
            (Fault::Killed, Victim::Gateway(at)) => self.fleet.kill_gateway(at, load).await?,
            (Fault::Stopped, _) => self.process(victim).signal("STOP")?,
            (Fault::Network(trouble), _) => {
                if let Some(machine) = self.process(victim).machine() {
                    machine.suffer(trouble)?;
                }
            }
            (_, Victim::Agent(_)) => {}
            (Fault::NoSink, Victim::Gateway(at)) => self.fleet.gateways[at].sink.stop().await,
            (Fault::BadSink, Victim::Gateway(at)) => {
                let answer = match self.dice.below(3) {
                    0 => Answer::Hang,
                    1 => Answer::Unavailable { retry_delay: None },
                    _ => Answer::Slow(self.dice.time(Duration::ZERO..Duration::from_secs(2))),
                };
                self.fleet.gateways[at].sink.answer(answer);
            }
            (Fault::LongWay, Victim::Gateway(at)) => {
                let delay = self.dice.time(Duration::from_millis(20)..Duration::from_millis(500));
                self.far(at, delay);
            }
        }
        let lasts = self.dice.time(Duration::from_millis(100)..Duration::from_secs(5));
        self.under_way.push((Instant::now() + lasts, victim, fault));
        Ok(())
    }

    /// A fault that this one can have.
    fn fault(&mut self, victim: Victim) -> Option<Fault> {
        let mut faults = vec![Fault::Killed, Fault::Stopped];
        if let Victim::Gateway(at) = victim {
            faults.extend([Fault::NoSink, Fault::BadSink]);
            faults.extend(self.fleet.gateways[at].way.is_some().then_some(Fault::LongWay));
        }
        if self.process(victim).machine().is_some() {
            // Somebody of the other tier.
            let others: Vec<_> = match victim {
                Victim::Agent(_) => {
                    self.fleet.listed().map(|gateway| gateway.process.ports.grpc.ip()).collect()
                }
                Victim::Gateway(_) => self.fleet.agents.iter().map(|agent| agent.ports.grpc.ip()).collect(),
            };
            let other = *self.dice.pick(&others)?;
            let troubles = [
                Trouble::Drop(other),
                Trouble::Reject(other),
                Trouble::Loss(5 + self.dice.below(30) as u32),
                Trouble::Slow(500 + self.dice.below(4_000) as u32),
                Trouble::Unplugged,
            ];
            faults.extend(troubles.map(Fault::Network));
        }
        self.dice.pick(&faults).copied()
    }

    /// Ends what has lasted for long enough.
    async fn cure(&mut self, now: Instant) -> anyhow::Result<()> {
        let (over, under_way): (Vec<_>, _) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(until, _, _)| *until <= now);
        self.under_way = under_way;
        for (_, victim, fault) in over {
            match (fault, victim) {
                (Fault::Killed, _) => {
                    let process = self.process(victim);
                    process.start()?;
                    process.ready().await?;
                }
                (Fault::Stopped, _) => self.process(victim).signal("CONT")?,
                (Fault::Network(_), _) => {
                    if let Some(machine) = self.process(victim).machine() {
                        machine.heal()?;
                    }
                }
                (_, Victim::Agent(_)) => {}
                (Fault::NoSink, Victim::Gateway(at)) => self.fleet.gateways[at].sink.restart().await?,
                (Fault::BadSink, Victim::Gateway(at)) => self.fleet.gateways[at].sink.answer(Answer::Ok),
                (Fault::LongWay, Victim::Gateway(at)) => self.far(at, Duration::ZERO),
            }
        }
        Ok(())
    }

    fn far(&self, gateway: usize, delay: Duration) {
        if let Some(way) = &self.fleet.gateways[gateway].way {
            way.delay(delay);
        }
    }

    /// A gateway joins or leaves, or somebody reloads.
    async fn change(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let places = self.fleet.places();
        let (least, most) = GATEWAYS;
        let change = match places.len() {
            _ if self.dice.one_in(2) => Change::Reload,
            count if count <= least => Change::Join,
            count if count >= most => Change::Leave,
            _ if self.dice.one_in(2) => Change::Join,
            _ => Change::Leave,
        };
        match change {
            Change::Join => {
                *self.counts.entry("joins").or_default() += 1;
                self.fleet.grow(1).await?;
            }
            Change::Leave => {
                let well = |at: &usize| self.suffers(Victim::Gateway(*at)).is_none();
                let well: Vec<usize> = places.into_iter().filter(well).collect();
                let Some(leaver) = self.dice.pick(&well).copied() else { return Ok(()) };
                *self.counts.entry("leaves").or_default() += 1;
                // One that can not be rid of its backlog in time leaves it on its disk, for an operator.
                let left = self.fleet.retire(leaver, self.dice.one_in(2), outcome).await?;
                if left > 0 {
                    *self.counts.entry("records left by leavers").or_default() += left;
                    self.fleet.empty(leaver)?;
                }
            }
            Change::Reload => {
                let runs =
                    |victim: &Victim| !matches!(self.suffers(*victim), Some(Fault::Killed | Fault::Stopped));
                let running: Vec<Victim> = self.everybody().filter(runs).collect();
                let Some(victim) = self.dice.pick(&running).copied() else { return Ok(()) };
                *self.counts.entry("reloads").or_default() += 1;
                self.process(victim).reload().await?;
            }
        }
        Ok(())
    }
}

impl Fault {
    /// Several of it.
    fn name(self) -> &'static str {
        match self {
            Fault::Killed => "kills",
            Fault::Stopped => "stops",
            Fault::NoSink => "destinations gone",
            Fault::BadSink => "destinations that answer badly",
            Fault::LongWay => "long ways",
            Fault::Network(Trouble::Drop(_)) => "partitions",
            Fault::Network(Trouble::Reject(_)) => "refusals",
            Fault::Network(Trouble::Loss(_)) => "losses",
            Fault::Network(Trouble::Slow(_)) => "narrow lines",
            Fault::Network(Trouble::Unplugged) => "pulled cables",
        }
    }
}
