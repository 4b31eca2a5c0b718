//! `journal`: what lies on disk, without the process that wrote it.

mod bar;
mod destination;
mod drain;
mod export;
mod files;
mod find;
mod records;
mod report;

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Exit;
use super::logs::Format;
use super::out::complain;

pub(crate) use bar::Bar;
pub(crate) use drain::{DrainArgs, drain};
pub(crate) use export::{ExportArgs, Lines, export};
pub(crate) use files::ReadOnly;
pub(crate) use find::letters;
pub(crate) use records::{Records, can_not_open};
pub(crate) use report::time;

/// What can be done with a journal.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what journals hold, and whom it is owed to. Changes nothing, and needs no process to stop.
    Inspect(Look),
    /// As `inspect`, with every checksum checked: exit code 5 where something is damaged.
    Verify(Look),
    /// Write what is still owed as OTLP/JSON, one export request a line. Changes nothing, and needs no process to stop.
    Export {
        #[command(flatten)]
        export: ExportArgs,
        /// What is done as well, as far as it is still there.
        #[arg(long)]
        all: bool,
    },
    /// Send what is still owed to an OTLP endpoint, and mark it done. The process that has the journal must have ended.
    Drain {
        #[command(flatten)]
        drain: DrainArgs,
        /// Only what is owed to this exporter; what it owes others stays.
        #[arg(long, value_name = "NAME")]
        exporter: Option<String>,
    },
}

/// Which journals are meant, and how they are shown.
#[derive(Debug, Args)]
pub(crate) struct Look {
    /// The directory of a journal, or one above: then each journal below it, in order.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// For people, or one JSON object a line.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) format: Format,
    /// Show no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Why a command can not do what it was asked, as a text for the user.
#[derive(Debug)]
pub(crate) struct Failed {
    exit: Exit,
    said: String,
}

/// `journal`.
pub(crate) fn run(command: &Command) -> Exit {
    let done = match command {
        Command::Inspect(look) => report::inspect(look, false),
        Command::Verify(look) => report::inspect(look, true),
        Command::Export { export: arguments, all } => find::journals(&arguments.directory)
            .and_then(|found| export(&found, arguments, Lines { all: *all, ..Lines::default() })),
        Command::Drain { drain: arguments, exporter } => find::journals(&arguments.look.directory)
            .and_then(|found| drain(&found, arguments, exporter.as_deref())),
    };
    Failed::told(done)
}

// === impl Failed ===

impl Failed {
    /// An argument is wrong.
    pub(crate) fn argument(said: impl Display) -> Self {
        Self { exit: Exit::Config, said: said.to_string() }
    }

    /// What is asked for is right, and can not be had.
    pub(crate) fn start(said: impl Display) -> Self {
        Self { exit: Exit::Start, said: said.to_string() }
    }

    /// It was begun, and could not be ended.
    pub(crate) fn incomplete(said: impl Display) -> Self {
        Self { exit: Exit::Incomplete, said: said.to_string() }
    }

    /// Says what went wrong, if something did.
    pub(crate) fn told(result: Result<Exit, Self>) -> Exit {
        result.unwrap_or_else(|failed| {
            complain(format_args!("error: {}", failed.said));
            failed.exit
        })
    }
}

/// Does the same with each of several directories. What fails in one is said, and keeps none of the others; the first
/// end that is no good one is that of all.
pub(crate) fn each<T>(all: &[T], mut work: impl FnMut(&T) -> Result<Exit, Failed>) -> Exit {
    let ends = all.iter().map(|one| Failed::told(work(one)));
    // Not lazily: every one is done.
    let ends: Vec<Exit> = ends.collect();
    ends.into_iter().find(|exit| *exit != Exit::Drained).unwrap_or(Exit::Drained)
}
