//! Configuration, from texts to a plan or to everything that is wrong with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod diff;
mod errors;
mod kinds;
mod layering;
mod plans;
mod random;
mod rules;
mod secrets;

use watershed_engine::config::{Diagnostic, Diagnostics, Plan, Sources, load};

/// A configuration without a fault.
const GOOD: &str = r#"
[receivers.otlp.protocols.grpc]
endpoint = "localhost:4317"

[processors.memory_limiter]
check_interval = "1s"
limit_mib = 256

[processors.batch]
send_batch_size = 100

[exporters."otlp/jaeger"]
endpoint = "http://localhost:4319"

[pipelines.traces]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp/jaeger"]
"#;

/// A text as the file `f.toml`.
fn file(text: &str) -> Sources {
    Sources { inline: vec![("f.toml".into(), text.into())], ..Sources::default() }
}

fn plan(text: &str) -> Plan {
    good(&file(text))
}

fn good(sources: &Sources) -> Plan {
    load(sources, &kinds::registry()).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

fn bad(sources: &Sources) -> Diagnostics {
    load(sources, &kinds::registry()).expect_err("it should be wrong")
}

/// `file:line:column message` of every error.
fn errors(text: &str) -> Vec<String> {
    bad(&file(text)).errors.iter().map(located).collect()
}

fn located(diagnostic: &Diagnostic) -> String {
    match &diagnostic.place {
        Some(place) => format!("{place} {}", diagnostic.message),
        None => diagnostic.message.clone(),
    }
}

/// A collector around some sections, whose pipeline is good.
fn around(sections: &str) -> String {
    format!("{sections}\n[pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"debug\"]\n")
}
