//! `export`: records as OTLP/JSON, one export request a line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use watershed_durable::{Envelope, open as open_record};
use watershed_journal::{Stored, inspect};

use super::bar::Bar;
use super::files::ReadOnly;
use super::records::{Records, can_not_open};
use super::{Failed, each};
use crate::cli::Exit;
use crate::cli::deadletter;
use crate::stage::telemetry::json::encode_payload;

/// How much is read at once, in bytes.
const CHUNK: usize = 4 << 20;

/// What is written, and where to.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The directory of a journal, or one above: then each journal below it, in order.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The file to write, over what is in it; standard output unless told.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show no progress.
    #[arg(long, short)]
    quiet: bool,
}

/// What a line holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    /// Records that are done as well.
    pub(crate) all: bool,
    /// The request under `request`, beside what is known of a dead letter under `letter`.
    pub(crate) letter: bool,
}

/// `export` of these directories.
pub(crate) fn export(found: &[PathBuf], arguments: &ExportArgs, lines: Lines) -> Result<Exit, Failed> {
    let mut out: Box<dyn Write> = match &arguments.output {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) => {
            let can_not = |error| {
                Failed::argument(format_args!("--output {}: can not be written: {error}", path.display()))
            };
            Box::new(BufWriter::new(File::create(path).map_err(can_not)?))
        }
    };
    // A bar between the lines of the same terminal helps nobody.
    let shown = arguments.output.is_some() || !io::IsTerminal::is_terminal(&io::stdout());
    let exit = each(found, |directory| {
        let files = || ReadOnly::new(directory).forgetting(lines.all);
        let inspection = inspect(&files(), false).map_err(can_not_open)?;
        let total = inspection.segments.iter().map(|segment| segment.unfinished).sum();
        let bar = Bar::records(directory.display(), total, arguments.quiet || !shown);
        if inspection.segments.is_empty() {
            return Ok(Exit::Drained);
        }
        let mut records = Records::open(files(), &inspection, None, &bar)?;
        let (mut line, mut unreadable) = (Vec::new(), 0);
        loop {
            let read = records.next(CHUNK, &bar)?;
            if read.is_empty() {
                break;
            }
            for stored in read {
                line.clear();
                let sequence = stored.sequence;
                if let Err(error) = append(stored, lines, &mut line) {
                    unreadable += 1;
                    bar.complain(format_args!("warning: record {sequence} is left out: {error}"));
                    continue;
                }
                match out.write_all(&line) {
                    Ok(()) => bar.add(1),
                    // Whoever read has seen enough.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Drained),
                    Err(error) => return Err(can_not_write(&error)),
                }
            }
        }
        Ok(if unreadable + records.lost() > 0 { Exit::Damaged } else { Exit::Drained })
    });
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(can_not_write(&error)),
        _ => Ok(exit),
    }
}

/// Appends a record as a line.
fn append(stored: Stored, lines: Lines, line: &mut Vec<u8>) -> Result<(), String> {
    if lines.letter {
        let envelope = Envelope::read(&stored.context).map_err(|error| error.to_string())?;
        line.extend_from_slice(br#"{"letter":"#);
        line.extend_from_slice(deadletter::facts(&stored, &envelope).to_string().as_bytes());
        line.extend_from_slice(br#","request":"#);
    }
    let (payload, _) = open_record(stored).map_err(|error| error.to_string())?;
    encode_payload(&payload, line);
    line.extend_from_slice(if lines.letter { b"}\n" } else { b"\n" });
    Ok(())
}

fn can_not_write(error: &io::Error) -> Failed {
    Failed::incomplete(format_args!("the export is not whole: it can not be written: {error}"))
}
