//! What a configuration says of a component, to be compared with what another one says of it.

use std::collections::BTreeSet;

use toml::Value;

use super::tree::{Content, Node};

/// The settings of a component as they are meant: references stand for what they refer to. Since some of that is secret
/// only keys of it are ever shown.
#[derive(Clone, PartialEq)]
pub(crate) struct Written {
    settings: Value,
    critical: bool,
}

// === impl Written ===

impl Written {
    /// The settings in `node`; none is a component that stands with its defaults.
    pub(crate) fn new(node: Option<&Node>, critical: bool) -> Self {
        let settings = node.map_or_else(|| Value::Table(toml::Table::new()), value);
        Self { settings, critical }
    }

    /// The keys that say something else in `other`, dotted and sorted.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        compare("", &self.settings, &other.settings, &mut keys);
        if self.critical != other.critical {
            keys.push("critical".to_owned());
        }
        keys
    }

    /// Whether `key` says the same in `other`.
    pub(crate) fn agrees(&self, other: &Self, key: &str) -> bool {
        self.settings.get(key) == other.settings.get(key)
    }
}

/// A value as it is written: where a text from outside may be a number or a text, which its key decides, the text.
fn value(node: &Node) -> Value {
    match &node.content {
        Content::Table(table) => {
            Value::Table(table.iter().map(|(key, node)| (key.clone(), value(node))).collect())
        }
        Content::Array(nodes) => Value::Array(nodes.iter().map(value).collect()),
        Content::Scalar(scalar) => match &scalar.text {
            Some(text) => Value::String(text.clone()),
            None => scalar.value.clone(),
        },
    }
}

fn compare(path: &str, one: &Value, other: &Value, keys: &mut Vec<String>) {
    let (Value::Table(one), Value::Table(other)) = (one, other) else {
        if one != other {
            keys.push(path.to_owned());
        }
        return;
    };
    for key in one.keys().chain(other.keys()).collect::<BTreeSet<_>>() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (one.get(key), other.get(key)) {
            (Some(one), Some(other)) => compare(&path, one, other, keys),
            _ => keys.push(path),
        }
    }
}
