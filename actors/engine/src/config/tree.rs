//! Configuration as a tree in which every key and value knows where it was set.

use std::collections::BTreeMap;

use toml::Value;
use toml::de::{DeTable, DeValue};

use super::place::Spot;

/// A value and its origin.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where its key stands.
    pub(crate) key: Spot,
    /// Where the value stands; for a table, where its key does.
    pub(crate) value: Spot,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    Scalar(Scalar),
}

/// A value that is neither table nor list.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) value: Value,
    /// The text that `value` was read from, where the key decides whether a text or, say, a number is meant:
    /// `${env:PASSWORD}` may stand for `12345`.
    pub(crate) text: Option<String>,
    /// What is shown in place of a value that came from elsewhere and may be a secret: `${env:PASSWORD}`.
    pub(crate) shown: Option<String>,
    /// It could not be made out, and that has been said.
    pub(crate) broken: bool,
}

/// What is wrong with a text as TOML.
pub(crate) struct SyntaxError {
    pub(crate) at: Spot,
    pub(crate) message: String,
}

// === impl Scalar ===

impl Scalar {
    /// A value that stands as such in a file.
    pub(crate) fn plain(value: Value) -> Self {
        Self { value, text: None, shown: None, broken: false }
    }

    /// Reads a text from outside a file: as TOML if it is a number or a boolean, unless its key wants a text.
    pub(crate) fn read(text: String, shown: Option<String>) -> Self {
        let value = DeValue::parse(&text).ok().and_then(|value| match value.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => scalar(value.get_ref()).ok(),
            _ => None,
        });
        match value {
            Some(value) => Self { value, text: Some(text), shown, broken: false },
            None => Self { value: Value::String(text), text: None, shown, broken: false },
        }
    }

    /// Takes the text instead of what it was read as. False if there is none, or it has been done.
    pub(crate) fn read_as_text(&mut self) -> bool {
        self.text.take().map(|text| self.value = Value::String(text)).is_some()
    }
}

// === impl Node ===

impl Node {
    /// Reads text number `number` as TOML, as far as possible.
    pub(crate) fn parse(number: usize, text: &str) -> (Self, Vec<SyntaxError>) {
        let spot = |span| Spot { text: number, span };
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut errors: Vec<SyntaxError> = errors
            .into_iter()
            .map(|error| SyntaxError {
                at: spot(error.span().unwrap_or(text.len()..text.len())),
                message: error.message().to_owned(),
            })
            .collect();
        let content = Content::Table(entries(table.get_ref(), &spot, &mut errors));
        (Self { key: spot(0..0), value: spot(0..0), content }, errors)
    }

    /// Reads one value as TOML; all of it is at `at`.
    pub(crate) fn parse_value(text: &str, at: &Spot) -> Option<Self> {
        let value = DeValue::parse(text).ok()?;
        let mut errors = Vec::new();
        let node = Self::from_toml(at.clone(), at.clone(), value.get_ref(), &|_| at.clone(), &mut errors);
        errors.is_empty().then_some(node)
    }

    /// An empty table at `at`.
    pub(crate) fn empty(at: &Spot) -> Self {
        Self { key: at.clone(), value: at.clone(), content: Content::Table(BTreeMap::new()) }
    }

    /// A scalar at `at`.
    pub(crate) fn scalar(at: &Spot, scalar: Scalar) -> Self {
        Self { key: at.clone(), value: at.clone(), content: Content::Scalar(scalar) }
    }

    /// This node in a table, under `key`.
    pub(crate) fn under(self, key: String) -> Self {
        let (key_spot, value) = (self.key.clone(), self.value.clone());
        Self { key: key_spot, value, content: Content::Table(BTreeMap::from([(key, self)])) }
    }

    fn from_toml(
        key: Spot,
        at: Spot,
        value: &DeValue<'_>,
        spot: &impl Fn(std::ops::Range<usize>) -> Spot,
        errors: &mut Vec<SyntaxError>,
    ) -> Self {
        match value {
            DeValue::Table(table) => {
                Self { value: key.clone(), key, content: Content::Table(entries(table, spot, errors)) }
            }
            DeValue::Array(items) => {
                let mut nodes = Vec::with_capacity(items.len());
                for item in items.iter() {
                    let at = spot(item.span());
                    nodes.push(Self::from_toml(at.clone(), at, item.get_ref(), spot, errors));
                }
                Self { key, value: at, content: Content::Array(nodes) }
            }
            leaf => {
                let value = scalar(leaf).unwrap_or_else(|message| {
                    errors.push(SyntaxError { at: at.clone(), message });
                    Value::Integer(0)
                });
                Self { key, value: at, content: Content::Scalar(Scalar::plain(value)) }
            }
        }
    }

    pub(crate) fn table(&self) -> Option<&BTreeMap<String, Node>> {
        match &self.content {
            Content::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.table()?.get(key)
    }

    pub(crate) fn as_scalar(&self) -> Option<&Scalar> {
        match &self.content {
            Content::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Whether something below could not be made out.
    pub(crate) fn is_broken(&self) -> bool {
        let mut broken = false;
        self.each(&mut |scalar| broken |= scalar.broken);
        broken
    }

    /// The value without its origins.
    pub(crate) fn to_toml(&self) -> Value {
        match &self.content {
            Content::Table(table) => {
                Value::Table(table.iter().map(|(key, node)| (key.clone(), node.to_toml())).collect())
            }
            Content::Array(nodes) => Value::Array(nodes.iter().map(Node::to_toml).collect()),
            Content::Scalar(scalar) => scalar.value.clone(),
        }
    }

    /// What stands at a dotted path, or else its nearest ancestor with the rest of the path. A key with dots in
    /// it is matched whole.
    pub(crate) fn find<'p>(&self, path: &'p str) -> (&Node, &'p str) {
        match self.step(path) {
            Some((child, rest)) => child.find(rest),
            None => (self, path),
        }
    }

    /// The scalar at a dotted path.
    pub(crate) fn scalar_mut(&mut self, path: &str) -> Option<&mut Scalar> {
        if path.is_empty() {
            return match &mut self.content {
                Content::Scalar(scalar) => Some(scalar),
                _ => None,
            };
        }
        let (key, rest) = self.split(path)?;
        match &mut self.content {
            Content::Table(table) => table.get_mut(key)?.scalar_mut(rest),
            Content::Array(nodes) => nodes.get_mut(key.parse::<usize>().ok()?)?.scalar_mut(rest),
            Content::Scalar(_) => None,
        }
    }

    /// Every scalar below.
    pub(crate) fn each(&self, visit: &mut impl FnMut(&Scalar)) {
        match &self.content {
            Content::Table(table) => table.values().for_each(|node| node.each(visit)),
            Content::Array(nodes) => nodes.iter().for_each(|node| node.each(visit)),
            Content::Scalar(scalar) => visit(scalar),
        }
    }

    /// Every scalar below with the place of its value, to change.
    pub(crate) fn each_mut(&mut self, visit: &mut impl FnMut(&Spot, &mut Scalar)) {
        match &mut self.content {
            Content::Table(table) => table.values_mut().for_each(|node| node.each_mut(visit)),
            Content::Array(nodes) => nodes.iter_mut().for_each(|node| node.each_mut(visit)),
            Content::Scalar(scalar) => visit(&self.value, scalar),
        }
    }

    fn step<'p>(&self, path: &'p str) -> Option<(&Node, &'p str)> {
        let (key, rest) = self.split(path)?;
        let child = match &self.content {
            Content::Table(table) => table.get(key),
            Content::Array(nodes) => nodes.get(key.parse::<usize>().ok()?),
            Content::Scalar(_) => None,
        };
        Some((child?, rest))
    }

    /// Splits off the longest first part of a dotted path that is a key here.
    fn split<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        let ends = path.rmatch_indices('.').map(|(at, _)| (&path[..at], &path[at + 1..]));
        std::iter::once((path, "")).chain(ends).find(|(key, _)| match &self.content {
            Content::Table(table) => table.contains_key(*key),
            Content::Array(nodes) => key.parse::<usize>().is_ok_and(|index| index < nodes.len()),
            Content::Scalar(_) => false,
        })
    }
}

fn entries(
    table: &DeTable<'_>,
    spot: &impl Fn(std::ops::Range<usize>) -> Spot,
    errors: &mut Vec<SyntaxError>,
) -> BTreeMap<String, Node> {
    let mut entries = BTreeMap::new();
    for (key, value) in table.iter() {
        let node = Node::from_toml(spot(key.span()), spot(value.span()), value.get_ref(), spot, errors);
        entries.insert(key.get_ref().to_string(), node);
    }
    entries
}

/// A value that is neither table nor list.
fn scalar(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::String(text) => Ok(Value::String(text.to_string())),
        DeValue::Boolean(boolean) => Ok(Value::Boolean(*boolean)),
        DeValue::Datetime(datetime) => Ok(Value::Datetime(*datetime)),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map(Value::Integer)
            .map_err(|_| format!("the integer {integer} is out of range")),
        DeValue::Float(float) => {
            float.as_str().parse().map(Value::Float).map_err(|_| format!("{float} is not a number"))
        }
        DeValue::Array(_) | DeValue::Table(_) => Err("expected a plain value".to_owned()),
    }
}
