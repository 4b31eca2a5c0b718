//! How much memory there is: that of the machine, or less where a cgroup says so.

use std::path::{Path, PathBuf};

/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// The memory of the machine or cgroup in bytes, if it can be told.
pub(crate) fn total() -> Option<u64> {
    let machine = read("/proc/meminfo").and_then(|text| machine(&text));
    let files = read("/proc/self/cgroup").map(|text| limit_files(&text)).unwrap_or_default();
    let cgroup = files.iter().filter_map(|file| limit(&read(file)?)).min();
    match (machine, cgroup) {
        (Some(machine), Some(cgroup)) => Some(machine.min(cgroup)),
        (machine, cgroup) => machine.or(cgroup),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// `MemTotal` of `/proc/meminfo`.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that may hold a limit for a process of which `/proc/self/cgroup` says this: its own group's and
/// every ancestor's, as each of them binds. In a container the path is often not that of the mount; its root is
/// among the ancestors.
fn limit_files(cgroup: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            listed if listed.split(',').any(|controller| controller == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let groups =
            Path::new(path.trim_start_matches('/')).ancestors().map(|group| Path::new(root).join(group));
        files.extend(groups.map(|group| group.join(file)));
    }
    files
}

/// What a limit file says. `max`, or in version 1 a number near the largest, is no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine() {
        assert_eq!(machine("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(machine("MemFree: 1 kB\n"), None);
        assert_eq!(machine("MemTotal: 99999999999999999999 kB"), None);
    }

    #[test]
    fn version_2_and_its_ancestors() {
        let files = limit_files("0::/kubepods/pod1\n");
        let expected = ["kubepods/pod1/memory.max", "kubepods/memory.max", "memory.max"];
        assert_eq!(files, expected.map(|file| Path::new("/sys/fs/cgroup").join(file)));
        assert_eq!(limit_files("0::/\n"), [Path::new("/sys/fs/cgroup/memory.max")]);
    }

    #[test]
    fn version_1() {
        let files = limit_files("5:cpu,cpuacct:/a\n4:memory:/docker/x\nnonsense\n");
        let expected = ["docker/x", "docker", ""].map(|group| Path::new("/sys/fs/cgroup/memory").join(group));
        assert_eq!(files, expected.map(|group| group.join("memory.limit_in_bytes")));
    }

    #[test]
    fn limits() {
        assert_eq!(limit("1073741824\n"), Some(1 << 30));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
    }
}
