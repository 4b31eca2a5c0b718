//! Files that were put aside: what they are called, and which of them go.

use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use watershed_stage::Counter;

/// When a file is put aside, and for how long it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub max_bytes: u64,
    /// 0 is for ever.
    pub max_days: u32,
    /// 0 is all.
    pub max_backups: usize,
    pub local: bool,
}

/// As lumberjack writes it, which rotates otelcol's files.
const FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";

// === impl Rotation ===

impl Rotation {
    /// A name for the file at `path` once it is put aside: `traces-2026-08-21T09-30-00.000.json`. Nothing has it yet.
    pub fn aside(&self, path: &Path, mut now: Timestamp) -> PathBuf {
        let (prefix, suffix) = affixes(path);
        loop {
            let at = now.to_zoned(self.zone()).strftime(FORMAT).to_string();
            let aside = path.with_file_name(format!("{prefix}{at}{suffix}"));
            if !aside.exists() {
                return aside;
            }
            now = now.saturating_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX);
        }
    }

    /// Removes what is too many or too old, and counts it.
    pub fn prune(&self, path: &Path, now: Timestamp, removed: &Counter) -> Result<()> {
        let mut backups = self.backups(path)?;
        backups.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        let lifetime = SignedDuration::from_hours(24 * i64::from(self.max_days));
        for (index, (at, backup)) in backups.iter().enumerate() {
            let is_old = self.max_days > 0 && now.duration_since(*at) > lifetime;
            if is_old || (self.max_backups > 0 && index >= self.max_backups) {
                fs::remove_file(backup)?;
                removed.add(1);
            }
        }
        Ok(())
    }

    /// The files that were put aside, and when.
    fn backups(&self, path: &Path) -> Result<Vec<(Timestamp, PathBuf)>> {
        let (prefix, suffix) = affixes(path);
        let mut backups = Vec::new();
        for entry in fs::read_dir(directory(path))? {
            let entry = entry?;
            let name = entry.file_name();
            let at = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(&suffix));
            if let Some(at) = at.and_then(|at| self.parse(at)) {
                backups.push((at, entry.path()));
            }
        }
        Ok(backups)
    }

    fn parse(&self, at: &str) -> Option<Timestamp> {
        let at =
            DateTime::strptime(FORMAT, at).ok().filter(|parsed| parsed.strftime(FORMAT).to_string() == at)?;
        self.zone().to_timestamp(at).ok()
    }

    fn zone(&self) -> TimeZone {
        if self.local { TimeZone::system() } else { TimeZone::UTC }
    }
}

/// The directory a file stands in.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What stands before and after the time.
fn affixes(path: &Path) -> (String, String) {
    let part = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let suffix = path.extension().map_or(String::new(), |extension| format!(".{}", part(Some(extension))));
    (format!("{}-", part(path.file_stem())), suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(max_days: u32, max_backups: usize) -> Rotation {
        Rotation { max_bytes: 1, max_days, max_backups, local: false }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn names_are_lumberjacks_and_never_taken() {
        let directory = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-08-21T09:30:00.999Z".parse().unwrap();
        let aside = |name: &str| rotation(0, 0).aside(&directory.path().join(name), now);
        assert_eq!(aside("traces.json").file_name().unwrap(), "traces-2026-08-21T09-30-00.999.json");
        assert_eq!(aside("traces").file_name().unwrap(), "traces-2026-08-21T09-30-00.999");
        fs::write(aside("traces.json"), "").unwrap();
        assert_eq!(aside("traces.json").file_name().unwrap(), "traces-2026-08-21T09-30-01.000.json");
    }

    #[test]
    fn what_is_too_many_or_too_old_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        let backups = [
            "a-2026-08-01T00-00-00.000.json",
            "a-2026-08-19T00-00-00.000.json",
            "a-2026-08-20T00-00-00.000.json",
            "a-2026-08-21T00-00-00.000.json",
        ];
        let others =
            ["a-2020.json", "a-2020-01-01T00-00-00.000.txt", "a.json", "b-2020-01-01T00-00-00.000.json"];
        for name in backups.iter().chain(&others) {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let now = "2026-08-21T09:30:00Z".parse().unwrap();
        let left = |kept: &[&str]| {
            let mut names: Vec<String> = kept.iter().chain(&others).map(|name| (*name).to_owned()).collect();
            names.sort();
            names
        };
        rotation(0, 0).prune(&path, now, &Counter::default()).unwrap();
        assert_eq!(names(directory.path()), left(&backups));
        rotation(7, 0).prune(&path, now, &Counter::default()).unwrap();
        assert_eq!(names(directory.path()), left(&backups[1..]));
        rotation(0, 2).prune(&path, now, &Counter::default()).unwrap();
        assert_eq!(names(directory.path()), left(&backups[2..]));
    }
}
