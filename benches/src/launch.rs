//! Starting the relay that is measured.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tempfile::TempDir;

use crate::case::{Case, Tls, Work};
use crate::cli::{Cli, Relay};
use crate::process::{Child, Usage, own};
use crate::sink::SinkProcess;
use crate::{peers, watershed};

/// What a relay stands between, and where its files are.
pub struct Site<'a> {
    pub listen: SocketAddr,
    pub sink: SocketAddr,
    /// Where the second of three destinations is.
    pub second: SocketAddr,
    pub certificates: &'a Path,
    /// Whatever it writes, gone after its turn.
    pub directory: &'a Path,
}

/// A relay in a process of its own.
pub struct RelayProcess {
    child: Child,
    command: Command,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its configuration and its journal.
    directory: TempDir,
    /// The second destination, of a case that has one.
    _second: Option<SinkProcess>,
}

impl RelayProcess {
    /// Starts `relay` in front of `sink` and waits until it listens.
    pub fn start(
        relay: Relay,
        case: Case,
        cli: &Cli,
        sink: SocketAddr,
        certificates: &Path,
        merge: usize,
    ) -> anyhow::Result<RelayProcess> {
        let listen = watershed_testkit::reserve();
        let directory = tempfile::Builder::new().prefix("bench").tempdir_in(&cli.journal_directory)?;
        let second =
            (case.work == Work::Branches).then(|| SinkProcess::start(Tls::Off, certificates)).transpose()?;
        let site = Site {
            listen,
            sink,
            second: second.as_ref().map_or(sink, |second| second.addr),
            certificates,
            directory: directory.path(),
        };
        let mut command = match relay {
            Relay::Watershed => {
                let config = directory.path().join("watershed.toml");
                std::fs::write(&config, watershed::config(case, cli, &site))?;
                let mut command = own(relay)?;
                command.arg("--config").arg(config);
                command
            }
            Relay::Floor | Relay::Conventional => {
                let shape = cli.shape.to_possible_value().context("every shape has a name")?;
                let mut command = own(relay)?;
                command.args(["--listen", &listen.to_string(), "--target", &sink.to_string()]);
                command.args(["--merge", &merge.to_string(), "--shape", shape.get_name()]);
                command.args(["--case", case.name, "--ahead-mib", &cli.ahead_mib.to_string()]);
                command.args(case.delivered.then_some("--delivered"));
                command
            }
            Relay::Otelcol => peers::otelcol(case, cli, &site),
            Relay::Rotel => peers::rotel(&site)?,
        };
        let mut child = Child::spawn(&mut command)?;
        child.wait_until_it_listens(listen, Duration::from_secs(10)).with_context(|| format!("{relay}"))?;
        Ok(RelayProcess { child, command, addr: listen, directory, _second: second })
    }

    /// Kills it and starts it anew, with the same configuration and journal.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child = Child::spawn(&mut self.command)?;
        Ok(())
    }

    /// Where its journal is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has cost so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.child.usage()
    }
}
