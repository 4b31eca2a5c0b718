//! Where journals lie: at a directory, or below it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use watershed_durable::{DEAD_LETTERS, NOTES};

use super::Failed;

/// How far below the directory that is named: what holds a role's journals, the journals of a stage, one of them, its
/// dead letters.
const DEPTH: usize = 4;

/// The names that only a journal's files have.
const EXTENSIONS: [&str; 4] = ["seg", "done", "tmp", "bad"];

/// The journals at or below `directory`, in the order of their names. Dead letters are none, unless they are what is
/// named.
pub(crate) fn journals(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let named = are_letters(directory);
    let found: Vec<_> = all(directory)?.into_iter().filter(|it| named || !are_letters(it)).collect();
    if found.is_empty() { Err(nothing(directory)) } else { Ok(found) }
}

/// The dead letters at or below `directory`, in the order of their names; none where there are only journals.
pub(crate) fn letters(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    Ok(all(directory)?.into_iter().filter(|it| are_letters(it)).collect())
}

/// What is a journal in its form, dead letters among them.
fn all(directory: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut found = Vec::new();
    walk(directory, DEPTH, &mut found).map_err(|error| {
        let directory = directory.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failed::argument(format_args!("{directory} does not exist")),
            io::ErrorKind::NotADirectory => Failed::argument(format_args!("{directory} is not a directory")),
            _ => Failed::start(format_args!("{directory}: can not be listed: {error}")),
        }
    })?;
    if found.is_empty() { Err(nothing(directory)) } else { Ok(found) }
}

fn nothing(directory: &Path) -> Failed {
    Failed::argument(format_args!(
        "{}: there is no journal at or below it: name the `directory` of a `journal` or `file_storage`, or one in it",
        directory.display()
    ))
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let (mut below, mut is_journal) = (Vec::new(), false);
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            // What stages remember beside a journal is no telemetry.
            below.extend(Some(path).filter(|_| entry.file_name() != NOTES));
        } else {
            let extension = path.extension().and_then(OsStr::to_str);
            is_journal |= entry.file_name() == "lock" || extension.is_some_and(|it| EXTENSIONS.contains(&it));
        }
    }
    if is_journal {
        found.push(directory.to_owned());
    }
    below.sort_unstable();
    if depth > 0 {
        below.iter().try_for_each(|path| walk(path, depth - 1, found))?;
    }
    Ok(())
}

/// Whether it is a directory of dead letters, however it was named.
fn are_letters(directory: &Path) -> bool {
    let is = |path: &Path| path.file_name() == Some(OsStr::new(DEAD_LETTERS));
    is(directory) || directory.canonicalize().is_ok_and(|path| is(&path))
}
