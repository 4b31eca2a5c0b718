//! The sink in a process of its own: commands as JSON lines on stdin, answers on stdout.

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use watershed_testkit::traces::{SPANS, sampled};
use watershed_testkit::{Answer, LoadReport, Sink, SinkSnapshot, Verdict, verdict};

use crate::case::Tls;
use crate::certificates;
use crate::cli::Cli;
use crate::process::{Child, Usage, own};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Answer(Answer),
    Reset,
    Wait { items: u64, timeout: Duration },
    Snapshot,
}

/// Plays the sink until stdin ends.
pub fn serve(cli: &Cli) -> anyhow::Result<()> {
    // One thread: the sink's work is a walk over ids, and it shares the machine with what is measured.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let sink = match &cli.certificates {
        None => runtime.block_on(Sink::start("127.0.0.1:0"))?,
        Some(directory) => {
            let tls = certificates::server(directory, cli.mutual)?;
            runtime.block_on(Sink::start_tls("127.0.0.1:0", tls))?
        }
    };
    println!("{}", sink.addr());
    for line in std::io::stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Command::Answer(answer) => {
                sink.answer(answer);
                println!("true");
            }
            Command::Reset => {
                sink.reset();
                println!("true");
            }
            Command::Wait { items, timeout } => {
                println!("{}", runtime.block_on(sink.wait_for(items, timeout)))
            }
            Command::Snapshot => println!("{}", serde_json::to_string(&sink.snapshot())?),
        }
    }
    Ok(())
}

/// The driver's hold on the sink.
pub struct SinkProcess {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl SinkProcess {
    /// Starts it, with certificates where it is to speak TLS.
    pub fn start(tls: Tls, certificates: &Path) -> anyhow::Result<SinkProcess> {
        let mut command = own("sink")?;
        if tls != Tls::Off {
            command.arg("--certificates").arg(certificates);
        }
        command.args((tls == Tls::Mutual).then_some("--mutual"));
        let mut child = Child::spawn(&mut command)?;
        let addr = child.read_line()?.trim().parse().context("the sink names no address")?;
        Ok(SinkProcess { child, addr })
    }

    fn ask<T: for<'de> Deserialize<'de>>(&mut self, command: &Command) -> anyhow::Result<T> {
        let answer = self.child.ask(&serde_json::to_string(command)?)?;
        serde_json::from_str(&answer).context("the sink talks nonsense")
    }

    /// Answers so from now on.
    pub fn answer(&mut self, answer: Answer) -> anyhow::Result<()> {
        self.ask::<bool>(&Command::Answer(answer)).map(drop)
    }

    /// Forgets all counts.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.ask::<bool>(&Command::Reset).map(drop)
    }

    /// Waits until `items` different spans have arrived; false if they have not within `timeout`.
    pub fn wait_for(&mut self, items: u64, timeout: Duration) -> anyhow::Result<bool> {
        self.ask(&Command::Wait { items, timeout })
    }

    /// Waits until all that `load` was promised has arrived, at most `timeout`; all counts, and the verdict.
    pub fn settle(
        &mut self,
        load: &LoadReport,
        timeout: Duration,
    ) -> anyhow::Result<(SinkSnapshot, Verdict)> {
        let deadline = Instant::now() + timeout;
        // First by number, which costs the sink nothing; then, since what was never acknowledged arrives as
        // well, by the sets.
        let mut items = load.acknowledged.len();
        loop {
            let in_time = self.wait_for(items, deadline.saturating_duration_since(Instant::now()))?;
            let counts = self.snapshot()?;
            let verdict = verdict(load, &counts);
            if verdict.lost == 0 || !in_time {
                return Ok((counts, verdict));
            }
            items = counts.arrived() + 1;
        }
    }

    /// As [`SinkProcess::settle`], where whole traces are sampled: what was to go on has arrived. What was sampled out
    /// counts as arrived, so that costs are those of a span that came.
    pub fn settle_sampled(
        &mut self,
        load: &LoadReport,
        timeout: Duration,
    ) -> anyhow::Result<(SinkSnapshot, Verdict)> {
        let deadline = Instant::now() + timeout;
        loop {
            let counts = self.snapshot()?;
            let came = sampled(load, &counts);
            if came.is_right() || Instant::now() >= deadline {
                eprintln!("{came}");
                let twice = verdict(load, &counts).twice;
                let lost = SPANS * (came.missing + came.partial);
                let acknowledged = load.acknowledged.len();
                return Ok((counts, Verdict { acknowledged, arrived: acknowledged - lost, twice, lost }));
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// All counts.
    pub fn snapshot(&mut self) -> anyhow::Result<SinkSnapshot> {
        self.ask(&Command::Snapshot)
    }

    /// What it has cost.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.child.usage()
    }
}
