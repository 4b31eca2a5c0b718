//! The process as the system sees it, under otelcol's names.

use std::fmt::Write as _;

/// Ticks a second in `/proc/self/stat`: fixed by Linux for all that user space sees.
const TICKS: f64 = 100.0;

/// Process metrics in the text exposition format. What the system does not tell is left out.
pub(super) fn render(uptime: f64) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing to a String can not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    metric("otelcol_process_uptime", "counter", "Uptime of the process, in seconds.", uptime);
    if let Some(seconds) = read("/proc/self/stat").as_deref().and_then(cpu_seconds) {
        let help = "CPU time of the process, user and system, in seconds.";
        metric("otelcol_process_cpu_seconds", "counter", help, seconds);
    }
    if let Some(bytes) = read("/proc/self/status").as_deref().and_then(resident) {
        metric("otelcol_process_memory_rss", "gauge", "Resident memory of the process, in bytes.", bytes);
    }
    text
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// User and system time out of `/proc/self/stat`. The name in it may hold spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) / TICKS)
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 9 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2_097_152.0));
    }
}
