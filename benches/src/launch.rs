//! Starting the relay that is measured.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tempfile::{NamedTempFile, TempDir};

use crate::cli::{Cli, Relay};
use crate::process::{Child, Usage};
use crate::watershed;

/// A relay in a process of its own.
pub struct RelayProcess {
    child: Child,
    arguments: Vec<String>,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Kept as long as the child may read its configuration or write to its journal.
    kept: Option<(NamedTempFile, TempDir)>,
}

impl RelayProcess {
    /// Starts `relay` in front of `sink` and waits until it listens.
    pub fn start(relay: Relay, cli: &Cli, sink: SocketAddr, merge: usize) -> anyhow::Result<RelayProcess> {
        let addr = watershed_testkit::reserve();
        let part = if relay.is_watershed() { Relay::Watershed } else { relay };
        let mut arguments = vec!["--as".to_string(), part.to_string()];
        let mut option = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        let mut kept = None;
        match relay {
            Relay::Watershed | Relay::Http | Relay::Attributes | Relay::Journal => {
                let mut config = tempfile::Builder::new().suffix(".toml").tempfile()?;
                let directory =
                    tempfile::Builder::new().prefix("journal").tempdir_in(&cli.journal_directory)?;
                let text = watershed::config(relay, addr, sink, cli, directory.path());
                config.write_all(text.as_bytes())?;
                option("config", config.path().display().to_string());
                kept = Some((config, directory));
            }
            Relay::Floor | Relay::Conventional => {
                option("listen", addr.to_string());
                option("target", sink.to_string());
                option("merge", merge.to_string());
                let shape = cli.shape.to_possible_value().context("every shape has a name")?;
                option("shape", shape.get_name().to_string());
            }
        }
        let mut child = Child::spawn(&arguments)?;
        child.wait_until_it_listens(addr, Duration::from_secs(10)).with_context(|| format!("{relay}"))?;
        Ok(RelayProcess { child, arguments, addr, kept })
    }

    /// Kills it and starts it anew, with the same configuration and journal.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child = Child::spawn(&self.arguments)?;
        Ok(())
    }

    /// Where its journal is.
    pub fn journal(&self) -> Option<&Path> {
        self.kept.as_ref().map(|(_, directory)| directory.path())
    }

    /// What it has cost so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.child.usage()
    }
}
