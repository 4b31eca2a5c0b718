//! Relabelling, as Prometheus does it (`model/relabel`).

mod md5;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::KeyError;

use super::labels::Labels;

/// One rule of `relabel_configs` or `metric_relabel_configs`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RelabelSettings {
    /// Labels whose values, joined, are what the rule looks at.
    pub(crate) source_labels: Vec<String>,
    /// What joins them.
    pub(crate) separator: String,
    /// What the joined values have to be, from beginning to end.
    pub(crate) regex: String,
    /// The modulus of `hashmod`.
    pub(crate) modulus: u64,
    /// The label that is set or compared.
    pub(crate) target_label: String,
    /// What it is set to; `$1` and `${name}` stand for what the groups of `regex` matched.
    pub(crate) replacement: String,
    /// What is done.
    pub(crate) action: Action,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Sets `target_label` to `replacement` if `regex` matches.
    #[default]
    Replace,
    /// Keeps what `regex` matches, and nothing else.
    Keep,
    /// Drops what `regex` matches.
    Drop,
    /// Keeps what has in `target_label` what the source labels say.
    KeepEqual,
    /// Drops it.
    DropEqual,
    /// Sets `target_label` to a hash of the source labels, modulo `modulus`.
    HashMod,
    /// Copies labels whose names match to the names that `replacement` makes of them.
    LabelMap,
    /// Takes away labels whose names match.
    LabelDrop,
    /// Takes away all others.
    LabelKeep,
    /// Sets `target_label` to the source labels in lower case.
    Lowercase,
    /// Sets it to them in upper case.
    Uppercase,
}

/// A rule that is ready.
#[derive(Clone, Debug)]
pub(crate) struct Relabel {
    settings: RelabelSettings,
    regex: Regex,
}

// === impl RelabelSettings ===

impl Default for RelabelSettings {
    fn default() -> Self {
        Self {
            source_labels: Vec::new(),
            separator: ";".to_owned(),
            regex: "(.*)".to_owned(),
            modulus: 0,
            target_label: String::new(),
            replacement: "$1".to_owned(),
            action: Action::Replace,
        }
    }
}

impl RelabelSettings {
    /// The rule, or what is wrong with it.
    pub(crate) fn compile(&self) -> Result<Relabel, KeyError> {
        use Action::{DropEqual, HashMod, KeepEqual, Lowercase, Replace, Uppercase};
        let sets = matches!(self.action, Replace | HashMod | Lowercase | Uppercase | KeepEqual | DropEqual);
        if sets && self.target_label.is_empty() {
            let message = format!("the action {} needs one", self.action.name());
            return Err(KeyError::new("target_label", message));
        }
        if self.action == HashMod && self.modulus == 0 {
            return Err(KeyError::new("modulus", "the action hashmod needs one that is more than 0"));
        }
        let regex = Regex::new(&format!("^(?s:{})$", self.regex)).map_err(|error| {
            KeyError::new("regex", format!("\"{}\" is no regular expression: {error}", self.regex))
        })?;
        Ok(Relabel { settings: self.clone(), regex })
    }
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::KeepEqual => "keepequal",
            Self::DropEqual => "dropequal",
            Self::HashMod => "hashmod",
            Self::LabelMap => "labelmap",
            Self::LabelDrop => "labeldrop",
            Self::LabelKeep => "labelkeep",
            Self::Lowercase => "lowercase",
            Self::Uppercase => "uppercase",
        }
    }
}

// === impl Relabel ===

impl Relabel {
    /// Applies the rule. Whether what has these labels is to be kept.
    pub(crate) fn apply(&self, labels: &mut Labels) -> bool {
        let target = &*self.settings.target_label;
        let source = self.source(labels);
        match self.settings.action {
            Action::Keep => return self.regex.is_match(&source),
            Action::Drop => return !self.regex.is_match(&source),
            Action::KeepEqual => return labels.get(target) == source,
            Action::DropEqual => return labels.get(target) != source,
            Action::Replace => {
                let Some(found) = self.regex.captures(&source) else { return true };
                let expand = |template: &str| {
                    let mut text = String::new();
                    found.expand(template, &mut text);
                    text
                };
                let (name, value) = (expand(target), expand(&self.settings.replacement));
                if !name.is_empty() {
                    labels.set(&name, value);
                }
            }
            Action::HashMod => {
                let value = md5::low(source.as_bytes()) % self.settings.modulus.max(1);
                labels.set(target, value.to_string());
            }
            Action::Lowercase => {
                let value = source.to_lowercase();
                labels.set(target, value);
            }
            Action::Uppercase => {
                let value = source.to_uppercase();
                labels.set(target, value);
            }
            Action::LabelMap => {
                let map = |(name, value): (&str, &str)| {
                    let mut to = String::new();
                    self.regex.captures(name)?.expand(&self.settings.replacement, &mut to);
                    Some((to, value.to_owned()))
                };
                let mapped: Vec<_> = labels.iter().filter_map(map).collect();
                mapped.into_iter().for_each(|(name, value)| labels.set(&name, value));
            }
            Action::LabelDrop => labels.retain(|name| !self.regex.is_match(name)),
            Action::LabelKeep => labels.retain(|name| self.regex.is_match(name)),
        }
        true
    }

    fn source(&self, labels: &Labels) -> String {
        let values: Vec<&str> = self.settings.source_labels.iter().map(|name| labels.get(name)).collect();
        values.join(&self.settings.separator)
    }
}

/// The rules, or what is wrong with them, under `key`.
pub(crate) fn compile(key: &str, rules: &[RelabelSettings]) -> Result<Vec<Relabel>, Vec<KeyError>> {
    let compiled = rules
        .iter()
        .enumerate()
        .map(|(index, rule)| rule.compile().map_err(|error| error.under(&format!("{key}.{index}"))));
    let (good, bad): (Vec<_>, Vec<_>) = compiled.partition(Result::is_ok);
    if bad.is_empty() {
        return Ok(good.into_iter().flatten().collect());
    }
    Err(bad.into_iter().filter_map(Result::err).collect())
}

/// A hash of the text, spread evenly: that of `hashmod`.
pub(crate) fn hash(text: &[u8]) -> u64 {
    md5::low(text)
}

#[cfg(test)]
mod tests;
