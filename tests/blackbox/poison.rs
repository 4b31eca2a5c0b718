//! A message that breaks whoever handles it is found out, alone.

use std::net::SocketAddr;

use tokio::task::JoinSet;
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::{self, TraceTemplate};
use watershed_testkit::{Loader, Sink, verdict, wait_until};

use crate::harness::kinds::{Rule, faults};
use crate::harness::{PATIENCE, beside_others, drained, metric, receiver, start};

/// The run that the poisonous span belongs to, and how it stands in the bytes.
const POISON: u64 = 0xdead_0bad_cafe_f00d;

/// `flaky` in one place of a relay that merges.
fn text(place: &str, name: &str, ack: &str, sink: SocketAddr) -> String {
    let faults = format!("faults = {name:?}");
    let here =
        |wanted: &str, yes: &str, no: &str| if place == wanted { yes.to_owned() } else { no.to_owned() };
    let (receiver, exporter) = (here("receiver", "flaky", "otlp"), here("exporter", "flaky", "otlp"));
    format!(
        r#"
[receivers.{receiver}]
{}
protocols.grpc.endpoint = "127.0.0.1:0"
{}
[processors.batch]
timeout = "20ms"
[exporters.{exporter}]
{}
endpoint = "http://{sink}"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms" }}
[pipelines.traces]
receivers = ["{receiver}"]
processors = {}
exporters = ["{exporter}"]
ack = "{ack}"
"#,
        here("receiver", &faults, ""),
        here("processor", &format!("[processors.flaky]\n{faults}"), ""),
        here("exporter", &faults, ""),
        here("processor", r#"["flaky", "batch"]"#, r#"["batch"]"#),
    )
}

async fn is_found_out(place: &str, ack: &str) {
    let _turn = beside_others().await;
    let name = format!("poison, {place}, {ack}");
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&text(place, &name, ack, sink.addr())).await;
    let address = receiver(&engine, if place == "receiver" { "flaky" } else { "otlp" });
    let component = faults(&name);
    component.set(Rule::Marked(POISON.to_be_bytes().to_vec()));

    let running = Loader::new(address).spans_per_request(10).closed(4, 8).retry(true).grace(PATIENCE).start();
    assert!(sink.wait_for(200, PATIENCE).await);
    let mut client = Client::connect(address).await.unwrap();
    let head = Head::new(Signal::Traces, Some(PATIENCE), None);
    let framed = requests::frame(&TraceTemplate::new(POISON, 3).message(0));
    // A copy that has nothing else in its mailbox can prove nothing: refused, and sent again. So it comes in
    // company, on the same connection.
    let good = TraceTemplate::new(!POISON, 3);
    let mut tries = 1;
    let reply = loop {
        let mut company = JoinSet::new();
        for number in 0..20 {
            let (mut client, head, framed) = (client.clone(), head.clone(), good.framed(3 * number));
            company.spawn(async move { client.call(&head, framed).await.unwrap() });
        }
        let reply = client.call(&head, framed.clone()).await.unwrap();
        while let Some(beside) = company.join_next().await {
            let beside = beside.unwrap();
            assert!(!matches!(&beside, Reply::Refused(status) if !status.retryable()), "{name}: {beside:?}");
        }
        match reply {
            Reply::Refused(status) if status.retryable() => {
                tokio::time::sleep(status.retry_delay.expect("a refusal says when to try again")).await;
            }
            reply => break reply,
        }
        tries += 1;
        assert!(tries < 30, "{name}: never found out");
    };
    let before = sink.arrived();
    if ack == "accepted" && place == "exporter" {
        // It had its "ok" in the queue; that it went no further is counted.
        assert_eq!(reply, Reply::Accepted, "{name}");
    } else {
        let Reply::Refused(status) = reply else { panic!("{name}: {reply:?}") };
        assert_eq!((status.code, status.retry_delay), (Code::INVALID_ARGUMENT, None), "{name}: {status}");
    }
    // The others go on behind it.
    assert!(sink.wait_for(before + 1_000, PATIENCE).await, "{name}: {}", sink.snapshot());
    running.stop();
    let load = running.finish().await;
    // What is convicted after its "ok" is lost, and a drain that loses something says so: not in this one.
    let convicted = async || metric(&engine.metrics().render(), "watershed_actor_poisoned") > 0.0;
    assert!(wait_until(convicted, PATIENCE).await, "{name}: never convicted");
    drained(&engine).await;
    let counts = sink.snapshot();
    let balance = verdict(&load, &counts);
    assert!(balance.nothing_lost(), "{name}: {balance}; {load}");
    assert_eq!((load.refused_for_good(), load.unresolved), (0, 0), "{name}: an innocent was blamed: {load}");
    assert!(!counts.runs.contains_key(&POISON), "{name}: it came through");
    let metrics = engine.metrics().render();
    assert_eq!(metric(&metrics, "watershed_actor_poisoned"), 1.0, "{name}:\n{metrics}");
    // It has to break the stage alone twice; in a batch, once more before.
    let panics = component.panics();
    assert!((2..=4 * tries).contains(&panics), "{name}: {panics} panics in {tries} tries");
    println!("{name}: found out after {panics} panics in {tries} tries; {balance}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_receiver() {
    is_found_out("receiver", "delivered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_processor_delivered() {
    is_found_out("processor", "delivered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_processor_accepted() {
    is_found_out("processor", "accepted").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_exporter_delivered() {
    is_found_out("exporter", "delivered").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_exporter_accepted() {
    is_found_out("exporter", "accepted").await;
}

/// Where nothing else was ever finished, the stage is as suspect as the message: refused, not rejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_proof_nothing_is_rejected() {
    let _turn = beside_others().await;
    for place in ["receiver", "processor", "exporter"] {
        let name = format!("no proof, {place}");
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let engine = start(&text(place, &name, "delivered", sink.addr())).await;
        faults(&name).set(Rule::Always);
        let address = receiver(&engine, if place == "receiver" { "flaky" } else { "otlp" });
        let mut client = Client::connect(address).await.unwrap();
        let reply = client.export(Signal::Traces, &TraceTemplate::new(1, 3).message(0)).await.unwrap();
        let Reply::Refused(status) = reply else { panic!("{name}: {reply:?}") };
        assert!(status.code == Code::UNAVAILABLE && status.retry_delay.is_some(), "{name}: {status}");
        // The same again, once the stage is well: it was not the message's fault.
        faults(&name).set(Rule::Never);
        let load = Loader::new(address).run_id(1).spans_per_request(3).requests(1).retry(true).run().await;
        assert_eq!(load.acknowledged.len(), 3, "{name}: {load}");
        drained(&engine).await;
    }
}
