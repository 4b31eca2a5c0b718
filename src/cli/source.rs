//! Which configuration is meant.

use std::path::{Path, PathBuf};

use crate::engine::config::{self, Plan, Sources};
use crate::stage::Registry;
use clap::Args;

use super::out::complain;

/// The file that is looked for where none is named.
const DEFAULT_FILE: &str = "pipelines.toml";

/// The arguments that choose a configuration and a part of it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Choice {
    /// A configuration file; may be repeated, later ones win key by key. Without it: `pipelines.toml` in the
    /// current directory, else the built-in default.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,
    /// Sets one key, after all files: `--set agent.exporters.otlp.timeout=2s`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Runs only this role of the file: `agent` or `gateway`.
    #[arg(long, value_name = "NAME")]
    pub(crate) role: Option<String>,
}

// === impl Choice ===

impl Choice {
    /// The checked plan; otherwise everything that is wrong, as text for the user.
    pub(crate) fn load(&self, kinds: &Registry) -> Result<Plan, String> {
        let plan = config::load(&self.sources(), kinds).map_err(|errors| errors.to_string())?;
        match &self.role {
            Some(role) => plan.only_role(role).map_err(|error| format!("error: --role {role}: {error}")),
            None => Ok(plan),
        }
    }

    /// The files that are read, as far as they are there.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        match self.config.as_slice() {
            [] => vec![DEFAULT_FILE.into()],
            files => files.to_vec(),
        }
    }

    fn sources(&self) -> Sources {
        let mut sources = Sources::of_process(self.config.iter().cloned());
        sources.set.clone_from(&self.set);
        if !sources.files.is_empty() {
            return sources;
        }
        // Which configuration runs must never be a riddle.
        if Path::new(DEFAULT_FILE).is_file() {
            complain(format_args!(
                "watershed: no --config given: using {DEFAULT_FILE} in the current directory"
            ));
            sources.files.push(DEFAULT_FILE.into());
        } else {
            complain(format_args!(
                "watershed: no --config given and no {DEFAULT_FILE} here: using the built-in default \
                 (OTLP on localhost:4317 -> agent -> gateway -> debug)"
            ));
            sources.inline.push(("built-in pipelines.toml".into(), crate::DEFAULT_TOPOLOGY.into()));
        }
        sources
    }
}
