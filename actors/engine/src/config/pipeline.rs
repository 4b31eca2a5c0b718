//! One pipeline's table: what it carries, which components it names, and what it promises.

use std::sync::Arc;

use watershed_stage::{Ack, Signal};

use super::diagnostic::Report;
use super::fields::{Fields, Strings};
use super::place::Spot;
use super::tree::Node;
use super::wording;

/// A pipeline as it is written.
pub(crate) struct Pipeline {
    pub(crate) id: Arc<str>,
    pub(crate) signals: Vec<Signal>,
    pub(crate) receivers: Strings,
    pub(crate) processors: Strings,
    pub(crate) exporters: Strings,
    /// What it asks for, if it does.
    pub(crate) ack: Option<(Ack, Spot)>,
    /// The extension that keeps its dead letters.
    pub(crate) dead_letters: Option<(String, Spot)>,
}

// === impl Pipeline ===

impl Pipeline {
    pub(crate) fn read(id: &str, node: &Node, report: &mut Report) -> Self {
        let mut fields = Fields::of(node, report);
        let signals = fields.strings("signals", report);
        let none = Strings { at: node.key.clone(), items: Vec::new(), complete: fields.is_table() };
        let receivers = fields.strings("receivers", report).unwrap_or_else(|| none.clone());
        let processors = fields.strings("processors", report).unwrap_or_else(|| none.clone());
        let exporters = fields.strings("exporters", report).unwrap_or(none);
        for (strings, word) in [(&receivers, "receiver"), (&exporters, "exporter")] {
            if strings.items.is_empty() && strings.complete {
                let help = format!("name at least one: `{word}s = [\"otlp\"]`");
                report.error(&strings.at, format!("pipeline `{id}` has no {word}s"), Some(help));
            }
        }
        let ack =
            fields.value::<String>("ack", report).and_then(|(word, at)| Some((ack(&word, &at, report)?, at)));
        let dead_letters = fields.value::<String>("dead_letters", report);
        fields.finish(&[], report);
        let signals = match signals {
            Some(listed) => several(id, &listed, node, report),
            None => one(id, node, report).into_iter().collect(),
        };
        Self { id: id.into(), signals, receivers, processors, exporters, ack, dead_letters }
    }
}

/// The signal that the id of a pipeline names.
fn one(id: &str, node: &Node, report: &mut Report) -> Option<Signal> {
    let word = id.split('/').next().unwrap_or(id);
    let signal = signal(word);
    if signal.is_none() {
        let help = match wording::near(word, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                format!("call it {}, `signal/name`, or say `signals = [\"traces\"]`", wording::list(names()))
            }
        };
        report.error(&node.key, format!("`{word}` is no signal"), Some(help));
    }
    signal
}

/// The signals that a pipeline lists.
fn several(id: &str, listed: &Strings, node: &Node, report: &mut Report) -> Vec<Signal> {
    let mut signals = Vec::new();
    for item in &listed.items {
        match signal(&item.text) {
            Some(signal) if signals.contains(&signal) => {
                report.error(&item.at, format!("`{signal}` is listed twice"), None);
            }
            Some(signal) => signals.push(signal),
            None => {
                let help = wording::suggestion(&item.text, "signals", &names());
                report.error(&item.at, format!("`{}` is no signal", item.shown), help);
            }
        }
    }
    if listed.items.is_empty() && listed.complete {
        let help = format!("name at least one of {}", wording::list(names()));
        report.error(&listed.at, format!("pipeline `{id}` has no signals"), Some(help));
    }
    let named = signal(id.split('/').next().unwrap_or(id));
    if let Some(named) = named.filter(|named| !signals.is_empty() && !signals.contains(named)) {
        let help = format!("list `{named}` too, or call the pipeline something else");
        report.error(
            &node.key,
            format!("pipeline `{id}` does not carry {named}, as its name says"),
            Some(help),
        );
    }
    signals
}

fn ack(word: &str, at: &Spot, report: &mut Report) -> Option<Ack> {
    match word {
        "accepted" => Some(Ack::Accepted),
        "delivered" => Some(Ack::Delivered),
        "journaled" => Some(Ack::Journaled),
        _ => {
            let help = wording::suggestion(word, "one of", &["accepted", "journaled", "delivered"]);
            report.error(at, "`ack`: this is no promise", help);
            None
        }
    }
}

fn signal(name: &str) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| signal.as_str() == name)
}

fn names() -> [&'static str; 3] {
    Signal::ALL.map(Signal::as_str)
}
