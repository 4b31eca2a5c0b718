//! Exporter `elasticsearch` against a double that answers as it is told: each document has a result of its own, what is
//! taken is not sent again, and nothing is lost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use watershed::engine::Engine;
use watershed::engine::config::{Sources, load};
use watershed_durable::{DEAD_LETTERS, READER, open};
use watershed_journal::{Journal, OpenError, Options, OsFiles};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::{self, SpanKey};
use watershed_testkit::{LoadReport, Loader, wait_until};

use crate::harness::elastic::{Cluster, Document, Does};
use crate::harness::{PATIENCE, beside_others, call, drained, kinds, metric, otlp, start};

/// A collector in front of a cluster.
fn collector(exporter: &str, ack: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
include_metadata = true
[exporters.elasticsearch]
retry = {{ initial_interval = "10ms", max_interval = "50ms" }}
sending_queue.batch = {{ flush_timeout = "20ms", min_size = 100000, max_size = 200000, sizer = "bytes" }}
{exporter}
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
exporters = ["elasticsearch"]
ack = "{ack}"
"#
    )
}

/// Sends numbered log records, and waits until as many documents are kept.
async fn send(engine: &Engine, cluster: &Cluster, requests: u64, expected: usize) -> LoadReport {
    let load =
        Loader::new(otlp(engine)).signal(Signal::Logs).spans_per_request(50).closed(2, 4).requests(requests);
    let report = load.run().await;
    assert_eq!(report.refused_for_good(), 0, "{report:?}");
    let arrived = wait_until(async || cluster.count() >= expected, PATIENCE).await;
    assert!(arrived, "{} of {expected} documents are kept", cluster.count());
    report
}

/// Every acknowledged number once, and no other.
fn exactly_once(cluster: &Cluster, report: &LoadReport) {
    let numbers = cluster.numbers();
    let twice: Vec<_> = numbers.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{} of {} are there twice", twice.len(), numbers.len());
    nothing_lost(cluster, report);
    assert_eq!(numbers.len() as u64, report.acknowledged.len());
}

fn nothing_lost(cluster: &Cluster, report: &LoadReport) {
    let numbers = cluster.numbers();
    let lost =
        report.acknowledged.ranges().into_iter().flatten().filter(|number| !numbers.contains_key(number));
    assert_eq!(lost.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_documents_that_were_not_taken_are_sent_again() {
    let _turn = beside_others().await;
    for ack in ["accepted", "delivered"] {
        let cluster = Cluster::new();
        // A third is not taken at first, and a part of that not the second time.
        fn judge(document: &Document) -> u16 {
            match (document.number() % 9, document.before) {
                (0 | 3 | 6, 0) | (6, 1) => 429,
                _ => 201,
            }
        }
        let node = cluster.node(|_| Does::Judges(judge)).await;
        let engine = start(&collector(&format!("endpoint = \"{}\"", node.url()), ack)).await;
        let report = send(&engine, &cluster, 40, 2000).await;
        drained(&engine).await;
        exactly_once(&cluster, &report);
        for (source, count) in cluster.sent_counts() {
            let number = Document { action: Value::Null, source, before: 0 }.number();
            let expected = match number % 9 {
                0 | 3 => 2,
                6 => 3,
                _ => 1,
            };
            assert_eq!(count, expected, "{ack}: {number}");
        }
        let text = engine.metrics().render();
        let processed = metric(
            &text,
            "otelcol_elasticsearch_docs_processed{exporter=\"elasticsearch\",outcome=\"success\"}",
        );
        assert_eq!(processed, 2000.0);
        assert_eq!(metric(&text, "otelcol_elasticsearch_docs_retried"), 667.0 + 222.0);
        assert_eq!(metric(&text, "otelcol_exporter_sent_log_records"), 2000.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_will_never_be_taken_are_counted_by_their_error_and_become_dead_letters_alone() {
    let _turn = beside_others().await;
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::new();
    fn judge(document: &Document) -> u16 {
        match (document.number() % 10, document.before) {
            (3, _) => 400,
            (5, _) => 503,
            (7, 0) => 429,
            _ => 201,
        }
    }
    let node = cluster.node(|_| Does::Judges(judge)).await;
    let text = collector(&format!("endpoint = \"{}\"", node.url()), "accepted")
        + &format!(
            "dead_letters = \"file_storage\"\n[extensions.file_storage]\ndirectory = {:?}\n",
            directory.path()
        );
    let engine = start(&text).await;
    send(&engine, &cluster, 20, 800).await;
    drained(&engine).await;
    let text = engine.metrics().render();
    let reason = |reason: &str| {
        metric(
            &text,
            &format!(
                "watershed_elasticsearch_rejected_documents{{exporter=\"elasticsearch\",reason=\"{reason}\"}}"
            ),
        )
    };
    assert_eq!((reason("error_400"), reason("error_503")), (100.0, 100.0));
    assert_eq!(metric(&text, "otelcol_exporter_send_failed_log_records"), 200.0);
    assert_eq!(metric(&text, "watershed_pipeline_dead_letter_items"), 200.0);
    let numbers = cluster.numbers();
    assert_eq!(numbers.len(), 800);
    assert!(numbers.iter().all(|(number, count)| *count == 1 && !matches!(number % 10, 3 | 5)));
    let sent = cluster.sent_counts();
    assert_eq!(sent.iter().filter(|(_, count)| *count == 1).count(), 900);

    let mut dead = letters_in(directory.path());
    dead.sort_unstable();
    let expected: Vec<u64> = (0..1000).filter(|number| matches!(number % 10, 3 | 5)).collect();
    assert_eq!(dead, expected);
}

/// The numbers of the log records in the dead letters of a storage.
fn letters_in(storage: &Path) -> Vec<u64> {
    let mut stored = Vec::new();
    for entry in std::fs::read_dir(storage).unwrap() {
        let place = entry.unwrap().path().join(DEAD_LETTERS);
        if place.is_dir() {
            let began = Instant::now();
            let mut journal = loop {
                match Journal::open(OsFiles::new(place.clone()), Options::new([READER])) {
                    Ok((journal, _)) => break journal,
                    // A child that another test is starting has all our locks until it is somebody else.
                    Err(OpenError::Locked(_)) if began.elapsed() < PATIENCE => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            };
            while journal.is_behind(0) {
                journal.read(0, 1 << 20, &mut stored).unwrap();
            }
        }
    }
    let mut numbers = Vec::new();
    for letter in stored {
        let (payload, _) = open(letter).unwrap();
        let scopes = payload.resources().flat_map(|group| group.scopes());
        let keys = scopes
            .flat_map(|scope| scope.log_records())
            .map(|log| SpanKey::read(log.trace_id(), log.span_id()));
        numbers.extend(keys.map(|key| key.unwrap().seq));
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_turned_away_as_a_whole_is_sent_again() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let node = cluster
        .node(|number| match number {
            0 => Does::Says(429, "retry-after: 1\r\n"),
            1 => Does::Says(503, ""),
            3 => Does::Says(500, ""),
            5 => Does::Says(502, ""),
            7 => Does::Closes,
            _ => Does::Judges(|_| 201),
        })
        .await;
    let engine = start(&collector(&format!("endpoint = \"{}\"", node.url()), "accepted")).await;
    let report = send(&engine, &cluster, 40, 2000).await;
    drained(&engine).await;
    exactly_once(&cluster, &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_counts_as_far_as_it_goes() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    // The verdicts of 100 documents, or 50, and then nothing: what they say is taken is not sent again.
    let node = cluster
        .node(|number| if number < 3 { Does::BreaksOff(10 + 26 * 50) } else { Does::Judges(|_| 201) })
        .await;
    let exporter = format!("endpoint = \"{}\"\ndocument_ids = \"content\"", node.url());
    let engine = start(&collector(&exporter, "accepted")).await;
    let report = send(&engine, &cluster, 40, 2000).await;
    drained(&engine).await;
    exactly_once(&cluster, &report);
    assert!(cluster.sent_counts().iter().any(|(_, count)| *count == 1));
}

/// What became of such a request is not known, so it is sent again; the ids make sure that this adds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ids_of_content_nothing_is_there_twice_when_an_answer_is_lost() {
    let _turn = beside_others().await;
    for ids in ["content", "generated"] {
        let cluster = Cluster::new();
        let node = cluster
            .node(|number| match number {
                0 | 4 => Does::TakesAndCloses,
                2 => Does::IsSlow(Duration::from_millis(900)),
                _ => Does::Judges(|_| 201),
            })
            .await;
        let exporter =
            format!("endpoint = \"{}\"\ntimeout = \"400ms\"\ndocument_ids = \"{ids}\"", node.url());
        let engine = start(&collector(&exporter, "accepted")).await;
        let report = send(&engine, &cluster, 40, 2000).await;
        drained(&engine).await;
        let text = engine.metrics().render();
        let known = metric(
            &text,
            "otelcol_elasticsearch_docs_processed{exporter=\"elasticsearch\",outcome=\"duplicate\"}",
        );
        if ids == "content" {
            exactly_once(&cluster, &report);
            assert!(known > 0.0);
        } else {
            nothing_lost(&cluster, &report);
            assert_eq!(known, 0.0);
            assert!(cluster.count() > 2000, "the other kind of ids is why the first loses nothing twice");
        }
        assert_eq!(metric(&text, "otelcol_exporter_send_failed_log_records"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_sent_in_halves_and_a_single_document_is_given_up() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let small = cluster.clone();
    // Bodies come in sizes of many documents; 20 kB is about twenty.
    let node = cluster
        .node(move |number| {
            if small.requests()[number].bytes > 20_000 { Does::Says(413, "") } else { Does::Judges(|_| 201) }
        })
        .await;
    let engine = start(&collector(&format!("endpoint = \"{}\"", node.url()), "accepted")).await;
    let report = send(&engine, &cluster, 10, 500).await;
    drained(&engine).await;
    exactly_once(&cluster, &report);
    assert!(metric(&engine.metrics().render(), "watershed_elasticsearch_split_requests") > 0.0);

    let cluster = Cluster::new();
    let node = cluster.node(|_| Does::Says(413, "")).await;
    let engine = start(&collector(&format!("endpoint = \"{}\"", node.url()), "accepted")).await;
    let load = Loader::new(otlp(&engine)).signal(Signal::Logs).spans_per_request(8).closed(1, 1).requests(1);
    load.run().await;
    engine.drain(PATIENCE).await;
    let text = engine.metrics().render();
    assert_eq!(
        metric(
            &text,
            "watershed_elasticsearch_rejected_documents{exporter=\"elasticsearch\",reason=\"too_large\"}"
        ),
        8.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_no_larger_than_they_may_be() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let node = cluster.node(|_| Does::Judges(|_| 201)).await;
    let exporter = format!("endpoint = \"{}\"\nflush.bytes = 9000", node.url());
    let engine = start(&collector(&exporter, "delivered")).await;
    let report = send(&engine, &cluster, 10, 500).await;
    drained(&engine).await;
    exactly_once(&cluster, &report);
    let sizes: Vec<usize> = cluster.requests().iter().map(|request| request.bytes).collect();
    assert!(sizes.iter().all(|size| *size <= 9000) && sizes.iter().any(|size| *size > 7000), "{sizes:?}");
}

/// A third try was not asked for.
fn tried_twice(cluster: &Cluster) -> bool {
    cluster.sent_counts().iter().all(|(_, count)| matches!(count, 1 | 2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_as_many_retries_as_were_asked_for_the_rest_is_given_up_and_not_called_wrong() {
    let _turn = beside_others().await;
    for (ack, keeps) in [("accepted", ""), ("journaled", "sending_queue.storage = \"file_storage\"")] {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Cluster::new();
        let node = cluster
            .node(|_| Does::Judges(|document| if document.number() % 2 == 0 { 429 } else { 201 }))
            .await;
        let exporter = format!("endpoint = \"{}\"\n{keeps}", node.url());
        let letters = if keeps.is_empty() { "dead_letters = \"file_storage\"\n" } else { "" };
        let storage = format!("[extensions.file_storage]\ndirectory = {:?}\n", directory.path());
        let text = collector(&exporter, ack) + letters + &storage;
        let engine = start(&text.replace("retry = {", "retry = { max_retries = 1,")).await;
        send(&engine, &cluster, 4, 100).await;
        let given_up = "watershed_exporter_failed_items{exporter=\"elasticsearch\",reason=\"exhausted\",error_permanent=\"false\"}";
        let is_over = async || metric(&engine.metrics().render(), given_up) >= 100.0;
        assert!(wait_until(is_over, PATIENCE).await, "{ack}");
        engine.drain(PATIENCE).await;
        let text = engine.metrics().render();
        let documents =
            "otelcol_elasticsearch_docs_processed{exporter=\"elasticsearch\",outcome=\"exhausted\"}";
        assert_eq!((metric(&text, given_up), metric(&text, documents)), (100.0, 100.0));
        assert_eq!(metric(&text, "otelcol_exporter_send_failed_log_records"), 100.0);
        assert_eq!(metric(&text, "otelcol_exporter_sent_log_records"), 100.0);
        assert!(tried_twice(&cluster));
        let mut dead = letters_in(directory.path());
        dead.sort_unstable();
        if keeps.is_empty() {
            assert!(dead.iter().all(|number| number % 2 == 0) && dead.len() == 100, "{dead:?}");
            let cause = "watershed_pipeline_dead_letter_items{pipeline=\"everything\",cause=\"exhausted\"}";
            assert_eq!(metric(&text, cause), 100.0);
        } else {
            // What is kept is kept whole.
            assert_eq!(dead, (0..200).collect::<Vec<u64>>());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_waits_is_told_to_send_again_what_was_given_up() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let node =
        cluster.node(|_| Does::Judges(|document| if document.number() % 2 == 0 { 429 } else { 201 })).await;
    let text = collector(&format!("endpoint = \"{}\"", node.url()), "delivered");
    let engine = start(&text.replace("retry = {", "retry = { max_retries = 1,")).await;
    let load = Loader::new(otlp(&engine)).signal(Signal::Logs).spans_per_request(50).closed(1, 1).requests(2);
    let report = load.run().await;
    assert_eq!(
        (report.refused_for_good(), report.acknowledged.len(), report.with_retry_info),
        (0, 0, 2),
        "{report:?}"
    );
    drained(&engine).await;
    assert!(tried_twice(&cluster) && cluster.count() == 50);
    let text = engine.metrics().render();
    assert_eq!(metric(&text, "otelcol_exporter_send_failed_log_records"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_under_load_costs_nothing() {
    let _turn = beside_others().await;
    for ack in ["accepted", "delivered"] {
        let cluster = Cluster::new();
        let one = cluster.node(|_| Does::Judges(|_| 201)).await;
        let other = cluster.node(|_| Does::Judges(|_| 201)).await;
        let exporter =
            format!("endpoints = [\"{}\", \"{}\"]\ndocument_ids = \"content\"", one.url(), other.url());
        let engine = start(&collector(&exporter, ack)).await;
        let load =
            Loader::new(otlp(&engine)).signal(Signal::Logs).spans_per_request(50).closed(2, 4).requests(400);
        let running = load.start();
        let both = async || {
            let requests = cluster.requests();
            [0, 1].iter().all(|node| requests.iter().any(|request| request.node == *node))
        };
        assert!(wait_until(both, PATIENCE).await, "both nodes are asked");
        drop(other);
        let report = running.finish().await;
        assert_eq!(report.refused_for_good(), 0);
        drained(&engine).await;
        exactly_once(&cluster, &report);
        assert_eq!(report.acknowledged.len(), 20_000);
        let text = engine.metrics().render();
        assert!(metric(&text, "watershed_elasticsearch_nodes_ejected") > 0.0, "{ack}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_fails_for_a_while_is_asked_again_when_it_answers() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let one = cluster.node(|_| Does::Judges(|_| 201)).await;
    let seen = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let other = cluster
        .node(move |_| match seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Does::Says(503, ""),
            _ => Does::Judges(|_| 201),
        })
        .await;
    let exporter = format!("endpoints = [\"{}\", \"{}\"]", one.url(), other.url());
    let engine = start(&collector(&exporter, "delivered")).await;
    let returned = async || {
        let load =
            Loader::new(otlp(&engine)).signal(Signal::Logs).spans_per_request(1).closed(1, 1).requests(4);
        load.run().await;
        let others = cluster.requests().iter().filter(|request| request.node == 1).count();
        let text = engine.metrics().render();
        others > 1 && metric(&text, "watershed_elasticsearch_nodes_returned") > 0.0
    };
    assert!(wait_until(returned, PATIENCE).await);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_says_which_nodes_it_has() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let one = cluster.node(|_| Does::Judges(|_| 201)).await;
    let _other = cluster.node(|_| Does::Judges(|_| 201)).await;
    let exporter =
        format!("endpoint = \"{}\"\ndiscover = {{ on_start = true, interval = \"1m\" }}", one.url());
    let engine = start(&collector(&exporter, "delivered")).await;
    let report = send(&engine, &cluster, 20, 1000).await;
    drained(&engine).await;
    exactly_once(&cluster, &report);
    assert!(cluster.requests().iter().any(|request| request.node == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_say_who_sends_them_and_what_is_to_be_done() {
    let _turn = beside_others().await;
    for (keys, authorization) in [
        ("user = \"elastic\"\npassword = \"secret\"", "Basic ZWxhc3RpYzpzZWNyZXQ="),
        ("api_key = \"Zm9v\"", "ApiKey Zm9v"),
    ] {
        let cluster = Cluster::new();
        let node = cluster.node(|_| Does::Judges(|_| 201)).await;
        let exporter = format!(
            "endpoint = \"{}/\"\npipeline = \"clean up\"\n{keys}\nheaders = {{ x-tenant = \"a\" }}\ncompression_params.level = 6",
            node.url()
        );
        let engine = start(&collector(&exporter, "delivered")).await;
        send(&engine, &cluster, 1, 50).await;
        drained(&engine).await;
        let request = &cluster.requests()[0];
        let header = |name: &str| request.headers[name].to_str().unwrap();
        assert!(request.start.starts_with("POST /_bulk?filter_path=items.*.status,"), "{}", request.start);
        assert!(request.start.contains("&pipeline=clean%20up "), "{}", request.start);
        assert_eq!(header("authorization"), authorization);
        assert_eq!(header("content-type"), "application/x-ndjson");
        assert_eq!((header("content-encoding"), header("x-tenant")), ("gzip", "a"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_chooses_its_mapping_mode() {
    let _turn = beside_others().await;
    let cluster = Cluster::new();
    let node = cluster.node(|_| Does::Judges(|_| 201)).await;
    let engine = start(&collector(&format!("endpoint = \"{}\"", node.url()), "delivered")).await;
    let message = requests::logs(1);
    for mode in ["", "ecs", "none"] {
        let headers: &[(&str, &str)] =
            if mode.is_empty() { &[] } else { &[("x-elastic-mapping-mode", mode)] };
        call(otlp(&engine), Signal::Logs, headers, &message).await;
    }
    drained(&engine).await;
    let kept = cluster.kept();
    let kept: Vec<(&str, bool)> = kept
        .iter()
        .map(|document| {
            (document.action["_index"].as_str().unwrap(), document.source.get("SeverityNumber").is_some())
        })
        .collect();
    assert_eq!(
        kept,
        [
            ("logs-generic.otel-default", false),
            ("logs-generic-default", false),
            ("logs-generic-default", true)
        ]
    );
}

#[test]
fn wrong_settings_are_named_where_they_stand() {
    for (exporter, expected) in [
        ("", "exporters.elasticsearch"),
        ("endpoint = \"localhost:9200\"", "is no URL"),
        ("endpoint = \"http://a:9200\"\ncloudid = \"a:b\"", "exactly one of"),
        ("endpoint = \"http://a:9200\"\nmapping.mode = \"best\"", "mapping"),
        ("endpoint = \"http://a:9200\"\nuser = \"u\"", "go together"),
        ("endpoint = \"http://a:9200\"\nopensearch = true\nrequire_data_stream = true", "index template"),
    ] {
        let sources = Sources {
            inline: vec![("test.toml".to_owned(), collector(exporter, "accepted"))],
            ..Sources::default()
        };
        let errors = load(&sources, &kinds::registry()).err().unwrap().to_string();
        assert!(errors.contains("test.toml:") && errors.contains(expected), "{exporter}: {errors}");
    }
}
