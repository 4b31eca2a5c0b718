//! How the program ends: what it was given is sent on, and its exit code says whether that worked.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};
use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::web::{PROTOBUF, WebClient, path};
use watershed_testkit::{Answer, Loader, Sink, reserve, verdict};

use crate::harness::process::{Program, finish};
use crate::harness::{PATIENCE, beside_others, drained, http, otlp, relay, settled, start};

/// A relay at `listen`; `service` goes to the top.
fn text(listen: SocketAddr, sink: SocketAddr, ack: &str, service: &str) -> String {
    format!("{service}\n{}", relay(sink, ack, "").replace("127.0.0.1:0", &listen.to_string()))
}

async fn accept_some(listen: SocketAddr) {
    let mut client = Client::connect(listen).await.unwrap();
    for first in [0, 10] {
        let reply = client.export(Signal::Traces, &TraceTemplate::new(1, 10).message(first)).await.unwrap();
        assert_eq!(reply, Reply::Accepted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_nothing_acknowledged_is_lost() {
    let _turn = beside_others().await;
    for (ack, signal) in [("accepted", "TERM"), ("delivered", "TERM"), ("accepted", "INT")] {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        sink.answer(Answer::Slow(Duration::from_millis(30)));
        let listen = reserve();
        let mut program = Program::run(&text(listen, sink.addr(), ack, "")).await;
        // Requests and connections go on coming while it drains.
        let running = Loader::new(listen).closed(4, 8).retry(true).grace(Duration::from_secs(1)).start();
        assert!(sink.wait_for(5_000, PATIENCE).await, "{}", program.stderr());
        program.signal(signal);
        let code = program.exit().await;
        running.stop();
        let load = running.finish().await;
        let balance = verdict(&load, &sink.snapshot());
        let case = format!("{ack}, {signal}: {balance}; {load}\n{}", program.stderr());
        assert_eq!(code, Some(0), "{case}");
        assert!(balance.nothing_lost(), "{case}");
        assert_eq!(load.refused_for_good(), 0, "{case}");
    }
}

/// An agent and a gateway in one process: the agent drains into the gateway, and that into the destination.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_drain_one_after_the_other() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer(Answer::Slow(Duration::from_millis(30)));
    let (agent, gateway) = (reserve(), reserve());
    let text = format!(
        r#"
[agent]
receivers.otlp.protocols.grpc.endpoint = "{agent}"
processors.batch.timeout = "500ms"
exporters.otlp = {{ endpoint = "http://{gateway}", compression = "none" }}
pipelines.traces = {{ receivers = ["otlp"], processors = ["batch"], exporters = ["otlp"], ack = "accepted" }}
[gateway]
receivers.otlp.protocols.grpc.endpoint = "{gateway}"
processors.batch.timeout = "500ms"
exporters.otlp = {{ endpoint = "http://{}", compression = "none" }}
pipelines.traces = {{ receivers = ["otlp"], processors = ["batch"], exporters = ["otlp"], ack = "accepted" }}
"#,
        sink.addr()
    );
    let mut program = Program::run(&text).await;
    let load = Loader::new(agent).closed(2, 4).requests(50).run().await;
    assert_eq!(load.acknowledged.len(), 5_000, "{load}");
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
    let balance = verdict(&load, &sink.snapshot());
    assert!(balance.is_exact(), "{balance}; {}", program.stderr());
}

/// A gateway of a tier, with a journal that it empties before it goes.
fn gateway(listen: SocketAddr, journal: &Path, sink: SocketAddr, on_shutdown: &str) -> String {
    format!(
        r#"
receivers.otlp.protocols.grpc.endpoint = "{listen}"
processors.memory_limiter.limit_mib = 32
processors.journal = {{ directory = {journal:?}, sync = "interval", on_shutdown = "{on_shutdown}" }}
exporters.otlp.endpoint = "http://{sink}"
exporters.otlp.compression = "none"
exporters.otlp.timeout = "2s"
exporters.otlp.retry_on_failure = {{ initial_interval = "50ms", max_interval = "200ms" }}
pipelines.traces = {{ receivers = ["otlp"], processors = ["memory_limiter", "journal"], exporters = ["otlp"] }}
"#
    )
}

/// How many messages of a journal are not done.
async fn owed(journal: &Path) -> u64 {
    let inspected = finish(&["journal", "inspect", journal.to_str().unwrap(), "--format", "json"]).await;
    let line = inspected.stdout.lines().next().unwrap_or_else(|| panic!("{inspected:?}"));
    serde_json::from_str::<Value>(line).unwrap()["not_done"].as_u64().unwrap()
}

/// Scale-in: one of two gateways leaves under load, with more on disk than it may have in memory. Its agent moves on, and
/// nobody hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_leaves_sends_its_agents_away_and_empties_its_journal() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer(Answer::Hang);
    let place = tempfile::tempdir().unwrap();
    let (one, other) = (reserve(), reserve());
    let journals = ["one", "other"].map(|name| {
        let journal = place.path().join(name);
        std::fs::create_dir(&journal).unwrap();
        journal
    });
    let mut leaver = Program::run(&gateway(one, &journals[0], sink.addr(), "empty")).await;
    let mut stayer = Program::run(&gateway(other, &journals[1], sink.addr(), "keep")).await;
    let agent = start(&format!(
        r#"
receivers.otlp.protocols.grpc.endpoint = "127.0.0.1:0"
pipelines.traces = {{ receivers = ["otlp"], exporters = ["load_balancing"], ack = "delivered" }}
[exporters.load_balancing]
resolver.static.hostnames = ["{one}", "{other}"]
protocol.otlp = {{ tls.insecure = true, compression = "none" }}
"#
    ))
    .await;
    let load = Loader::new(otlp(&agent)).spans_per_request(200).closed(2, 4).start();
    while load.acknowledged() < 120_000 {
        sleep(Duration::from_millis(5)).await;
    }
    let before = owed(&journals[0]).await;
    leaver.signal("TERM");
    http::wait_for(leaver.health, "/readyz", 503).await;
    sink.answer(Answer::RateLimited { spans_per_sec: 30_000 });
    let moved = load.acknowledged();
    while load.acknowledged() < moved + 10_000 {
        sleep(Duration::from_millis(5)).await;
    }
    load.stop();
    assert_eq!(leaver.exit().await, Some(0), "{}", leaver.stderr());
    let after = owed(&journals[0]).await;
    let load = load.finish().await;
    sink.answer(Answer::Ok);
    drained(&agent).await;
    assert_eq!((load.refusals(), load.unresolved, load.connect_errors), (0, 0, 0), "{load}");
    let balance = settled(&load, &sink).await;
    assert!(balance.nothing_lost(), "{balance}; {load}");
    assert!(before > 100 && after == 0, "{after} of {before} are left");
    stayer.signal("TERM");
    assert_eq!(stayer.exit().await, Some(0), "{}", stayer.stderr());
}

/// What stays on disk is said; it is amiss where nobody will come for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_in_a_journal_is_told_and_amiss_where_nothing_was_to_be_left() {
    let _turn = beside_others().await;
    for (on_shutdown, code, told) in [
        ("keep", 0, "the journal has something left for the next process"),
        ("empty", 3, "the journal was to be empty, and is not"),
    ] {
        let (place, listen) = (tempfile::tempdir().unwrap(), reserve());
        let text = gateway(listen, place.path(), reserve(), on_shutdown);
        let mut program = Program::run(&format!("service.shutdown_timeout = \"4s\"\n{text}")).await;
        let load = Loader::new(listen).requests(10).run().await;
        assert_eq!(load.acknowledged.len(), 1_000, "{load}");
        program.signal("TERM");
        assert_eq!(program.exit().await, Some(code), "{on_shutdown}: {}", program.stderr());
        let owed = owed(&place.path().join("traces")).await;
        let log = program.stderr();
        let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{log}"));
        assert!(owed > 0 && line.contains(&format!("records={owed}")), "{owed}: {line}");
    }
}

/// Who leaves for good decides on what it holds, and does not leave it for a process that never comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampler_behind_a_journal_that_is_to_be_empty_decides_before_it_goes() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let (place, listen) = (tempfile::tempdir().unwrap(), reserve());
    let text = gateway(listen, place.path(), sink.addr(), "empty")
        .replace("\"journal\"]", "\"journal\", \"tail_sampling\"]")
        + "[processors.tail_sampling]\ndecision_wait = \"1h\"\n\
           policies = [{ name = \"all\", type = \"always_sample\" }]\n";
    let mut program = Program::run(&format!("service.shutdown_timeout = \"4s\"\n{text}")).await;
    let load = Loader::new(listen).requests(10).run().await;
    assert_eq!(load.acknowledged.len(), 1_000, "{load}");
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
    let balance = verdict(&load, &sink.snapshot());
    assert!(balance.is_exact(), "{balance}; {}", program.stderr());
    assert_eq!(owed(&place.path().join("traces")).await, 0);
}

/// Clients hear that it goes before it is gone: what they wait for is answered, and they are told not to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_is_in_flight_and_sends_its_clients_away() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer(Answer::Slow(Duration::from_secs(1)));
    let (grpc, web) = (reserve(), reserve());
    let text = text(grpc, sink.addr(), "delivered", "");
    let http = format!("[receivers.otlp.protocols.http]\nendpoint = \"{web}\"\n");
    let mut program = Program::run(&(text + &http)).await;
    let mut over_grpc = Client::connect(grpc).await.unwrap();
    let mut over_http = WebClient::connect(web).await.unwrap();
    let message = TraceTemplate::new(1, 10).message(0);
    let asked = async {
        tokio::join!(
            over_grpc.export(Signal::Traces, &message),
            over_http.send("POST", path(Signal::Traces), &[("content-type", PROTOBUF)], &message),
        )
    };
    let ends = async {
        // Once both are on their way.
        assert!(sink.wait_until(|counts| counts.requests >= 1, PATIENCE).await);
        program.signal("TERM");
        http::wait_for(program.health, "/readyz", 503).await;
    };
    let ((by_grpc, by_http), ()) = tokio::join!(asked, ends);
    assert_eq!(by_grpc.unwrap(), Reply::Accepted);
    let by_http = by_http.unwrap();
    assert_eq!((by_http.status, by_http.header("connection")), (200, "close"), "{by_http:?}");
    assert!(over_grpc.export(Signal::Traces, &message).await.is_err(), "it takes another call");
    assert!(Client::connect(grpc).await.is_err() && WebClient::connect(web).await.is_err());
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer(Answer::Hang);
    let listen = reserve();
    let mut program = Program::run(&text(listen, sink.addr(), "accepted", "")).await;
    accept_some(listen).await;
    program.signal("TERM");
    // Not ready while it drains, but alive: a restart would lose what is held.
    let body = http::wait_for(program.health, "/", 503).await;
    assert!(body.contains("draining"), "{body}");
    assert_eq!(http::get(program.health, "/livez").await.map(|(status, _)| status), Some(200));
    let since = Instant::now();
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(130), "{}", program.stderr());
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_destination_does_not_hold_it_for_ever() {
    let _turn = beside_others().await;
    let listen = reserve();
    let service = "service.shutdown_timeout = \"2s\"";
    let mut program = Program::run(&text(listen, reserve(), "accepted", service)).await;
    accept_some(listen).await;
    let since = Instant::now();
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(3), "{}", program.stderr());
    let took = since.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(program.stderr().contains("exporters/otlp"), "who held it? {}", program.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let _turn = beside_others().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let mut program = Program::start(&text(listen, reserve(), "accepted", ""));
    assert_eq!(program.exit().await, Some(2), "{}", program.stderr());
    let told = program.stderr();
    for part in ["otlp", "protocols.grpc.endpoint", &listen.to_string(), "in use"] {
        assert!(told.contains(part), "{part} is missing: {told}");
    }

    // The program's own endpoints as well.
    for key in ["service.health.endpoint", "service.telemetry.metrics.address"] {
        let mut program = Program::start_by(&text(reserve(), reserve(), "accepted", ""), |command| {
            command.arg("--set").arg(format!("{key}=\"{listen}\""))
        });
        assert_eq!(program.exit().await, Some(2), "{key}: {}", program.stderr());
        let told = program.stderr();
        assert!(told.contains(key) && told.contains(&listen.to_string()), "{key}: {told}");
    }
}

/// Agent and gateway may have the same address, as long as they do not run in one process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_roles_can_not_listen_on_one_address() {
    let _turn = beside_others().await;
    let listen = reserve();
    let role = |name: &str| {
        format!(
            "[{name}]\nreceivers.otlp.protocols.grpc.endpoint = \"{listen}\"\n\
             pipelines.traces = {{ receivers = [\"otlp\"], exporters = [\"debug\"] }}\n"
        )
    };
    let both = role("agent") + &role("gateway");
    let mut program = Program::start(&both);
    let code = tokio::select! {
        code = program.exit() => code,
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("both roles were started on {listen}"),
    };
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {}", program.stderr());
    assert!(program.stderr().contains(&listen.to_string()), "{}", program.stderr());

    let mut alone = Program::start_by(&both, |command| command.args(["--role", "gateway"]));
    alone.ready().await;
    alone.signal("TERM");
    assert_eq!(alone.exit().await, Some(0), "{}", alone.stderr());
}
