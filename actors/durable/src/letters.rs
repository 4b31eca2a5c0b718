//! Dead letters: what nobody will ever take, kept beside the journal for a person to look at.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use watershed_delivery::Rejection;
use watershed_journal::{AppendError, Journal, OnFull, Options, OsFiles, Record};
use watershed_stage::wall_clock;

use crate::envelope::{Envelope, Letter};

/// Where dead letters lie in the directory of a journal.
pub const DIRECTORY: &str = "dead-letters";

/// Whom a dead letter is owed to: the person who looks at it.
pub const READER: &str = "reader";

/// How long the directory is kept from people after a letter.
const REST: Duration = Duration::from_secs(2);

/// The dead letters of one journal. Open only while letters come, so that a person can have them at other times.
pub(crate) struct Letters {
    directory: PathBuf,
    max_bytes: u64,
    journal: Option<Journal<OsFiles>>,
    /// When the last one came.
    last: Option<Instant>,
}

// === impl Letters ===

impl Letters {
    pub(crate) fn new(directory: PathBuf, max_bytes: u64) -> Self {
        Self { directory, max_bytes, journal: None, last: None }
    }

    /// Keeps a record that `to` will never take. Once this returns true it is on the disk; it is lost where letters are
    /// not kept. Of what is larger than all letters may be, only the envelope is kept.
    pub(crate) fn keep(
        &mut self,
        record: &Record<'_>,
        to: &str,
        rejection: &Rejection,
    ) -> Result<bool, Box<dyn std::error::Error>> {
        if self.max_bytes == 0 {
            return Ok(false);
        }
        let journal = match &mut self.journal {
            Some(journal) => journal,
            none => none.insert(open(self.directory.clone(), self.max_bytes)?),
        };
        let mut envelope = Envelope::read(record.context).unwrap_or_default();
        envelope.letter = Some(Letter {
            to: to.to_owned(),
            fault: rejection.fault.as_str().to_owned(),
            reason: rejection.reason.to_string(),
            items: rejection.items,
            at: wall_clock(),
        });
        self.last = Some(Instant::now());
        let context = envelope.to_bytes();
        let whole = match journal.append(&Record { context: &context, ..*record }) {
            Err(AppendError::TooLarge | AppendError::Full) => {
                journal.append(&Record { context: &context, payload: &[], ..*record })?;
                false
            }
            appended => appended.map(|_| true)?,
        };
        journal.commit(true)?;
        for gone in journal.given_up() {
            tracing::warn!(directory = %self.directory.display(), letters = gone.records,
                "dead letters are given up for newer ones");
        }
        Ok(whole)
    }

    /// Gives up the directory until the next letter, if there has been none for a while: to open it again is to read
    /// all that is in it.
    pub(crate) fn rest(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now >= last + REST) {
            (self.journal, self.last) = (None, None);
        }
    }

    /// When it would do so.
    pub(crate) fn rests_at(&self) -> Option<Instant> {
        Some(self.last? + REST)
    }
}

fn open(directory: PathBuf, max_bytes: u64) -> Result<Journal<OsFiles>, Box<dyn std::error::Error>> {
    let options = Options { max_bytes, on_full: OnFull::DropOldest, ..Options::new([READER]) };
    let options = Options { segment_bytes: options.segment_bytes.min(max_bytes / 4), ..options };
    let (journal, recovery) = Journal::open(OsFiles::create(directory)?, options)?;
    if !recovery.lost.is_empty() {
        tracing::warn!(lost = ?recovery.lost, "dead letters are damaged");
    }
    Ok(journal)
}
