//! What came from outside is never shown.

use watershed_engine::config::Sources;

use crate::{around, bad, file};

/// Everything that is said of a configuration.
fn told(text: &str, secret: &str) -> String {
    let mut sources: Sources = file(&around(text));
    sources.environment = [("SECRET".to_owned(), secret.to_owned())].into();
    bad(&sources).to_string()
}

#[test]
fn a_secret_is_not_shown_where_it_does_not_fit() {
    for (key, secret) in [
        ("timeout", "hunter2"),
        ("timeout", "5hunter2"),
        ("timeout", "271828"),
        ("compression", "hunter2"),
        ("endpoint", "hunter2"),
        ("headers", "hunter2"),
        ("sending_queue.queue_size", "hunter2"),
        ("sending_queue.queue_size", "-271828"),
        ("sending_queue.num_consumers", "0"),
        ("sending_queue.sizer", "hunter2"),
        ("sending_queue.required", "271828"),
        ("retry_on_failure.multiplier", "-271828.5"),
    ] {
        let endpoint = if key == "endpoint" { "" } else { "endpoint = \"http://x\"\n" };
        let told = told(&format!("[exporters.otlp]\n{endpoint}{key} = \"${{env:SECRET}}\""), secret);
        assert!(!told.contains("hunter2") && !told.contains("271828"), "{key} = {secret}: {told}");
        assert!(told.contains("${env:SECRET}"), "{told}");
        assert!(told.contains("1 error"), "{told}");
    }
}

#[test]
fn a_secret_is_not_shown_by_another_key() {
    let text =
        "[exporters.otlp]\nendpoint = \"http://${SECRET}\"\ncompression = \"none\"\nheaders = { a = \"b\" }";
    let told = told(text, "hunter2");
    assert!(told.contains("`compression`: not with headers for http://${SECRET}"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn a_secret_is_not_shown_as_a_name() {
    let text = "[pipelines.logs]\nreceivers = [\"${SECRET}\"]\nexporters = [\"otlp/${SECRET}\"]\nack = \"${SECRET}\"\n\
        [service]\nlanes = \"${SECRET}\"\n[service.telemetry.logs]\nlevel = \"${SECRET}\"\n[service.health]\nendpoint = \"${SECRET}\"";
    let told = told(text, "hunter2");
    assert!(!told.contains("hunter2"), "{told}");
    assert!(told.contains("6 errors"), "{told}");
}

#[test]
fn a_variable_that_sets_a_key_is_a_secret_too() {
    let mut sources = file(&around("[exporters.otlp]\nendpoint = \"http://x\""));
    let name = "WATERSHED__EXPORTERS__OTLP__TIMEOUT".to_owned();
    sources.environment = [(name, "hunter2".to_owned())].into();
    let told = bad(&sources).to_string();
    assert!(!told.contains("hunter2"), "{told}");
    assert!(told.contains(" --> environment variable `WATERSHED__EXPORTERS__OTLP__TIMEOUT`\n"), "{told}");
}
