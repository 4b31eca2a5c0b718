//! What a store counts and shows.

use std::sync::Arc;

use parking_lot::Mutex;
use watershed_journal::Usage;
use watershed_stage::{Counter, Env, Histogram, Metrics};

/// Bounds of the time that a commit takes, in microseconds.
const MICROSECONDS: &[u64] =
    &[50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Bounds of how many records share a commit.
const RECORDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

pub(super) struct Counters {
    metrics: Metrics,
    journal: Arc<str>,
    pub(super) records: Counter,
    pub(super) bytes: Counter,
    pub(super) commit_time: Histogram,
    pub(super) commit_records: Histogram,
    pub(super) replayed: Counter,
    pub(super) refused_again: Counter,
    pub(super) dead_letters: Counter,
    usage: Arc<Mutex<Usage>>,
}

// === impl Counters ===

impl Counters {
    pub(super) fn new(env: &Env, ends: &[Arc<str>]) -> Self {
        let (metrics, journal) = (&env.metrics, journal_of(env));
        let labels = [("journal", &*journal)];
        let usage = Arc::new(Mutex::new(Usage::default()));
        let gauge = |name, help, labels: &[(&str, &str)], read: fn(&Usage, usize) -> f64, of: usize| {
            let usage = usage.clone();
            metrics.gauge(name, help, labels, Arc::new(move || read(&usage.lock(), of)));
        };
        gauge(
            "watershed_journal_disk_bytes",
            "What a journal's files take.",
            &labels,
            |u, _| u.bytes as f64,
            0,
        );
        gauge(
            "watershed_journal_disk_limit_bytes",
            "What they may take.",
            &labels,
            |u, _| u.max_bytes as f64,
            0,
        );
        gauge(
            "watershed_journal_segments",
            "A journal's files of records.",
            &labels,
            |u, _| u.segments as f64,
            0,
        );
        let help = "What is in memory because it is not known to be on the disk.";
        gauge("watershed_journal_unsynced_bytes", help, &labels, |u, _| u.unsynced as f64, 0);
        for (place, end) in ends.iter().enumerate() {
            let labels = [("journal", &*journal), ("exporter", &**end)];
            let help = "Records that an exporter has not had yet.";
            let owed = |usage: &Usage, place: usize| usage.owed.get(place).copied().unwrap_or(0) as f64;
            gauge("watershed_journal_owed_records", help, &labels, owed, place);
        }
        let counter = |name, help| metrics.counter(name, help, &labels);
        let counters = Self {
            records: counter("watershed_journal_records", "Records written."),
            bytes: counter("watershed_journal_bytes", "Bytes of telemetry in the records written."),
            commit_time: metrics.histogram(
                "watershed_journal_commit_microseconds",
                "What it takes to write the records of a commit and, where so configured, to force them to the disk.",
                MICROSECONDS,
                &labels,
            ),
            commit_records: metrics.histogram(
                "watershed_journal_commit_records",
                "Records that share a commit.",
                RECORDS,
                &labels,
            ),
            replayed: counter("watershed_journal_replayed_records", "Records read again to be handed out."),
            refused_again: counter(
                "watershed_journal_returned_records",
                "Records that were refused by what is behind the journal, and will be handed out again.",
            ),
            dead_letters: counter(
                "watershed_journal_dead_letters",
                "Records that can not be delivered and are kept as dead letters.",
            ),
            metrics: metrics.clone(),
            journal: journal.clone(),
            usage,
        };
        // There before anything is lost, so that whoever watches for it sees that nothing is.
        for reason in ["full", "damaged", "file missing", "orphaned", "dead_letter"] {
            counters.lost(reason);
        }
        for reason in ["full", "disk", "unsynced", "too_large"] {
            counters.refused(reason);
        }
        counters
    }

    pub(super) fn show(&self, usage: Usage) {
        *self.usage.lock() = usage;
    }

    /// Messages that were not written.
    pub(super) fn refused(&self, reason: &str) -> Counter {
        self.metrics.counter(
            "watershed_journal_refused_records",
            "Records that were not taken, by reason.",
            &[("journal", &self.journal), ("reason", reason)],
        )
    }

    /// Records that were in the journal, and nobody will ever have.
    pub(super) fn lost(&self, reason: &str) -> Counter {
        self.metrics.counter(
            "watershed_journal_lost_records",
            "Records that were acknowledged and are lost, by reason.",
            &[("journal", &self.journal), ("reason", reason)],
        )
    }
}

/// What a journal is called: the pipeline it stands in, or the exporter it stands before.
fn journal_of(env: &Env) -> Arc<str> {
    match &env.pipeline {
        Some(pipeline) => format!("{}/{pipeline}", env.id).into(),
        None => env.id.clone(),
    }
}
