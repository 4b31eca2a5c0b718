//! Reads a table of the engine's own key by key, and complains about the keys that nobody asked for.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use watershed_stage::KeyError;

use super::diagnostic::Report;
use super::place::Spot;
use super::tree::{Content, Node};
use super::typed::typed;
use super::wording;

/// A table that is being read.
pub(crate) struct Fields<'n> {
    /// Where the table is.
    pub(crate) at: Spot,
    entries: Option<&'n BTreeMap<String, Node>>,
    asked: Vec<&'static str>,
}

/// A string of a list, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) text: String,
    /// What is shown of it: how it is written, if it came from outside.
    pub(crate) shown: String,
    pub(crate) at: Spot,
}

// === impl Fields ===

impl<'n> Fields<'n> {
    /// Reads `node`, which should be a table.
    pub(crate) fn of(node: &'n Node, report: &mut Report) -> Self {
        if node.table().is_none() {
            report.error(&node.value, format!("expected a table, found {}", wording::value(node)), None);
        }
        Self { at: node.key.clone(), entries: node.table(), asked: Vec::new() }
    }

    /// Whether it is a table, so that what is missing from it is worth a word.
    pub(crate) fn is_table(&self) -> bool {
        self.entries.is_some()
    }

    /// What stands under `key`.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        self.asked.push(key);
        self.entries?.get(key)
    }

    /// The table under `key`.
    pub(crate) fn table(&mut self, key: &'static str, report: &mut Report) -> Option<Self> {
        self.node(key).map(|node| Self::of(node, report))
    }

    /// The value under `key` and where it stands; nothing if it is not there or was complained about.
    pub(crate) fn value<T: DeserializeOwned>(
        &mut self,
        key: &'static str,
        report: &mut Report,
    ) -> Option<(T, Spot)> {
        let node = self.node(key)?;
        let read = typed(node, |value| {
            T::deserialize(value).map_err(|error| vec![KeyError::new("", error.message())])
        });
        match read {
            Ok(value) => Some((value, node.value.clone())),
            Err(findings) => {
                for finding in findings {
                    report.error(&finding.at, format!("`{key}`: {}", finding.message), finding.help);
                }
                None
            }
        }
    }

    /// The strings under `key`; `None` if there is no such list, `Some` with what is right of it otherwise.
    pub(crate) fn strings(&mut self, key: &'static str, report: &mut Report) -> Option<Strings> {
        let node = self.node(key)?;
        let mut strings = Strings { at: node.value.clone(), items: Vec::new(), complete: true };
        let mut wrong = |node: &Node, expected: &str| {
            if !node.is_broken() {
                let message = format!("`{key}`: expected {expected}, found {}", wording::value(node));
                report.error(&node.value, message, None);
            }
        };
        match &node.content {
            Content::Array(nodes) => {
                for node in nodes {
                    match node.as_scalar().and_then(|scalar| scalar.value.as_str()) {
                        Some(text) if !node.is_broken() => {
                            let shown =
                                node.as_scalar().and_then(|scalar| scalar.shown.as_deref()).unwrap_or(text);
                            let (text, shown) = (text.to_owned(), shown.to_owned());
                            strings.items.push(Item { text, shown, at: node.value.clone() });
                        }
                        _ => {
                            strings.complete = false;
                            wrong(node, "a string");
                        }
                    }
                }
            }
            _ => {
                strings.complete = false;
                wrong(node, "a list of strings");
            }
        }
        Some(strings)
    }

    /// Complains about the keys that were not asked for. `elsewhere` are those that users of otelcol look for,
    /// with where they are to be found.
    pub(crate) fn finish(self, elsewhere: &[(&str, &str)], report: &mut Report) {
        for (key, node) in self.entries.into_iter().flatten() {
            if self.asked.contains(&key.as_str()) {
                continue;
            }
            let help = match elsewhere.iter().find(|(known, _)| known == key) {
                Some((_, help)) => Some((*help).to_owned()),
                None => wording::suggestion(key, "keys here", &self.asked),
            };
            report.error(&node.key, format!("unknown key `{key}`"), help);
        }
    }
}

/// A list of strings.
#[derive(Clone, Debug)]
pub(crate) struct Strings {
    pub(crate) at: Spot,
    pub(crate) items: Vec<Item>,
    /// Whether nothing of it was complained about.
    pub(crate) complete: bool,
}
