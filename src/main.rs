//! The `watershed` program, with the kinds that Watershed brings. A distribution of your own is this file with more
//! kinds.

use std::process::ExitCode;

/// The system's would keep for ever what a full queue has taken once; see docs/performance.md.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    watershed::program(std::env::args_os(), watershed::kinds()).into()
}
