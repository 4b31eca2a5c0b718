//! Layers, and their merge: tables deep, everything else replaced.
//!
//! The merge is that of the `config` crate, but what it merges is not the values: every value goes in as a
//! ticket and is exchanged again afterwards. So no value is ever turned from a text into a number on the way,
//! and each comes out with the place where it was set.

use std::collections::BTreeMap;

use config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::diagnostic::Report;
use super::expand::{Expanded, Expander};
use super::place::{Spot, Text};
use super::source::Sources;
use super::tree::{Content, Node, Scalar};

/// The prefix of variables that set a key.
const PREFIX: &str = "WATERSHED__";

/// How deep a key can stand that is set from outside of a file. A file has a limit of its own.
const DEEPEST: usize = 32;

/// Every layer, weakest first. What is wrong with one is reported; `None` if a text could not be read as TOML, so
/// that whatever else could be said would be guesswork.
pub(crate) fn read(sources: &Sources, report: &mut Report) -> Option<Vec<Node>> {
    let mut layers = Vec::new();
    let texts = sources.read(report);
    let mut readable = texts.len() == sources.inline.len() + sources.files.len();
    for number in texts {
        let (mut layer, errors) = match report.texts.get(number).and_then(|text| text.text.as_deref()) {
            Some(text) => Node::parse(number, text),
            None => continue,
        };
        readable &= errors.is_empty();
        let mut line = 0;
        for error in errors {
            // What the parser says of the rest of a line is about its own recovery.
            let this = report.place(&error.at).map_or(0, |place| place.line);
            if line != this {
                report.error(&error.at, error.message, None);
            }
            line = this;
        }
        expand(&mut layer, sources, report);
        layers.push(layer);
    }
    for (name, value) in sources.environment.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        layers.extend(from_variable(name, value, &layers, report));
    }
    for set in &sources.set {
        layers.extend(from_command_line(set, sources, report));
    }
    readable.then_some(layers)
}

/// Merges layers, later ones over earlier ones.
pub(crate) fn merge(layers: &[Node]) -> Result<Node, ConfigError> {
    let mut values = Vec::new();
    let mut builder = Config::builder();
    for layer in layers {
        builder = builder.add_source(Tickets(tickets(layer, &mut values)));
    }
    let merged = builder
        .build()?
        .collect()?
        .remove(ROOT)
        .unwrap_or_else(|| Value::new(None, Map::<String, Value>::new()));
    Ok(exchange(merged, &values, &mut Vec::new(), layers))
}

// --- expansion ---

/// Expands every text of a layer.
fn expand(layer: &mut Node, sources: &Sources, report: &mut Report) {
    layer.each_mut(&mut |spot, scalar| {
        let toml::Value::String(written) = &scalar.value else { return };
        if !written.contains('$') {
            return;
        }
        let directory = report.texts.get(spot.text).map(|text| text.directory.clone()).unwrap_or_default();
        let expander = Expander { environment: &sources.environment, directory: &directory };
        let written = written.clone();
        match expander.expand(&written) {
            Ok(Expanded::Plain(text)) => scalar.value = toml::Value::String(text),
            Ok(Expanded::Mixed(text)) => {
                *scalar = Scalar { shown: Some(written), ..Scalar::plain(toml::Value::String(text)) };
            }
            Ok(Expanded::Whole(text)) => *scalar = Scalar::read(text, Some(written)),
            Err(problems) => {
                scalar.broken = true;
                for problem in problems {
                    let at = within(spot, &problem.part, report);
                    report.error(&at, problem.message, Some(problem.help));
                }
            }
        }
    });
}

/// Where `part` stands in the value at `spot`, if it is written there without escapes.
fn within(spot: &Spot, part: &str, report: &Report) -> Spot {
    let slice = report.texts.get(spot.text).map_or("", |text| text.slice(&spot.span));
    match slice.find(part) {
        Some(at) => {
            let start = spot.span.start + at;
            Spot { text: spot.text, span: start..start + part.len() }
        }
        None => spot.clone(),
    }
}

// --- the environment and the command line ---

/// `WATERSHED__A__B=value`. Names are folded: `OTLP_JAEGER` is an existing key `otlp/jaeger`.
fn from_variable(name: &str, value: &str, layers: &[Node], report: &mut Report) -> Option<Node> {
    let spot = Spot::whole(report.text(Text::unseen(format!("environment variable `{name}`"))));
    let mut path: Vec<String> = Vec::new();
    for part in name.strip_prefix(PREFIX)?.split("__") {
        if part.is_empty() || path.len() == DEEPEST {
            let help = "write it like `WATERSHED__SERVICE__LANES`".to_owned();
            report.error(&spot, "this sets no key", Some(help));
            return None;
        }
        path.push(existing(part, &path, layers).unwrap_or_else(|| part.to_lowercase()));
    }
    let shown = format!("${{env:{name}}}");
    let mut node = outside(value, &spot, Some(&shown));
    node.each_mut(&mut |_, scalar| scalar.shown = Some(shown.clone()));
    Some(nest(node, path))
}

/// The one key of all layers at `path` that is `part` once case and punctuation are folded.
fn existing(part: &str, path: &[String], layers: &[Node]) -> Option<String> {
    let fold = |key: &str| key.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_lowercase();
    let mut found: Vec<&String> = layers
        .iter()
        .filter_map(|layer| at(layer, path)?.table())
        .flat_map(|table| table.keys().filter(|key| fold(key) == fold(part)))
        .collect();
    found.dedup();
    match found.as_slice() {
        [key] => Some((*key).clone()),
        _ => None,
    }
}

/// `a.b=value`.
fn from_command_line(set: &str, sources: &Sources, report: &mut Report) -> Option<Node> {
    let parsed = split_set(set);
    let key = match &parsed {
        Some((_, value)) => set.strip_suffix(value).map(|key| key.trim_end_matches('=')),
        None => set.split('=').next(),
    };
    let spot = Spot::whole(report.text(Text::unseen(format!("--set {}", key.unwrap_or_default().trim()))));
    let Some((path, value)) = parsed else {
        let help = "write it like `--set exporters.otlp.timeout=10s`".to_owned();
        report.error(&spot, "this sets no key", Some(help));
        return None;
    };
    let mut node = outside(value, &spot, None);
    expand(&mut node, sources, report);
    Some(nest(node, path))
}

/// A value from outside a file: TOML if it reads as such, else a text.
fn outside(value: &str, spot: &Spot, shown: Option<&str>) -> Node {
    match Node::parse_value(value, spot) {
        Some(node) if node.as_scalar().is_none_or(|scalar| scalar.value.is_str()) => node,
        _ => Node::scalar(spot, Scalar::read(value.to_owned(), shown.map(str::to_owned))),
    }
}

/// Splits `a."b.c".d=value` into path and value.
fn split_set(set: &str) -> Option<(Vec<String>, &str)> {
    let mut path = vec![String::new()];
    let mut quote = None;
    for (at, c) in set.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '.') => path.push(String::new()),
            (None, '=') => {
                let path: Vec<String> = path.iter().map(|part| part.trim().to_owned()).collect();
                let key = path.len() <= DEEPEST && path.iter().all(|part| !part.is_empty());
                return key.then_some((path, &set[at + 1..]));
            }
            _ => path.last_mut()?.push(c),
        }
    }
    None
}

fn nest(node: Node, path: Vec<String>) -> Node {
    path.into_iter().rev().fold(node, Node::under)
}

fn at<'n>(node: &'n Node, path: &[String]) -> Option<&'n Node> {
    path.iter().try_fold(node, |node, key| node.get(key))
}

// --- the merge ---

/// `config` reads the first level of a source as paths; nothing of ours is to be read so.
const ROOT: &str = "root";

/// A layer whose values are numbers of values.
#[derive(Clone, Debug)]
struct Tickets(Value);

impl Source for Tickets {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(Map::from([(ROOT.to_owned(), self.0.clone())]))
    }
}

fn tickets<'n>(node: &'n Node, values: &mut Vec<&'n Node>) -> Value {
    match node.table() {
        Some(table) => {
            let entries: Map<String, Value> =
                table.iter().map(|(key, node)| (key.clone(), tickets(node, values))).collect();
            Value::new(None, entries)
        }
        None => {
            values.push(node);
            Value::new(None, values.len() as u64 - 1)
        }
    }
}

/// The values for the tickets. A table is where the first layer has it: that is where a reader looks for it.
fn exchange(merged: Value, values: &[&Node], path: &mut Vec<String>, layers: &[Node]) -> Node {
    let mut table = BTreeMap::new();
    match merged.kind {
        ValueKind::U64(ticket) => {
            if let Some(node) = usize::try_from(ticket).ok().and_then(|ticket| values.get(ticket)) {
                return (*node).clone();
            }
        }
        ValueKind::Table(entries) => {
            for (key, value) in entries {
                path.push(key);
                let node = exchange(value, values, path, layers);
                table.extend(path.pop().map(|key| (key, node)));
            }
        }
        _ => {}
    }
    let first = layers.iter().filter_map(|layer| at(layer, path)).find(|node| node.table().is_some());
    let spot = first.map_or_else(|| Spot::whole(0), |node| node.key.clone());
    Node { key: spot.clone(), value: spot, content: Content::Table(table) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(sources: &Sources) -> (toml::Value, usize) {
        let mut report = Report::default();
        let layers = read(sources, &mut report).unwrap();
        let merged = merge(&layers).unwrap().to_toml();
        (merged, report.finish().map_or_else(|diagnostics| diagnostics.errors.len(), |_| 0))
    }

    fn inline(texts: &[&str]) -> Sources {
        let inline =
            texts.iter().enumerate().map(|(n, text)| (format!("{n}.toml"), (*text).to_owned())).collect();
        Sources { inline, ..Sources::default() }
    }

    fn toml(text: &str) -> toml::Value {
        toml::Value::Table(text.parse().unwrap())
    }

    #[test]
    fn tables_are_merged_and_the_rest_is_replaced() {
        let sources = inline(&[
            "a.list = [1, 2]\na.kept = \"5\"\na.table = { x = 1 }\nb = {}\n\"c.d\" = 1979-05-27",
            "a.list = [3]\na.table = 7\nb.c = true\n",
            "a.table = { y = 1.5 }",
        ]);
        let expected =
            "a.list = [3]\na.kept = \"5\"\na.table = { y = 1.5 }\nb.c = true\n\"c.d\" = 1979-05-27";
        assert_eq!(merged(&sources), (toml(expected), 0));
    }

    #[test]
    fn the_environment_and_the_command_line_come_last() {
        let mut sources =
            inline(&["[exporters.\"otlp/jaeger\"]\nendpoint = \"a\"\nretries = 1\n[x]\nhost = \"a\""]);
        let variables = [
            ("WATERSHED__EXPORTERS__OTLP_JAEGER__ENDPOINT", "from the environment"),
            ("WATERSHED__EXPORTERS__OTLP_JAEGER__RETRIES", "2"),
            ("WATERSHED__X__MADE__UP", "[\"p\", 1]"),
            ("WATERSHED_X", "no"),
        ];
        sources.environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        sources.set =
            vec!["exporters.otlp/jaeger.retries=3".into(), "x.\"a.b\" = = c".into(), "x.host=y.z".into()];
        let expected = "[exporters.\"otlp/jaeger\"]\nendpoint = \"from the environment\"\nretries = 3\n\
            [x]\nhost = \"y.z\"\nmade.up = [\"p\", 1]\n\"a.b\" = \" = c\"";
        assert_eq!(merged(&sources), (toml(expected), 0));
    }

    #[test]
    fn what_sets_no_key_is_an_error() {
        let mut sources = inline(&[]);
        sources.set = vec!["novalue".into(), "=5".into(), "a..b=1".into()];
        sources.environment = BTreeMap::from([("WATERSHED____X".into(), "1".into())]);
        assert_eq!(merged(&sources).1, 4);
    }
}
