//! The agent: a `watershed` as a child, its files in a directory of its own, on the same ports over all its lives.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::time::Instant;
use watershed_testkit::web::WebClient;
use watershed_testkit::{Sink, wait_until};

use crate::disk::Disk;
use crate::net::Machine;
use crate::program::Program;
use crate::topology::{Ports, Topology};

/// How long anything may take before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What may lie between a destination's "ok" and its being on disk as complete: the journal writes them down at least
/// every 50 ms, and may have to wait for a core to do so.
pub const COMPLETION: Duration = Duration::from_millis(75);

/// The file it reads, in its home.
const CONFIG: &str = "chaos.toml";

/// What its log says of a reload that is in force.
const RELOADED: &str = "the configuration was reloaded";

/// A `watershed` that can be killed and started again. Killed when dropped.
pub struct Agent {
    program: Program,
    /// What it is configured as, and what a reload makes of it.
    forms: [Topology; 2],
    home: TempDir,
    data: PathBuf,
    disk: Option<Rc<Disk>>,
    machine: Option<Machine>,
    /// Where it is spoken to.
    pub ports: Ports,
    child: Option<Child>,
}

/// Items that may come again without a fault: what each sink takes from shortly before a blow to its agent until what
/// was on the wire then has arrived.
#[must_use = "a blow has to come"]
pub struct Doubt<const N: usize> {
    spans: [u64; N],
}

impl Agent {
    /// An agent that is not started yet; with `disk`, its data is on that.
    pub fn new(program: &Program, topology: &Topology, disk: Option<Rc<Disk>>) -> anyhow::Result<Agent> {
        let home = tempfile::tempdir()?;
        let data = match &disk {
            Some(disk) => disk.path().join("data"),
            None => home.path().join("data"),
        };
        let (program, ports) = (program.clone(), Ports::reserve());
        let forms = [topology.clone(), topology.second()];
        let agent = Agent { program, forms, home, data, disk, machine: None, ports, child: None };
        fs::create_dir(agent.data())?;
        agent.configure()?;
        Ok(agent)
    }

    /// As [`Agent::new`], on a machine of its own if there is one.
    pub fn on(machine: Option<Machine>, program: &Program, topology: &Topology) -> anyhow::Result<Agent> {
        let mut agent = Agent::new(program, topology, None)?;
        if let Some(machine) = machine {
            agent.ports = Ports::of(machine.address);
            agent.machine = Some(machine);
            agent.configure()?;
        }
        Ok(agent)
    }

    fn configure(&self) -> std::io::Result<()> {
        let [topology, _] = &self.forms;
        fs::write(self.home.path().join(CONFIG), topology.toml(&self.ports, &self.data))
    }

    /// Another one with the same data, on a disk that both see, and ports of its own.
    pub fn rival(&self, topology: &Topology) -> anyhow::Result<Agent> {
        let mut rival = Agent::new(&self.program, topology, None)?;
        rival.data.clone_from(&self.data);
        rival.configure()?;
        Ok(rival)
    }

    /// Starts it; it is not ready yet.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "started twice");
        let config = self.home.path().join(CONFIG);
        let command = self.program.command(&["run", "--config", &config.to_string_lossy()]);
        let mut command = match (&self.disk, &self.machine) {
            (Some(disk), _) => disk.enter(&command),
            (_, Some(machine)) => machine.enter(&command),
            _ => command,
        };
        let log = File::options().create(true).append(true).open(self.home.path().join("log"))?;
        command.current_dir(&self.home).stdout(log.try_clone()?).stderr(log);
        let program = self.program.path().display();
        self.child = Some(command.spawn().with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }

    /// Waits until its health says so.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let health = self.ports.health;
        let ready = wait_until(
            async || self.has_ended() || get(health, "/").await.is_some_and(|(status, _)| status == 200),
            PATIENCE,
        );
        ensure!(ready.await && !self.has_ended(), "the agent is not ready: {}", self.log());
        Ok(())
    }

    /// As [`Agent::start`]; returns when it is ready.
    pub async fn started(mut self) -> anyhow::Result<Agent> {
        self.start()?;
        self.ready().await?;
        Ok(self)
    }

    /// kill -9, and what each sink may get twice for it.
    pub async fn kill<const N: usize>(&mut self, sinks: [&Sink; N]) -> anyhow::Result<[u64; N]> {
        let doubt = Doubt::open(sinks).await;
        self.kill_now()?;
        for sink in sinks {
            // What it had sent is read to its end before it is counted.
            let gone = sink.wait_until(|counts| counts.connections == 0, PATIENCE).await;
            ensure!(gone, "connections outlive the agent");
        }
        Ok(doubt.close(sinks))
    }

    /// kill -9, and nothing else.
    pub fn kill_now(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("nothing to kill")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Has it read another configuration in the place of the one in force, by turns; returns when that is in force.
    pub async fn reload(&mut self) -> anyhow::Result<()> {
        let before = self.reloads();
        self.forms.swap(0, 1);
        self.configure()?;
        self.signal("HUP")?;
        let in_force = wait_until(async || self.reloads() > before, PATIENCE).await;
        ensure!(in_force, "a reload is never in force: {}", self.log());
        Ok(())
    }

    /// Reloads that were in force, in all its lives. Its metrics may be out of reach, its log is not.
    fn reloads(&self) -> usize {
        self.log().matches(RELOADED).count()
    }

    /// Sends a signal: `TERM`, `STOP`, `CONT`, `HUP`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.child.as_ref().context("nothing to signal")?.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status()?;
        ensure!(status.success(), "could not signal {id}");
        Ok(())
    }

    /// The machine it is on, if it has one of its own.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// Whether it has been started, and neither been killed nor waited for.
    pub fn is_alive(&self) -> bool {
        self.child.is_some()
    }

    /// What is stored and not delivered, dead letters included, in records.
    pub fn owed(&self) -> anyhow::Result<u64> {
        #[derive(serde::Deserialize)]
        struct Inspected {
            not_done: u64,
            dead_letters: u64,
        }
        let data = self.data();
        let mut inspect =
            self.program.command(&["journal", "inspect", "--format", "json", &data.to_string_lossy()]);
        let told = String::from_utf8(inspect.output()?.stdout)?;
        let journals = told.lines().map(serde_json::from_str::<Inspected>);
        let owed = |journal: Inspected| journal.not_done + journal.dead_letters;
        journals.map(|journal| journal.map(owed).with_context(|| told.clone())).sum()
    }

    /// Sends what is stored and not delivered to a destination. The process must have ended.
    pub fn empty(&self, to: std::net::SocketAddr) -> anyhow::Result<()> {
        let (data, to) = (self.data(), format!("http://{to}"));
        let mut drain =
            self.program.command(&["journal", "drain", &data.to_string_lossy(), "--to", &to, "--quiet"]);
        let told = drain.output()?;
        ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        Ok(())
    }

    /// Whether it stands still by SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        self.status("State:").is_ok_and(|state| state.starts_with('T'))
    }

    /// Waits for its end; its exit code (`None` where a signal ended it) and how long that took.
    pub async fn ended(&mut self) -> anyhow::Result<(Option<i32>, Duration)> {
        let since = Instant::now();
        ensure!(
            wait_until(async || self.has_ended(), PATIENCE).await,
            "the agent never ends: {}",
            self.log()
        );
        let mut child = self.child.take().context("nothing to wait for")?;
        Ok((child.wait()?.code(), since.elapsed()))
    }

    /// SIGTERM, and then as [`Agent::ended`].
    pub async fn terminate(&mut self) -> anyhow::Result<(Option<i32>, Duration)> {
        self.signal("TERM")?;
        self.ended().await
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Its metrics as they are now.
    pub async fn metrics(&self) -> anyhow::Result<Scrape> {
        match get(self.ports.metrics, "/metrics").await {
            Some((200, text)) => Ok(Scrape(text)),
            other => bail!("no metrics: {other:?}"),
        }
    }

    /// The most memory that was ever resident in this life, in bytes.
    pub fn peak_rss(&self) -> anyhow::Result<u64> {
        let peak = self.status("VmHWM:")?;
        let kib: u64 = peak.trim_end_matches("kB").trim().parse().context("no number")?;
        Ok(kib << 10)
    }

    /// A line of `/proc/<id>/status`.
    fn status(&self, key: &str) -> anyhow::Result<String> {
        let id = self.child.as_ref().context("no agent")?.id();
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        Ok(line.with_context(|| format!("no {key}"))?.trim().to_owned())
    }

    /// What it has logged in all its lives.
    pub fn log(&self) -> String {
        let log = fs::read(self.home.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Where its journal or its queues are, as seen from here.
    pub fn data(&self) -> PathBuf {
        match &self.disk {
            Some(disk) => disk.seen_from_here().join("data"),
            None => self.data.clone(),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill_now();
        }
    }
}

impl<const N: usize> Doubt<N> {
    /// Waits until everything that was taken before is written down as complete.
    pub async fn open(sinks: [&Sink; N]) -> Doubt<N> {
        let doubt = Doubt { spans: sinks.map(spans) };
        tokio::time::sleep(COMPLETION).await;
        doubt
    }

    /// The items in doubt.
    pub fn close(self, sinks: [&Sink; N]) -> [u64; N] {
        std::array::from_fn(|at| spans(sinks[at]) - self.spans[at])
    }
}

fn spans(sink: &Sink) -> u64 {
    sink.snapshot().spans
}

/// Metrics as text.
pub struct Scrape(String);

impl Scrape {
    /// The sum of the series whose name and labels start so; 0 where there is none.
    pub fn sum(&self, start: &str) -> u64 {
        self.sum_where(start, "")
    }

    /// Of these, those that have this label.
    pub fn sum_where(&self, start: &str, label: &str) -> u64 {
        let series = self.0.lines().filter(|line| line.starts_with(start) && line.contains(label));
        series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
    }
}

async fn get(from: std::net::SocketAddr, path: &str) -> Option<(u16, String)> {
    let asked = async {
        let reply = WebClient::connect(from).await.ok()?.send("GET", path, &[], b"").await.ok()?;
        Some((reply.status, String::from_utf8_lossy(&reply.body).into_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten()
}
