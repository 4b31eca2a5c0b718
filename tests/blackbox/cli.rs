//! The program as its user meets it: what it says of a configuration, and what it shows of itself.

use std::process::Stdio;

use watershed_testkit::call::Client;
use watershed_testkit::grpc::Signal;
use watershed_testkit::{Loader, Sink, requests, reserve, verdict};

use crate::harness::process::{Finished, Program, file, finish};
use crate::harness::{PATIENCE, beside_others, http, metric, relay};

const MISTAKES: &str = r#"# Five mistakes.
[receivers.otlp.protocols.grpc]
endpont = "localhost:4317"

[processors.batch]
timeout = "200mss"
send_batch_size = "many"

[exporters.otlp]
endpoint = "http://localhost:4319"

[pipelines.traces]
receivers = ["oltp"]
processors = ["batch"]
exporters = ["otlp", "kafkaa"]
"#;

/// Line and column of `needle`, from 1, and the line.
fn place(text: &str, needle: &str) -> (usize, usize, String) {
    let (number, line) = text.lines().enumerate().find(|(_, line)| line.contains(needle)).unwrap();
    (number + 1, line.find(needle).unwrap() + 1, line.to_owned())
}

/// The part of the answer that is about one place.
fn block<'a>(told: &'a str, at: &str) -> &'a str {
    told.split("\n\n")
        .find(|block| block.contains(at))
        .unwrap_or_else(|| panic!("nothing about {at}:\n{told}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_mistakes_are_told_at_once() {
    let _turn = beside_others().await;
    let (_directory, path) = file("mistakes.toml", MISTAKES);
    let path = path.display().to_string();
    let Finished { code, stdout, stderr: told } = finish(&["validate", "--config", &path]).await;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{told}");
    for (needle, what, suggestion) in [
        ("endpont", "endpont", Some("did you mean `endpoint`?")),
        ("\"200mss\"", "mss", Some("use ns, us, ms, s, m or h")),
        ("\"many\"", "send_batch_size", Some("write a number without quotes")),
        ("\"oltp\"", "no receiver type `oltp`", Some("did you mean `otlp`?")),
        ("\"kafkaa\"", "no exporter type `kafkaa`", Some("exporter types: `debug`")),
    ] {
        let (line, column, text) = place(MISTAKES, needle);
        let block = block(&told, &format!("{path}:{line}:{column}"));
        assert!(block.contains(what), "{what}:\n{block}");
        assert!(block.contains(&text), "the line is missing:\n{block}");
        assert!(suggestion.is_none_or(|suggestion| block.contains(suggestion)), "{suggestion:?}:\n{block}");
    }
    assert!(told.contains("5 errors"), "{told}");
    // `run` says the same and starts nothing.
    let run = finish(&["run", "--config", &path]).await;
    assert_eq!((run.code, run.stderr), (Some(1), told));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_topology_is_valid() {
    let _turn = beside_others().await;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines.toml");
    let Finished { code, stdout, stderr } = finish(&["validate", "--config", shipped]).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    // Aloud: what an "ok" means and why, where batching happens, how much memory there is.
    for part in ["agent", "gateway", "ok means", "delivered", "batches", "MiB", "`otlp`", "`debug`"] {
        assert!(stdout.contains(part), "{part} is missing:\n{stdout}");
    }
    // Without a file, the built-in default: the same.
    let built_in = finish(&["validate"]).await;
    assert_eq!((built_in.code, built_in.stdout), (Some(0), stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_and_graph_name_what_there_is() {
    let _turn = beside_others().await;
    let Finished { code, stdout, .. } = finish(&["components"]).await;
    assert_eq!(code, Some(0));
    for name in [
        "receivers",
        "processors",
        "exporters",
        "otlp",
        "memory_limiter",
        "batch",
        "attributes",
        "resource",
        "debug",
    ] {
        assert!(
            stdout.lines().any(|line| line.trim().trim_end_matches(':') == name),
            "{name} is missing:\n{stdout}"
        );
    }
    assert!(!stdout.contains("flaky"), "a kind of the tests is shipped");

    let graph = finish(&["graph"]).await;
    assert_eq!(graph.code, Some(0), "{}", graph.stderr);
    for name in ["agent", "gateway", "otlp", "debug"] {
        assert!(graph.stdout.contains(name), "{name} is missing:\n{}", graph.stdout);
    }
    let dot = finish(&["graph", "--dot"]).await;
    assert!(dot.stdout.starts_with("digraph") && dot.stdout.contains("->"), "{}", dot.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_argument_is_no_other_failure() {
    let _turn = beside_others().await;
    for arguments in [&["run", "--confg", "x"][..], &["nonsense"], &["run", "--config", "missing.toml"]] {
        let Finished { code, stderr, .. } = finish(arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    assert_eq!(finish(&["--help"]).await.code, Some(0));
}

/// `/metrics` under otelcol's names, gauges of every actor, health.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_shows_what_it_does() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let listen = reserve();
    let mut program =
        Program::run(&relay(sink.addr(), "delivered", "").replace("127.0.0.1:0", &listen.to_string())).await;
    let body = http::wait_for(program.health, "/", 200).await;
    assert!(body.contains("Server available"), "{body}");

    let load = Loader::new(listen).requests(20).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}");
    let mut client = Client::connect(listen).await.unwrap();
    client.export(Signal::Metrics, &requests::metrics(5)).await.unwrap();
    client.export(Signal::Logs, &requests::logs(7)).await.unwrap();
    client.export(Signal::Traces, b"\xff").await.unwrap();

    let (status, text) = http::get(program.metrics, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    for (series, value) in [
        ("otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"grpc\"}", 2_000.0),
        ("otelcol_receiver_accepted_metric_points{receiver=\"otlp\",transport=\"grpc\"}", 5.0),
        ("otelcol_receiver_accepted_log_records{receiver=\"otlp\",transport=\"grpc\"}", 7.0),
        ("otelcol_exporter_sent_spans{exporter=\"otlp\"}", 2_000.0),
        ("otelcol_exporter_sent_metric_points{exporter=\"otlp\"}", 5.0),
        ("otelcol_exporter_sent_log_records{exporter=\"otlp\"}", 7.0),
        ("otelcol_exporter_queue_size{exporter=\"otlp\"}", 0.0),
        ("otelcol_exporter_queue_capacity{exporter=\"otlp\"}", 1_000.0),
        ("watershed_receiver_refused_requests{receiver=\"otlp\",reason=\"rejected\"}", 1.0),
    ] {
        assert!(text.lines().any(|line| line.starts_with(series)), "{series} is missing:\n{text}");
        assert_eq!(metric(&text, series), value, "{series}");
    }
    for gauge in ["up", "queue_messages", "queue_bytes", "in_hand", "handled", "restarts", "generation"] {
        let name = format!("watershed_actor_{gauge}{{actor=\"collector/receivers/otlp@0\"");
        assert!(text.contains(&name), "{name} is missing:\n{text}");
    }
    for name in ["otelcol_process_uptime", "otelcol_process_cpu_seconds", "otelcol_process_memory_rss"] {
        assert!(metric(&text, name) > 0.0, "{name} is missing:\n{text}");
    }
    // Every family is announced once, as the text format asks.
    let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let mut unique = types.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(types.len(), unique.len());
    let (_, actors) = http::get(program.metrics, "/actors").await.unwrap();
    let actors: serde_json::Value = serde_json::from_str(&actors).unwrap();
    assert!(actors.to_string().contains("collector/exporters/otlp@0"), "{actors}");
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
}

/// `watershed run 2>&1 | head`: whoever read the log has gone, the data goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nothing() {
    let _turn = beside_others().await;
    let listen = reserve();
    let text = format!(
        "receivers.otlp.protocols.grpc.endpoint = \"{listen}\"\n\
         exporters.debug = {{ verbosity = \"normal\", sampling_initial = 1000000 }}\n\
         pipelines.traces = {{ receivers = [\"otlp\"], exporters = [\"debug\"] }}\n"
    );
    let mut program = Program::start_by(&text, |command| command.stderr(Stdio::piped()));
    drop(program.take_stderr());
    program.ready().await;
    let load = Loader::new(listen).spans_per_request(10).requests(20).timeout(PATIENCE).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals(), load.transport_errors), (200, 0, 0), "{load}");
    let (_, text) = http::get(program.metrics, "/metrics").await.unwrap();
    assert_eq!(metric(&text, "watershed_actor_restarts"), 0.0, "{text}");
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0));
}

/// Files, environment and `--set`, each over the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_win_in_their_order() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let (listen, nowhere) = (reserve(), reserve());
    let text = relay(nowhere, "delivered", "").replace("\"127.0.0.1:0\"", "\"${env:LISTEN}\"");
    let mut program = Program::start_by(&text, |command| {
        command.env("LISTEN", listen.to_string());
        command.env("WATERSHED__EXPORTERS__OTLP__ENDPOINT", format!("http://{nowhere}"));
        command.arg("--set").arg(format!("exporters.otlp.endpoint=http://{}", sink.addr()))
    });
    program.ready().await;
    let load = Loader::new(listen).requests(3).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}\n{}", program.stderr());
}
