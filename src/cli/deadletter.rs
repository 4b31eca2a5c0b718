//! `deadletter`: what could not be delivered, and why.

use std::collections::VecDeque;
use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};
use watershed_durable::{Envelope, Letter, signal};
use watershed_journal::{Stored, inspect};

use super::Exit;
use super::journal::{
    Bar, DrainArgs, ExportArgs, Failed, Lines, Look, ReadOnly, Records, can_not_open, drain, each, export,
    letters, time,
};
use super::logs::Format;
use super::out::print;

/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what could not be delivered, and why. Changes nothing, and needs no process to stop.
    List {
        #[command(flatten)]
        look: Look,
        /// Only the newest so many of each journal.
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
    },
    /// Send them to an OTLP endpoint. What is taken is a dead letter no more.
    Replay(DrainArgs),
    /// Write them as OTLP/JSON, one export request a line. Changes nothing, and needs no process to stop.
    Export {
        #[command(flatten)]
        export: ExportArgs,
        /// Writes `{"letter": {…}, "request": {…}}`: why it is one beside the request.
        #[arg(long)]
        with_reason: bool,
    },
}

/// `deadletter`.
pub(crate) fn run(command: &Command) -> Exit {
    Failed::told(match command {
        Command::List { look, limit } => letters(&look.directory).map(|found| {
            if found.is_empty() && look.format == Format::Text {
                print(format_args!("{}: no dead letters", look.directory.display()));
            }
            each(&found, |directory| list(directory, look.format, limit.unwrap_or(usize::MAX)))
        }),
        Command::Replay(arguments) => {
            letters(&arguments.look.directory).and_then(|found| drain(&found, arguments, None))
        }
        Command::Export { export: arguments, with_reason } => letters(&arguments.directory)
            .and_then(|found| export(&found, arguments, Lines { letter: *with_reason, ..Lines::default() })),
    })
}

fn list(directory: &Path, format: Format, limit: usize) -> Result<Exit, Failed> {
    let bar = Bar::none();
    let inspection = inspect(&ReadOnly::new(directory), false).map_err(can_not_open)?;
    let (mut newest, mut older, mut lost) = (VecDeque::new(), 0, 0);
    if !inspection.segments.is_empty() {
        let mut records = Records::open(ReadOnly::new(directory), &inspection, None, &bar)?;
        loop {
            let read = records.next(CHUNK, &bar)?;
            if read.is_empty() {
                break;
            }
            for stored in read {
                newest.push_back(facts(&stored, &Envelope::read(&stored.context).unwrap_or_default()));
                if newest.len() > limit {
                    newest.pop_front();
                    older += 1;
                }
            }
        }
        lost = records.lost();
    }
    match format {
        Format::Json => newest.iter().for_each(|letter| {
            let mut letter = letter.clone();
            letter["journal"] = directory.display().to_string().into();
            print(letter);
        }),
        Format::Text => show(directory, &newest, older),
    }
    Ok(if lost > 0 { Exit::Damaged } else { Exit::Drained })
}

/// What is known of a dead letter.
pub(crate) fn facts(stored: &Stored, envelope: &Envelope<'_>) -> Value {
    let unknown = Letter {
        to: String::new(),
        fault: "unknown".into(),
        reason: "what lies beside it can not be read".into(),
        items: u64::from(stored.items),
        at: stored.arrived,
    };
    let Letter { to, fault, reason, items, at } = envelope.letter.as_ref().unwrap_or(&unknown);
    json!({
        "sequence": stored.sequence,
        "when": time(*at),
        "arrived": time(stored.arrived),
        "receiver": envelope.receiver,
        "pipeline": envelope.pipeline,
        "to": to,
        "fault": fault,
        "reason": reason,
        "items": items,
        "signal": signal(stored.kind).map(|signal| signal.to_string()),
        "attempts": stored.attempts,
    })
}

/// A table, the reason last: it may be long.
fn show(directory: &Path, letters: &VecDeque<Value>, older: u64) {
    const HEADS: [&str; 9] =
        ["NUMBER", "WHEN", "FROM", "TO", "FAULT", "ITEMS", "SIGNAL", "ATTEMPTS", "REASON"];
    let total = older + letters.len() as u64;
    print(format_args!("{}: {total} dead letters", directory.display()));
    if letters.is_empty() {
        return;
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null => "?".into(),
        other => other.to_string(),
    };
    let row = |letter: &Value| {
        let from = format!("{} ({})", text(&letter["receiver"]), text(&letter["pipeline"]));
        let [sequence, when, to, fault, items, signal, attempts, reason] =
            ["sequence", "when", "to", "fault", "items", "signal", "attempts", "reason"]
                .map(|key| text(&letter[key]));
        [sequence, when, from, to, fault, items, signal, attempts, reason]
    };
    let rows: Vec<[String; 9]> =
        [HEADS.map(str::to_owned)].into_iter().chain(letters.iter().map(row)).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        print(format_args!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end()));
    }
    if older > 0 {
        print(format_args!("  {older} older ones are not shown"));
    }
}
