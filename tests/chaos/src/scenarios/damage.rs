//! What lies on the disk is damaged, gone, not to be written, or somebody else's.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;
use watershed_testkit::{LoadReport, Loader, Sink, wait_until};

use crate::agent::{Agent, PATIENCE};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::outcome::Outcome;
use crate::scenario::{Pace, Run, Scenario, sink};
use crate::topology::{Branch, Custody, Topology};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "damage",
    about: "behind the back of a stopped agent a byte of any segment is flipped, a segment deleted, the directory made \
            read-only; a second agent wants the directory. Exactly what is reported is lost, nothing crashes, what can \
            not start says why. Rounds of each; seconds mean nothing",
    custodies: &[Custody::Journal, Custody::Queues],
    short: Pace { rounds: 1, seconds: 0.0, rate: 0.0 },
    long: Pace { rounds: 50, seconds: 0.0, rate: 0.0 },
    run: |run| Box::pin(damage(run)),
};

/// Requests of each round: some megabytes, in several segments.
const REQUESTS: u64 = 250;

/// How long it may look as if all were done before it counts as that.
const IDLE: Duration = Duration::from_secs(2);

/// What happens to the directory.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Flip,
    Delete,
    ReadOnly,
    Rival,
}

async fn damage(run: &Run) -> anyhow::Result<Outcome> {
    let mut dice = run.dice();
    let mut total = Outcome::default();
    for round in 0..run.pace.rounds {
        for blow in [Blow::Flip, Blow::Delete, Blow::ReadOnly, Blow::Rival] {
            let disk = match blow {
                Blow::ReadOnly => Disk::new(64 << 20).map(Some),
                _ => Ok(None),
            };
            match disk {
                Ok(disk) => {
                    let outcome = once(run, blow, disk.map(Rc::new), &mut dice).await;
                    total.add(outcome.with_context(|| format!("{blow:?}, round {round}"))?);
                }
                Err(why) => total.note(format!("{blow:?} was left out: {why:#}")),
            }
        }
    }
    Ok(total)
}

async fn once(run: &Run, blow: Blow, disk: Option<Rc<Disk>>, dice: &mut Dice) -> anyhow::Result<Outcome> {
    let sink = sink().await?;
    sink.stop().await;
    let mut topology = run.topology([Branch::new("sink", sink.addr())]);
    // A segment is an eighth of it.
    // Several segments of what little a debug build takes in a short time.
    (topology.max_size, topology.compression) = ("32MiB", "none");
    let mut agent = Agent::new(&run.program, &topology, disk.clone())?.started().await?;
    let loader = Loader::new(agent.ports.grpc).closed(2, 4).requests(REQUESTS).grace(PATIENCE).retry(true);
    let load = loader.run().await;
    let done = if matches!(blow, Blow::Rival) {
        rival(&agent, &topology).await?
    } else {
        if dice.one_in(2) {
            agent.kill_now()?;
        } else {
            agent.terminate().await?;
        }
        let done = strike(blow, &mut agent, disk.as_deref(), dice).await?;
        agent.start()?;
        agent.ready().await?;
        done
    };
    let mut outcome = delivered(&load, &sink, &mut agent).await?;
    let (lost, reported) = (outcome.balance.lost, outcome.reported);
    outcome.expect(lost == reported, || format!("{blow:?}: {done}; {lost} lost, {reported} reported"));
    outcome.note(format!("{blow:?}: {done}; {lost} lost, {reported} reported"));
    Ok(outcome)
}

/// Does it, and says what it did.
async fn strike(
    blow: Blow,
    agent: &mut Agent,
    disk: Option<&Disk>,
    dice: &mut Dice,
) -> anyhow::Result<String> {
    if let Some(disk) = disk {
        disk.read_only(true)?;
        agent.start()?;
        let (code, _) = agent.ended().await?;
        let log = agent.log();
        ensure!(code.is_some_and(|code| code != 0), "it ended with {code:?} on a read-only directory: {log}");
        ensure!(log.contains("can not be written"), "it does not say what is wrong: {log}");
        disk.read_only(false)?;
        return Ok(format!("it ended with {code:?}"));
    }
    let segments = segments(&agent.data())?;
    ensure!(segments.len() > 2, "{} segments are too few", segments.len());
    let segment = dice.pick(&segments).context("no segment")?;
    let place = segments.iter().position(|other| other == segment).unwrap_or_default();
    let name = format!("segment {} of {}", place + 1, segments.len());
    if matches!(blow, Blow::Delete) {
        fs::remove_file(segment)?;
        return Ok(name);
    }
    let file = File::options().read(true).write(true).open(segment)?;
    let length = file.metadata()?.len();
    // Heads and tails are where it is hardest to say what was damaged.
    let offset = match dice.below(4) {
        0 => dice.below(length.min(128)),
        1 => length - 1 - dice.below(length.min(4 << 10)),
        _ => dice.below(length),
    };
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << dice.below(8);
    file.write_all_at(&byte, offset)?;
    Ok(format!("byte {offset} of {length}, {name}"))
}

/// A second process with the same directory ends and says why; the first does not notice.
async fn rival(agent: &Agent, topology: &Topology) -> anyhow::Result<String> {
    let mut rival = agent.rival(topology)?;
    rival.start()?;
    let (code, _) = rival.ended().await?;
    let log = rival.log();
    ensure!(code.is_some_and(|code| code != 0), "the second one ended with {code:?}: {log}");
    ensure!(log.contains("in use"), "it does not say what is wrong: {log}");
    Ok(format!("the second one ended with {code:?}"))
}

/// Once the destination is up, everything but what is reported arrives.
async fn delivered(load: &LoadReport, sink: &Sink, agent: &mut Agent) -> anyhow::Result<Outcome> {
    let lost = agent.metrics().await?.sum("watershed_journal_lost_records{");
    let reported = lost * load.spans_per_request;
    sink.restart().await?;
    let owed = load.acknowledged.len().saturating_sub(reported);
    // Where something is missing for good, nothing being owed any more for a while is as far as it gets.
    let mut idle = Instant::now();
    let complete = async || {
        let left = agent.metrics().await.map_or(1, |metrics| metrics.sum("watershed_journal_owed_records{"));
        if left > 0 {
            idle = Instant::now();
        }
        sink.arrived() >= owed || idle.elapsed() > IDLE
    };
    let complete = wait_until(complete, PATIENCE).await;
    let (code, took) = agent.terminate().await?;
    let mut outcome = Outcome::of(load, sink);
    outcome.reported = reported;
    outcome.expect(complete, || format!("{} of {owed} arrived: {}", sink.arrived(), agent.log()));
    outcome
        .expect(code == Some(0), || format!("it drained to code {code:?} after {took:?}: {}", agent.log()));
    outcome.expect(lost == 0 || agent.log().contains("lost"), || format!("not in the log: {}", agent.log()));
    Ok(outcome)
}

/// The segments under a directory, oldest first.
fn segments(under: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(segments(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "seg") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
