//! What is on disk outlives its process and its destination's absence, and one exporter's absence is its own affair.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use watershed::engine::Engine;
use watershed_durable::{DEAD_LETTERS, Envelope, READER};
use watershed_journal::{Journal, Options, OsFiles};
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::{Answer, Loader, Sink, requests};

use crate::harness::{
    PATIENCE, alone, arrivals, beside_others, both_protocols, call, drained, header, metric, settled, start,
};

/// Where a pipeline's data lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    /// At the head of the pipeline.
    Head,
    /// In each exporter's queue.
    Queues,
}

/// A pipeline from `otlp` to an exporter for each of these destinations; `more` stands in all of them.
fn text(kept: Kept, directory: &Path, sinks: &[SocketAddr], more: &str) -> String {
    let mut text = both_protocols("include_metadata = true");
    let kind = if kept == Kept::Head { "processors.journal" } else { "extensions.file_storage" };
    text += &format!("[{kind}]\ndirectory = {directory:?}\n");
    let queue = if kept == Kept::Head { "" } else { "sending_queue.storage = \"file_storage\"" };
    for (number, sink) in sinks.iter().enumerate() {
        text += &format!(
            r#"
[exporters."otlp/{number}"]
endpoint = "http://{sink}"
compression = "none"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}
{queue}
{more}
"#
        );
    }
    let exporters: Vec<String> = (0..sinks.len()).map(|number| format!("otlp/{number}")).collect();
    let processors = if kept == Kept::Head { "[\"journal\"]" } else { "[]" };
    text + &format!(
        r#"
[pipelines.all]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = {processors}
exporters = {exporters:?}
"#
    )
}

fn grpc(engine: &Engine) -> SocketAddr {
    engine.addresses()[0].address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_arrives_once() {
    let _turn = beside_others().await;
    for kept in [Kept::Head, Kept::Queues] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let engine = start(&text(kept, directory.path(), &[sink.addr()], "")).await;
        let load = Loader::new(grpc(&engine)).closed(4, 8).requests(500).start().finish().await;
        let balance = settled(&load, &sink).await;
        assert!(balance.is_exact() && load.acknowledged.len() == 50_000, "{kept:?}: {balance}; {load}");
        drained(&engine).await;
        // What is done is noted, and gone.
        let engine = start(&text(kept, directory.path(), &[sink.addr()], "")).await;
        assert_eq!(metric(&engine.metrics().render(), "watershed_journal_owed_records"), 0.0, "{kept:?}");
        drained(&engine).await;
        assert!(settled(&load, &sink).await.is_exact(), "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_may_be_away_for_longer_than_the_process_lives() {
    let _turn = beside_others().await;
    for kept in [Kept::Head, Kept::Queues] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        sink.stop().await;
        let text = text(kept, directory.path(), &[sink.addr()], "");
        let mut loads = Vec::new();
        for turn in 0..3 {
            let engine = start(&text).await;
            let load =
                Loader::new(grpc(&engine)).closed(2, 4).first_sequence(turn * 10_000).requests(100).run_id(7);
            let load = load.retry(true).run().await;
            assert_eq!(load.acknowledged.len(), 10_000, "{kept:?}: {load}");
            loads.push(load);
            let began = Instant::now();
            drained(&engine).await;
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{kept:?}: a dead destination is not waited for"
            );
        }
        sink.restart().await.unwrap();
        let engine = start(&text).await;
        for load in &loads {
            let balance = settled(load, &sink).await;
            assert!(balance.nothing_lost(), "{kept:?}: {balance}; {load}");
        }
        assert_eq!(sink.snapshot().arrived(), 30_000, "{kept:?}: nothing had left before");
        drained(&engine).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_branch_is_nobody_elses_business() {
    let _turn = alone().await;
    for kept in [Kept::Head, Kept::Queues] {
        let directory = tempfile::tempdir().unwrap();
        let (dead, slow, healthy) = (
            Sink::start("127.0.0.1:0").await.unwrap(),
            Sink::start("127.0.0.1:0").await.unwrap(),
            Sink::start("127.0.0.1:0").await.unwrap(),
        );
        dead.stop().await;
        slow.answer(Answer::Slow(Duration::from_millis(300)));
        let sinks = [dead.addr(), slow.addr(), healthy.addr()];
        let engine = start(&text(kept, directory.path(), &sinks, "")).await;
        let load = Loader::new(grpc(&engine)).open(4, 32, 20_000.0).duration(Duration::from_secs(5));
        let load = load.grace(PATIENCE).start().finish().await;
        let balance = settled(&load, &healthy).await;
        assert!(balance.is_exact(), "{kept:?}: {balance}; {load}");
        assert_eq!(load.refusals(), 0, "{kept:?}: {load}");
        slow.answer(Answer::Ok);
        dead.restart().await.unwrap();
        for (name, sink) in [("slow", &slow), ("dead", &dead)] {
            let balance = settled(&load, sink).await;
            assert!(balance.is_exact(), "{kept:?}, {name}: {balance}; {load}");
        }
        assert!(settled(&load, &healthy).await.is_exact(), "{kept:?}: it was sent what it had");
        drained(&engine).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_came_from_is_kept_too() {
    let _turn = beside_others().await;
    for kept in [Kept::Head, Kept::Queues] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        sink.stop().await;
        let more = "auth.authenticator = \"headers_setter\"";
        let setter =
            "[extensions.headers_setter]\nheaders = [{ key = \"x-tenant\", from_context = \"x-scope\" }]\n";
        let text = setter.to_owned() + &text(kept, directory.path(), &[sink.addr()], more);
        let engine = start(&text).await;
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = [("x-scope", "blue"), ("traceparent", parent), ("tracestate", "a=1")];
        for (signal, message) in [
            (Signal::Traces, TraceTemplate::new(1, 10).message(0)),
            (Signal::Metrics, requests::metrics(10)),
            (Signal::Logs, requests::logs(10)),
        ] {
            let reply = call(grpc(&engine), signal, &headers, &message).await;
            assert_eq!(reply, Reply::Accepted);
        }
        drained(&engine).await;
        let seen = arrivals(&sink);
        sink.restart().await.unwrap();
        let engine = start(&text).await;
        assert!(sink.wait_for(30, PATIENCE).await);
        for arrival in seen.lock().iter() {
            assert_eq!(header(arrival, "x-tenant"), "blue", "{kept:?}");
            assert_eq!(header(arrival, "tracestate"), "a=1", "{kept:?}");
            assert!(header(arrival, "traceparent").contains("0af7651916cd43dd8448eb211c80319c"), "{kept:?}");
        }
        drained(&engine).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_will_take_is_kept_as_a_dead_letter() {
    let _turn = beside_others().await;
    let rejects = || Answer::Status(Code::INVALID_ARGUMENT, "not this".to_owned());
    for kept in [Kept::Head, Kept::Queues] {
        let directory = tempfile::tempdir().unwrap();
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        sink.answer_next([rejects()]);
        let engine = start(&text(kept, directory.path(), &[sink.addr()], "")).await;
        send(&engine, 2).await;
        assert!(sink.wait_for(10, PATIENCE).await, "the second is taken");
        drained(&engine).await;
        let letters = dead_letters(directory.path());
        assert_eq!(letters.len(), 1, "{kept:?}");
        let (items, envelope) = &letters[0];
        let letter = envelope.letter.as_ref().unwrap();
        assert_eq!((*items, &*envelope.pipeline, &*letter.to), (10, "all", "otlp/0"), "{kept:?}");
        assert_eq!((&*letter.fault, letter.items), ("rejected", 10), "{kept:?}");
        assert!(letter.reason.contains("not this"), "{kept:?}: {}", letter.reason);
    }

    // Of what lay only in memory.
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer_next([rejects()]);
    let text = text(Kept::Queues, directory.path(), &[sink.addr()], "")
        .replace("sending_queue.storage = \"file_storage\"", "")
        + "ack = \"accepted\"\ndead_letters = \"file_storage\"\n";
    let engine = start(&text).await;
    send(&engine, 2).await;
    assert!(sink.wait_for(10, PATIENCE).await);
    drained(&engine).await;
    let metrics = engine.metrics().render();
    assert_eq!(metric(&metrics, "watershed_pipeline_dead_letter_items"), 10.0);
    assert_eq!(metric(&metrics, "watershed_pipeline_lost_items"), 0.0);
    let letters = dead_letters(directory.path());
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].1.letter.as_ref().unwrap().to, "otlp/0");
}

/// Sends requests of ten spans, one after the other.
async fn send(engine: &Engine, requests: u64) {
    for request in 0..requests {
        let message = TraceTemplate::new(1, 10).message(request * 10);
        assert_eq!(call(grpc(engine), Signal::Traces, &[], &message).await, Reply::Accepted);
    }
}

/// The dead letters below a directory: items, and what is written beside them.
fn dead_letters(directory: &Path) -> Vec<(u32, Envelope<'static>)> {
    let mut letters = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let place = entry.unwrap().path().join(DEAD_LETTERS);
        if place.is_dir() {
            let (mut journal, _) = Journal::open(OsFiles::new(place), Options::new([READER])).unwrap();
            let mut read = Vec::new();
            while journal.is_behind(0) {
                journal.read(0, 1 << 20, &mut read).unwrap();
            }
            letters.extend(
                read.into_iter()
                    .map(|stored| (stored.items, Envelope::read(&stored.context).unwrap().into_owned())),
            );
        }
    }
    letters
}
