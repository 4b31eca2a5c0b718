//! The pages of `docs/`, held against the program: tables of keys are made of the settings' types, examples are read
//! as a user's would be, and links lead somewhere.
//!
//! `WATERSHED_WRITE_DOCS=1 cargo test -p watershed --lib docs` writes the tables anew.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use watershed_engine::config::{self, Sources};

use crate::cli::keys::{Key, keys};
use crate::kinds;

/// Tables that several kinds share, by the names of their types, and the pages that are about them.
const SHARED: [(&str, &str); 7] = [
    ("RetrySettings", "retry_on_failure"),
    ("QueueSettings", "sending_queue"),
    ("TlsServerSettings", "tls"),
    ("TlsClientSettings", "tls"),
    ("AuthSettings", "auth"),
    ("CorsSettings", "cors"),
    ("RateLimitSettings", "rate_limit"),
];

const BEGIN: &str = "<!-- keys: ";
const END: &str = "<!-- /keys -->";

/// Every page with its text, the README among them.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md")];
    for folder in ["docs", "docs/components", "docs/settings"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The keys that a mark asks for: `exporter otlp`, or `exporter otlp sending_queue` for one of its tables.
fn table(mark: &str) -> String {
    let words: Vec<&str> = mark.split_whitespace().collect();
    let (class, kind, under) = (words[0], words[1], words.get(2).copied());
    let schema = kinds().schema(class, kind).unwrap_or_else(|| panic!("{mark}: no such kind"));
    let mut text = String::from("| key | values | default | meaning |\n|---|---|---|---|\n");
    let mut shared: Option<String> = None;
    for key in keys(schema.as_value()) {
        let is_below = |prefix: &str| key.name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
        if under.is_some_and(|under| !is_below(under)) || shared.as_deref().is_some_and(is_below) {
            continue;
        }
        let known = |table: &String| SHARED.iter().find(|(name, _)| name == table);
        let page = key.table.as_ref().and_then(known).map(|(_, page)| *page);
        shared = page.map(|_| key.name.clone());
        // Seen from the table that is asked for.
        let from = under.and_then(|under| under.rfind('.')).map_or(0, |dot| dot + 1);
        row(&mut text, &key, &key.name[from..], page);
    }
    match text.lines().count() {
        2 if under.is_some() => panic!("{mark}: no such table"),
        2 => "It has no keys.\n".into(),
        _ => text,
    }
}

fn row(text: &mut String, key: &Key, name: &str, page: Option<&str>) {
    let Key { values, default, about, .. } = key;
    let name = if page.is_some() { format!("{name}.*") } else { name.to_owned() };
    let (list, one) = values.split_at(if values.starts_with("list of \"") { "list of ".len() } else { 0 });
    let quoted = format!("{list}`{}`", one.replace(" | ", "`, `"));
    let values = if one.contains('"') { &quoted } else { values };
    let default =
        if default.is_empty() || default == "required" { default.clone() } else { format!("`{default}`") };
    let see = page.map(|page| format!(" See [{page}](../settings/{page}.md).")).unwrap_or_default();
    let about = about.replace('|', "\\|");
    writeln!(text, "| `{name}` | {values} | {default} | {about}{see} |").unwrap();
}

/// A page with its tables made anew.
fn renewed(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (mark, old) = after.split_once(" -->\n").unwrap();
        let (_, behind) = old.split_once(END).unwrap();
        write!(out, "{before}{BEGIN}{mark} -->\n\n{}\n{END}", table(mark)).unwrap();
        rest = behind;
    }
    out + rest
}

/// The TOML that a page shows.
fn examples(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("```toml\n") {
        let (block, behind) = after.split_once("```").unwrap();
        blocks.push(block);
        rest = behind;
    }
    blocks
}

/// A fragment as a whole configuration: whatever it has is used by one pipeline, with the plainest at its ends.
fn completed(fragment: &str) -> String {
    let table: toml::Table = fragment.parse().unwrap_or_else(|error| panic!("{error}\n{fragment}"));
    if ["pipelines", "agent", "gateway"].iter().any(|key| table.contains_key(*key)) {
        return fragment.to_owned();
    }
    let names = |class: &str, otherwise: &[&str]| {
        let own = table.get(class).and_then(toml::Value::as_table);
        own.map_or_else(
            || otherwise.iter().map(|name| (*name).to_owned()).collect(),
            |table| table.keys().cloned().collect::<Vec<_>>(),
        )
    };
    let (receivers, exporters) = (names("receivers", &["otlp"]), names("exporters", &["nop"]));
    let processors = names("processors", &[]);
    format!(
        "{fragment}\n[pipelines.example]\nsignals = [\"traces\", \"logs\"]\nreceivers = {receivers:?}\n\
         processors = {processors:?}\nexporters = {exporters:?}\n"
    )
}

#[test]
fn tables_of_keys_are_those_of_the_settings() {
    let writes = std::env::var_os("WATERSHED_WRITE_DOCS").is_some();
    for (path, text) in pages() {
        let renewed = renewed(&text);
        if writes && renewed != text {
            std::fs::write(&path, renewed).unwrap();
        } else {
            let help = "run this test with WATERSHED_WRITE_DOCS=1";
            assert!(renewed == text, "{}: a table of keys is out of date: {help}", path.display());
        }
    }
}

#[test]
fn every_kind_has_a_page_with_its_keys() {
    let all: String = pages().into_iter().map(|(_, text)| text).collect();
    let kinds = kinds();
    for (class, names) in [
        ("receiver", kinds.receivers()),
        ("processor", kinds.processors()),
        ("exporter", kinds.exporters()),
        ("extension", kinds.extensions()),
    ] {
        for name in names {
            assert!(
                all.contains(&format!("{BEGIN}{class} {name} -->")),
                "no page has the keys of {class} {name}"
            );
        }
    }
}

#[test]
fn every_example_is_valid() {
    let mut count = 0;
    for (path, text) in pages() {
        for example in examples(&text) {
            let inline = vec![(path.display().to_string(), completed(example))];
            if let Err(errors) = config::load(&Sources { inline, ..Sources::default() }, &kinds()) {
                panic!("{}:\n{example}\n{errors}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} examples: were the pages found?");
}

#[test]
fn links_lead_somewhere() {
    for (path, text) in pages() {
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split(')').next().unwrap_or_default();
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                let target = path.parent().unwrap().join(file);
                assert!(target.exists(), "{}: {link}", path.display());
            }
        }
    }
}
