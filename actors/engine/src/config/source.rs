//! What a configuration is read from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::diagnostic::Report;
use super::place::{Spot, Text};

/// Where a configuration comes from, weakest first: `inline`, `files`, variables of the environment, `set`.
#[derive(Clone, Default)]
pub struct Sources {
    /// Texts with a name, read before the files.
    pub inline: Vec<(String, String)>,
    /// TOML files.
    pub files: Vec<PathBuf>,
    /// The environment: what `${env:NAME}` stands for, and `WATERSHED__A__B=value` in place of `a.b`.
    pub environment: BTreeMap<String, String>,
    /// `a.b=value`, as on the command line.
    pub set: Vec<String>,
}

// === impl Sources ===

impl Sources {
    /// These files and the environment of the process, as far as it is Unicode.
    pub fn of_process(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            files: files.into_iter().collect(),
            environment: std::env::vars_os().filter_map(unicode).collect(),
            ..Self::default()
        }
    }

    /// Reads every text; the answer is their numbers.
    pub(crate) fn read(&self, report: &mut Report) -> Vec<usize> {
        let mut texts = Vec::new();
        for (name, text) in &self.inline {
            let text = Some(without_mark(text).to_owned());
            texts.push(report.text(Text { name: name.as_str().into(), text, directory: PathBuf::new() }));
        }
        for path in &self.files {
            texts.extend(read_file(path, report));
        }
        texts
    }
}

fn read_file(path: &Path, report: &mut Report) -> Option<usize> {
    let name = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            report.error_nowhere(format!("can not read `{name}`: {error}"), None);
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let directory = path.parent().map(Path::to_owned).unwrap_or_default();
    let number =
        report.text(Text { name: name.into(), text: Some(without_mark(&text).to_owned()), directory });
    if let Err(error) = std::str::from_utf8(&bytes) {
        let at = error.valid_up_to();
        let spot = Spot { text: number, span: at..at + char::REPLACEMENT_CHARACTER.len_utf8() };
        report.error(&spot, "this is not UTF-8", Some("a configuration is text in UTF-8".to_owned()));
        return None;
    }
    Some(number)
}

/// Some editors begin a file with a byte order mark.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}
