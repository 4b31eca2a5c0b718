//! Components by id: what the tables declare, and what a pipeline names without a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use watershed_stage::{
    ExporterSpec, ExtensionSpec, KeyError, Parsed, ProcessorSpec, ReceiverSpec, Registry, Unknown,
};

use super::diagnostic::Report;
use super::fields::Item;
use super::place::Spot;
use super::tree::{Content, Node};
use super::typed::{Finding, typed};
use super::wording;
use super::written::Written;

/// Receivers, processors, exporters or extensions of a role.
pub(crate) struct Class<'r, S: ?Sized> {
    /// `receiver`, `processor`, `exporter` or `extension`.
    pub(crate) word: &'static str,
    /// The table that declares them.
    pub(crate) section: &'static str,
    /// Whether one of them is critical unless it says otherwise.
    critical: bool,
    registry: &'r Registry,
    parse: fn(&Registry, &str, toml::Value) -> Result<Parsed<S>, Unknown>,
    found: BTreeMap<String, Component<S>>,
}

/// A component.
pub(crate) struct Component<S: ?Sized> {
    pub(crate) id: Arc<str>,
    /// What it is; `None` if that could not be read, which has been said.
    pub(crate) spec: Option<Arc<S>>,
    pub(crate) critical: bool,
    /// The place of its id.
    pub(crate) at: Spot,
    /// What it is configured with.
    pub(crate) written: Arc<Written>,
    /// Its table, if it has one.
    node: Option<Node>,
    used: bool,
}

// === impl Class ===

impl<'r> Class<'r, dyn ReceiverSpec> {
    pub(crate) fn receivers(registry: &'r Registry) -> Self {
        Self::new("receiver", "receivers", true, registry, Registry::parse_receiver)
    }
}

impl<'r> Class<'r, dyn ProcessorSpec> {
    pub(crate) fn processors(registry: &'r Registry) -> Self {
        Self::new("processor", "processors", false, registry, Registry::parse_processor)
    }
}

impl<'r> Class<'r, dyn ExporterSpec> {
    pub(crate) fn exporters(registry: &'r Registry) -> Self {
        Self::new("exporter", "exporters", false, registry, Registry::parse_exporter)
    }
}

impl<'r> Class<'r, dyn ExtensionSpec> {
    pub(crate) fn extensions(registry: &'r Registry) -> Self {
        Self::new("extension", "extensions", false, registry, Registry::parse_extension)
    }
}

impl<'r, S: ?Sized> Class<'r, S> {
    fn new(
        word: &'static str,
        section: &'static str,
        critical: bool,
        registry: &'r Registry,
        parse: fn(&Registry, &str, toml::Value) -> Result<Parsed<S>, Unknown>,
    ) -> Self {
        Self { word, section, critical, registry, parse, found: BTreeMap::new() }
    }

    /// Reads the components of a section, used or not.
    pub(crate) fn declare(&mut self, section: &Node, report: &mut Report) {
        let Some(table) = section.table() else {
            report.error(
                &section.value,
                format!("expected a table, found {}", wording::value(section)),
                None,
            );
            return;
        };
        for (id, node) in table {
            let component = self.declared(id, node, report);
            self.found.insert(id.clone(), component);
        }
    }

    fn declared(&self, id: &str, node: &Node, report: &mut Report) -> Component<S> {
        let mut settings = node.clone();
        let critical = match &mut settings.content {
            Content::Table(table) => table.remove("critical").and_then(|node| critical(&node, report)),
            _ => None,
        };
        let wrong = match kind(id) {
            None => Some((&node.key, self.no_id(id), None)),
            Some(kind) if !self.knows(kind) => {
                Some((&node.key, self.no_kind(kind), self.near_kind(kind, &[])))
            }
            Some(_) if settings.table().is_none() => {
                Some((&node.value, format!("expected a table, found {}", wording::value(node)), None))
            }
            Some(_) => None,
        };
        let findings = match wrong {
            Some((at, message, help)) => Err(vec![Finding { at: at.clone(), message, help }]),
            None => self.read(kind(id).unwrap_or(id), &settings),
        };
        let spec = findings.map_err(|findings| {
            for finding in findings {
                report.error(&finding.at, finding.message, finding.help);
            }
        });
        let critical = critical.unwrap_or(self.critical);
        Component {
            id: id.into(),
            spec: spec.ok(),
            critical,
            at: node.key.clone(),
            written: Arc::new(Written::new(Some(&settings), critical)),
            node: Some(settings),
            used: false,
        }
    }

    /// The component that a pipeline names. `None` if there is none, which is then reported.
    pub(crate) fn named(&mut self, item: &Item, report: &mut Report) -> Option<&Component<S>> {
        let id = item.text.as_str();
        if !self.found.contains_key(id) {
            let component = self.undeclared(item, report)?;
            self.found.insert(id.to_owned(), component);
        }
        let component = self.found.get_mut(id)?;
        component.used = true;
        Some(component)
    }

    /// A component that is named and has no table: its type, with defaults.
    fn undeclared(&self, item: &Item, report: &mut Report) -> Option<Component<S>> {
        let (id, shown) = (item.text.as_str(), item.shown.as_str());
        let declared: Vec<&str> = self.found.keys().map(String::as_str).collect();
        let table = match shown.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            true => format!("declare it: `[{}.{shown:?}]`", self.section),
            false => format!("declare it: `[{}.{shown}]`", self.section),
        };
        let Some(kind) = kind(id) else {
            report.error(&item.at, self.no_id(shown), None);
            return None;
        };
        let near = wording::near(id, declared.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        if kind != id && (near.is_some() || self.knows(kind)) {
            let message = format!("{} `{shown}` is not declared", self.word);
            report.error(&item.at, message, near.or(Some(table)));
            return None;
        }
        if !self.knows(kind) {
            let shown = if id == shown { kind } else { shown };
            report.error(&item.at, self.no_kind(shown), self.near_kind(kind, &declared));
            return None;
        }
        let spec = self.read(kind, &Node::empty(&item.at)).map_err(|findings| {
            for finding in findings {
                let message =
                    format!("{} `{shown}` can not do with its defaults: {}", self.word, finding.message);
                report.error(&item.at, message, Some(table.clone()));
            }
        });
        let (critical, at) = (self.critical, item.at.clone());
        let written = Arc::new(Written::new(None, critical));
        Some(Component { id: id.into(), spec: spec.ok(), critical, at, written, node: None, used: false })
    }

    /// The place of a key of a component, or else of the component.
    pub(crate) fn key(&self, id: &str, key: &str) -> Option<Spot> {
        let component = self.found.get(id)?;
        let exact = component.node.as_ref().map(|node| node.find(key)).filter(|(_, rest)| rest.is_empty());
        Some(exact.map_or_else(|| component.at.clone(), |(node, _)| node.value.clone()))
    }

    /// Says which components are not used.
    pub(crate) fn warn_unused(&self, report: &mut Report) {
        for component in self.found.values().filter(|component| !component.used) {
            let user = if self.section == "extensions" { "nothing names it" } else { "no pipeline uses it" };
            let message = format!("{} `{}` is configured, but {user}", self.word, component.id);
            report.warn(Some(&component.at), message, None);
        }
    }

    fn read(&self, kind: &str, settings: &Node) -> Result<Arc<S>, Vec<Finding>> {
        // The kind is known, or this would not be reached.
        typed(settings, |value| {
            (self.parse)(self.registry, kind, value)
                .unwrap_or_else(|_| Err(vec![KeyError::new("", "unknown type")]))
        })
    }

    fn knows(&self, kind: &str) -> bool {
        (self.parse)(self.registry, kind, empty()).is_ok()
    }

    fn no_id(&self, id: &str) -> String {
        format!("`{id}` is no id of a {}: it is a type, or a type and a name, `type/name`", self.word)
    }

    fn no_kind(&self, kind: &str) -> String {
        format!("there is no {} type `{kind}`", self.word)
    }

    /// The type or declared component that was meant, and all types.
    fn near_kind(&self, kind: &str, declared: &[&str]) -> Option<String> {
        let unknown = (self.parse)(self.registry, "", empty()).err();
        let known = unknown.map(|unknown| unknown.known).unwrap_or_default();
        let types = format!("{} types: {}", self.word, wording::list(known.iter().copied()));
        Some(match wording::near(kind, declared.iter().copied().chain(known)) {
            Some(near) => format!("did you mean `{near}`? ({types})"),
            None => types,
        })
    }
}

/// The type in an id, `type` or `type/name`.
fn kind(id: &str) -> Option<&str> {
    let (kind, name) = id.split_once('/').map_or((id, None), |(kind, name)| (kind, Some(name)));
    let blank = |part: &str| part.is_empty() || part.contains(char::is_whitespace);
    (!blank(kind) && !name.is_some_and(blank)).then_some(kind)
}

/// `critical = false`.
fn critical(node: &Node, report: &mut Report) -> Option<bool> {
    let read = typed(node, |value| {
        value
            .as_bool()
            .ok_or_else(|| vec![KeyError::new("", "invalid type: something else, expected a boolean")])
    });
    match read {
        Ok(critical) => Some(critical),
        Err(findings) => {
            for finding in findings {
                report.error(&finding.at, format!("`critical`: {}", finding.message), finding.help);
            }
            None
        }
    }
}

fn empty() -> toml::Value {
    toml::Value::Table(toml::Table::new())
}
