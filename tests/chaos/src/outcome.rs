//! What a run came to, and the table that says so.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use watershed_testkit::{LoadReport, Sink, SinkSnapshot, Verdict, verdict};

use crate::topology::Custody;

/// The account of a run, and what was wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was promised, and what came.
    pub balance: Verdict,
    /// Copies that the blows explain.
    pub twice_bound: u64,
    /// Items that the agent itself has reported as lost or damaged: exactly as many may be missing.
    pub reported: u64,
    /// What did not hold besides.
    pub faults: Vec<String>,
    /// Figures worth reading.
    pub notes: Vec<String>,
}

impl Outcome {
    /// Books a load whose spans went to `sink`: what is a fault of any run, and the copies that are its senders' own.
    pub fn of(load: &LoadReport, sink: &Sink) -> Outcome {
        Outcome::between(load, &sink.snapshot())
    }

    /// As [`Outcome::of`], of what has arrived anywhere.
    pub fn between(load: &LoadReport, arrived: &SinkSnapshot) -> Outcome {
        let mut outcome =
            Outcome { balance: verdict(load, arrived), twice_bound: unanswered(load), ..Outcome::default() };
        outcome
            .expect(load.unresolved == 0, || format!("{} requests without an end: {load}", load.unresolved));
        outcome
    }

    /// Notes a fault unless `holds`.
    pub fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    /// Notes a figure.
    pub fn note(&mut self, figure: impl Into<String>) {
        // What a peer answered may be no text.
        self.notes.push(figure.into().replace(char::is_control, " "));
    }

    /// Adds the account of another round or branch.
    pub fn add(&mut self, other: Outcome) {
        self.balance.acknowledged += other.balance.acknowledged;
        self.balance.arrived += other.balance.arrived;
        self.balance.twice += other.balance.twice;
        self.balance.lost += other.balance.lost;
        self.twice_bound += other.twice_bound;
        self.reported += other.reported;
        self.faults.extend(other.faults);
        self.notes.extend(other.notes);
    }

    /// Everything that speaks against it.
    fn judged(mut self) -> Outcome {
        let Verdict { acknowledged, twice, lost, .. } = self.balance;
        self.expect(acknowledged > 0, || "nothing was acknowledged".into());
        let reported = self.reported;
        self.expect(lost == reported, || format!("{lost} acknowledged spans lost, {reported} reported"));
        let bound = self.twice_bound;
        self.expect(twice <= bound, || format!("{twice} copies, where {bound} are explained"));
        self
    }
}

/// Spans of attempts that had no answer: their senders repeat them, arrived or not.
pub fn unanswered(load: &LoadReport) -> u64 {
    (load.timeouts + load.transport_errors) * load.spans_per_request
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The scenario's name.
    pub scenario: &'static str,
    /// Whose the data was.
    pub custody: Custody,
    /// What the dice began with.
    pub seed: u64,
    /// How often it happened.
    pub rounds: u32,
    /// How long it took.
    pub seconds: f64,
    /// Spans acknowledged.
    pub acknowledged: u64,
    /// Different spans that arrived.
    pub arrived: u64,
    /// Copies beyond the first.
    pub twice: u64,
    /// Copies that the blows explain.
    pub twice_bound: u64,
    /// Acknowledged and not arrived.
    pub lost: u64,
    /// Of these, reported by the agent itself.
    pub reported: u64,
    /// What did not hold; empty if all did.
    pub faults: Vec<String>,
    /// Figures worth reading.
    pub notes: Vec<String>,
    /// Why it was not run.
    pub skipped: Option<String>,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table that is also markdown, and under each row what there is to say about it.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
    /// The table alone, for `docs/reliability.md`.
    Markdown,
}

impl Row {
    /// What stands above the rows.
    pub const HEADER: &str = "| scenario | custody | seed | rounds | seconds | acknowledged | arrived | twice | explained | lost | verdict |\n\
                              |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|";

    pub(crate) fn new(
        scenario: &'static str,
        custody: Custody,
        seed: u64,
        rounds: u32,
        took: Duration,
        outcome: Outcome,
    ) -> Row {
        let Outcome { balance, twice_bound, reported, faults, notes } = outcome.judged();
        let Verdict { acknowledged, arrived, twice, lost } = balance;
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        Row {
            scenario,
            custody,
            seed,
            rounds,
            seconds,
            acknowledged,
            arrived,
            twice,
            twice_bound,
            lost,
            reported,
            faults,
            notes,
            skipped: None,
        }
    }

    pub(crate) fn skipped(scenario: &'static str, custody: Custody, seed: u64, why: String) -> Row {
        let row = Row::new(scenario, custody, seed, 0, Duration::ZERO, Outcome::default());
        Row { faults: Vec::new(), skipped: Some(why), ..row }
    }

    /// Whether everything held; true of what was not run.
    pub fn holds(&self) -> bool {
        self.faults.is_empty()
    }

    /// Prints the row.
    pub fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => println!("{}", serde_json::to_string(self)?),
            Format::Markdown => println!("{self}"),
            Format::Text => {
                println!("{self}");
                let faults = self.faults.iter().map(|fault| ("fault", fault));
                let notes = self.notes.iter().map(|note| ("note", note));
                let skipped = self.skipped.iter().map(|why| ("skipped", why));
                for (kind, text) in faults.chain(notes).chain(skipped) {
                    println!("  {kind}: {text}");
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { scenario, custody, seed, .. } = self;
        if self.skipped.is_some() {
            return write!(f, "| {scenario} | {custody} | {seed} | | | | | | | | skipped |");
        }
        let Row { rounds, seconds, acknowledged, arrived, twice, twice_bound, lost, reported, .. } = self;
        let reported = if *reported > 0 { format!(" (reported: {reported})") } else { String::new() };
        let verdict = if self.holds() { "holds" } else { "**FAILS**" };
        write!(
            f,
            "| {scenario} | {custody} | {seed} | {rounds} | {seconds:.1} | {acknowledged} | {arrived} | {twice} | \
             {twice_bound} | {lost}{reported} | {verdict} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(balance: Verdict, twice_bound: u64, reported: u64) -> Row {
        let outcome = Outcome { balance, twice_bound, reported, ..Outcome::default() };
        Row::new("test", Custody::Delivered, 7, 1, Duration::from_millis(1_234), outcome)
    }

    #[test]
    fn a_row_holds_only_if_all_is_accounted_for() {
        let balance = Verdict { acknowledged: 900, arrived: 1_000, twice: 100, lost: 0 };
        assert!(row(balance, 100, 0).holds());
        assert!(!row(balance, 99, 0).holds(), "a copy too many");
        assert!(!row(balance, 100, 1).holds(), "reported and there after all");
        assert!(!row(Verdict { lost: 1, ..balance }, 100, 0).holds(), "lost in silence");
        assert!(row(Verdict { lost: 1, ..balance }, 100, 1).holds(), "lost and reported");
        assert!(!row(Verdict::default(), 0, 0).holds(), "nothing was tried");
    }

    #[test]
    fn rows_fit_their_header() {
        let balance = Verdict { acknowledged: 900, arrived: 1_000, twice: 100, lost: 5 };
        let row = row(balance, 200, 5);
        assert_eq!(
            row.to_string(),
            "| test | delivered | 7 | 1 | 1.2 | 900 | 1000 | 100 | 200 | 5 (reported: 5) | holds |"
        );
        let skipped = Row::skipped("test", Custody::Journal, 7, "none here".into());
        for text in [row.to_string(), skipped.to_string()] {
            assert_eq!(text.matches('|').count(), Row::HEADER.lines().next().unwrap().matches('|').count());
        }
        assert!(skipped.holds());
    }
}
