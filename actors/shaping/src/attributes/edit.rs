//! One action, as the configuration writes it.

use std::borrow::Cow;

use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use watershed_stage::KeyError;
use watershed_telemetry::edit::{Action, AttributeValue, Conversion, Source};

use crate::attributes::given::{From, Given};

/// One action.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    /// The attribute's key. Required by every action but `delete` and `hash`, which may have a `pattern` instead.
    #[serde(default)]
    key: String,
    /// What to do.
    action: Verb,
    /// The value to write: a string, an integer, a float, a boolean or a list of them.
    #[serde(default)]
    value: Option<Literal>,
    /// The attribute whose value to write.
    #[serde(default)]
    from_attribute: Option<String>,
    /// The value to write, of what is known of the request: `metadata.<key>`, `auth.<attribute>` or `client.address`.
    #[serde(default)]
    from_context: Option<String>,
    /// The value to write where `from_attribute` or `from_context` has none.
    #[serde(default)]
    default_value: Option<Literal>,
    /// A regular expression: which keys to delete or hash, or what to extract from the value.
    #[serde(default)]
    pattern: Option<String>,
    /// The type that `convert` converts to.
    #[serde(default)]
    converted_type: Option<Type>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Insert,
    Update,
    Upsert,
    Delete,
    Hash,
    Extract,
    Convert,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Type {
    Int,
    Double,
    String,
}

/// An attribute's value.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Literal(pub(super) toml::Value);

// === impl Edit ===

impl Edit {
    /// What is wrong with it; `at` is its key.
    pub(super) fn errors(&self, at: &str) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut wrong =
            |key: &str, message: String| errors.push(KeyError::new(format!("{at}{key}"), message));
        let (takes, verb) = (self.action.takes(), self.action.name());
        for (key, _) in
            self.optional().into_iter().filter(|(key, is_given)| *is_given && !takes.contains(key))
        {
            wrong(&format!(".{key}"), format!("`{verb}` takes no `{key}`"));
        }
        let needs_key = !matches!(self.action, Verb::Delete | Verb::Hash);
        if self.key.is_empty() && (needs_key || self.pattern.is_none()) {
            let or = if needs_key { "" } else { ", or a `pattern` of keys" };
            wrong(".key", format!("an attribute has a name: write its `key`{or}"));
        }
        match self.action {
            Verb::Insert | Verb::Update | Verb::Upsert => {
                match (self.sources(), &self.default_value) {
                    (0, None) => wrong("", "needs a `value`, `from_attribute` or `from_context`".into()),
                    (0 | 1, _) => {}
                    _ => wrong("", "has several sources of one value: keep one of them".into()),
                }
                for (key, literal) in [(".value", &self.value), (".default_value", &self.default_value)] {
                    if let Some(message) = literal.as_ref().and_then(Literal::error) {
                        wrong(key, message);
                    }
                }
            }
            Verb::Extract if self.pattern.is_none() => {
                wrong("", "needs a `pattern` with named groups".into())
            }
            Verb::Convert if self.converted_type.is_none() => wrong("", "needs a `converted_type`".into()),
            Verb::Delete | Verb::Hash | Verb::Extract | Verb::Convert => {}
        }
        match self.pattern.as_deref().map(Regex::new) {
            Some(Err(error)) => wrong(".pattern", no_pattern(&error)),
            Some(Ok(pattern)) if self.action == Verb::Extract && !has_only_named_groups(&pattern) => {
                wrong(".pattern", "needs groups, each with a name: `(?<name>...)`".into());
            }
            Some(Ok(_)) | None => {}
        }
        errors
    }

    /// The keys that some actions take, and whether they are written.
    fn optional(&self) -> [(&'static str, bool); 6] {
        [
            ("value", self.value.is_some()),
            ("from_attribute", self.from_attribute.is_some()),
            ("from_context", self.from_context.is_some()),
            ("default_value", self.default_value.is_some()),
            ("pattern", self.pattern.is_some()),
            ("converted_type", self.converted_type.is_some()),
        ]
    }

    /// How many sources of the value are written, the default not counted.
    fn sources(&self) -> usize {
        let sources = [self.value.is_some(), self.from_attribute.is_some(), self.from_context.is_some()];
        sources.into_iter().filter(|is_given| *is_given).count()
    }

    /// What it does. What is to be looked up for each message is added to `given`.
    pub(super) fn actions(&self, given: &mut Vec<Given>) -> Vec<Action> {
        let key = || self.key.clone();
        let pattern = || self.pattern.as_deref().and_then(|pattern| Regex::new(pattern).ok());
        let by_key = (!self.key.is_empty()).then(key);
        let mut source = || self.source(given);
        let actions = match self.action {
            Verb::Insert => [source().map(|value| Action::Insert { key: key(), value }), None],
            Verb::Update => [source().map(|value| Action::Update { key: key(), value }), None],
            Verb::Upsert => [source().map(|value| Action::Upsert { key: key(), value }), None],
            Verb::Delete => [
                by_key.map(|key| Action::Delete { key }),
                pattern().map(|pattern| Action::DeleteMatching { pattern }),
            ],
            Verb::Hash => [
                by_key.map(|key| Action::Hash { key }),
                pattern().map(|pattern| Action::HashMatching { pattern }),
            ],
            Verb::Extract => [pattern().map(|pattern| Action::Extract { key: key(), pattern }), None],
            Verb::Convert => {
                let to = self.converted_type.map(|converted_type| match converted_type {
                    Type::Int => Conversion::Int,
                    Type::Double => Conversion::Double,
                    Type::String => Conversion::String,
                });
                [to.map(|to| Action::Convert { key: key(), to }), None]
            }
        };
        actions.into_iter().flatten().collect()
    }

    fn source(&self, given: &mut Vec<Given>) -> Option<Source> {
        let literal = |literal: &Option<Literal>| literal.as_ref().and_then(Literal::value);
        let default = literal(&self.default_value);
        if let Some(key) = self.from_attribute.clone() {
            return Some(Source::Attribute { key, default });
        }
        if let Some(from) = &self.from_context {
            given.push(Given { from: From::new(from), default });
            return Some(Source::Given(given.len() - 1));
        }
        literal(&self.value).or(default).map(Source::Value)
    }
}

fn has_only_named_groups(pattern: &Regex) -> bool {
    let mut groups = pattern.capture_names().skip(1).peekable();
    groups.peek().is_some() && groups.all(|name| name.is_some())
}

/// What is wrong with a regular expression, in one line.
pub(super) fn no_pattern(error: &regex::Error) -> String {
    let error = error.to_string();
    format!(
        "is no regular expression: {}",
        error.lines().last().unwrap_or_default().trim_start_matches("error: ")
    )
}

// === impl Verb ===

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Upsert => "upsert",
            Self::Delete => "delete",
            Self::Hash => "hash",
            Self::Extract => "extract",
            Self::Convert => "convert",
        }
    }

    fn takes(self) -> &'static [&'static str] {
        match self {
            Self::Insert | Self::Update | Self::Upsert => {
                &["value", "from_attribute", "from_context", "default_value"]
            }
            Self::Delete | Self::Hash | Self::Extract => &["pattern"],
            Self::Convert => &["converted_type"],
        }
    }
}

// === impl Literal ===

impl Literal {
    pub(super) fn value(&self) -> Option<AttributeValue> {
        attribute(&self.0)
    }

    /// What is wrong with it.
    pub(super) fn error(&self) -> Option<String> {
        const KINDS: &str = "an attribute is a string, an integer, a float, a boolean or a list of them";
        self.value().is_none().then(|| match &self.0 {
            toml::Value::Array(_) => KINDS.to_owned(),
            other => format!("{KINDS}, not a {}", other.type_str()),
        })
    }
}

fn attribute(value: &toml::Value) -> Option<AttributeValue> {
    match value {
        toml::Value::String(text) => Some(text.as_str().into()),
        toml::Value::Integer(number) => Some((*number).into()),
        toml::Value::Float(number) => Some((*number).into()),
        toml::Value::Boolean(truth) => Some((*truth).into()),
        toml::Value::Array(values) => values.iter().map(attribute).collect(),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

impl JsonSchema for Literal {
    fn schema_name() -> Cow<'static, str> {
        "value".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer", "number", "boolean", "array"] })
    }
}
