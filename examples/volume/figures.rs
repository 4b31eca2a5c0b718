//! What came of a telling, beside what the mission wants of it.

use std::fmt;
use std::time::Duration;

use crate::applications::{Kind, Made, Truth, WHOLE};
use crate::backend::Arrived;
use crate::telling::{Head, SHARE};

/// The part of the bytes that batching and zstd take off the wire at least.
const SAVED: f64 = 0.7;

/// The share of the traces that are neither failed nor slow, and that tail sampling keeps all the same.
const SOME: f64 = 0.08;

/// What a stage took in and gave out, in spans.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Taken in.
    pub taken: u64,
    /// Given out.
    pub given: u64,
}

/// How many traces of a kind there were.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Made by the applications.
    pub made: u64,
    /// Let pass by the applications' SDKs.
    pub sampled: u64,
    /// At the backend.
    pub kept: u64,
}

/// The traces, by what matters about them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traces {
    /// With a span that has failed.
    pub failed: Count,
    /// Slower than a second.
    pub slow: Count,
    /// The rest.
    pub plain: Count,
    /// At the backend, with a span too few or too many, or made by nobody.
    pub broken: u64,
}

/// One telling.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Who sampled at the head.
    pub head: Head,
    /// Spans a second that were asked for.
    pub rate: u64,
    /// How long they were made.
    pub took: Duration,
    /// Made, and let pass by the SDK.
    pub applications: Stage,
    /// In and out.
    pub agent: Stage,
    /// In and out.
    pub gateway: Stage,
    /// Bytes from the applications to the agent.
    pub before: u64,
    /// Bytes from the agent to the gateway.
    pub between: u64,
    /// What became of the traces.
    pub traces: Traces,
}

// === impl Traces ===

impl Traces {
    /// Holds what has arrived against what was made.
    pub fn of(truth: &Truth, arrived: &Arrived) -> Self {
        let mut traces = Self::default();
        for (id, Made { kind, is_sampled }) in truth {
            let count = match kind {
                Kind::Failed => &mut traces.failed,
                Kind::Slow => &mut traces.slow,
                Kind::Plain => &mut traces.plain,
            };
            let spans = arrived.get(id).copied().unwrap_or_default();
            count.made += 1;
            count.sampled += u64::from(*is_sampled);
            count.kept += u64::from(spans > 0);
            traces.broken += u64::from(spans != 0 && spans != WHOLE);
        }
        traces.broken += arrived.keys().filter(|id| !truth.contains_key(*id)).count() as u64;
        traces
    }
}

// === impl Figures ===

impl Figures {
    fn per_second(&self, items: u64) -> f64 {
        items as f64 / self.took.as_secs_f64()
    }

    /// The part of a span's bytes that is not on the wire behind the agent.
    fn saved(&self) -> f64 {
        let each = |bytes: u64, spans: u64| bytes as f64 / spans.max(1) as f64;
        1.0 - each(self.between, self.agent.given) / each(self.before, self.agent.taken)
    }

    /// What the mission says of each stage, in this telling.
    fn mission(&self) -> [&'static str; 3] {
        match self.head {
            Head::Sdk => ["100K -> 1K", "1K", "1K -> 100"],
            Head::Agents => ["100K", "100K -> 1K", "1K -> 100"],
            Head::Nobody => ["100K", "", ""],
        }
    }

    /// What is not as it should be.
    pub fn mistakes(&self) -> Vec<String> {
        let (traces, mut mistakes) = (&self.traces, Vec::new());
        let mut check = |holds: bool, what: String| {
            if !holds {
                mistakes.push(format!("{}: {what}", self.head));
            }
        };
        let made = self.per_second(self.applications.taken);
        check(
            made >= 0.9 * self.rate as f64,
            format!("only {made:.0} spans a second were made: this machine is busy"),
        );
        for (from, to, lost) in [
            ("applications", "agent", self.applications.given.abs_diff(self.agent.taken)),
            ("agent", "gateway", self.agent.given.abs_diff(self.gateway.taken)),
        ] {
            check(lost == 0, format!("{lost} spans too few or too many between {from} and {to}"));
        }
        check(traces.broken == 0, format!("{} traces are not whole", traces.broken));
        check(self.saved() >= SAVED, format!("only {:.1} % are off the wire", 100.0 * self.saved()));

        let head = if self.head == Head::Nobody { 1.0 } else { SHARE };
        let sampled =
            if self.head == Head::Sdk { self.applications.given } else { self.agent.given } / WHOLE as u64;
        let all = self.applications.taken / WHOLE as u64;
        check(is_share(sampled, all, head), format!("{sampled} of {all} traces are left by head sampling"));
        for (name, count) in [("failed", traces.failed), ("slow", traces.slow)] {
            let Count { made, sampled, kept } = count;
            // What an agent let pass is known by what tail sampling keeps, which is all of it.
            let holds = if self.head == Head::Agents { is_share(kept, made, head) } else { kept == sampled };
            check(holds, format!("{kept} of {sampled} {name} traces were kept"));
        }
        let Count { made, kept, .. } = traces.plain;
        check(is_share(kept, made, head * SOME), format!("{kept} of {made} plain traces were kept"));
        mistakes
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head)?;
        writeln!(f, "  {:<34} {:>12} {:>12}   mission", "spans a second", "in", "out")?;
        let second =
            if self.head == Head::Agents { "agent: samples, batches, zstd" } else { "agent: batches, zstd" };
        let stages = [
            ("applications", self.applications),
            (second, self.agent),
            ("gateway: tail_sampling", self.gateway),
        ];
        for ((name, stage), mission) in stages.into_iter().zip(self.mission()) {
            let [taken, given] = [stage.taken, stage.given].map(|spans| self.per_second(spans));
            writeln!(f, "  {name:<34} {taken:>12.0} {given:>12.0}   {mission}")?;
        }
        let [before, between] = [self.before, self.between].map(|bytes| self.per_second(bytes) / 1e3);
        let saved = 100.0 * self.saved();
        writeln!(
            f,
            "  {:<34} {before:>12.1} {between:>12.1}   -70 % a span; here -{saved:.1} %",
            "kB a second on the wire"
        )?;
        let Traces { failed, slow, plain, broken } = &self.traces;
        writeln!(
            f,
            "  kept, of what was made: {} of {} failed traces, {} of {} slow ones, {} of {} others; {broken} not whole",
            failed.kept, failed.made, slow.kept, slow.made, plain.kept, plain.made
        )?;
        let lost = failed.made - failed.kept;
        let share = 100.0 * lost as f64 / failed.made.max(1) as f64;
        match self.head {
            Head::Nobody => writeln!(
                f,
                "  \"all errors\" holds; the price is {} spans a second at the gateway",
                self.per_second(self.gateway.taken) as u64
            ),
            _ => writeln!(
                f,
                "  \"all errors\" holds for what reaches tail sampling alone: {lost} failed traces ({share:.1} %) were gone before it"
            ),
        }
    }
}

/// Whether so many of `all` are a share that came about by lot: within five standard deviations.
fn is_share(some: u64, all: u64, share: f64) -> bool {
    let (all, some) = (all as f64, some as f64);
    let deviation = (all * share * (1.0 - share)).sqrt();
    (some - all * share).abs() <= 5.0 * deviation + 1e-9
}
