//! The command line: what can be asked, and who answers.

mod deadletter;
mod exit;
mod inspect;
mod journal;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod notify;
pub(crate) mod out;
mod reload;
mod run;
mod signals;
mod source;

use std::ffi::OsString;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::stage::Registry;

pub use self::exit::Exit;
use self::logs::Format;
pub(crate) use self::reload::{Reloaded, Reloader};
use self::source::Choice;

#[derive(Debug, Parser)]
#[command(name = "watershed", version, about = "An OpenTelemetry collector in one binary", after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a topology until it is told to stop.
    Run {
        #[command(flatten)]
        choice: Choice,
        /// Reloads when a file of the configuration changes, those that its `${file:...}` name included. SIGHUP and
        /// `POST /reload` do so at any time.
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        logs: LogArgs,
    },
    /// Check a configuration, and say what would run. Nothing is started.
    Validate {
        #[command(flatten)]
        choice: Choice,
        /// Says what a reload from one file to another would do, and fails if it would be refused.
        #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "config")]
        diff: Vec<std::path::PathBuf>,
    },
    /// List the kinds of components a configuration may use, or the keys of one.
    Components {
        /// The kind whose keys are wanted: `otlp`, or `exporter/otlp` where several classes have one.
        kind: Option<String>,
    },
    /// Draw what would run.
    Graph {
        #[command(flatten)]
        choice: Choice,
        /// In the DOT language, for Graphviz.
        #[arg(long)]
        dot: bool,
    },
    /// Look at what a journal or a stored queue keeps on disk, and send it on without the process that wrote it.
    #[command(subcommand)]
    Journal(journal::Command),
    /// Look at what could not be delivered, and send it again.
    #[command(subcommand)]
    Deadletter(deadletter::Command),
    /// Run the default topology, send it a shop's checkouts with the OpenTelemetry SDK, and count what arrives.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
}

/// How the program logs.
#[derive(Debug, Args)]
struct LogArgs {
    /// error, warn, info, debug or trace; or directives such as `info,watershed_otlp=debug`.
    ///
    /// Wins over the environment variable WATERSHED_LOG, and that over `service.telemetry.logs.level`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Wins over `service.telemetry.logs.encoding`.
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<Format>,
}

/// The whole program: reads the arguments (the first is its name) and does what they ask, with components of these
/// kinds.
///
/// It is meant for `main`: logs, panic hook and signal handlers are the process's from then on.
pub fn program(arguments: impl IntoIterator<Item = OsString>, kinds: Registry) -> Exit {
    let parsed =
        Cli::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Where neither can be written to, there is nobody to tell.
            let _ = error.print();
            // clap's own code for a wrong argument is 2, which says something else here.
            return if error.use_stderr() { Exit::Config } else { Exit::Drained };
        }
    };
    match cli.command {
        Command::Run { choice, watch, logs } => run::run(&choice, watch, &logs, &kinds),
        Command::Validate { choice, diff } => match &*diff {
            [old, new] => inspect::diff(&choice, old, new, &kinds),
            _ => inspect::validate(&choice, &kinds),
        },
        Command::Components { kind: None } => inspect::components(&kinds),
        Command::Components { kind: Some(kind) } => inspect::keys_of(&kind, &kinds),
        Command::Graph { choice, dot } => inspect::graph(&choice, dot, &kinds),
        Command::Journal(command) => journal::run(&command),
        Command::Deadletter(command) => deadletter::run(&command),
        #[cfg(feature = "demo")]
        Command::Demo(args) => crate::demo::main(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_be_repeated() {
        let cli = Cli::try_parse_from(["watershed", "run", "--config", "a", "--config", "b", "--set", "x=1"]);
        assert!(matches!(cli.unwrap().command, Command::Run { choice, .. } if choice.config.len() == 2));
    }
}
