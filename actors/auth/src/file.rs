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
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
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
        let (text, stamp) = match (read(path), stamp(path)) {
            (Ok(text), Ok(stamp)) => (text, stamp),
            (Err(error), _) | (_, Err(error)) => {
                return Err(Failure::new(format!("`{key}`: {path}: {error}")));
            }
        };
        let value = parse(&text).map_err(|problem| Failure::new(format!("`{key}`: {path}: {problem}")))?;
        let state = State { value: Arc::new(value), looked: Instant::now(), stamp: Some(stamp) };
        Ok(Self::File(Box::new(Watched {
            path: path.to_owned(),
            parse: Box::new(parse),
            state: Mutex::new(state),
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
        let mut state = self.state.lock();
        let now = Instant::now();
        if now.duration_since(state.looked) >= PERIOD {
            state.looked = now;
            self.look(&mut state);
        }
        state.value.clone()
    }

    fn look(&self, state: &mut State<T>) {
        // Before it is read: a change after that is seen the next time.
        let stamp = stamp(&self.path);
        if let (Ok(stamp), Some(known)) = (&stamp, &state.stamp)
            && stamp == known
        {
            return;
        }
        let read = stamp.and_then(|stamp| Ok((stamp, read(&self.path)?))).map_err(|error| error.to_string());
        match read.and_then(|(stamp, text)| Ok((stamp, (self.parse)(&text)?))) {
            Ok((stamp, value)) => {
                state.value = Arc::new(value);
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

fn read(path: &str) -> std::io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
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
    fn a_file_that_is_not_there_is_said_by_key_and_path() {
        let error = Source::file("filename", "/nowhere/secret", word).err().unwrap();
        assert_eq!(error.message, "`filename`: /nowhere/secret: No such file or directory (os error 2)");
    }
}
