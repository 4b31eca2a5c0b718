//! A panic once a second for 20 s under load, in each kind of stage: nobody outside notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use watershed::engine::Event;
use watershed_testkit::{Loader, Sink, reserve, verdict};

use crate::harness::kinds::{Rule, faults};
use crate::harness::{PATIENCE, alone, drained, receiver, start};

const LASTS: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_secs(1);

/// From a panic to the next finished message of the same copy.
const BACK: Duration = Duration::from_millis(150);

/// Exports that may be in flight at once.
const CONSUMERS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Breaks {
    Receiver,
    Processor,
    Exporter,
}

/// The pipeline that breaks and, in the same engine, one that must not notice.
fn text(breaks: Breaks, name: &str, ack: &str, sink: SocketAddr, other: SocketAddr) -> String {
    let faults = format!("faults = {name:?}");
    let (receiver, receiver_settings) = match breaks {
        Breaks::Receiver => ("flaky", faults.as_str()),
        _ => ("otlp", ""),
    };
    let (processors, processor_settings) = match breaks {
        Breaks::Processor => (r#"["flaky"]"#, format!("[processors.flaky]\n{faults}")),
        _ => ("[]", String::new()),
    };
    let (exporter, exporter_settings) = match breaks {
        Breaks::Exporter => ("flaky", faults.as_str()),
        _ => ("otlp", "compression = \"none\""),
    };
    format!(
        r#"
[receivers.{receiver}]
{receiver_settings}
protocols.grpc.endpoint = "127.0.0.1:0"
[receivers."otlp/bystander".protocols.grpc]
endpoint = "{}"

{processor_settings}

[exporters.{exporter}]
{exporter_settings}
endpoint = "http://{sink}"
sending_queue = {{ num_consumers = {CONSUMERS} }}
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}
[exporters."otlp/bystander"]
endpoint = "http://{other}"
compression = "none"

[pipelines.traces]
receivers = ["{receiver}"]
processors = {processors}
exporters = ["{exporter}"]
ack = "{ack}"
[pipelines."traces/bystander"]
receivers = ["otlp/bystander"]
exporters = ["otlp/bystander"]
ack = "delivered"
"#,
        reserve()
    )
}

/// Connects all the time, until told to stop; how often, and how often it was refused.
async fn probe(address: SocketAddr, stop: Arc<AtomicBool>, made: Arc<AtomicU64>, refused: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        match TcpStream::connect(address).await {
            Ok(_) => made.fetch_add(1, Ordering::Relaxed),
            Err(_) => refused.fetch_add(1, Ordering::Relaxed),
        };
        // As fast as the ports of one address last for the length of the test.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn survives(breaks: Breaks, ack: &str) {
    let name = format!("panics, {breaks:?}, {ack}");
    let (sink, other) =
        (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    let engine = start(&text(breaks, &name, ack, sink.addr(), other.addr())).await;
    let address = receiver(&engine, if breaks == Breaks::Receiver { "flaky" } else { "otlp" });
    let mut events = engine.events();
    let component = faults(&name);

    let (stop, made, refused): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let mut probing = JoinSet::new();
    probing.spawn(probe(address, stop.clone(), made.clone(), refused.clone()));
    let load = |address, rate| {
        // Two seconds more than there are panics: the last one has an after, too.
        Loader::new(address).open(2, 16, rate).duration(LASTS + Duration::from_secs(2)).grace(PATIENCE)
    };
    let bystander = load(receiver(&engine, "otlp/bystander"), 1_000.0).start();
    let running = load(address, 4_000.0).retry(true).start();
    assert!(sink.wait_for(1_000, PATIENCE).await);
    let began = Instant::now();
    component.set(Rule::Every(EVERY));
    tokio::time::sleep_until(began + LASTS).await;
    component.set(Rule::Never);
    let (load, bystander) = tokio::join!(running.finish(), bystander.finish());
    stop.store(true, Ordering::Relaxed);
    while probing.join_next().await.is_some() {}
    drained(&engine).await;

    let (panics, recoveries) = (component.panics(), component.recoveries());
    let balance = verdict(&load, &sink.snapshot());
    let slowest = recoveries.iter().max().copied().unwrap_or_default();
    let median = {
        let mut sorted = recoveries.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    println!("{name}: {panics} panics, back after {median:?} (median), {slowest:?} (most); {balance} {load}");
    assert!((15..=20).contains(&panics), "{name}: {panics} panics");
    assert_eq!(recoveries.len() as u64, panics, "{name}: a copy did not come back");
    assert!(slowest <= BACK, "{name}: {recoveries:?}");

    assert!(balance.nothing_lost(), "{name}: {balance}; {load}");
    assert_eq!(
        (load.unresolved, load.refused_for_good(), load.transport_errors),
        (0, 0, 0),
        "{name}: {load}"
    );
    // What was in hand at a panic may arrive twice: a message of a copy, or the exports in flight.
    let in_hand = if breaks == Breaks::Exporter { CONSUMERS } else { 1 };
    assert!(balance.twice <= panics * in_hand * 100, "{name}: {balance}");

    let theirs = verdict(&bystander, &other.snapshot());
    assert!(theirs.is_exact(), "{name}: the bystander: {theirs}; {bystander}");
    let noticed =
        (bystander.refusals(), bystander.transport_errors, bystander.connect_errors, bystander.unresolved);
    assert_eq!(noticed, (0, 0, 0, 0), "{name}: the bystander: {bystander}");
    assert_eq!(refused.load(Ordering::Relaxed), 0, "{name}: the port refused");
    assert!(made.load(Ordering::Relaxed) > 500, "{name}: only {made:?} connections were tried");

    // The supervisor says the same: one restart a panic, each at once, and of nothing else.
    let mut restarts = 0;
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Restarted { name: actor, after, .. } => {
                assert!(actor.contains("flaky") && after <= BACK, "{name}: {actor} after {after:?}");
                restarts += 1;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(restarts, panics, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_a_second_in_each_kind_of_stage() {
    let _machine = alone().await;
    tokio::join!(
        survives(Breaks::Receiver, "delivered"),
        survives(Breaks::Processor, "delivered"),
        survives(Breaks::Exporter, "delivered"),
        survives(Breaks::Exporter, "accepted"),
    );
}
