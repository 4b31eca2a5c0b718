//! What every suite needs: an engine out of a text, patience, and turns on a small machine.

pub mod capture;
pub mod certificates;
pub mod elastic;
pub mod http;
pub mod kinds;
pub mod peer;
pub mod process;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use watershed::engine::config::{Plan, Sources, load};
use watershed::engine::{Ended, Engine};
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::web::{PROTOBUF, WebClient, WebReply, path};
use watershed_testkit::{Answer, Arrival, LoadReport, Sink, Verdict, requests, verdict};

/// How long anything may take before it counts as never.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Held for writing by those who measure time, for reading by the others.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// A part of the machine, beside others.
pub async fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// The machine alone: for what asserts a time or a rate.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// The checked plan of these texts, later ones over earlier ones.
pub fn plan(texts: &[&str]) -> Plan {
    let mut sources = Sources::default();
    for (number, text) in texts.iter().enumerate() {
        sources.inline.push((format!("test-{number}.toml"), (*text).to_owned()));
    }
    load(&sources, &kinds::registry()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A running engine with the bundled kinds and those of [`kinds`].
pub async fn start(toml: &str) -> Engine {
    start_layered(&[toml]).await
}

/// As [`start`], of several texts.
pub async fn start_layered(texts: &[&str]) -> Engine {
    kinds::quiet();
    Engine::start(plan(texts)).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The address of receiver `otlp`, whatever its role.
pub fn otlp(engine: &Engine) -> SocketAddr {
    receiver(engine, "otlp")
}

/// The address of a receiver.
pub fn receiver(engine: &Engine, id: &str) -> SocketAddr {
    engine.address(None, id).unwrap_or_else(|| panic!("{id} listens nowhere: {:?}", engine.addresses()))
}

/// The two addresses of a collector whose receiver speaks gRPC and HTTP.
pub fn addresses(engine: &Engine) -> [SocketAddr; 2] {
    let all: Vec<_> = engine.addresses().iter().map(|address| address.address).collect();
    all.try_into().unwrap()
}

/// Receiver `otlp` on any two ports; `more` stands in both of its tables.
pub fn both_protocols(more: &str) -> String {
    ["grpc", "http"]
        .map(|protocol| {
            format!("[receivers.otlp.protocols.{protocol}]\nendpoint = \"127.0.0.1:0\"\n{more}\n")
        })
        .concat()
}

/// One call over gRPC with these headers.
pub async fn call(to: SocketAddr, signal: Signal, headers: &[(&str, &str)], message: &[u8]) -> Reply {
    let mut head = Head::new(signal, None, None);
    for (name, value) in headers {
        head.headers().append(name.parse::<::http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    let mut client = Client::connect(to).await.unwrap();
    client.call(&head, requests::frame(message)).await.unwrap()
}

/// One request over HTTP with these headers.
pub async fn post(to: SocketAddr, signal: Signal, headers: &[(&str, &str)], message: &[u8]) -> WebReply {
    let mut client = WebClient::connect(to).await.unwrap();
    let headers = [&[("content-type", PROTOBUF)], headers].concat();
    client.send("POST", path(signal), &headers, message).await.unwrap()
}

/// What arrives from now on, in order, all of it taken.
pub fn arrivals(sink: &Sink) -> Arc<Mutex<Vec<Arrival>>> {
    let arrivals = Arc::<Mutex<Vec<Arrival>>>::default();
    let seen = arrivals.clone();
    sink.answer_by(move |arrival| {
        seen.lock().push(arrival.clone());
        Answer::Ok
    });
    arrivals
}

/// A header's text; empty where there is none.
pub fn header<'a>(arrival: &'a Arrival, name: &str) -> &'a str {
    arrival.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// Drains to the last message.
pub async fn drained(engine: &Engine) {
    assert_eq!(engine.drain(PATIENCE).await, Ended::Drained);
}

/// The balance of a load whose acknowledged spans have had the time to arrive.
pub async fn settled(load: &LoadReport, sink: &Sink) -> Verdict {
    let arrived = |sink: &Sink| verdict(load, &sink.snapshot());
    // The condition looks at the sink's own counts: a span counts before its batch is answered.
    let _ = sink
        .wait_until(|counts| load.acknowledged.is_empty() || verdict(load, counts).lost == 0, PATIENCE)
        .await;
    arrived(sink)
}

/// The value of a metric whose name and labels start so; 0 where there is none.
pub fn metric(text: &str, start: &str) -> f64 {
    let series = text.lines().filter(|line| line.starts_with(start));
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// A collector with one OTLP receiver on any port and one OTLP exporter to `sink`: all signals, retries quick.
pub fn relay(sink: SocketAddr, ack: &str, exporter: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"

[processors.memory_limiter]
limit_mib = 256

[processors.batch]
timeout = "50ms"

[exporters.otlp]
endpoint = "http://{sink}"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}
{exporter}

[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp"]
ack = "{ack}"
"#
    )
}
