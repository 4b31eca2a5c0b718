//! What goes in comes out: exact counts, nothing lost, nothing twice.

use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::{Loader, Sink, requests, reserve, verdict};

use crate::harness::{PATIENCE, beside_others, drained, otlp, receiver, relay, start};

const REQUESTS: u64 = 60;

/// Compression without optimisation takes more time than anything that is tested here.
const NONE: &str = "compression = \"none\"";

/// Metrics and logs, a request after the other; how many of each.
async fn metrics_and_logs(client: &mut Client) -> (u64, u64) {
    let (mut points, mut logs) = (0, 0);
    for size in 1..=20 {
        assert_eq!(client.export(Signal::Metrics, &requests::metrics(size)).await.unwrap(), Reply::Accepted);
        assert_eq!(client.export(Signal::Logs, &requests::logs(2 * size)).await.unwrap(), Reply::Accepted);
        points += size as u64;
        logs += 2 * size as u64;
    }
    (points, logs)
}

async fn counts_are_exact(ack: &str, compression: &str) {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&relay(sink.addr(), ack, &format!("compression = {compression:?}"))).await;

    let load = Loader::new(otlp(&engine)).closed(2, 4).requests(REQUESTS).run().await;
    let mut client = Client::connect(otlp(&engine)).await.unwrap();
    let (points, logs) = metrics_and_logs(&mut client).await;
    let case = format!("{ack}, {compression}: {load}");
    assert_eq!((load.acknowledged.len(), load.refusals(), load.unresolved), (REQUESTS * 100, 0, 0), "{case}");
    if ack == "delivered" {
        // "ok" came after the destination's: nothing is waited for.
        assert!(verdict(&load, &sink.snapshot()).is_exact(), "{case}");
    }
    drained(&engine).await;

    let counts = sink.snapshot();
    assert!(verdict(&load, &counts).is_exact(), "{case}; {}", verdict(&load, &counts));
    assert_eq!((counts.points, counts.logs, counts.foreign_spans), (points, logs, 0), "{case}");
    assert_eq!((counts.malformed, counts.refused, counts.abandoned), (0, 0, 0), "{case}");
    let encoding = if compression == "none" { "identity" } else { compression };
    assert_eq!(counts.encodings.keys().collect::<Vec<_>>(), [encoding], "{case}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_uncompressed() {
    counts_are_exact("accepted", "none").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_gzip() {
    counts_are_exact("accepted", "gzip").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_zstd() {
    counts_are_exact("accepted", "zstd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_uncompressed() {
    counts_are_exact("delivered", "none").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_gzip() {
    counts_are_exact("delivered", "gzip").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_zstd() {
    counts_are_exact("delivered", "zstd").await;
}

/// An agent and a gateway in one process, each with its own acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_to_gateway_in_one_process() {
    let _turn = beside_others().await;
    for (agent, gateway) in [("delivered", "delivered"), ("accepted", "delivered"), ("delivered", "accepted")]
    {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let between = reserve();
        let indent = |role: &str, text: String| {
            text.replace("[receivers", &format!("[{role}.receivers"))
                .replace("[processors", &format!("[{role}.processors"))
                .replace("[exporters", &format!("[{role}.exporters"))
                .replace("[pipelines", &format!("[{role}.pipelines"))
        };
        let gateway_text = relay(sink.addr(), gateway, NONE).replace("127.0.0.1:0", &between.to_string());
        let text = indent("agent", relay(between, agent, NONE)) + &indent("gateway", gateway_text);
        let engine = start(&text).await;
        let address = engine.address(Some("agent"), "otlp").unwrap();
        assert_eq!(engine.address(Some("gateway"), "otlp"), Some(between));

        let load = Loader::new(address).closed(4, 4).requests(4 * REQUESTS).run().await;
        let mut client = Client::connect(address).await.unwrap();
        let (points, logs) = metrics_and_logs(&mut client).await;
        let case = format!("{agent} -> {gateway}: {load}");
        assert_eq!((load.acknowledged.len(), load.refusals()), (4 * REQUESTS * 100, 0), "{case}");
        drained(&engine).await;
        let counts = sink.snapshot();
        assert!(verdict(&load, &counts).is_exact(), "{case}; {}", verdict(&load, &counts));
        assert_eq!((counts.points, counts.logs), (points, logs), "{case}");
        assert!(counts.batches.max() > 100, "{case}: nothing was merged: {counts}");
    }
}

/// Without a batch processor each request stays one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_batching_requests_stay_as_they_are() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let text = relay(sink.addr(), "accepted", NONE).replace(r#"["memory_limiter", "batch"]"#, "[]");
    let engine = start(&text).await;
    let load = Loader::new(otlp(&engine)).closed(2, 4).requests(REQUESTS).run().await;
    drained(&engine).await;
    let counts = sink.snapshot();
    assert!(verdict(&load, &counts).is_exact(), "{load}");
    assert_eq!((counts.taken, counts.batches.max()), (REQUESTS, 100));
}

/// A request larger than a batch may be is cut, and is still one acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_are_cut() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let text = relay(sink.addr(), "delivered", NONE)
        .replace("timeout = \"50ms\"", "timeout = \"50ms\"\nsend_batch_size = 64\nsend_batch_max_size = 64");
    let engine = start(&text).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(1_000).closed(1, 2).requests(10).run().await;
    let counts = sink.snapshot();
    assert!(verdict(&load, &counts).is_exact(), "{load}; {}", verdict(&load, &counts));
    assert_eq!((load.acknowledged.len(), counts.batches.max()), (10_000, 64));
    drained(&engine).await;
}

/// Two receivers with port 0 have a port each, and each feeds its own pipeline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_port_is_a_port_of_its_own() {
    let _turn = beside_others().await;
    let (one, two) = (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    let engine = start(&format!(
        r#"
[receivers."otlp/one".protocols.grpc]
endpoint = "127.0.0.1:0"
[receivers."otlp/two".protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters."otlp/one"]
endpoint = "http://{}"
[exporters."otlp/two"]
endpoint = "http://{}"
[pipelines."traces/one"]
receivers = ["otlp/one"]
exporters = ["otlp/one"]
[pipelines."traces/two"]
receivers = ["otlp/two"]
exporters = ["otlp/two"]
"#,
        one.addr(),
        two.addr()
    ))
    .await;
    let (first, second) = (receiver(&engine, "otlp/one"), receiver(&engine, "otlp/two"));
    assert_ne!(first, second);
    let load = Loader::new(second).requests(3).run().await;
    assert!(two.wait_for(load.acknowledged.len(), PATIENCE).await);
    assert!(verdict(&load, &two.snapshot()).is_exact(), "{load}");
    assert_eq!(one.arrived(), 0);
    drained(&engine).await;
}
