//! Several endpoints of one exporter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use watershed::engine::Engine;
use watershed_net::{Client, ClientOptions, Code};
use watershed_testkit::{Answer, Loader, Running, Sink};

use super::{all_arrive, becomes, lost, share, sinks};
use crate::harness::{
    PATIENCE, addresses, alone, beside_others, both_protocols, drained, http as web, metric, otlp, start,
};

/// A collector with several endpoints of one exporter, which has these settings beside others.
async fn several(kind: &str, settings: &str, sinks: &[&Sink]) -> Engine {
    let scheme = if kind == "otlphttp" { "http://" } else { "" };
    let endpoints: Vec<String> = sinks.iter().map(|sink| format!("{scheme}{}", sink.addr())).collect();
    start(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.{kind}]
endpoints = {endpoints:?}
{settings}
health_check.slow_start = "0s"
tls.insecure = true
compression = "none"
[pipelines.traces]
receivers = ["otlp"]
exporters = ["{kind}"]
ack = "accepted"
"#
    ))
    .await
}

/// What says whether an exporter uses an endpoint.
fn used(kind: &str, sink: &Sink) -> String {
    let scheme = if kind == "otlphttp" { "http://" } else { "" };
    let labels = format!("exporter=\"{kind}\",endpoint=\"{scheme}{}\"", sink.addr());
    format!("watershed_loadbalancer_backend_used{{{labels}}}")
}

/// Waits until so many spans are acknowledged.
async fn acknowledges(engine: &Engine, load: &Running, spans: u64) {
    let began = Instant::now();
    while load.acknowledged() < spans {
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{} of {spans}:\n{}",
            load.acknowledged(),
            engine.metrics().render()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_with_several_endpoints_loses_nothing_when_one_is_killed_under_load() {
    let _turn = alone().await;
    for (kind, policy) in [
        ("otlp", "round_robin"),
        ("otlp", "least_loaded"),
        ("otlp", "failover"),
        ("otlphttp", "round_robin"),
        ("otlphttp", "failover"),
    ] {
        let [a, b, c] = sinks().await;
        let all = [&a, &b, &c];
        let engine = several(kind, &format!("policy = {policy:?}"), &all).await;
        let used = |sink: &Sink| used(kind, sink);
        let load = Loader::new(otlp(&engine)).spans_per_request(20).open(2, 64, 4_000.0).start();
        acknowledges(&engine, &load, 2_000).await;
        a.stop().await;
        let took = becomes(&engine, &used(&a), 0.0).await;
        assert!(took <= Duration::from_secs(1), "{kind}, {policy}: {took:?}");
        let before = load.acknowledged();
        acknowledges(&engine, &load, before + 4_000).await;
        a.restart().await.unwrap();
        let took = becomes(&engine, &used(&a), 1.0).await;
        assert!(took <= Duration::from_secs(1), "{kind}, {policy}: back after {took:?}");
        let (had, before) = (share(&a, load.progress().run), load.acknowledged());
        acknowledges(&engine, &load, before + 2_000).await;
        load.stop();
        let load = load.finish().await;
        drained(&engine).await;
        assert!(lost(&load, &all).is_empty(), "{kind}, {policy}: {load}");
        assert!(share(&a, load.run) > had, "{kind}, {policy}: it is not used again");
        let of = [&a, &b, &c].map(|sink| share(sink, load.run));
        match policy {
            // In the order of the list, and back.
            "failover" => assert!(of[1] > 0 && of[2] == 0, "{kind}: {of:?}"),
            _ => assert!(
                of.iter().all(|share| *share > load.acknowledged.len() / 20),
                "{kind}, {policy}: {of:?}"
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_gathered_while_nobody_was_there_goes_out_no_faster_than_the_exporter_is_told() {
    const RATE: usize = 2_000;
    let _turn = beside_others().await;
    let [a, b] = sinks().await;
    a.stop().await;
    b.stop().await;
    let settings = format!(
        "sending_queue.items_per_second = {RATE}\nretry_on_failure = {{ initial_interval = '50ms', max_interval = '50ms' }}"
    );
    let engine = several("otlp", &settings, &[&a, &b]).await;
    let send =
        |requests| Loader::new(otlp(&engine)).spans_per_request(20).closed(2, 4).requests(requests).run();
    let load = send(300).await;
    assert_eq!(load.acknowledged.len() as usize, 3 * RATE, "{load}");
    let times = Arc::<Mutex<Vec<Instant>>>::default();
    for sink in [&a, &b] {
        let times = times.clone();
        sink.answer_by(move |_| {
            times.lock().push(Instant::now());
            Answer::Ok
        });
        sink.restart().await.unwrap();
    }
    all_arrive(&load, &[&a, &b]).await;
    // Whoever was back first may have been given all of that.
    for sink in [&a, &b] {
        becomes(&engine, &used("otlp", sink), 1.0).await;
    }
    let more = send(100).await;
    all_arrive(&more, &[&a, &b]).await;
    drained(&engine).await;
    assert!(share(&a, more.run) > 0 && share(&b, more.run) > 0);
    let times = std::mem::take(&mut *times.lock());
    let took = *times.iter().max().unwrap() - *times.iter().min().unwrap();
    // Four seconds' worth, but for what may go at once and what the first of them was late by.
    assert!(took > Duration::from_millis(3_500), "{took:?}");
    assert!(metric(&engine.metrics().render(), "watershed_exporter_held_back") > 100.0);
}

/// What balancers ask is no telemetry, and nothing that was turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_says_whether_it_serves_and_counts_no_question() {
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    let _turn = beside_others().await;
    let engine = start(&format!(
        "{}[pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"nop\"]\n",
        both_protocols("")
    ))
    .await;
    let [grpc, http] = addresses(&engine);
    let client = Client::new(ClientOptions::new(format!("http://{grpc}"))).unwrap();
    let ask = async |question: &'static [u8]| {
        client.unary(CHECK, &HeaderMap::new(), &[Bytes::from_static(question)], Some(PATIENCE)).await
    };
    assert_eq!(&ask(b"").await.unwrap()[..], [8, 1]);
    // Of its own services it says nothing by name.
    assert_eq!(ask(b"\x0a\x01x").await.unwrap_err().status.code, Code::NotFound);
    assert_eq!(web::get(http, "/").await.map(|(status, _)| status), Some(404));
    let refused = "watershed_receiver_refused_requests";
    assert_eq!(metric(&engine.metrics().render(), refused), 0.0);
    // What is too long for a question is one.
    let long: &[u8] = Box::leak(vec![0; 1_000].into_boxed_slice());
    assert_eq!(ask(long).await.unwrap_err().status.code, Code::Unimplemented);
    assert_eq!(web::get(http, "/v1/traces").await.map(|(status, _)| status), Some(405));
    assert_eq!(metric(&engine.metrics().render(), refused), 2.0);
    drained(&engine).await;
}
