//! No text makes the checker panic, and what it says of one is where it says.

use proptest::prelude::*;
use watershed_engine::config::{Sources, load};

use crate::{GOOD, around, kinds};

/// Keys of every type, and two that are none.
const KEYS: [&str; 8] = [
    "endpoint",
    "timeout",
    "compression",
    "headers.a",
    "sending_queue",
    "sending_queue.required",
    "retry_on_failure.multiplier",
    "x",
];

/// Loads a text and renders whatever comes of it.
fn try_out(sources: &Sources) {
    match load(sources, &kinds::registry()) {
        Ok(plan) => {
            let _ = (
                plan.describe(),
                plan.graph(),
                plan.graph_dot(),
                plan.warnings.iter().map(ToString::to_string).count(),
            );
        }
        Err(diagnostics) => {
            assert!(!diagnostics.errors.is_empty());
            let _ = diagnostics.to_string();
            let lines: Vec<&str> = sources.inline[0].1.split('\n').collect();
            for place in diagnostics.errors.iter().filter_map(|error| error.place.as_ref()) {
                if place.line > 0 {
                    let line = lines[place.line - 1];
                    assert!(place.column <= line.chars().count() + 1, "{place} of {line:?}");
                }
            }
        }
    }
}

fn text(text: String) -> Sources {
    Sources {
        inline: vec![("f.toml".into(), text)],
        environment: [("A".to_owned(), "$ \u{1b} 5".to_owned())].into(),
        ..Sources::default()
    }
}

/// Pieces that make trouble, and any text.
fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "'",
        "\"\"\"",
        "#",
        "\n",
        "\r\n",
        ".",
        ",",
        "${",
        "${A}",
        "${env:A:-",
        "$$",
        "/",
        "-1",
        "1e400",
        "0xffffffffffffffffff",
        "true",
        "nan",
        "1979-05-27",
        "[pipelines.logs]\n",
        "[[receivers]]\n",
        "critical = 1\n",
        "\u{feff}",
        "\t",
        "é",
        "💧",
        "\u{0}",
        "[agent.receivers]\n",
        "signals = [\"logs\"]\n",
        "[service]\n",
        "\"batch/x\"",
    ];
    prop_oneof![4 => prop::sample::select(pieces.map(str::to_owned).to_vec()), 1 => ".{0,8}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text(random in "\\PC{0,200}|(?s).{0,200}") {
        try_out(&text(random));
    }

    #[test]
    fn pieces_of_toml(pieces in prop::collection::vec(piece(), 0..40)) {
        try_out(&text(pieces.concat()));
    }

    #[test]
    fn a_good_file_with_mistakes(edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, piece()), 1..5)) {
        let mut file: Vec<char> = GOOD.chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(file.len() + 1);
            let end = (at + cut).min(file.len());
            file.splice(at..end, piece.chars());
        }
        try_out(&text(file.into_iter().collect()));
    }

    #[test]
    fn no_secret_is_shown(key in prop::sample::select(KEYS.to_vec()), before in "[ -~]{0,6}", after in "[ -~]{0,6}") {
        let mut sources = text(around(&format!("[exporters.otlp]\n{key} = \"${{env:SECRET}}\"")));
        sources.environment.insert("SECRET".into(), format!("{before}hunter2{after}"));
        if let Err(diagnostics) = load(&sources, &kinds::registry()) {
            let told = diagnostics.to_string();
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn any_override(name in "[A-Z_./-]{0,20}", key in "[a-z./\"'=-]{0,20}", value in ".{0,20}") {
        let mut sources = text(GOOD.to_owned());
        sources.environment.insert(format!("WATERSHED__{name}"), value.clone());
        sources.set = vec![format!("{key}={value}"), format!("pipelines.traces.{key}={value}")];
        try_out(&sources);
    }
}
