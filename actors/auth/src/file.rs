//! Secrets that stand in a file, which is read again when it has changed.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use watershed_stage::Failure;

/// How often a file is looked at, at most.
const PERIOD: Duration = Duration::from_secs(1);

/// The largest file: secrets are small, and reading holds up a lane.
const LARGEST: u64 = 1 << 20;

/// What a text says, or what is wrong with it. The latter must not quote it.
type Parse<T> = Box<dyn Fn(&str) -> Result<T, String> + Send + Sync>;

/// A value that stands in the settings, or in a file.
pub(crate) enum Source<T> {
    Fixed(Arc<T>),
    File(Box<Watched<T>>),
}

/// A file, and what it said last.
pub(crate) struct Watched<T> {
    path: String,
    parse: Parse<T>,
    value: Mutex<Arc<T>>,
    /// Held while the file is read: meanwhile others go by what it said.
    state: Mutex<State>,
}

struct State {
    /// When the file was last looked at,
    looked: Instant,
    /// and what it was then; `None` if it could not be read.
    stamp: Option<Stamp>,
}

/// By what a change is noticed. A file that takes another's place has an inode of its own.
type Stamp = (u64, u64, i64, i64);

// === impl Source ===

impl<T> Source<T> {
    /// What stands in the settings.
    pub fn fixed(value: T) -> Self {
        Self::Fixed(Arc::new(value))
    }

    /// What stands in the file that `key` names.
    pub fn file(
        key: &str,
        path: &str,
        parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let said = |error| Failure::new(format!("`{key}`: {path}: {error}"));
        let (stamp, text) = read(path).map_err(said)?;
        let value = parse(&text).map_err(|problem| Failure::new(format!("`{key}`: {path}: {problem}")))?;
        Ok(Self::File(Box::new(Watched {
            path: path.to_owned(),
            parse: Box::new(parse),
            value: Mutex::new(Arc::new(value)),
            state: Mutex::new(State { looked: Instant::now(), stamp: Some(stamp) }),
        })))
    }

    /// The value as it is now, or as it was before the file became unreadable.
    pub fn get(&self) -> Arc<T> {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::File(file) => file.get(),
        }
    }
}

// === impl Watched ===

impl<T> Watched<T> {
    fn get(&self) -> Arc<T> {
        let now = Instant::now();
        if let Some(mut state) = self.state.try_lock()
            && now.duration_since(state.looked) >= PERIOD
        {
            state.looked = now;
            self.look(&mut state);
        }
        self.value.lock().clone()
    }

    fn look(&self, state: &mut State) {
        if let (Ok(stamp), Some(known)) = (&stamp(&self.path), &state.stamp)
            && stamp == known
        {
            return;
        }
        match read(&self.path).and_then(|(stamp, text)| Ok((stamp, (self.parse)(&text)?))) {
            Ok((stamp, value)) => {
                *self.value.lock() = Arc::new(value);
                state.stamp = Some(stamp);
                tracing::info!(path = %self.path, "the file has changed and was read again");
            }
            Err(error) => {
                // Said once, until it can be read again. What it said before holds.
                if state.stamp.take().is_some() {
                    tracing::error!(path = %self.path, %error, "the file can not be read again: what it said before holds");
                }
            }
        }
    }
}

fn stamp(path: &str) -> std::io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

/// What a file says, and what it was before it was read: a change after that is seen the next time.
fn read(path: &str) -> Result<(Stamp, String), String> {
    let mut text = String::new();
    let read = stamp(path).and_then(|stamp| {
        fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
        Ok(stamp)
    });
    let stamp = read.map_err(|error| error.to_string())?;
    // A part of it may let in whom the whole does not.
    if text.len() as u64 > LARGEST { Err("it is larger than 1 MiB".into()) } else { Ok((stamp, text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Result<String, String> {
        let text = text.trim();
        if text.is_empty() { Err("it is empty".into()) } else { Ok(text.to_owned()) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_when_it_has_changed_and_a_second_has_passed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, "one\n").unwrap();
        let source = Source::file("key", path.to_str().unwrap(), word).ok().unwrap();
        assert_eq!(*source.get(), "one");
        fs::write(&path, "three\n").unwrap();
        assert_eq!(*source.get(), "one");
        tokio::time::advance(PERIOD).await;
        assert_eq!(*source.get(), "three");
        // Of the same length: the time of its change tells.
        fs::write(&path, "four!\n").unwrap();
        tokio::time::advance(PERIOD).await;
        assert_eq!(*source.get(), "four!");
        for content in [Some(" \n"), None] {
            fs::remove_file(&path).unwrap();
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            tokio::time::advance(PERIOD).await;
            assert_eq!(*source.get(), "four!", "what it said before holds");
        }
        fs::write(&path, "five\n").unwrap();
        tokio::time::advance(PERIOD).await;
        assert_eq!(*source.get(), "five");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        for (length, is_taken) in [(LARGEST, true), (LARGEST + 1, false)] {
            fs::write(&path, "a".repeat(length as usize)).unwrap();
            assert_eq!(Source::file("key", path.to_str().unwrap(), word).is_ok(), is_taken);
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_said_by_key_and_path() {
        let error = Source::file("filename", "/nowhere/secret", word).err().unwrap();
        assert_eq!(error.message, "`filename`: /nowhere/secret: No such file or directory (os error 2)");
    }
}
