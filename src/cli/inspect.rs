//! The commands that only look: `validate`, `components`, `graph`.

use super::Exit;
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

/// `components`: the names a configuration may use, by class.
pub(crate) fn components(kinds: &Registry) -> Exit {
    let classes = [
        ("receivers", kinds.receivers()),
        ("processors", kinds.processors()),
        ("exporters", kinds.exporters()),
    ];
    let mut text = String::new();
    for (class, names) in classes {
        text.push_str(class);
        text.push_str(":\n");
        for name in names {
            text.push_str("  ");
            text.push_str(name);
            text.push('\n');
        }
    }
    show(&text)
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
