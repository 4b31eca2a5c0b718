//! Layers, expansion, and that an error points at the layer that set the value.

use std::collections::BTreeMap;

use watershed_engine::config::Sources;

use crate::{GOOD, around, bad, errors, file, good, located};

fn told(sources: &Sources) -> Vec<String> {
    bad(sources).errors.iter().map(located).collect()
}

fn variables(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let mut sources = file(GOOD);
    let sizes = |sources: &Sources| {
        let plan = good(sources);
        let exporter = &plan.roles[0].exporters[0];
        (exporter.sending.queue.queue_size, exporter.sending.queue.num_consumers)
    };
    assert_eq!(sizes(&sources), (1000, 10));
    let overlay = "exporters.\"otlp/jaeger\".sending_queue = { queue_size = 1, num_consumers = 1 }";
    sources.inline.push(("g.toml".into(), overlay.into()));
    assert_eq!(sizes(&sources), (1, 1));
    sources.environment = variables(&[("WATERSHED__EXPORTERS__OTLP_JAEGER__SENDING_QUEUE__QUEUE_SIZE", "2")]);
    assert_eq!(sizes(&sources), (2, 1));
    sources.set = vec!["exporters.\"otlp/jaeger\".sending_queue.queue_size=3".into()];
    assert_eq!(sizes(&sources), (3, 1));
    sources.set.push("exporters.otlp/jaeger.sending_queue.queue_size=4".into());
    assert_eq!(sizes(&sources), (4, 1));
}

#[test]
fn lists_are_replaced() {
    let mut sources = file(GOOD);
    sources.inline.push(("g.toml".into(), "pipelines.traces.exporters = [\"debug\"]".into()));
    let plan = good(&sources);
    assert_eq!(plan.roles[0].exporters.len(), 1);
    assert_eq!(&*plan.roles[0].exporters[0].id, "debug");
}

#[test]
fn an_error_is_in_the_layer_that_set_the_value() {
    let mut sources = file(GOOD);
    sources.inline.push(("g.toml".into(), "\nprocessors.batch.timeout = 5".into()));
    sources.environment = variables(&[("WATERSHED__PROCESSORS__BATCH__SEND_BATCH_SIZE", "many")]);
    sources.set = vec!["exporters.otlp/jaeger.endpoint=[]".into(), "service.lanes=-1".into(), "x.y=1".into()];
    assert_eq!(
        told(&sources),
        [
            "g.toml:2:28 `timeout`: expected a string, found the number 5",
            "environment variable `WATERSHED__PROCESSORS__BATCH__SEND_BATCH_SIZE` `send_batch_size`: expected an \
             integer of 0 or more, found a string from `${env:WATERSHED__PROCESSORS__BATCH__SEND_BATCH_SIZE}`",
            "--set exporters.otlp/jaeger.endpoint `endpoint`: expected a string, found a list",
            "--set service.lanes `lanes`: expected an integer of 0 or more, found the number -1",
            "--set x.y unknown key `x`",
        ]
    );
}

#[test]
fn what_is_missing_is_missing_in_the_file_and_not_in_an_override() {
    let mut sources = file("[pipelines.traces]\nreceivers = [\"otlp\"]");
    sources.environment = variables(&[("WATERSHED__PIPELINES__TRACES__ACK", "accepted")]);
    assert_eq!(told(&sources), ["f.toml:1:12 pipeline `traces` has no exporters"]);
}

#[test]
fn text_in_a_file_is_never_a_number() {
    let text = around("[processors.batch]\nsend_batch_size = \"5\"\n[service]\nlanes = \"2\"");
    assert_eq!(
        errors(&text),
        [
            "f.toml:2:19 `send_batch_size`: expected an integer of 0 or more, found the string \"5\"",
            "f.toml:4:9 `lanes`: expected an integer of 0 or more, found the string \"2\"",
        ]
    );
}

#[test]
fn a_reference_is_what_its_key_wants() {
    let mut sources = file(
        r#"[exporters.otlp]
endpoint = "http://${HOST:-localhost}:${env:PORT}"
sending_queue.queue_size = "${env:SIZE}"
sending_queue.required = "${env:REQUIRED:-false}"
headers = { size = "${env:SIZE}", price = "$$5" }
[pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp"]
"#,
    );
    sources.environment = variables(&[("PORT", "4317"), ("SIZE", "500")]);
    let plan = good(&sources);
    let queue = &plan.roles[0].exporters[0].sending.queue;
    assert_eq!((queue.queue_size, queue.required), (500, Some(false)));
}

#[test]
fn a_value_of_the_environment_or_the_command_line_is_what_its_key_wants() {
    let mut sources = file(GOOD);
    sources.environment = variables(&[("WATERSHED__EXPORTERS__OTLP_JAEGER__HEADERS__KEY", "5")]);
    sources.set = vec!["exporters.otlp/jaeger.headers.other=true".into(), "service.lanes=2".into()];
    assert_eq!(good(&sources).service.lanes, Some(2));
}

#[test]
fn a_reference_to_nothing_is_an_error_in_its_place() {
    let text = around(
        "[exporters.otlp]\nendpoint = \"http://${env:NO_HOST}:${NO_PORT}\"\ntimeout = \"${file:none}\"",
    );
    let errors = errors(&text);
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert_eq!(errors[0], "f.toml:2:20 environment variable `NO_HOST` is not set");
    assert_eq!(errors[1], "f.toml:2:35 environment variable `NO_PORT` is not set");
    assert!(errors[2].starts_with("f.toml:3:12 can not read the file of `${file:none}`"), "{errors:?}");
    let help = bad(&file(&text)).errors[0].help.clone();
    assert_eq!(help.as_deref(), Some("write `${env:NO_HOST:-default}` to do without it"));
}

#[test]
fn what_could_not_be_made_out_is_told_once_and_hides_nothing_else() {
    let text = around("[exporters.otlp]\ntimeout = \"${NONE}\"\nheaders = { a = 1, b = \"${NONE}\" }");
    assert_eq!(
        errors(&text),
        [
            "f.toml:1:12 the key `endpoint` is missing",
            "f.toml:2:12 environment variable `NONE` is not set",
            "f.toml:3:17 `headers.a`: expected a string, found the number 1",
            "f.toml:3:25 environment variable `NONE` is not set",
        ]
    );
}

#[test]
fn a_file_is_relative_to_the_file_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipelines.toml");
    std::fs::write(&path, GOOD.replace("http://localhost:4319", "${file:endpoint}")).unwrap();
    std::fs::write(directory.path().join("endpoint"), "http://elsewhere\n").unwrap();
    good(&Sources { files: vec![path], ..Sources::default() });
}
