//! Backends in a file, one a line: for whatever can write a file and knows them.

use std::io;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use watershed_stage::{Interval, KeyError, Settings};

use super::{Report, endpoint};

/// The largest file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// A file of backends (`resolver.file`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FileSettings {
    /// The file: a backend a line, as `host` or `host:port`. Empty lines and what follows a `#` count for nothing.
    #[schemars(extend("x-required" = true))]
    path: PathBuf,
    /// How often it is looked at.
    interval: Interval,
}

impl Default for FileSettings {
    fn default() -> Self {
        Self { path: PathBuf::new(), interval: Interval::secs(1) }
    }
}

impl Settings for FileSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.path.as_os_str().is_empty() {
            errors.push(KeyError::new("path", "names the file that lists the backends, one a line"));
        }
        if self.interval.0.is_zero() {
            errors.push(KeyError::new("interval", "must be positive"));
        }
        errors
    }
}

impl FileSettings {
    pub(super) async fn run(self, report: &Report) {
        loop {
            report(self.resolve().await);
            sleep(self.interval.0).await;
        }
    }

    /// Reads it on a thread of its own: it may lie on a file system that waits.
    async fn resolve(&self) -> Result<Vec<String>, String> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await.map_err(io::Error::other);
        let text = read.flatten().map_err(|error| format!("{}: {error}", self.path.display()))?;
        parse(&text).map_err(|(line, error)| format!("{}:{line}: {error}", self.path.display()))
    }
}

fn read(path: &std::path::Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("is larger than {LARGEST} bytes")));
    }
    Ok(text)
}

/// The backends of a file; one line that is wrong spoils it, for half of a list would move the keys of the others.
fn parse(text: &str) -> Result<Vec<String>, (usize, String)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let name = |(index, line): (usize, &str)| match endpoint(line) {
        Ok(_) => Ok(line.to_owned()),
        Err(error) => Err((index + 1, error)),
    };
    lines.map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_backend() {
        let text = "# gateways\na:4317\n\n  b   # the second\n[::1]:1\n";
        assert_eq!(parse(text), Ok(vec!["a:4317".into(), "b".into(), "[::1]:1".into()]));
        assert_eq!(parse(""), Ok(Vec::new()));
        let (line, error) = parse("a:4317\nb:port\n").unwrap_err();
        assert!(line == 2 && error.contains("\"b:port\""), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_an_error() {
        let settings = FileSettings { path: "/no/such/file".into(), ..FileSettings::default() };
        let error = settings.resolve().await.unwrap_err();
        assert!(error.starts_with("/no/such/file: "), "{error}");
    }
}
