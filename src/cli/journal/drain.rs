//! `drain` and `replay`: what is owed is sent to an OTLP endpoint, and is done where it was taken.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::time::Instant;
use watershed_durable::open as open_record;
use watershed_journal::{Files as _, OsFiles, Stored, inspect};

use super::bar::Bar;
use super::destination::{Destination, To};
use super::records::{Records, can_not_open};
use super::{Failed, Look};
use crate::cli::Exit;
use crate::cli::logs::Format;
use crate::cli::out::print;
use crate::cli::signals::Signals;
use crate::stage::{ExportError, Partial};

/// How much is in hand at once, in bytes and in calls.
const CHUNK: usize = 4 << 20;
const CALLS: usize = 16;

/// The first and the longest wait of a destination that does not take anything.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a directory is waited for.
const TURN: Duration = Duration::from_secs(2);

/// How many different reasons are remembered.
const REASONS: usize = 16;

/// What is sent, and where to.
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) look: Look,
    #[command(flatten)]
    to: To,
}

/// What became of a record.
enum Answer {
    /// The destination has it, but for so many items.
    Taken(Partial),
    /// It will never have it.
    Rejected(String),
    /// Not now.
    Refused(String, Option<Duration>),
}

/// How a drain ended.
enum End {
    /// Everything was tried that could be.
    All,
    /// The destination took nothing for as long as it was given.
    Refused(String),
    /// A signal came.
    Told(&'static str),
}

/// What was done.
#[derive(Default)]
struct Tally {
    records: u64,
    items: u64,
    /// Items that the destination left out of what it took.
    left_out: u64,
    rejected: u64,
    reasons: BTreeMap<String, u64>,
}

/// One journal on its way to a destination.
struct Run<'a> {
    records: Records<OsFiles>,
    destination: &'a Destination,
    signals: &'a mut Signals,
    timeout: Duration,
    bar: Bar,
    tally: Tally,
}

/// `drain` of these directories; of what is owed to `only`, if it is named.
pub(crate) fn drain(found: &[PathBuf], arguments: &DrainArgs, only: Option<&str>) -> Result<Exit, Failed> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::start)?;
    runtime.block_on(async {
        let destination = arguments.to.open()?;
        let mut signals = Signals::catch().map_err(Failed::start)?;
        let (mut exit, mut told) = (Exit::Drained, false);
        for directory in found {
            let sending = one(directory, arguments, only, &destination, &mut signals, &mut told);
            let end = Failed::told(sending.await);
            exit = if exit == Exit::Drained { end } else { exit };
            if told {
                break;
            }
        }
        Ok(exit)
    })
}

/// Sends what one journal owes; `told` says whether a signal ended that.
async fn one(
    directory: &Path,
    arguments: &DrainArgs,
    only: Option<&str>,
    destination: &Destination,
    signals: &mut Signals,
    told: &mut bool,
) -> Result<Exit, Failed> {
    let Look { format, quiet, .. } = arguments.look;
    let inspection = inspect(&OsFiles::new(directory), false).map_err(can_not_open)?;
    let owed = || inspection.segments.iter().flat_map(|segment| &segment.owed);
    let total = match only {
        None => inspection.segments.iter().map(|segment| segment.unfinished).sum(),
        Some(only) => owed().filter(|(name, _)| name == only).map(|(_, records)| records).sum(),
    };
    let bar = Bar::records(directory.display(), total, quiet);
    wait_for(directory).await;
    let records = Records::open(OsFiles::new(directory), &inspection, only, &bar)?;
    let timeout = arguments.to.timeout;
    let mut run = Run { records, destination, signals, timeout, bar, tally: Tally::default() };
    let end = run.all().await;
    // Also where something failed: what was taken is done.
    let flushed = run.records.journal.flush().map_err(Failed::incomplete);
    let (end, ()) = (end?, flushed?);
    let Run { records, tally, bar, .. } = run;
    drop(bar);
    let owed = records.journal.usage();
    let left = records.only().map_or(owed.records, |branch| owed.owed.get(branch).copied().unwrap_or(0));
    tally.show(directory, format, left, &end);
    *told = matches!(end, End::Told(_));
    Ok(match end {
        End::Told(_) | End::Refused(_) => Exit::Incomplete,
        End::All if left > 0 => Exit::Incomplete,
        End::All if records.lost() > 0 => Exit::Damaged,
        End::All => Exit::Drained,
    })
}

/// Gives whoever has a directory for a moment only the time to give it up: a process has its dead letters no longer than
/// some come. What comes of it, opening will say.
async fn wait_for(directory: &Path) {
    let taken = || OsFiles::new(directory).lock().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    let until = Instant::now() + TURN;
    while taken() && Instant::now() < until {
        tokio::time::sleep(WAITS.0).await;
    }
}

// === impl Run ===

impl Run<'_> {
    /// Sends everything, in order but for what is in flight together.
    async fn all(&mut self) -> Result<End, Failed> {
        loop {
            let read = self.records.next(CHUNK, &self.bar)?;
            if read.is_empty() {
                return Ok(End::All);
            }
            if let Some(end) = self.some(read).await? {
                return Ok(end);
            }
        }
    }

    /// Sends these until each is taken or rejected; or says why not.
    async fn some(&mut self, mut waiting: Vec<Stored>) -> Result<Option<End>, Failed> {
        let (mut since, mut wait) = (Instant::now(), WAITS.0);
        loop {
            let (mut refused, mut reason, mut hint) = (Vec::new(), String::new(), Duration::ZERO);
            let destination = self.destination;
            let calls = waiting.into_iter().map(|stored| send(destination, stored));
            let mut answers = stream::iter(calls).buffer_unordered(CALLS);
            loop {
                let (stored, answer) = tokio::select! {
                    answer = answers.next() => match answer {
                        Some(answer) => answer,
                        None => break,
                    },
                    signal = self.signals.next() => return Ok(Some(End::Told(signal))),
                };
                match answer {
                    Answer::Refused(why, after) => {
                        (reason, hint) = (why, hint.max(after.unwrap_or_default()));
                        refused.push(stored);
                        continue;
                    }
                    Answer::Taken(partial) => {
                        (since, wait) = (Instant::now(), WAITS.0);
                        match self.records.only() {
                            None => self.records.journal.complete_all(stored.sequence),
                            Some(branch) => self.records.journal.complete(stored.sequence, branch),
                        }
                        self.tally.taken(&stored, partial);
                    }
                    Answer::Rejected(why) => self.tally.rejected(why),
                }
                self.bar.add(1);
            }
            drop(answers);
            self.records.journal.flush().map_err(Failed::incomplete)?;
            if refused.is_empty() {
                return Ok(None);
            }
            let left = self.timeout.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Ok(Some(End::Refused(reason)));
            }
            tokio::select! {
                () = tokio::time::sleep(wait.max(hint).min(left)) => {}
                signal = self.signals.next() => return Ok(Some(End::Told(signal))),
            }
            (wait, waiting) = ((wait * 2).min(WAITS.1), refused);
        }
    }
}

/// Sends a record once.
async fn send(destination: &Destination, stored: Stored) -> (Stored, Answer) {
    let answer = match open_record(stored.clone()) {
        Err(unreadable) => Answer::Rejected(unreadable.to_string()),
        Ok((payload, context)) => match destination.send(payload, context).await {
            Ok(partial) => Answer::Taken(partial),
            Err(ExportError::Retryable { reason, retry_after }) => {
                Answer::Refused(reason.into(), retry_after)
            }
            Err(error) => Answer::Rejected(error.to_string()),
        },
    };
    (stored, answer)
}

// === impl Tally ===

impl Tally {
    fn taken(&mut self, stored: &Stored, partial: Partial) {
        self.records += 1;
        self.left_out += partial.rejected;
        self.items += u64::from(stored.items).saturating_sub(partial.rejected);
        if partial.rejected > 0 {
            self.remember(partial.message, partial.rejected);
        }
    }

    fn rejected(&mut self, reason: String) {
        self.rejected += 1;
        self.remember(reason, 1);
    }

    fn remember(&mut self, reason: String, count: u64) {
        let is_new = !self.reasons.contains_key(&reason);
        let reason = if is_new && self.reasons.len() >= REASONS { "others".into() } else { reason };
        *self.reasons.entry(reason).or_default() += count;
    }

    fn show(&self, directory: &Path, format: Format, left: u64, end: &End) {
        let Self { records, items, left_out, rejected, reasons } = self;
        let stopped = match end {
            End::All => None,
            End::Refused(reason) => Some(format!("the destination takes nothing: {reason}")),
            End::Told(signal) => Some(format!("{signal} came")),
        };
        let directory = directory.display();
        match format {
            Format::Json => print(json!({
                "journal": directory.to_string(),
                "sent_records": records,
                "sent_items": items,
                "left_out_items": left_out,
                "rejected_records": rejected,
                "still_owed_records": left,
                "reasons": reasons,
                "stopped": stopped,
            })),
            Format::Text => {
                print(format_args!(
                    "{directory}: {records} records sent ({items} items), {rejected} rejected, {left} still owed"
                ));
                if *left_out > 0 {
                    print(format_args!(
                        "  {left_out} items of what was sent were left out by the destination"
                    ));
                }
                for (reason, count) in reasons {
                    print(format_args!("  {count} x {}", reason.escape_debug()));
                }
                if let Some(stopped) = stopped {
                    print(format_args!("  stopped: {stopped}. Run it again to go on."));
                }
            }
        }
    }
}
