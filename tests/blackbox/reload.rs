//! Another configuration in the place of the one in force: what both have runs on, nothing is lost on the way, and one
//! that can not be put in force changes nothing.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use watershed::engine::{Engine, ReloadError};
use watershed_testkit::{Answer, LoadReport, Loader, Sink, reserve, wait_until};

use crate::harness::process::{Finished, Program, file, finish};
use crate::harness::{
    PATIENCE, addresses, alone, beside_others, both_protocols, drained, http, metric, plan, relay, settled,
    start,
};

/// How long the reload under load goes on: `RELOAD_SECONDS`, or 10.
fn seconds() -> u64 {
    std::env::var("RELOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// A collector at these addresses. The variants differ in the receiver where `deep`, and always in a processor, in
/// the exporter's settings, and in a pipeline that only one of them has.
fn variant(second: bool, deep: bool, [grpc, http]: [SocketAddr; 2], sink: SocketAddr) -> String {
    let limit = if second && deep { 32 } else { 64 };
    let (processors, timeout, more) = match second {
        false => ("[\"batch\"]", 5, ""),
        true => (
            "[\"attributes\", \"batch\"]",
            6,
            "[exporters.nop]\n[pipelines.logs]\nreceivers = [\"otlp\"]\nexporters = [\"nop\"]\n",
        ),
    };
    format!(
        r#"
[receivers.otlp.protocols]
grpc = {{ endpoint = "{grpc}", max_recv_msg_size_mib = {limit} }}
http = {{ endpoint = "{http}", max_request_body_size = "{limit}MiB" }}

[processors.attributes]
actions = [{{ key = "reloaded", value = "yes", action = "upsert" }}]
[processors.batch]
timeout = "50ms"

[exporters.otlp]
endpoint = "http://{sink}"
compression = "none"
timeout = "{timeout}s"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}

[pipelines.traces]
receivers = ["otlp"]
processors = {processors}
exporters = ["otlp"]
ack = "accepted"
{more}
"#
    )
}

async fn reload(program: &Program) -> (u16, String) {
    http::post(program.metrics, "/reload").await.unwrap_or_else(|| panic!("no answer: {}", program.stderr()))
}

async fn resident(program: &Program) -> f64 {
    let text = http::get(program.metrics, "/metrics").await.map(|(_, text)| text).unwrap_or_default();
    metric(&text, "otelcol_process_memory_rss")
}

/// Reloads each second between two variants, under load over both protocols.
async fn under_load(deep: bool) {
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let at = [reserve(), reserve()];
    let [one, two] = [false, true].map(|second| variant(second, deep, at, sink.addr()));
    let program = Program::run(&one).await;
    let lasts = Duration::from_secs(seconds());
    let load = |target, web: bool| {
        let loader = Loader::new(target).open(4, 64, 5_000.0).retry(true).duration(lasts);
        if web { loader.http().start() } else { loader.start() }
    };
    let loads = [load(at[0], false), load(at[1], true)];
    let began = Instant::now();
    let (mut reloads, mut early) = (0, 0.0);
    while began.elapsed() < lasts {
        let next = began + Duration::from_secs(reloads + 1);
        program.write(if reloads % 2 == 0 { &two } else { &one });
        let (status, body) = reload(&program).await;
        assert_eq!(status, 200, "{body}");
        assert!(body.starts_with("reloaded\ncollector\n"), "{body}");
        reloads += 1;
        if reloads == seconds() / 3 {
            early = resident(&program).await;
        }
        tokio::time::sleep_until(next).await;
    }
    let late = resident(&program).await;
    for running in loads {
        let load = running.finish().await;
        let balance = settled(&load, &sink).await;
        let case = format!("deep {deep}, {reloads} reloads: {balance}; {load}\n{}", program.stderr());
        assert!(balance.is_exact(), "{case}");
        assert_eq!((load.connect_errors, load.refused_for_good()), (0, 0), "{case}");
        if !deep {
            // What does not change is not even noticed. A machine that is busy with other things may be slow.
            assert_eq!(load.transport_errors, 0, "{case}");
            assert!(load.refused.iter().all(|refusal| refusal.message.contains("full")), "{case}");
        }
    }
    assert!(reloads >= seconds() / 2, "{reloads} reloads in {} s", seconds());
    assert!(late < early + 24e6, "memory grew from {early} to {late} bytes in {reloads} reloads");
    let text = http::get(program.metrics, "/metrics").await.unwrap().1;
    assert_eq!(metric(&text, "watershed_config_reloads{outcome=\"applied\"}"), reloads as f64);
    assert_eq!(metric(&text, "watershed_pipeline_lost_items"), 0.0, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_nothing_and_disturb_nobody() {
    let _turn = alone().await;
    under_load(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_of_the_receiver_too_refuse_no_connection() {
    let _turn = alone().await;
    under_load(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_changes_nothing_and_says_why() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let at = [reserve(), reserve()];
    let good = variant(false, false, at, sink.addr());
    let program = Program::run(&good).await;
    let shown = async || http::get(program.metrics, "/metrics").await.unwrap().1;
    assert_eq!(metric(&shown().await, "watershed_config_last_reload_successful"), 1.0);

    let wrong = good.replace("timeout = \"50ms\"", "timeuot = \"50ms\"");
    let line = wrong.lines().position(|line| line.contains("timeuot")).unwrap() + 1;
    program.write(&wrong);
    let (status, body) = reload(&program).await;
    assert_eq!(status, 422, "{body}");
    for part in
        [format!("test.toml:{line}:1"), "did you mean `timeout`".to_owned(), "nothing has changed".to_owned()]
    {
        assert!(body.contains(&part), "{part}:\n{body}");
        assert!(program.stderr().contains(&part), "{part}:\n{}", program.stderr());
    }
    program.signal("HUP");
    let twice = async || metric(&shown().await, "watershed_config_reloads{outcome=\"wrong\"}") == 2.0;
    assert!(wait_until(twice, PATIENCE).await, "{}", program.stderr());
    assert_eq!(metric(&shown().await, "watershed_config_last_reload_successful"), 0.0);

    let budget = good.replace("processors = [\"batch\"]", "processors = [\"memory_limiter\", \"batch\"]");
    program.write(&format!("{budget}\n[processors.memory_limiter]\nlimit_mib = 100\n"));
    let (status, body) = reload(&program).await;
    assert_eq!(status, 409, "{body}");
    assert!(body.contains("the memory budget can not change while it runs"), "{body}");

    let load = Loader::new(at[0]).requests(10).run().await;
    assert!(settled(&load, &sink).await.is_exact(), "{load}");
    program.write(&good);
    assert_eq!(reload(&program).await, (200, "unchanged\n".to_owned()));
    assert_eq!(metric(&shown().await, "watershed_config_last_reload_successful"), 1.0);
    assert_eq!(metric(&shown().await, "watershed_config_reloads{outcome=\"applied\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_watched_is_reloaded_when_it_changes() {
    let _turn = beside_others().await;
    let (first, second) =
        (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    let at = [reserve(), reserve()];
    let text = variant(false, false, at, first.addr())
        .replace(&format!("http://{}", first.addr()), "${file:where.txt}");
    let mut program = Program::start_by(&text, |command| {
        let directory = command.get_current_dir().unwrap();
        std::fs::write(directory.join("where.txt"), format!("http://{}", first.addr())).unwrap();
        command.arg("--watch")
    });
    program.ready().await;
    let load = Loader::new(at[0]).requests(10).run().await;
    assert!(settled(&load, &first).await.is_exact(), "{load}");
    program.write_as("where.txt", &format!("http://{}", second.addr()));
    let told = "the configuration was reloaded: exporter otlp changed (endpoint)";
    assert!(wait_until(async || program.stderr().contains(told), PATIENCE).await, "{}", program.stderr());
    let load = Loader::new(at[0]).requests(10).run().await;
    assert!(settled(&load, &second).await.is_exact(), "{load}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reload_would_do_is_said_before() {
    let _turn = beside_others().await;
    let at = [reserve(), reserve()];
    let [one, two] = [false, true].map(|second| variant(second, true, at, reserve()));
    let two = two.replace("max_request_body_size = \"32MiB\"", "max_request_body_size = \"64MiB\"");
    let ((_old, old), (_new, new)) = (file("old.toml", &one), file("new.toml", &two));
    let [old, new] = [old, new].map(|path| path.display().to_string());
    let Finished { code, stdout, stderr } = finish(&["validate", "--diff", &old, &new]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let expected = "collector
  ~ receiver otlp: protocols.grpc.max_recv_msg_size_mib
  ~ pipeline traces: processors
  + processor attributes of pipeline traces
  + pipeline logs
  ~ exporter otlp: endpoint, timeout
  + exporter nop
";
    assert_eq!(stdout, expected);
    let (_new, new) = file("new.toml", &format!("service.lanes = 77\n{one}"));
    let Finished { code, stdout, .. } =
        finish(&["validate", "--diff", &old, &new.display().to_string()]).await;
    assert_eq!(code, Some(1));
    assert!(
        stdout.contains("! `service.lanes` can not change while it runs: one each core, now 77"),
        "{stdout}"
    );
}

// === In the engine ===

async fn put(engine: &Engine, text: &str) {
    engine.reload(plan(&[text])).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_start_is_taken_back() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let text = relay(sink.addr(), "accepted", "");
    let engine = start(&text).await;
    let (at, actors) = (engine.addresses(), names(&engine));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let changed = text.replace("timeout = \"50ms\"", "timeout = \"60ms\"");
    let socket = format!(
        "{changed}\n[receivers.zipkin]\nendpoint = \"{taken}\"\n[pipelines.traces]\nreceivers = [\"zipkin\"]\nexporters = [\"otlp\"]\n"
    );
    let stage = format!(
        "{changed}\n[exporters.file]\npath = \"/none/such/out.json\"\n[pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"otlp\", \"file\"]\n"
    );
    for (text, why) in [(socket, "receiver zipkin"), (stage, "collector/exporters/file")] {
        let running = Loader::new(at[0].address).closed(2, 2).duration(PATIENCE).start();
        assert!(wait_until(async || running.acknowledged() > 0, PATIENCE).await);
        let error = engine.reload(plan(&[&text])).await.unwrap_err();
        assert!(matches!(error, ReloadError::Start(_)) && error.to_string().contains(why), "{error}");
        running.stop();
        let load = running.finish().await;
        assert!(settled(&load, &sink).await.is_exact(), "{load}");
        assert_eq!((load.refusals(), load.transport_errors), (0, 0), "{load}");
        assert_eq!((engine.addresses(), names(&engine)), (at.clone(), actors.clone()));
    }
    assert!(engine.health().ok);
    drained(&engine).await;
}

fn names(engine: &Engine) -> Vec<String> {
    let mut names: Vec<String> = engine.observe().iter().map(|seen| seen.name.to_string()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_changes_keeps_its_port() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let text = |limit: u32| {
        let exporter = relay(sink.addr(), "accepted", "");
        let (_, rest) = exporter.split_once("[processors.memory_limiter]").unwrap();
        let receiver = both_protocols("");
        format!("{receiver}\n[processors.memory_limiter]{rest}").replace(
            "[receivers.otlp.protocols.grpc]",
            &format!("[receivers.otlp.protocols.grpc]\nmax_recv_msg_size_mib = {limit}"),
        )
    };
    let engine = Arc::new(start(&text(1)).await);
    let at = addresses(&engine);
    let (over, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    // Connections as fast as they can be made, from a thread that nothing holds up.
    let refused = tokio::task::spawn_blocking({
        let (over, connected) = (over.clone(), connected.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                for address in at {
                    if let Err(error) = TcpStream::connect(address) {
                        return Some(error);
                    }
                    connected.fetch_add(1, Ordering::Relaxed);
                }
            }
            None
        }
    });
    for limit in 2..12 {
        let before = connected.load(Ordering::Relaxed);
        put(&engine, &text(limit)).await;
        assert_eq!(addresses(&engine), at);
        assert!(wait_until(async || connected.load(Ordering::Relaxed) > before, PATIENCE).await);
    }
    over.store(true, Ordering::Relaxed);
    assert!(refused.await.unwrap().is_none());
    let load = Loader::new(at[0]).requests(10).run().await;
    assert!(settled(&load, &sink).await.is_exact(), "{load}");
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_wrong_endpoint_goes_to_the_right_one() {
    let _turn = beside_others().await;
    for stored in [false, true] {
        let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
        let text = |to: SocketAddr| {
            let (storage, queue) = match stored {
                false => (String::new(), ""),
                true => (
                    format!("[extensions.file_storage]\ndirectory = {:?}\n", directory.path()),
                    "sending_queue.storage = \"file_storage\"",
                ),
            };
            relay(to, if stored { "journaled" } else { "accepted" }, queue) + &storage
        };
        let nobody = reserve();
        let engine = start(&text(nobody)).await;
        let at = engine.addresses()[0].address;
        let load = Loader::new(at).closed(2, 4).requests(300).run().await;
        assert_eq!(load.acknowledged.len(), 30_000, "{stored}: {load}");
        let began = Instant::now();
        put(&engine, &text(sink.addr())).await;
        let balance = settled(&load, &sink).await;
        assert!(balance.is_exact(), "{stored}: {balance}");
        assert!(began.elapsed() < Duration::from_secs(20), "{stored}: {:?}", began.elapsed());
        // And on, with what comes now.
        let load = Loader::new(at).requests(10).run().await;
        assert!(settled(&load, &sink).await.is_exact(), "{stored}: {load}");
        drained(&engine).await;
        assert_eq!(metric(&engine.metrics().render(), "watershed_pipeline_lost_items"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stage_holds_goes_by_the_new_way() {
    let _turn = beside_others().await;
    let (old, new) = (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    let text = |to: SocketAddr| {
        relay(to, "accepted", "")
            .replace("signals = [\"traces\", \"metrics\", \"logs\"]", "signals = [\"traces\"]")
            .replace("\"memory_limiter\", \"batch\"", "\"memory_limiter\", \"tail_sampling\", \"batch\"")
            + "[processors.tail_sampling]\ndecision_wait = \"3s\"\npolicies = [{ name = \"all\", type = \"always_sample\" }]\n"
    };
    let engine = start(&text(old.addr())).await;
    let at = engine.addresses()[0].address;
    let load = Loader::new(at).requests(20).run().await;
    assert_eq!(load.acknowledged.len(), 2_000, "{load}");
    put(&engine, &text(new.addr())).await;
    let balance = settled(&load, &new).await;
    assert!(balance.is_exact(), "{balance}");
    assert_eq!(old.arrived(), 0);
    drained(&engine).await;
}

/// A pipeline with a journal to `sink`, and another one.
fn journaled(directory: &std::path::Path, sink: SocketAddr, with: bool) -> String {
    let pipeline = match with {
        false => "",
        true => {
            "[pipelines.\"traces/kept\"]\nreceivers = [\"otlp\"]\nprocessors = [\"journal\"]\nexporters = [\"otlp\"]\n"
        }
    };
    format!(
        "{}\n[processors.journal]\ndirectory = {directory:?}\n{pipeline}\n[exporters.nop]\n\
         [pipelines.\"logs/other\"]\nreceivers = [\"otlp\"]\nexporters = [\"nop\"]\n\
         [exporters.otlp]\nendpoint = \"http://{sink}\"\ncompression = \"none\"\n\
         retry_on_failure = {{ initial_interval = \"20ms\", max_interval = \"100ms\" }}\n",
        both_protocols("")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_given_up_only_when_it_is_empty() {
    let _turn = beside_others().await;
    let (directory, sink) = (tempfile::tempdir().unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    sink.answer(Answer::Slow(Duration::from_millis(300)));
    let text = |with| journaled(directory.path(), sink.addr(), with);
    let engine = start(&text(true)).await;
    let at = addresses(&engine)[0];
    let load: LoadReport = Loader::new(at).closed(2, 4).requests(100).run().await;
    assert_eq!(load.acknowledged.len(), 10_000, "{load}");
    put(&engine, &text(false)).await;
    assert!(settled(&load, &sink).await.is_exact(), "{load}");
    let gone = async || names(&engine).iter().all(|name| !name.contains("journal"));
    assert!(wait_until(gone, PATIENCE).await, "{:?}", names(&engine));
    assert_eq!(
        metric(&engine.metrics().render(), "watershed_actor_up{actor=\"collector/traces/kept/journal@0\"}"),
        0.0
    );
    // Its directory is free again.
    put(&engine, &text(true)).await;
    let load = Loader::new(at).requests(10).run().await;
    assert!(settled(&load, &sink).await.is_exact(), "{load}");
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_nobody_takes_from_is_not_given_up() {
    let _turn = beside_others().await;
    let directory = tempfile::tempdir().unwrap();
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.stop().await;
    let patience = "service.shutdown_timeout = \"1s\"\n";
    let text = |with| format!("{patience}{}", journaled(directory.path(), sink.addr(), with));
    let engine = start(&text(true)).await;
    let at = addresses(&engine)[0];
    let load = Loader::new(at).requests(10).run().await;
    assert_eq!(load.acknowledged.len(), 1_000, "{load}");
    put(&engine, &text(false)).await;
    // It is cut off, and still there, until somebody takes what it has.
    let error = engine.reload(plan(&[&text(true)])).await.unwrap_err();
    let busy = "the reload before has not ended: the journal of pipeline `traces/kept`";
    assert!(matches!(error, ReloadError::Busy(_)) && error.to_string().starts_with(busy), "{error}");
    assert!(names(&engine).iter().any(|name| name.contains("journal")));
    sink.restart().await.unwrap();
    assert!(settled(&load, &sink).await.is_exact(), "{load}");
    let again = async || engine.reload(plan(&[&text(true)])).await.is_ok();
    assert!(wait_until(again, PATIENCE).await);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_whose_messages_are_old_is_not_even_cut_off() {
    let _turn = beside_others().await;
    let directory = tempfile::tempdir().unwrap();
    let nobody = reserve();
    let [with, without] = [true, false].map(|with| journaled(directory.path(), nobody, with));
    let engine = start(&with).await;
    let load = Loader::new(addresses(&engine)[0]).requests(10).run().await;
    assert_eq!(load.acknowledged.len(), 1_000, "{load}");
    // What is young may well be taken soon.
    let written = Instant::now();
    let old = async || written.elapsed() > Duration::from_millis(10_500);
    assert!(wait_until(old, PATIENCE).await);
    let error = engine.reload(plan(&[&without])).await.unwrap_err().to_string();
    let stale = "the journal of pipeline `traces/kept` holds what its exporters have not taken for 1";
    assert!(error.starts_with(stale), "{error}");
    // Whatever else changes, it stays.
    put(&engine, &with.replace("100ms", "101ms")).await;
    assert!(names(&engine).iter().any(|name| name.contains("journal")));
}
