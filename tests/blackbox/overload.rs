//! The default topology under more load than its destination takes: it keeps moving, and says so honestly.

use std::time::Duration;

use tokio::time::Instant;
use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::{Answer, Loader, Sink, reserve};

use crate::harness::{PATIENCE, alone, drained, metric, otlp, relay, settled, start, start_layered};

/// What the destination takes, and what is offered, in spans a second.
const TAKES: u64 = 10_000;
const OFFERED: f64 = 50_000.0;

/// A window in which it must have moved.
const WINDOW: Duration = Duration::from_secs(5);

fn lasts() -> Duration {
    let seconds = std::env::var("WATERSHED_OVERLOAD_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// `watershed::DEFAULT_TOPOLOGY` with a destination, small budgets and ports of its own.
fn changes(agent: &str, gateway: &str, sink: &str) -> String {
    format!(
        r#"
[agent]
receivers.otlp.protocols = {{ grpc.endpoint = "{agent}", http.endpoint = "127.0.0.1:0" }}
receivers.jaeger.protocols.grpc.endpoint = "127.0.0.1:0"
receivers.jaeger.protocols.thrift_http.endpoint = "127.0.0.1:0"
receivers.jaeger.protocols.thrift_compact.endpoint = "127.0.0.1:0"
receivers.jaeger.protocols.thrift_binary.endpoint = "127.0.0.1:0"
receivers.zipkin.endpoint = "127.0.0.1:0"
processors.memory_limiter.limit_mib = 16
exporters.otlp.endpoint = "http://{gateway}"
[gateway]
receivers.otlp.protocols.grpc.endpoint = "{gateway}"
processors.memory_limiter.limit_mib = 16
exporters.otlp = {{ endpoint = "http://{sink}", compression = "none" }}
pipelines.telemetry.exporters = ["otlp"]
"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_and_gateway_keep_moving() {
    let _machine = alone().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer(Answer::RateLimited { spans_per_sec: TAKES });
    let (agent, gateway) = (reserve(), reserve());
    let changes = changes(&agent.to_string(), &gateway.to_string(), &sink.addr().to_string());
    let engine = start_layered(&[watershed::DEFAULT_TOPOLOGY, &changes]).await;

    let lasts = lasts();
    let running = Loader::new(agent).open(50, 1_000, OFFERED).duration(lasts).grace(PATIENCE).start();
    assert!(sink.wait_for(1, PATIENCE).await, "nothing moved: {}", running.progress());
    let began = Instant::now();
    let (mut windows, mut before) = (Vec::new(), sink.snapshot().spans);
    while began.elapsed() + WINDOW <= lasts {
        tokio::time::sleep(WINDOW).await;
        let now = sink.snapshot().spans;
        windows.push((now - before) / WINDOW.as_secs());
        before = now;
    }
    let load = running.finish().await;
    let metrics = engine.metrics().render();
    println!("overload: {windows:?} spans a second of {TAKES}; {load}\n{}", sink.snapshot());
    for role in ["agent", "gateway"] {
        let of = |name: &str| metric(&metrics, &format!("{name}{{role=\"{role}\"}}"));
        let (peak, limit) = (of("watershed_budget_peak_bytes"), of("watershed_budget_bytes"));
        println!("overload: {role}: {peak} of {limit} bytes at the most");
        assert!(peak > 0.0 && limit > 0.0, "{metrics}");
    }

    let slow: Vec<_> = windows.iter().filter(|rate| **rate < TAKES / 2).collect();
    assert!(slow.is_empty(), "it stood still: {windows:?} spans a second, {load}; {}", sink.snapshot());
    assert!(load.refusals() > 0, "this was no overload: {load}");
    assert_eq!(load.refused_for_good(), 0, "{load}");
    assert_eq!(load.with_retry_info, load.refusals(), "{load}");
    assert_eq!((load.transport_errors, load.connect_errors, load.unresolved), (0, 0, 0), "{load}");

    let ended = engine.drain(PATIENCE).await;
    assert_eq!(ended, watershed::engine::Ended::Drained);
    let balance = settled(&load, &sink).await;
    assert!(balance.nothing_lost(), "{balance}; {load}");
}

/// A client whose connection stays open, and whose requests are all accepted for ten checks of the backstop.
async fn is_served(engine: &watershed::engine::Engine) {
    let mut client = Client::connect(otlp(engine)).await.unwrap();
    let template = TraceTemplate::new(1, 100);
    let mut checks = tokio::time::interval(Duration::from_millis(100));
    for request in 0..10 {
        checks.tick().await;
        let reply = client.export(Signal::Traces, &template.message(100 * request)).await.unwrap();
        assert_eq!(reply, Reply::Accepted, "request {request}: {}", engine.metrics().render());
    }
}

/// A host has memory of its own, far above the budget of an engine in it, which refusing can not give back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_the_host_is_not_held_against_the_engine() {
    let _machine = alone().await;
    let host = vec![1_u8; 256 << 20];
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let limit = "limit_mib = 16\ncheck_interval = \"100ms\"";
    let engine = start(&relay(sink.addr(), "delivered", "").replace("limit_mib = 256", limit)).await;
    is_served(&engine).await;
    drained(&engine).await;
    assert_eq!((host.iter().step_by(4096).count(), sink.arrived()), ((256 << 20) / 4096, 1_000));
}

/// What connections may send ahead is charged, but idle ones must leave room for requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_leave_room_for_requests() {
    let _machine = alone().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine =
        start(&relay(sink.addr(), "delivered", "").replace("limit_mib = 256", "limit_mib = 16")).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(otlp(&engine)).await.unwrap();
        // An empty request: the connection is a real one and is served.
        assert_eq!(client.export(Signal::Traces, &[]).await.unwrap(), Reply::Accepted, "{}", idle.len());
        idle.push(client);
    }
    is_served(&engine).await;
    drop(idle);
    drained(&engine).await;
}
