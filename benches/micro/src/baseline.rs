//! What each case took when somebody last agreed to it, and what has become of that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

/// How far a count may be from the baseline, as a part of it.
const TOLERANCE: f64 = 0.05;

/// Instructions an item, by the name of the case.
pub type Counts = BTreeMap<String, f64>;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// By what it was counted: another compiler, processor or C library counts otherwise.
    counted_with: String,
    instructions: Counts,
}

/// What a comparison says.
#[derive(Debug, Default, PartialEq)]
pub struct Findings {
    /// What is worse.
    pub failures: Vec<String>,
    /// What is better.
    pub gains: Vec<String>,
}

// === impl Baseline ===

impl Baseline {
    /// Where it is kept.
    pub const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");

    /// Reads the file.
    pub fn read() -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(Self::PATH).with_context(|| format!("{} can not be read", Self::PATH))?;
        toml::from_str(&text).with_context(|| Self::PATH)
    }

    /// Replaces the file.
    pub fn write(counts: &Counts) -> anyhow::Result<()> {
        let mut text = String::from(
            "# Instructions an item. `benches/instructions` compares with it, `benches/instructions --write` replaces it.\n\n",
        );
        writeln!(text, "counted_with = {:?}\n\n[instructions]", tools())?;
        for (name, count) in counts {
            writeln!(text, "{name:?} = {count:.1}")?;
        }
        std::fs::write(Self::PATH, text).with_context(|| format!("{} can not be written", Self::PATH))
    }

    /// Compares what was counted now. What is not among `counts` is missed only where all cases are.
    pub fn compare(&self, counts: &Counts, are_all: bool) -> Findings {
        let mut findings = Findings::default();
        for (name, count) in counts {
            let Some(base) = self.instructions.get(name) else {
                findings.failures.push(format!("{name}: {count:.1} instructions, and no baseline"));
                continue;
            };
            let change = count / base - 1.0;
            let finding = format!("{name}: {base:.1} -> {count:.1} instructions, {:+.1} %", 100.0 * change);
            if change > TOLERANCE {
                findings.failures.push(finding);
            } else if change < -TOLERANCE {
                findings.gains.push(finding);
            }
        }
        let gone = self.instructions.keys().filter(|name| are_all && !counts.contains_key(*name));
        findings.failures.extend(gone.map(|name| format!("{name}: in the baseline, and not counted")));
        findings
    }

    /// By what it was counted, if that is not what counts here.
    pub fn other_tools(&self) -> Option<String> {
        let tools = tools();
        (tools != self.counted_with)
            .then(|| format!("counted with {}, and now with {tools}", self.counted_with))
    }
}

/// What the counts depend on, in words.
fn tools() -> String {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok();
        let line = output.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
        line.lines().next().unwrap_or(program).to_owned()
    };
    format!("{}, {}, {}", version("rustc"), version("valgrind"), std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, f64)]) -> Counts {
        counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    fn baseline(instructions: &[(&str, f64)]) -> Baseline {
        Baseline { counted_with: String::new(), instructions: counts(instructions) }
    }

    #[test]
    fn five_per_cent_are_tolerated_and_more_are_not() {
        let baseline = baseline(&[("much", 100.0), ("less", 100.0), ("same", 100.0)]);
        let findings = baseline.compare(&counts(&[("much", 105.1), ("less", 94.9), ("same", 104.9)]), true);
        assert_eq!(findings.failures, ["much: 100.0 -> 105.1 instructions, +5.1 %"]);
        assert_eq!(findings.gains, ["less: 100.0 -> 94.9 instructions, -5.1 %"]);
    }

    #[test]
    fn a_case_is_neither_added_nor_lost_in_silence() {
        let baseline = baseline(&[("old", 100.0)]);
        let findings = baseline.compare(&counts(&[("new", 1.0)]), true);
        let said = ["new: 1.0 instructions, and no baseline", "old: in the baseline, and not counted"];
        assert_eq!(findings.failures, said);
        assert_eq!(baseline.compare(&counts(&[]), false), Findings::default());
    }
}
