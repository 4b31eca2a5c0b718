//! How the program ends: what it was given is sent on, and its exit code says whether that worked.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::Instant;
use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::{Answer, Loader, Sink, reserve, verdict};

use crate::harness::process::Program;
use crate::harness::{PATIENCE, beside_others, http, relay};

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
