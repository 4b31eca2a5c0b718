//! What is on disk outlives its process and its destination's absence, and one exporter's absence is its own affair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use watershed::engine::Engine;
use watershed::engine::config::{Sources, load};
use watershed_durable::{DEAD_LETTERS, Envelope, READER};
use watershed_journal::{Journal, OpenError, Options, OsFiles};
use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::{Answer, Loader, Sink, requests, reserve, wait_until};

use crate::harness::kinds;
use crate::harness::process::Program;
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
retry_on_failure.initial_interval = "20ms"
retry_on_failure.max_interval = "100ms"
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
            let began = Instant::now();
            let mut journal = loop {
                match Journal::open(OsFiles::new(place.clone()), Options::new([READER])) {
                    Ok((journal, _)) => break journal,
                    // A child that another test is starting has all our locks until it is somebody else.
                    Err(OpenError::Locked(_)) if began.elapsed() < PATIENCE => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            };
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

/// What becomes of a pipeline of these parts: its promise and why, or what is wrong with it.
fn promise(processors: &str, exporters: &str, ack: &str, more: &str) -> String {
    let text = format!(
        r#"
[receivers.otlp]
[processors.journal]
directory = "/nowhere"
[extensions.file_storage]
directory = "/nowhere"
[exporters."otlp/stored"]
endpoint = "http://127.0.0.1:1"
sending_queue.storage = "file_storage"
[exporters."otlp/plain"]
endpoint = "http://127.0.0.1:1"
{more}
[pipelines.traces]
receivers = ["otlp"]
processors = [{processors}]
exporters = [{exporters}]
{ack}
"#
    );
    let mut sources = Sources::default();
    sources.inline.push(("test.toml".to_owned(), text));
    match load(&sources, &kinds::registry()) {
        Ok(plan) => {
            let (_, route) = plan.routes(&[]).remove(0);
            route.rsplit_once("; ack = ").unwrap().1.to_owned()
        }
        Err(errors) => errors.errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn each_pipeline_says_what_it_promises() {
    let (stored, plain, both) = (r#""otlp/stored""#, r#""otlp/plain""#, r#""otlp/stored", "otlp/plain""#);
    for (processors, exporters, ack, expected) in [
        ("", plain, "", "delivered: nothing in the pipeline holds data"),
        ("", stored, "", "journaled: the queue of every exporter is on disk"),
        ("", both, "", "accepted: the queues of some exporters are on disk, others are not"),
        (r#""journal""#, plain, "", "journaled: `journal` keeps data on disk"),
        (r#""journal""#, both, "", "journaled: `journal` keeps data on disk"),
        (r#""journal", "hoard""#, plain, "", "journaled: `journal` keeps data on disk"),
        (r#""hoard""#, stored, "", "accepted: `hoard` holds data"),
        (r#""hoard", "journal""#, plain, "", "accepted: `hoard` holds data"),
        ("", both, r#"ack = "journaled""#, "journaled: as configured"),
        (
            "",
            plain,
            r#"ack = "journaled""#,
            "`ack`: \"journaled\" can not be promised: nothing keeps data on disk, neither a `journal` among the \
             processors nor `sending_queue.storage`",
        ),
        (
            r#""journal""#,
            plain,
            r#"ack = "delivered""#,
            "`ack`: \"delivered\" can not be promised: `journal` says \"ok\" for what it has on disk",
        ),
        (
            "",
            stored,
            r#"ack = "delivered""#,
            "`ack`: \"delivered\" can not be promised: the queue of `otlp/stored` says \"ok\" for what it has on disk",
        ),
        (
            r#""hoard""#,
            plain,
            r#"ack = "delivered""#,
            "`ack`: \"delivered\" can not be promised: `hoard` holds data",
        ),
        (
            r#""hoard", "journal""#,
            stored,
            r#"ack = "journaled""#,
            "`ack`: \"journaled\" can not be promised: `hoard` holds data",
        ),
    ] {
        assert_eq!(
            promise(processors, exporters, ack, ""),
            expected,
            "[{processors}] -> [{exporters}], {ack}"
        );
    }
    let unknown = promise(
        "",
        plain,
        "",
        "[exporters.debug]\nsending_queue.storage = \"basicauth\"\n[extensions.basicauth.client_auth]\nusername = \"a\"\npassword = \"b\"\n[pipelines.logs]\nreceivers = [\"otlp\"]\nexporters = [\"debug\"]\n",
    );
    assert_eq!(unknown, "extension `basicauth` can not keep a queue on disk");
}

/// A sampler behind a journal is stopped while its destination takes nothing, some traces decided and others not. What
/// it decides on the rest, and again on what was not taken, is what one that was never stopped decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_tail_decides_as_it_did_at_first() {
    let _turn = alone().await;
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    // A destination that fails is asked as often as one that does not.
    let more = "retry_on_failure.circuit_breaker.enabled = false\nsending_queue.adaptive_concurrency = false";
    let text = text(Kept::Head, directory.path(), &[sink.addr()], more)
        .replace(r#"["journal"]"#, r#"["journal", "hoard"]"#)
        .replace(r#"["traces", "metrics", "logs"]"#, r#"["traces"]"#)
        + "[processors.hoard]\ndecision_wait = \"1s\"\nmin_spans = 20\n";
    let seen: Arc<Mutex<BTreeSet<(u64, u64)>>> = Arc::default();
    let (log, taken) = (seen.clone(), Arc::new(AtomicBool::new(false)));
    let takes = taken.clone();
    sink.answer_by(move |arrival| {
        let spans = |(run, numbers): &(u64, Range<u64>)| {
            numbers.clone().map(|number| (*run, number)).collect::<Vec<_>>()
        };
        log.lock().extend(arrival.numbered.iter().flat_map(spans));
        if takes.load(Ordering::Relaxed) { Answer::Ok } else { Answer::Unavailable { retry_delay: None } }
    });
    let mut sent: BTreeMap<u64, Vec<(Instant, u64)>> = BTreeMap::new();
    let mut send = async |engine: &Engine, run: u64| {
        let parts = sent.entry(run).or_default();
        let first = parts.len() as u64 * 10;
        let message = TraceTemplate::new(run, 10).message(first);
        assert_eq!(call(grpc(engine), Signal::Traces, &[], &message).await, Reply::Accepted);
        parts.push((Instant::now(), first));
    };
    let engine = start(&text).await;
    for turn in 0..12_u64 {
        // Two parts at once; one part; two parts too far apart.
        let (whole, lone, late) = (100 + turn, 200 + turn, 300 + turn);
        send(&engine, whole).await;
        send(&engine, lone).await;
        send(&engine, late).await;
        send(&engine, whole).await;
        if turn >= 8 {
            send(&engine, 300 + turn - 8).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let expected: BTreeSet<u64> = (100..112).collect();
    let runs = || seen.lock().iter().map(|(run, _)| *run).collect::<BTreeSet<_>>();
    let began = Instant::now();
    while runs().len() < 4 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let first = runs();
    assert!(first.len() >= 4 && first.is_subset(&expected), "{first:?}");
    drained(&engine).await;
    assert!(runs().len() < expected.len(), "some were not decided when it ended");

    seen.lock().clear();
    taken.store(true, Ordering::Relaxed);
    let engine = start(&text).await;
    // Later by enough that what came before is decided.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    send(&engine, 999).await;
    assert!(sink.wait_until(|_| runs() == expected, PATIENCE).await, "{:?}", runs());
    let whole: BTreeSet<(u64, u64)> =
        expected.iter().flat_map(|run| (0..20).map(move |seq| (*run, seq))).collect();
    assert_eq!(*seen.lock(), whole);
    drained(&engine).await;
}

/// What kills the process each time it is tried becomes a dead letter, and what was beside it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kills_the_process_is_found_out() {
    let _turn = beside_others().await;
    let directory = tempfile::tempdir().unwrap();
    let (sink, listen) = (Sink::start("127.0.0.1:0").await.unwrap(), reserve());
    // What is beside it is there at every death, and innocent.
    sink.stop().await;
    let text = text(Kept::Head, directory.path(), &[sink.addr()], "")
        .replace(r#"["journal"]"#, r#"["journal", "lethal"]"#)
        .replacen("127.0.0.1:0", &listen.to_string(), 1);
    let mut program = Program::run_flaky(&text).await;
    let mut client = Client::connect(listen).await.unwrap();
    for run in [1, 666, 2] {
        // It may die before it answers.
        let _ = client.export(Signal::Traces, &TraceTemplate::new(run, 10).message(0)).await;
    }
    let mut deaths = 0;
    while wait_until(async || program.has_ended(), Duration::from_secs(5)).await {
        deaths += 1;
        assert!(deaths < 12, "{}", program.stderr());
        program = Program::start_flaky(&text);
    }
    program.ready().await;
    assert!(deaths >= 8, "{deaths}: not on so little evidence");
    sink.restart().await.unwrap();
    assert!(sink.wait_for(10, PATIENCE).await, "{}", program.stderr());
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
    let letters = dead_letters(directory.path());
    assert_eq!(letters.len(), 1, "{}", program.stderr());
    let letter = letters[0].1.letter.as_ref().unwrap();
    assert_eq!((&*letter.fault, letter.items), ("poison", 10));
}
