//! The `watershed` program. Everything that belongs to the process as a whole starts here: arguments, logs,
//! panic hook, signals, exit code. The engine knows of none of it.

mod admin;
mod cli;
#[cfg(feature = "demo")]
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main().into()
}
