//! The settings of `redaction`.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::KeyError;

use super::preset::Preset;

/// Settings of `redaction`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether attributes of any key may pass. If not, those that are on no list are deleted.
    pub(super) allow_all_keys: bool,
    /// The keys that may pass, for attributes and for maps in log bodies. An empty list deletes every attribute. Required
    /// without `allow_all_keys`.
    pub(super) allowed_keys: Option<Vec<String>>,
    /// Keys of what passes without being looked at.
    pub(super) ignored_keys: Vec<String>,
    /// Regular expressions for such keys.
    pub(super) ignored_key_patterns: Vec<String>,
    /// Regular expressions for keys whose value is masked, whatever it is.
    pub(super) blocked_key_patterns: Vec<String>,
    /// Regular expressions for what is masked where it is found in a text.
    pub(super) blocked_values: Vec<String>,
    /// Regular expressions for texts that pass whatever is in them. Anchor them: `^...$`.
    pub(super) allowed_values: Vec<String>,
    /// What is looked for by name, each with what becomes of it.
    pub(super) presets: BTreeMap<Preset, Action>,
    /// If not `none`, a blocked value becomes a hash of itself instead of `****`.
    pub(super) hash_function: HashFunction,
    /// What is told of the changes, in attributes beside them.
    pub(super) summary: Summary,
    /// Whether booleans and doubles are looked at by their text, too, as integers always are.
    pub(super) redact_all_types: bool,
}

/// What becomes of what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// It becomes 16 hexadecimal digits of its SHA-256.
    Hash,
    /// It becomes `****`.
    Mask,
    /// The attribute or map entry it is in goes; in a body, name or message, it is cut out.
    Delete,
}

/// How a value is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum HashFunction {
    /// It is not.
    #[default]
    None,
    /// 16 hexadecimal digits of its SHA-256.
    Sha256,
}

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Summary {
    /// Nothing.
    #[default]
    Silent,
    /// How many attributes were deleted, masked, allowed and ignored.
    Info,
    /// That, and their keys.
    Debug,
}

/// What a compiled expression may take, in bytes. Far more than a sane one does: `\w{1,64}` takes 400 KiB.
const SIZE_LIMIT: usize = 2 << 20;

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        // In otelcol this deletes every attribute in silence. Whoever wants that can say so.
        if !self.allow_all_keys && self.allowed_keys.is_none() {
            let message = "without `allowed_keys` every attribute is deleted: set `allow_all_keys = true`, \
                           list `allowed_keys`, or write `allowed_keys = []` to delete them all";
            errors.push(KeyError::new("", message));
        }
        let lists = [
            ("ignored_key_patterns", &self.ignored_key_patterns),
            ("blocked_key_patterns", &self.blocked_key_patterns),
            ("blocked_values", &self.blocked_values),
            ("allowed_values", &self.allowed_values),
        ];
        for (name, list) in lists {
            for (index, pattern) in list.iter().enumerate() {
                let at = format!("{name}.{index}");
                match compile(pattern) {
                    Err(error) => errors.push(KeyError::new(at, explain(&error))),
                    Ok(_) if pattern.is_empty() => {
                        errors.push(KeyError::new(at, "an empty expression matches everywhere: remove it"));
                    }
                    Ok(_) => {}
                }
            }
        }
        errors
    }
}

pub(super) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).build()
}

pub(super) fn compile_all(patterns: &[String]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(patterns).size_limit(SIZE_LIMIT.saturating_mul(patterns.len() + 1)).build()
}

/// One line: where and why.
fn explain(error: &regex::Error) -> String {
    let regex::Error::Syntax(text) = error else {
        return format!("is too large: compiled it takes more than {} MiB", SIZE_LIMIT >> 20);
    };
    // The library draws the pattern, indented by four, a caret under the place, and the reason.
    let caret =
        text.lines().find(|line| line.trim_start().starts_with('^') && line.trim_end().ends_with('^'));
    let reason = text.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or(text);
    match caret.and_then(|line| line.find('^')) {
        Some(column) => format!("is no regular expression: {reason}, at character {}", column.max(4) - 3),
        None => format!("is no regular expression: {reason}"),
    }
}
