//! The table at the end of the demo.

use std::fmt;
use std::time::Duration;

use super::count::{Count, Counts};

/// What was sent and what arrived.
pub(super) struct Summary {
    stories: usize,
    rows: [Row; 3],
    elapsed: Duration,
    /// What went wrong on the way, in words.
    pub(super) problems: Vec<String>,
}

struct Row {
    signal: &'static str,
    sent: u64,
    arrived: u64,
    bytes: u64,
}

// === impl Summary ===

impl Summary {
    /// Compares the SDK's counts with `metrics`, the engine's own after its drain.
    pub(super) fn new(stories: usize, counts: &Counts, metrics: &str, elapsed: Duration) -> Self {
        let row = |signal, items, count: &Count| Row {
            signal,
            sent: count.acknowledged(),
            arrived: arrived(metrics, &format!("otelcol_exporter_sent_{items}")),
            bytes: count.bytes(),
        };
        let rows = [
            row("spans", "spans", &counts.traces),
            row("data points", "metric_points", &counts.metrics),
            row("log records", "log_records", &counts.logs),
        ];
        Self { stories, rows, elapsed, problems: unsent(counts) }
    }

    /// Whether everything that was sent has arrived, and everything that was made was sent.
    pub(super) fn complete(&self) -> bool {
        self.problems.is_empty() && self.rows.iter().all(|row| row.lost() == 0 && row.sent > 0)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:>9} {:>9} {:>7} {:>11}", "", "sent", "arrived", "lost", "bytes")?;
        for Row { signal, sent, arrived, bytes } in &self.rows {
            let lost = i128::from(*sent) - i128::from(*arrived);
            writeln!(f, "{signal:<12} {sent:>9} {arrived:>9} {lost:>7} {bytes:>11}")?;
        }
        let sum = |field: fn(&Row) -> u64| self.rows.iter().map(field).sum::<u64>();
        let (sent, arrived, bytes) = (sum(|row| row.sent), sum(|row| row.arrived), sum(|row| row.bytes));
        let lost: i128 = self.rows.iter().map(Row::lost).sum();
        writeln!(f, "{:<12} {sent:>9} {arrived:>9} {lost:>7} {bytes:>11}", "all")?;
        write!(f, "\n{} checkouts in {:.1} s, ", self.stories, self.elapsed.as_secs_f64())?;
        if self.complete() {
            return f.write_str("nothing lost");
        }
        f.write_str("but not everything arrived as it should")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

// === impl Row ===

impl Row {
    /// Negative if more arrived than was sent: something was sent twice.
    fn lost(&self) -> i128 {
        i128::from(self.sent) - i128::from(self.arrived)
    }
}

/// What `exporter="debug"` handed over, from the text exposition of the engine's metrics.
fn arrived(metrics: &str, family: &str) -> u64 {
    let of_family = metrics.lines().filter_map(|line| line.strip_prefix(family)?.strip_prefix('{'));
    let debug = of_family.filter_map(|line| {
        let (labels, value) = line.rsplit_once("} ")?;
        labels.split(',').any(|label| label == r#"exporter="debug""#).then(|| value.parse::<u64>().ok())?
    });
    debug.sum()
}

fn unsent(counts: &Counts) -> Vec<String> {
    let mut problems = Vec::new();
    for (signal, count) in
        [("spans", &counts.traces), ("data points", &counts.metrics), ("log records", &counts.logs)]
    {
        let (dropped, unacknowledged) = count.unsent();
        if dropped > 0 {
            problems.push(format!("{dropped} {signal} were dropped by the SDK before it sent them"));
        }
        if unacknowledged > 0 {
            problems.push(format!("{unacknowledged} {signal} were sent but not acknowledged"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# TYPE otelcol_exporter_sent_spans counter\n\
        otelcol_exporter_sent_spans{role=\"agent\",exporter=\"otlp\"} 7\n\
        otelcol_exporter_sent_spans{role=\"gateway\",exporter=\"debug\"} 40\n\
        otelcol_exporter_sent_spans_other{exporter=\"debug\"} 1000\n";

    #[test]
    fn what_arrived_is_what_the_gateway_exported() {
        assert_eq!(arrived(METRICS, "otelcol_exporter_sent_spans"), 40);
        assert_eq!(arrived(METRICS, "otelcol_exporter_sent_log_records"), 0);
    }

    #[test]
    fn a_run_that_sent_nothing_is_not_complete() {
        let summary = Summary::new(0, &Counts::default(), "", Duration::ZERO);
        assert!(!summary.complete());
    }
}
