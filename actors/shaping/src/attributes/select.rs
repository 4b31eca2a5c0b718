//! `include` and `exclude`, as the configuration writes them.

use regex::{Regex, RegexSet};
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::KeyError;
use watershed_telemetry::edit::{Criteria, Library, Severity, Texts, Wanted};

use crate::attributes::edit::{Literal, no_pattern};

/// What an item has to be: it has to meet all that is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    /// How texts are compared.
    match_type: MatchType,
    /// Settings of otelcol's cache of matches, which has no equal here: they change nothing.
    #[serde(default)]
    #[expect(dead_code, reason = "there is no cache")]
    regexp: Option<Cache>,
    /// The resource's `service.name` is one of these.
    #[serde(default)]
    services: Vec<String>,
    /// The resource has all of these attributes.
    #[serde(default)]
    resources: Vec<Pair>,
    /// The instrumentation scope is one of these.
    #[serde(default)]
    libraries: Vec<Named>,
    /// The item has all of these attributes.
    #[serde(default)]
    attributes: Vec<Pair>,
    /// The span's name is one of these.
    #[serde(default)]
    span_names: Vec<String>,
    /// The span's kind is one of these, as `SPAN_KIND_SERVER`.
    #[serde(default)]
    span_kinds: Vec<String>,
    /// The log record's body, as text, is one of these.
    #[serde(default)]
    log_bodies: Vec<String>,
    /// The log record's severity text is one of these.
    #[serde(default)]
    log_severity_texts: Vec<String>,
    /// The log record is so severe.
    #[serde(default)]
    log_severity_number: Option<Number>,
    /// The metric's name is one of these.
    #[serde(default)]
    metric_names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum MatchType {
    /// Texts are the same.
    Strict,
    /// Regular expressions match anywhere in the text.
    Regexp,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "there is no cache")]
struct Cache {
    /// Whether matches are kept.
    #[serde(default)]
    cacheenabled: bool,
    /// How many.
    #[serde(default)]
    cachemaxnumentries: usize,
}

/// An attribute.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pair {
    /// Its key.
    key: String,
    /// Its value; any if there is none.
    #[serde(default)]
    value: Option<Literal>,
}

/// An instrumentation scope.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Its name.
    name: String,
    /// Its version; any if there is none.
    #[serde(default)]
    version: Option<String>,
}

/// A severity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Number {
    /// The lowest severity number, 1 to 24.
    #[serde(default)]
    min: i32,
    /// Whether records without a severity number are meant.
    #[serde(default)]
    match_undefined: bool,
}

const SPAN_KINDS: [&str; 5] = [
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_CONSUMER",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_SERVER",
];

// === impl Match ===

impl Match {
    /// What is wrong with it; `at` is its key.
    pub(super) fn errors(&self, at: &str) -> Vec<KeyError> {
        let mut errors = Vec::new();
        for (key, texts) in self.lists() {
            let wrong = |index: usize, text: &String| {
                let message = match self.match_type {
                    MatchType::Regexp => no_pattern(&Regex::new(text).err()?),
                    MatchType::Strict if key == "span_kinds" && !SPAN_KINDS.contains(&text.as_str()) => {
                        format!("is no kind of span: write one of {}", SPAN_KINDS.join(", "))
                    }
                    MatchType::Strict => return None,
                };
                Some(KeyError::new(format!("{key}.{index}"), message))
            };
            errors.extend(texts.iter().enumerate().filter_map(|(index, text)| wrong(index, text)));
        }
        for (key, pairs) in [("resources", &self.resources), ("attributes", &self.attributes)] {
            let wrong =
                |(index, pair): (usize, &Pair)| pair.errors(self.match_type, &format!("{key}.{index}"));
            errors.extend(pairs.iter().enumerate().flat_map(wrong));
        }
        if self.match_type == MatchType::Regexp {
            for (index, library) in self.libraries.iter().enumerate() {
                let texts = [("name", Some(&library.name)), ("version", library.version.as_ref())];
                let wrong = |(key, text): (&str, Option<&String>)| {
                    let message = no_pattern(&Regex::new(text?).err()?);
                    Some(KeyError::new(format!("libraries.{index}.{key}"), message))
                };
                errors.extend(texts.into_iter().filter_map(wrong));
            }
        }
        errors.extend(self.contradiction().map(|message| KeyError::new("", message)));
        errors.into_iter().map(|error| error.under(at)).collect()
    }

    /// The lists of texts by key.
    fn lists(&self) -> [(&'static str, &[String]); 6] {
        [
            ("services", &self.services),
            ("span_names", &self.span_names),
            ("span_kinds", &self.span_kinds),
            ("log_bodies", &self.log_bodies),
            ("log_severity_texts", &self.log_severity_texts),
            ("metric_names", &self.metric_names),
        ]
    }

    /// Why nothing can ever meet it, or everything does.
    fn contradiction(&self) -> Option<&'static str> {
        let spans = !self.span_names.is_empty() || !self.span_kinds.is_empty();
        let metrics = !self.metric_names.is_empty();
        let logs = !self.log_bodies.is_empty()
            || !self.log_severity_texts.is_empty()
            || self.log_severity_number.is_some();
        let others = !self.services.is_empty()
            || !self.resources.is_empty()
            || !self.libraries.is_empty()
            || !self.attributes.is_empty();
        match u8::from(spans) + u8::from(metrics) + u8::from(logs) {
            0 if !others => Some(
                "says nothing: at least one of `services`, `resources`, `libraries`, `attributes`, `span_names`, \
                 `span_kinds`, `log_bodies`, `log_severity_texts`, `log_severity_number` or `metric_names` must be \
                 specified",
            ),
            0 | 1 => None,
            _ => Some("nothing is a span, a log record and a metric at once: use one processor for each"),
        }
    }

    pub(super) fn criteria(&self) -> Criteria {
        let texts = |texts: &[String]| (!texts.is_empty()).then(|| self.texts(texts)).flatten();
        let wanted = |pairs: &[Pair]| {
            pairs.iter().filter_map(|pair| Some((pair.key.clone(), pair.wanted(self.match_type)?))).collect()
        };
        let library = |library: &Named| {
            let version = library.version.as_slice();
            Some(Library { name: self.texts(std::slice::from_ref(&library.name))?, version: texts(version) })
        };
        Criteria {
            services: texts(&self.services),
            resources: wanted(&self.resources),
            libraries: self.libraries.iter().filter_map(library).collect(),
            attributes: wanted(&self.attributes),
            span_names: texts(&self.span_names),
            span_kinds: texts(&self.span_kinds),
            log_bodies: texts(&self.log_bodies),
            log_severity_texts: texts(&self.log_severity_texts),
            log_severity: self
                .log_severity_number
                .as_ref()
                .map(|number| Severity { min: number.min, match_undefined: number.match_undefined }),
            metric_names: texts(&self.metric_names),
        }
    }

    fn texts(&self, texts: &[String]) -> Option<Texts> {
        match self.match_type {
            MatchType::Strict => Some(Texts::Exactly(texts.to_vec())),
            MatchType::Regexp => RegexSet::new(texts).ok().map(Texts::Matching),
        }
    }
}

// === impl Pair ===

impl Pair {
    fn errors(&self, match_type: MatchType, at: &str) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.key.is_empty() {
            errors.push(KeyError::new(format!("{at}.key"), "an attribute has a name: it must not be empty"));
        }
        let message = self.value.as_ref().and_then(|value| match (match_type, &value.0) {
            (MatchType::Strict, _) => value.error(),
            (MatchType::Regexp, toml::Value::String(text)) => Some(no_pattern(&Regex::new(text).err()?)),
            (MatchType::Regexp, other) => Some(format!(
                "with `match_type = \"regexp\"` a value is a string, not a {}",
                other.type_str()
            )),
        });
        errors.extend(message.map(|message| KeyError::new(format!("{at}.value"), message)));
        errors
    }

    fn wanted(&self, match_type: MatchType) -> Option<Wanted> {
        let Some(value) = &self.value else { return Some(Wanted::Any) };
        match match_type {
            MatchType::Strict => value.value().map(Wanted::Exactly),
            MatchType::Regexp => Regex::new(value.0.as_str()?).ok().map(Wanted::Matching),
        }
    }
}
