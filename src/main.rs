//! The `watershed` program, with the kinds that Watershed brings. A distribution of your own is this file with more
//! kinds.

use std::process::ExitCode;

fn main() -> ExitCode {
    watershed::program(std::env::args_os(), watershed::kinds()).into()
}
