//! The rules of a processor: what is looked for, what becomes of it, and the counters.

use std::collections::HashSet;
use std::ops::Range;

use regex::{Regex, RegexSet};
use sha2::{Digest as _, Sha256};
use watershed_stage::{Counter, Metrics};
use watershed_telemetry::redact::{Fate, Place, Policy, Summary, Verdict};

use super::preset::{Decoded, Preset, Sense, Traits};
use super::settings::{self, Action, HashFunction, Settings, compile, compile_all};

/// A redaction, ready to be applied ([`watershed_telemetry::redact::redact`]).
pub struct Rules {
    /// `None` allows all.
    allowed_keys: Option<HashSet<String>>,
    ignored_keys: HashSet<String>,
    ignored_key_patterns: RegexSet,
    blocked_key_patterns: RegexSet,
    allowed_values: RegexSet,
    /// Whether any of the blocked values is in a text is asked at once for all.
    blocked_values: RegexSet,
    blocked: Vec<Rule<Regex>>,
    presets: Vec<Rule<Preset>>,
    /// What becomes of blocked values.
    action: Action,
    summary: Summary,
    all_types: bool,
    deleted_keys: Counter,
    blocked_keys: Counter,
}

struct Rule<T> {
    what: T,
    action: Action,
    count: Counter,
}

/// What was found where, by the rule of that index: presets first.
struct Hit {
    range: Range<usize>,
    rule: usize,
}

// === impl Rules ===

impl Rules {
    /// Counters are registered as those of `processor`.
    pub fn new(settings: &Settings, metrics: &Metrics, processor: &str) -> Result<Self, regex::Error> {
        let action = match settings.hash_function {
            HashFunction::None => Action::Mask,
            HashFunction::Sha256 => Action::Hash,
        };
        let count = |rule: &str, action: Action| {
            let action = match action {
                Action::Delete => "delete",
                Action::Mask => "mask",
                Action::Hash => "hash",
            };
            metrics.counter(
                "watershed_processor_redacted_values",
                "Values deleted, masked or hashed, by the rule that asked for it.",
                &[("processor", processor), ("rule", rule), ("action", action)],
            )
        };
        let blocked = settings.blocked_values.iter().enumerate().map(|(index, pattern)| {
            let count = count(&format!("blocked_values.{index}"), action);
            Ok(Rule { what: compile(pattern)?, action, count })
        });
        let presets = settings.presets.iter();
        let presets = presets.map(|(preset, action)| Rule {
            what: *preset,
            action: *action,
            count: count(preset.name(), *action),
        });
        let listed = || settings.allowed_keys.iter().flatten().cloned().collect();
        Ok(Self {
            allowed_keys: (!settings.allow_all_keys).then(listed),
            ignored_keys: settings.ignored_keys.iter().cloned().collect(),
            ignored_key_patterns: compile_all(&settings.ignored_key_patterns)?,
            blocked_key_patterns: compile_all(&settings.blocked_key_patterns)?,
            allowed_values: compile_all(&settings.allowed_values)?,
            blocked_values: compile_all(&settings.blocked_values)?,
            blocked: blocked.collect::<Result<_, regex::Error>>()?,
            presets: presets.collect(),
            action,
            summary: match settings.summary {
                settings::Summary::Silent => Summary::Silent,
                settings::Summary::Info => Summary::Info,
                settings::Summary::Debug => Summary::Debug,
            },
            all_types: settings.redact_all_types,
            deleted_keys: count("allowed_keys", Action::Delete),
            blocked_keys: count("blocked_key_patterns", action),
        })
    }

    fn hits(&self, text: &str, key: &str) -> Vec<Hit> {
        let mut hits = Vec::new();
        if !self.presets.is_empty() {
            let traits = Traits::of(text);
            let sense = Sense::of(key);
            let decoded = if traits.has_escapes() { Decoded::of(text) } else { None };
            for (rule, preset) in self.presets.iter().enumerate() {
                preset.what.find(text, decoded.as_ref(), &traits, sense, &mut |range| {
                    hits.push(Hit { range, rule })
                });
            }
        }
        if !self.blocked.is_empty() && self.blocked_values.is_match(text) {
            for (index, blocked) in self.blocked.iter().enumerate() {
                let found = blocked.what.find_iter(text).filter(|found| !found.is_empty());
                let rule = self.presets.len() + index;
                hits.extend(found.map(|found| Hit { range: found.range(), rule }));
            }
        }
        hits
    }

    /// What the rule of that index does, and its counter.
    fn rule(&self, index: usize) -> (Action, Option<&Counter>) {
        let preset = self.presets.get(index).map(|rule| (rule.action, &rule.count));
        let blocked = || self.blocked.get(index - self.presets.len()).map(|rule| (rule.action, &rule.count));
        match preset.or_else(blocked) {
            Some((action, count)) => (action, Some(count)),
            None => (Action::Mask, None),
        }
    }

    /// The text with what was hit replaced.
    fn replaced(&self, text: &str, mut hits: Vec<Hit>) -> Verdict {
        // Where rules overlap, all that any of them found goes, the way of the strongest.
        hits.sort_by_key(|hit| hit.range.start);
        let mut merged: Vec<Hit> = Vec::with_capacity(hits.len());
        for hit in hits {
            match merged.last_mut().filter(|last| hit.range.start < last.range.end) {
                Some(last) => {
                    last.range.end = last.range.end.max(hit.range.end);
                    if self.rule(hit.rule).0 > self.rule(last.rule).0 {
                        last.rule = hit.rule;
                    }
                }
                None => merged.push(hit),
            }
        }
        let mut out = String::with_capacity(text.len() + 16);
        let mut copied = 0;
        let mut is_deleted = false;
        for Hit { range, rule } in merged {
            let (action, count) = self.rule(rule);
            let found = text.get(range.clone()).unwrap_or_default();
            out.push_str(text.get(copied..range.start).unwrap_or_default());
            copied = range.end;
            match action {
                Action::Delete => is_deleted = true,
                action => out.push_str(&stand_in(action, found.as_bytes())),
            }
            // What an earlier run has masked is not masked again.
            if let Some(count) = count.filter(|_| found != MASK) {
                count.add(1);
            }
        }
        out.push_str(text.get(copied..).unwrap_or_default());
        match out {
            out if is_deleted => Verdict::Deleted(out),
            out if out == text => Verdict::Clean,
            out => Verdict::Replaced(out),
        }
    }
}

impl Policy for Rules {
    fn entry(&self, key: &str, place: Place) -> Fate {
        if self.ignored_keys.contains(key) || is_match(&self.ignored_key_patterns, key) {
            return Fate::Ignored;
        }
        // As in otelcol, the list is one of attributes; below one that is allowed, all is.
        if place != Place::Nested
            && let Some(allowed) = &self.allowed_keys
            && !allowed.contains(key)
        {
            self.deleted_keys.add(1);
            return Fate::Deleted;
        }
        if is_match(&self.blocked_key_patterns, key) {
            self.blocked_keys.add(1);
            return Fate::Blocked;
        }
        Fate::Judged
    }

    fn blocked(&self, value: &[u8]) -> String {
        stand_in(self.action, value)
    }

    fn text(&self, text: &str, key: &str) -> Verdict {
        if is_match(&self.allowed_values, text) {
            return Verdict::Allowed;
        }
        match self.hits(text, key) {
            hits if hits.is_empty() => Verdict::Clean,
            hits => self.replaced(text, hits),
        }
    }

    fn all_types(&self) -> bool {
        self.all_types
    }

    fn summary(&self) -> Summary {
        self.summary
    }
}

/// otelcol's.
const MASK: &str = "****";

/// What stands where `value` stood.
fn stand_in(action: Action, value: &[u8]) -> String {
    match action {
        Action::Delete | Action::Mask => MASK.to_owned(),
        Action::Hash => {
            let hash = Sha256::digest(value);
            hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
        }
    }
}

fn is_match(set: &RegexSet, text: &str) -> bool {
    !set.is_empty() && set.is_match(text)
}
