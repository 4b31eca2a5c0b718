//! The commands that only look: `validate`, `components`, `graph`.

use std::path::Path;

use super::Exit;
use super::keys;
use super::out::{complain, print};
use super::source::Choice;
use crate::stage::Registry;

/// `validate`: everything that is wrong on stderr, or what would run on stdout.
pub(crate) fn validate(choice: &Choice, kinds: &Registry) -> Exit {
    let plan = match choice.load(kinds) {
        Ok(plan) => plan,
        Err(errors) => return refuse(&errors),
    };
    for warning in &plan.warnings {
        complain(format_args!("{warning}\n"));
    }
    show(&plan.describe())
}

/// `validate --diff OLD NEW`: what a reload would do.
pub(crate) fn diff(choice: &Choice, old: &Path, new: &Path, kinds: &Registry) -> Exit {
    let load = |file: &Path| Choice { config: vec![file.to_owned()], ..choice.clone() }.load(kinds);
    match (load(old), load(new)) {
        (Ok(old), Ok(new)) => {
            let diff = old.diff(&new);
            print(diff.to_string().trim_end());
            if diff.obstacles.is_empty() { Exit::Drained } else { Exit::Config }
        }
        (old, new) => {
            let errors: Vec<String> = [old.err(), new.err()].into_iter().flatten().collect();
            refuse(&errors.join("\n\n"))
        }
    }
}

/// `components`: the names a configuration may use, by class.
pub(crate) fn components(kinds: &Registry) -> Exit {
    let mut text = String::new();
    for (class, names) in classes(kinds) {
        text += &format!("{class}s:\n");
        for name in names {
            text += &format!("  {name}\n");
            let aliases = kinds.aliases(class, name);
            if !aliases.is_empty() {
                text += &format!("    also: {}\n", aliases.join(", "));
            }
        }
    }
    text += "\n`watershed components KIND` shows the keys of a kind.";
    show(&text)
}

/// `components KIND`: the keys of a kind, in every class that has it or in the one that is named.
pub(crate) fn keys_of(kind: &str, kinds: &Registry) -> Exit {
    let (wanted, name) = kind.split_once('/').map_or((None, kind), |(class, name)| (Some(class), name));
    let mut text = String::new();
    for (class, _) in classes(kinds) {
        let schema = kinds.schema(class, name).filter(|_| wanted.is_none_or(|wanted| wanted == class));
        if let Some(schema) = schema {
            let keys = keys::keys(schema.as_value());
            let none = if keys.is_empty() { "  no keys\n" } else { "" };
            text += &format!("{class} {name}:\n{none}{}\n", keys::text(&keys));
        }
    }
    if text.is_empty() {
        return refuse(&format!("error: there is no kind `{kind}`: `watershed components` lists them"));
    }
    show(&text)
}

/// The kinds of each class.
fn classes(kinds: &Registry) -> [(&'static str, Vec<&'static str>); 4] {
    [
        ("receiver", kinds.receivers()),
        ("processor", kinds.processors()),
        ("exporter", kinds.exporters()),
        ("extension", kinds.extensions()),
    ]
}

/// `graph`: the topology as a drawing.
pub(crate) fn graph(choice: &Choice, dot: bool, kinds: &Registry) -> Exit {
    match choice.load(kinds) {
        Ok(plan) if dot => show(&plan.graph_dot()),
        Ok(plan) => show(&plan.graph()),
        Err(errors) => refuse(&errors),
    }
}

/// Says what is wrong with a configuration.
pub(crate) fn refuse(errors: &str) -> Exit {
    complain(errors.trim_end());
    Exit::Config
}

fn show(text: &str) -> Exit {
    print(text.trim_end());
    Exit::Drained
}
