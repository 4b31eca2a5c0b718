//! Where documents go: an index or a data stream, as settings and attributes say.
//!
//! Source: Elastic's data stream naming scheme, `{type}-{dataset}-{namespace}`.

use watershed_telemetry::Signal;
use watershed_telemetry::view::{Attributes, Value};

use super::json::{self, Out};
use super::{Mode, Plan, Scribe};

const TYPE: &str = "data_stream.type";
const DATASET: &str = "data_stream.dataset";
const NAMESPACE: &str = "data_stream.namespace";
const INDEX: &str = "elasticsearch.index";
const DOCUMENT_ID: &str = "elasticsearch.document_id";
const PIPELINE: &str = "elasticsearch.ingest_pipeline";
pub(super) const HINTS: &str = "elasticsearch.mapping.hints";
pub(super) const MODE: &str = "elastic.mapping.mode";

/// What a dataset may hold; and a namespace.
const LONGEST_PART: usize = 100;

/// What the name of an index may hold.
const LONGEST_INDEX: usize = 255;

/// Whether an attribute is addressed to us rather than to the document's reader.
pub(super) fn is_control(key: &str) -> bool {
    match key.as_bytes() {
        [b'd', ..] => matches!(key, TYPE | DATASET | NAMESPACE),
        [b'e', b'l', ..] => matches!(key, INDEX | DOCUMENT_ID | PIPELINE | HINTS | MODE),
        _ => false,
    }
}

/// Who may say where a document goes, the first before the others: the item, its scope, its resource.
#[derive(Clone, Copy)]
pub(super) struct Says<'a> {
    pub(super) item: Option<Attributes<'a>>,
    /// What scope and resource say.
    pub(super) hints: Hints<'a>,
}

/// What is said of where documents go, in the order of [`KEYS`].
#[derive(Clone, Copy, Default)]
pub(super) struct Hints<'a>([Option<&'a str>; KEYS.len()]);

const KEYS: [&str; 4] = [TYPE, DATASET, NAMESPACE, INDEX];

/// Where documents go.
#[derive(Clone, Default, Debug)]
pub(super) struct Route {
    /// `{"create":{"_index":"..."`, and what else holds for all documents of this route.
    pub(super) action: Out,
    /// `,"data_stream":{...}`; empty where they go to an index.
    pub(super) stream: Out,
    /// Type, dataset and namespace; empty where they go to an index.
    pub(super) parts: [String; 3],
}

// === impl Says ===

impl<'a> Says<'a> {
    /// The first non-empty text under one of [`KEYS`].
    fn find(&self, key: &str) -> Option<&'a str> {
        let hint =
            || KEYS.into_iter().zip(self.hints.0).find_map(|(known, hint)| hint.filter(|_| known == key));
        self.item.and_then(|item| text(item, key)).or_else(hint)
    }
}

/// The text under a key, unless it is empty.
fn text<'a>(attributes: Attributes<'a>, key: &str) -> Option<&'a str> {
    attributes.find(key)?.as_str().filter(|text| !text.is_empty())
}

// === impl Hints ===

impl<'a> Hints<'a> {
    /// What these attributes say; of what they do not, what `below` says.
    pub(super) fn of(attributes: Attributes<'a>, below: Self) -> Self {
        let mut hints = below;
        for (key, hint) in KEYS.into_iter().zip(&mut hints.0) {
            *hint = text(attributes, key).or(*hint);
        }
        hints
    }

    /// Where nobody says of which dataset they are, the name of the scope may.
    pub(super) fn or_of_scope(mut self, name: &'a str) -> Self {
        let [_, dataset, ..] = &mut self.0;
        *dataset = dataset.or_else(|| receiver(name));
        self
    }
}

// === impl Route ===

impl Route {
    pub(super) fn of(scribe: &Scribe<'_>, mode: Mode, signal: Signal, says: Says<'_>) -> Self {
        let mut route = Self::default();
        let name = match scribe.plan.index(signal) {
            Some(index) => format!("{index}{}", scribe.date_suffix),
            None => match says.find(INDEX).map(index).filter(|index| !index.is_empty()) {
                Some(index) => format!("{index}{}", scribe.date_suffix),
                None => route.data_stream(mode, signal, says),
            },
        };
        json::raw(&mut route.action, "{\"create\":{\"_index\":");
        json::text(&mut route.action, &name);
        if scribe.plan.requires_data_stream(mode) {
            json::raw(&mut route.action, ",\"require_data_stream\":true");
        }
        route
    }

    fn data_stream(&mut self, mode: Mode, signal: Signal, says: Says<'_>) -> String {
        let kind = match signal {
            Signal::Logs => "logs",
            Signal::Metrics => "metrics",
            Signal::Traces => "traces",
        };
        // Only of documents that are all body it is not known what they are.
        let kind = says.find(TYPE).filter(|_| mode == Mode::Bodymap).unwrap_or(kind);
        let suffix = if mode == Mode::Otel { ".otel" } else { "" };
        let dataset = says.find(DATASET).unwrap_or("generic");
        let namespace = says.find(NAMESPACE).unwrap_or("default");
        let parts = [part(kind, "", "-"), part(dataset, suffix, "-"), part(namespace, "", "")];
        let [kind, dataset, namespace] = &parts;
        let out = &mut self.stream;
        json::text_field(out, ",\"data_stream\":{\"type\":", kind);
        json::text_field(out, ",\"dataset\":", dataset);
        json::text_field(out, ",\"namespace\":", namespace);
        out.push(b'}');
        let name = format!("{kind}-{dataset}-{namespace}");
        self.parts = parts;
        name
    }
}

/// `,"_id":"..."` and `,"pipeline":"..."` of an item's action, where the settings let it have its own. Whether it has
/// an id.
pub(super) fn own(out: &mut Out, plan: &Plan, signal: Signal, attributes: Attributes<'_>) -> bool {
    let text = |key, on: bool| attributes.find(key).filter(|_| on).and_then(|value| value.as_str());
    let id = text(DOCUMENT_ID, plan.dynamic_id(signal)).unwrap_or_default();
    json::text_field(out, ",\"_id\":", id);
    json::text_field(out, ",\"pipeline\":", text(PIPELINE, plan.dynamic_pipeline).unwrap_or_default());
    !id.is_empty()
}

/// What a data point asks for by `elasticsearch.mapping.hints`.
pub(super) fn has_hint(attributes: Attributes<'_>, hint: &str) -> bool {
    let Some(Value::Array(mut hints)) = attributes.find(HINTS).map(|hints| hints.value()) else {
        return false;
    };
    hints.any(|one| one.as_str() == Some(hint))
}

/// A part of a data stream's name: lower case, without what may not stand in it, and no longer than allowed.
fn part(text: &str, suffix: &str, and: &str) -> String {
    let mut name = cut(&sanitised(text, and), LONGEST_PART - suffix.len()).to_owned();
    // The suffix that an earlier collector wrote is there once.
    if !name.ends_with(suffix) {
        name.push_str(suffix);
    }
    name
}

/// The name of an index: as above, and not beginning with what Elasticsearch keeps for itself.
fn index(text: &str) -> String {
    let name = sanitised(text, "");
    let name = name.trim_start_matches(['-', '_', '+']);
    if matches!(name, "." | "..") { String::new() } else { cut(name, LONGEST_INDEX).to_owned() }
}

fn sanitised(text: &str, and: &str) -> String {
    let forbidden = |c: char| r#"\/*?"<>| ,#:"#.contains(c) || and.contains(c) || c.is_control();
    let clean = |c: char| if forbidden(c) { '_' } else { c };
    text.chars().flat_map(char::to_lowercase).map(clean).collect()
}

/// The longest beginning of at most so many bytes.
fn cut(text: &str, mut longest: usize) -> &str {
    while !text.is_char_boundary(longest.min(text.len())) {
        longest -= 1;
    }
    text.get(..longest).unwrap_or(text)
}

/// A receiver of the OpenTelemetry Collector, from the name of its scope: `.../receiver/hostmetricsreceiver/...`.
fn receiver(scope: &str) -> Option<&str> {
    let (_, rest) = scope.split_once("/receiver/")?;
    let word = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
    let end = word.rfind("receiver")? + "receiver".len();
    word.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit() {
        assert_eq!(part("Nginx-Access/Log", ".otel", "-"), "nginx_access_log.otel");
        assert_eq!(part("nginx.otel", ".otel", "-"), "nginx.otel");
        assert_eq!(part(&"ä".repeat(80), ".otel", "-").len(), 94 + ".otel".len());
        assert_eq!(part("EU-West", "", ""), "eu-west");
        assert_eq!(index("_Über#alles"), "über_alles");
        assert_eq!(index(".."), "");
    }

    #[test]
    fn the_scope_of_a_receiver_names_the_dataset() {
        let scope =
            "github.com/open-telemetry/opentelemetry-collector-contrib/receiver/hostmetricsreceiver/internal";
        assert_eq!(receiver(scope), Some("hostmetricsreceiver"));
        assert_eq!(receiver("a/receiver/nothing"), None);
        assert_eq!(receiver("hostmetricsreceiver"), None);
    }
}
