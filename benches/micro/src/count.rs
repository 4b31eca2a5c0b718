//! Instructions, as valgrind counts them: the same on a busy machine as on an idle one.
//!
//! A case is counted twice, at so many operations and at twice as many. The difference is what the operations
//! took; starting up and building the case cancel out.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

use crate::case::Case;

/// How many operations the smaller count is of: so many that what happens once in a while evens out.
const OPERATIONS: u64 = 200;

/// Has glibc copy with vectors however much it is. Where the processor has fast `rep movsb`, glibc takes that from
/// some 2 KB on; valgrind counts it as an instruction a byte, on those machines alone.
const COPY: &str =
    "glibc.cpu.x86_rep_movsb_threshold=1000000000000:glibc.cpu.x86_rep_stosb_threshold=1000000000000";

/// A process of this binary, under valgrind.
pub struct Counted {
    process: Child,
    log: tempfile::NamedTempFile,
}

/// How many instructions an item of `case` takes.
pub fn per_item(case: &Case) -> anyhow::Result<f64> {
    let start = |operations: u64| {
        Counted::start(["--count", case.name, "--operations", &operations.to_string()], Stdio::null())
    };
    let (once, twice) = (start(OPERATIONS)?, start(2 * OPERATIONS)?);
    let (once, twice) = (once.finish()?, twice.finish()?);
    ensure!(twice > once, "twice as many operations took no more instructions: {once}, {twice}");
    Ok((twice - once) as f64 / (OPERATIONS * case.items as u64) as f64)
}

// === impl Counted ===

impl Counted {
    /// Starts this binary with `arguments`.
    pub fn start(
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        stdin: Stdio,
    ) -> anyhow::Result<Self> {
        let log = tempfile::NamedTempFile::new().context("nowhere to count to")?;
        let process = Command::new("valgrind")
            // Its caches would be simulated, which takes longer and says nothing here.
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
            .arg(log_file(log.path()))
            .arg(std::env::current_exe().context("where is this binary?")?)
            .args(arguments)
            .env("GLIBC_TUNABLES", COPY)
            .stdin(stdin)
            .stdout(Stdio::null())
            .spawn()
            .context("can not start valgrind: is it installed?")?;
        Ok(Self { process, log })
    }

    /// Waits for its end and says how many instructions it has taken from beginning to end.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        // This closes its stdin too.
        let status = self.process.wait()?;
        let log = std::fs::read_to_string(self.log.path())?;
        ensure!(status.success(), "valgrind: {status}\n{log}");
        parse(&log).with_context(|| format!("valgrind has not said how many instructions:\n{log}"))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn log_file(path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from("--log-file=");
    option.push(path);
    option
}

/// Reads "==17== I   refs:      1,234,567".
fn parse(log: &str) -> Option<u64> {
    let count = log.lines().find_map(|line| {
        let (what, count) = line.split_once("refs:")?;
        what.trim_end().ends_with(" I").then_some(count)
    })?;
    count.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_count_is_found_in_what_valgrind_says() {
        let log =
            "==17== Cachegrind, a cache and branch-prediction profiler\n==17== I   refs:      12,345,678\n";
        assert_eq!(parse(log), Some(12_345_678));
        assert_eq!(parse("==17== I refs:        7\n"), Some(7));
        assert_eq!(parse("==17== D   refs:      7\n"), None);
        assert_eq!(parse(""), None);
    }
}
