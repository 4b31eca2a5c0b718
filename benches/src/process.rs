//! Children, and what they cost as `/proc` knows it.

use std::fmt::Display;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Another process. Killed when dropped.
pub struct Child {
    process: std::process::Child,
    answers: Option<BufReader<std::process::ChildStdout>>,
}

/// What a process has cost since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Peak resident set in bytes (`VmHWM`).
    pub peak_rss: u64,
    /// Resident set now, in bytes (`VmRSS`).
    pub rss: u64,
}

impl Usage {
    /// The CPU since `before`. It may seem to step back where a thread has ended.
    pub fn since(&self, before: Usage) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }
}

/// This binary in the part `role`, to be talked with.
pub fn own(role: impl Display) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("where is this binary?")?);
    command.arg("--as").arg(role.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

impl Child {
    /// Starts `command`.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Child> {
        let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let answers = process.stdout.take().map(BufReader::new);
        Ok(Child { process, answers })
    }

    /// Sends one line and reads one.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        let stdin = self.process.stdin.as_mut().context("a child without stdin")?;
        writeln!(stdin, "{line}").context("a child has gone")?;
        self.read_line()
    }

    /// Reads one line of the child's.
    pub fn read_line(&mut self) -> anyhow::Result<String> {
        let mut answer = String::new();
        self.answers.as_mut().context("a child without stdout")?.read_line(&mut answer)?;
        if answer.is_empty() {
            bail!("a child ended without an answer");
        }
        Ok(answer)
    }

    /// Waits until the child accepts connections on `addr`.
    pub fn wait_until_it_listens(&mut self, addr: SocketAddr, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("a relay ended before it listened: {status}");
            }
            if Instant::now() > deadline {
                bail!("a relay does not listen on {addr} after {timeout:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// What the child has cost so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        usage(&self.process.id().to_string())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Keeps all cores awake until it is dropped, by spinning in the idle scheduling class. Else sparse work also pays for waking a
/// core, which in a virtual machine varies from minute to minute.
pub fn awake() -> anyhow::Result<Option<Child>> {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(std::env::current_exe()?).args(["--as", "awake"]).stdin(Stdio::piped());
    if let Ok(mut spinner) = Child::spawn(&mut command) {
        // It ends at once where the class may not be chosen.
        std::thread::sleep(Duration::from_millis(100));
        if spinner.process.try_wait()?.is_none() {
            return Ok(Some(spinner));
        }
    }
    eprintln!(
        "`chrt --idle` does not work here: cores fall asleep, and what is sparse costs what waking them does"
    );
    Ok(None)
}

/// Plays the part that [`awake`] starts.
pub fn stay_awake() -> ! {
    for _ in 1..std::thread::available_parallelism().map_or(1, NonZero::get) {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop()
            }
        });
    }
    loop {
        std::hint::spin_loop();
    }
}

/// What this process has cost so far.
pub fn own_usage() -> anyhow::Result<Usage> {
    usage("self")
}

fn usage(pid: &str) -> anyhow::Result<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("a child has gone")?;
    let kib = |key: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Ok(Usage {
        cpu: cpu(pid)?,
        peak_rss: 1024 * kib("VmHWM:").context("no VmHWM")?,
        rss: 1024 * kib("VmRSS:").context("no VmRSS")?,
    })
}

/// User and system time: the scheduler's nanoseconds of every live thread, or, should threads have ended, the
/// process' ticks of 10 ms, which include those. Both only ever miss time, so the larger is nearer.
fn cpu(pid: &str) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the list is read.
        if let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) {
            nanos += schedstat.split_whitespace().next().and_then(|on_cpu| on_cpu.parse().ok()).unwrap_or(0);
        }
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let after_name = stat.rsplit_once(')').context("an odd /proc/stat")?.1;
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|tick| tick.parse::<u64>().ok()).sum();
    Ok(Duration::from_nanos(nanos).max(Duration::from_millis(10 * ticks)))
}

/// Ends this process when its stdin does: the driver holds the other end, so no relay outlives it.
pub fn exit_with_stdin() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let before = own_usage().unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::black_box((0..10_000_u64).sum::<u64>());
        }
        let after = own_usage().unwrap();
        assert!(after.cpu > before.cpu && after.peak_rss >= after.rss && after.rss > 1 << 16, "{after:?}");
    }
}
