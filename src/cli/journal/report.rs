//! `inspect` and `verify`: what a journal holds, in numbers.

use std::path::{Path, PathBuf};

use indicatif::{BinaryBytes, HumanDuration};
use serde_json::{Map, Value, json};
use watershed_durable::DEAD_LETTERS;
use watershed_journal::{Inspection, inspect as look_at};

use super::bar::Bar;
use super::files::ReadOnly;
use super::records::{branches, can_not_open};
use super::{Failed, Look, each, find};
use crate::cli::Exit;
use crate::cli::logs::Format;
use crate::cli::out::print;
use crate::stage::wall_clock;

/// What is known of a journal.
struct Report {
    directory: PathBuf,
    inspection: Inspection,
    /// What its files take, in bytes.
    bytes: u64,
    /// That of its dead letters, if there are any.
    letters: Option<Box<Report>>,
}

/// `inspect`, and where `deep` `verify`.
pub(super) fn inspect(look: &Look, deep: bool) -> Result<Exit, Failed> {
    let found = find::journals(&look.directory)?;
    Ok(each(&found, |directory| {
        let report = Report::of(directory, deep, look.quiet)?;
        match look.format {
            Format::Text => print(report.text()),
            Format::Json => print(report.json()),
        }
        Ok(if deep && !report.is_sound() { Exit::Damaged } else { Exit::Drained })
    }))
}

// === impl Report ===

impl Report {
    fn of(directory: &Path, deep: bool, quiet: bool) -> Result<Self, Failed> {
        let bytes = size(directory);
        let bar = Bar::bytes(directory.display(), bytes, quiet);
        let inspection = look_at(&ReadOnly::new(directory).counted(&bar), deep).map_err(can_not_open)?;
        let letters = directory.join(DEAD_LETTERS);
        let letters = letters.is_dir().then(|| Self::of(&letters, deep, quiet)).transpose()?;
        Ok(Self { directory: directory.to_owned(), inspection, bytes, letters: letters.map(Box::new) })
    }

    fn sum(&self, of: impl Fn(&watershed_journal::SegmentReport) -> u64) -> u64 {
        self.inspection.segments.iter().map(of).sum()
    }

    /// Records that are owed to somebody.
    fn unfinished(&self) -> u64 {
        self.sum(|segment| segment.unfinished)
    }

    /// Bytes that can not be read.
    fn damaged(&self) -> u64 {
        self.sum(|segment| segment.damaged_bytes + segment.damaged_marks)
    }

    /// Whether everything in it and in its dead letters can be read. What was set aside was told when it was.
    fn is_sound(&self) -> bool {
        let below = self.letters.as_ref().is_none_or(|letters| letters.is_sound());
        self.damaged() == 0 && self.inspection.lost.is_empty() && below
    }

    /// The format version of its oldest segment; none where there is none, or it can not be read.
    fn version(&self) -> Option<u16> {
        self.inspection.segments.first()?.version
    }

    /// When what is owed arrived at the earliest, in Unix nanoseconds.
    fn oldest(&self) -> Option<u64> {
        let owed = self.inspection.segments.iter().filter(|segment| segment.unfinished > 0);
        owed.filter_map(|segment| segment.arrived).map(|(first, _)| first).min()
    }

    /// Records owed to each exporter.
    fn owed(&self) -> Vec<(String, u64)> {
        let of = |name: &String| {
            let owed = self.inspection.segments.iter().flat_map(|segment| &segment.owed);
            owed.filter(|(owed, _)| owed == name).map(|(_, records)| records).sum()
        };
        branches(&self.inspection).into_iter().map(|name| (name.clone(), of(&name))).collect()
    }

    fn text(&self) -> String {
        let Inspection { segments, lost, quarantined } = &self.inspection;
        let version = self.version().map_or("?".into(), |version| version.to_string());
        let mut lines = vec![self.directory.display().to_string()];
        let mut line = |name: &str, text: String| lines.push(format!("  {name:<13}{text}"));
        line("format", if segments.is_empty() { "no segments yet".into() } else { version });
        let (first, end) = (segments.first(), segments.last());
        if let (Some(first), Some(end)) = (first, end) {
            let (first, end) = (first.first, end.end.saturating_sub(1));
            line("segments", format!("{} (records {first} to {end})", segments.len()));
        }
        line("records", format!("{} ({} not done)", self.sum(|segment| segment.records), self.unfinished()));
        line("bytes", BinaryBytes(self.bytes).to_string());
        let owed = self.owed();
        let width = owed.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (at, (name, records)) in owed.iter().enumerate() {
            line(if at == 0 { "owed to" } else { "" }, format!("{name:<width$} {records}"));
        }
        if let Some(oldest) = self.oldest() {
            let age = std::time::Duration::from_nanos(wall_clock().saturating_sub(oldest));
            line("oldest", format!("{} ({} ago)", time(oldest), HumanDuration(age)));
        }
        let torn = self.sum(|segment| segment.torn_bytes);
        if torn > 0 {
            line("torn", format!("{torn} bytes of a write cut short, or not yet ended"));
        }
        match self.damaged() {
            0 if lost.is_empty() => line("damage", "none".into()),
            bytes => line("damage", format!("{bytes} bytes can not be read")),
        }
        for loss in lost {
            let (records, reason) = (loss.records, loss.reason);
            line("", format!("{records} records of {} to {} lost: {reason}", loss.from, loss.to));
        }
        for (name, bytes) in quarantined {
            line("set aside", format!("{name} ({})", BinaryBytes(*bytes)));
        }
        match &self.letters {
            Some(letters) => {
                let sound = if letters.is_sound() { "" } else { ", damaged" };
                line("dead letters", format!("{}{sound}", letters.unfinished()));
            }
            None => line("dead letters", "none".into()),
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let Inspection { segments, lost, quarantined } = &self.inspection;
        let lost = lost.iter().map(|loss| {
            let reason = loss.reason.to_string();
            json!({ "from": loss.from, "to": loss.to, "records": loss.records, "reason": reason })
        });
        let owed: Map<String, Value> =
            self.owed().into_iter().map(|(name, records)| (name, records.into())).collect();
        json!({
            "journal": self.directory.display().to_string(),
            "format": self.version(),
            "segments": segments.len(),
            "first": segments.first().map(|segment| segment.first),
            "end": segments.last().map(|segment| segment.end),
            "records": self.sum(|segment| segment.records),
            "not_done": self.unfinished(),
            "bytes": self.bytes,
            "owed": owed,
            "oldest": self.oldest().map(time),
            "torn_bytes": self.sum(|segment| segment.torn_bytes),
            "damaged_bytes": self.damaged(),
            "lost": lost.collect::<Vec<_>>(),
            "set_aside": quarantined.iter().map(|(name, bytes)| json!({ "file": name, "bytes": bytes })).collect::<Vec<_>>(),
            "dead_letters": self.letters.as_ref().map_or(0, |letters| letters.unfinished()),
            "sound": self.is_sound(),
        })
    }
}

/// What the files of a directory take, in bytes. Those that go meanwhile count nothing.
pub(super) fn size(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok());
    files.filter(|file| file.is_file()).map(|file| file.len()).sum()
}

/// A time in Unix nanoseconds, as RFC 3339 has it.
pub(crate) fn time(nanos: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos));
    time.map_or_else(|_| nanos.to_string(), |time| format!("{time:.3}"))
}
