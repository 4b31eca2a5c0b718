//! A strict little reader of both texts, to hold the writers against.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

/// One sample: name, labels, value, the rest of the line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) value: f64,
    pub(super) rest: String,
}

/// Families by name: type and samples.
pub(super) type Families = BTreeMap<String, (String, Vec<Read>)>;

/// Reads a whole exposition, or panics at the first line that no scraper would take.
pub(super) fn read(text: &str, open: bool) -> Families {
    let mut families = Families::new();
    let mut current: Option<String> = None;
    let mut metadata = BTreeSet::new();
    let mut series = BTreeSet::new();
    let body = if open { text.strip_suffix("# EOF\n").expect("# EOF ends it") } else { text };
    assert!(body.is_empty() || body.ends_with('\n'));
    for line in body.lines() {
        assert!(!line.contains('\r') && !line.is_empty(), "{line:?}");
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').unwrap();
            let (name, rest) = name(rest);
            let text = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(metadata.insert((what.to_owned(), name.clone())), "twice: {line}");
            match what {
                "TYPE" => {
                    assert!(families.insert(name.clone(), (text.to_owned(), Vec::new())).is_none(), "{line}");
                    current = Some(name);
                }
                "UNIT" => assert!(open && name.ends_with(&format!("_{text}")), "{line}"),
                "HELP" => assert!(!families.contains_key(&name), "HELP comes before TYPE here: {line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let read = sample(line);
        let family = current.clone().unwrap_or_else(|| panic!("no TYPE before {line}"));
        let (kind, samples) = families.get_mut(&family).unwrap();
        let suffix = read.name.strip_prefix(&family).unwrap_or_else(|| panic!("{family} has {line}"));
        let good: &[&str] = match (kind.as_str(), open) {
            ("counter", true) => &["_total"],
            ("info", true) => &["_info"],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            ("summary", _) => &["", "_sum", "_count"],
            ("counter" | "gauge" | "untyped" | "unknown", _) => &[""],
            _ => panic!("{kind}"),
        };
        assert!(good.contains(&suffix), "{kind} {family} has {line}");
        assert!(series.insert((read.name.clone(), read.labels.clone())), "twice: {line}");
        assert!(open || !read.rest.contains('#'), "{line}");
        samples.push(read);
    }
    for (name, (kind, samples)) in &families {
        assert!(!samples.is_empty(), "{name} has no samples");
        if kind == "histogram" {
            histogram(name, samples);
        }
    }
    families
}

/// Buckets rise, and the last is infinite and the count.
fn histogram(name: &str, samples: &[Read]) {
    let mut last: BTreeMap<BTreeMap<String, String>, (f64, f64)> = BTreeMap::new();
    for read in samples.iter().filter(|read| read.name == format!("{name}_bucket")) {
        let mut labels = read.labels.clone();
        let le: f64 = labels.remove("le").unwrap().parse().unwrap();
        let before = last.insert(labels, (le, read.value));
        assert!(before.is_none_or(|(bound, count)| bound < le && count <= read.value), "{read:?}");
    }
    for (labels, (bound, count)) in last {
        assert!(bound.is_infinite());
        let total = samples.iter().find(|read| read.name == format!("{name}_count") && read.labels == labels);
        assert!(total.is_none_or(|total| total.value == count));
    }
}

fn sample(line: &str) -> Read {
    let mut labels = BTreeMap::new();
    let (mut found, mut rest) = if line.starts_with('{') { (String::new(), line) } else { name(line) };
    if let Some(mut inside) = rest.strip_prefix('{') {
        let mut last = String::new();
        while !inside.starts_with('}') {
            let (label, after) = name(inside);
            match after.strip_prefix("=\"") {
                None => {
                    assert!(found.is_empty(), "two names: {line}");
                    found = label;
                    inside = after;
                }
                Some(value) => {
                    let (value, after) = quoted(value);
                    assert!(!value.is_empty(), "{line}");
                    assert!(label > last || label == "le" || label == "quantile", "unsorted: {line}");
                    last.clone_from(&label);
                    assert!(labels.insert(label, value).is_none(), "{line}");
                    inside = after;
                }
            }
            inside = inside.strip_prefix(',').unwrap_or(inside);
        }
        rest = &inside[1..];
    }
    let rest = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    let (value, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    Read { name: found, labels, value: value.parse().unwrap(), rest: rest.to_owned() }
}

/// A name, quoted or not, and what follows.
fn name(text: &str) -> (String, &str) {
    if let Some(text) = text.strip_prefix('"') {
        return quoted(text);
    }
    let good = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    let end = text.find(|char| !good(char)).unwrap_or(text.len());
    assert!(end > 0 && !text.starts_with(|first: char| first.is_ascii_digit()), "no name: {text}");
    (text[..end].to_owned(), &text[end..])
}

/// What stands before the closing quote, and what follows.
fn quoted(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (out, &text[at + 1..]),
            '\\' => match chars.next().unwrap().1 {
                'n' => out.push('\n'),
                char @ ('\\' | '"') => out.push(char),
                char => panic!("\\{char}"),
            },
            char => out.push(char),
        }
    }
    panic!("no end: {text}")
}
