//! One part fails alone: branches of a pipeline, pipelines of a receiver, engines of a process.

use std::net::SocketAddr;
use std::time::Duration;

use watershed_testkit::{Answer, Loader, Sink, verdict};

use crate::harness::{PATIENCE, beside_others, drained, metric, otlp, relay, start};

async fn sink() -> Sink {
    Sink::start("127.0.0.1:0").await.unwrap()
}

/// Two exporters, the second of which hangs: `settings` are that one's.
fn two_exporters(lives: SocketAddr, hangs: SocketAddr, settings: &str, pipelines: &str) -> String {
    format!(
        r#"
service.shutdown_timeout = "1s"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters."otlp/lives"]
endpoint = "http://{lives}"
[exporters."otlp/hangs"]
endpoint = "http://{hangs}"
{settings}
{pipelines}
"#
    )
}

const ONE_PIPELINE: &str = r#"
[pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp/lives", "otlp/hangs"]
ack = "accepted"
"#;

const TWO_PIPELINES: &str = r#"
[pipelines."traces/lives"]
receivers = ["otlp"]
exporters = ["otlp/lives"]
ack = "accepted"
[pipelines."traces/hangs"]
receivers = ["otlp"]
exporters = ["otlp/hangs"]
ack = "accepted"
"#;

/// Sends far more than the hanging queue holds; the living branch must have all of it.
async fn lives_on(settings: &str, pipelines: &str) {
    let _turn = beside_others().await;
    let (lives, hangs) = (sink().await, sink().await);
    hangs.answer(Answer::Hang);
    let engine = start(&two_exporters(lives.addr(), hangs.addr(), settings, pipelines)).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(2, 4).requests(300).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (3_000, 0), "{load}");
    assert!(lives.wait_for(3_000, PATIENCE).await, "{}", lives.snapshot());
    assert!(verdict(&load, &lives.snapshot()).is_exact(), "{load}");
    let metrics = engine.metrics().render();
    let dropped = metric(&metrics, "otelcol_exporter_enqueue_failed_spans{exporter=\"otlp/hangs\"}");
    let held = metric(&metrics, "otelcol_exporter_queue_size{exporter=\"otlp/hangs\"}");
    assert_eq!(dropped + 10.0 * held, 3_000.0, "what the other went without is counted:\n{metrics}");
    assert_eq!(metric(&metrics, "otelcol_exporter_enqueue_failed_spans{exporter=\"otlp/lives\"}"), 0.0);
    // What hangs is given up at the deadline.
    let _ = engine.drain(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_hangs_does_not_hold_up_the_other() {
    lives_on("sending_queue = { queue_size = 20 }", ONE_PIPELINE).await;
}

/// The same with a pipeline for each, where the one that hangs is declared to be of no account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_hangs_does_not_hold_up_the_other() {
    lives_on("sending_queue = { queue_size = 20, required = false }", TWO_PIPELINES).await;
}

/// Small requests take more than their bytes, and the queue of batches is long: the dead branch must still not take the
/// memory that the other needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_hangs_does_not_take_the_memory_of_the_other() {
    let _turn = beside_others().await;
    let (lives, hangs) = (sink().await, sink().await);
    hangs.answer(Answer::Hang);
    let limits =
        "processors.memory_limiter = { check_interval = \"1s\", limit_mib = 40 }\nprocessors.batch = {}";
    let pipelines =
        ONE_PIPELINE.replace("exporters =", "processors = [\"memory_limiter\", \"batch\"]\nexporters =");
    let text = two_exporters(lives.addr(), hangs.addr(), "sending_queue = { required = false }", &pipelines);
    let text = text.replace(
        "[exporters.\"otlp/hangs\"]",
        "sending_queue = { required = true }\n[exporters.\"otlp/hangs\"]",
    );
    let engine = start(&format!("{limits}\n{text}")).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(1).closed(2, 4).requests(25_000).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (25_000, 0), "{load}");
    assert!(lives.wait_for(25_000, PATIENCE).await, "{}", lives.snapshot());
    let metrics = engine.metrics().render();
    let dropped = metric(&metrics, "otelcol_exporter_enqueue_failed_spans{exporter=\"otlp/hangs\"}");
    assert!(dropped > 1_000.0, "{metrics}");
    let _ = engine.drain(Duration::from_millis(500)).await;
}

/// A required branch that is full refuses, and then no branch has been given the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_branch_that_is_full_refuses_before_any_is_given_it() {
    let _turn = beside_others().await;
    let (lives, hangs) = (sink().await, sink().await);
    hangs.answer(Answer::Hang);
    let settings = "sending_queue = { queue_size = 20, required = true }";
    let engine = start(&two_exporters(lives.addr(), hangs.addr(), settings, ONE_PIPELINE)).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(1, 2).requests(100).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (200, 80), "{load}");
    assert_eq!((load.refused_for_good(), load.with_retry_info), (0, 80), "{load}");
    assert!(lives.wait_for(200, PATIENCE).await, "{}", lives.snapshot());
    let _ = engine.drain(Duration::from_millis(500)).await;
    let balance = verdict(&load, &lives.snapshot());
    assert!(balance.is_exact() && balance.arrived == 200, "a refusal has duplicated something: {balance}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_engines_in_one_process_do_not_meet() {
    let _turn = beside_others().await;
    let (one, two) = (sink().await, sink().await);
    let left = start(&relay(one.addr(), "delivered", "")).await;
    let right = start(&relay(two.addr(), "delivered", "")).await;
    assert_ne!(otlp(&left), otlp(&right));
    let load = |engine| Loader::new(otlp(engine)).closed(2, 2).requests(40).run();
    let (first, second) = tokio::join!(load(&left), load(&right));
    assert!(verdict(&first, &one.snapshot()).is_exact(), "{first}");
    assert!(verdict(&second, &two.snapshot()).is_exact(), "{second}");
    assert_eq!((one.arrived(), two.arrived()), (4_000, 4_000));
    let accepted = |engine: &watershed::engine::Engine| {
        metric(&engine.metrics().render(), "otelcol_receiver_accepted_spans")
    };
    assert_eq!((accepted(&left), accepted(&right)), (4_000.0, 4_000.0));
    // One ends, the other does not.
    drained(&left).await;
    let after = load(&right).await;
    assert!(verdict(&after, &two.snapshot()).is_exact(), "{after}");
    drained(&right).await;
}

/// Any runtime will do, also one that is gone: the engine's threads are its own.
#[test]
fn an_engine_outlives_the_runtime_that_started_it() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kept = runtime();
    let _turn = kept.block_on(beside_others());
    let sink = kept.block_on(sink());
    let foreign = runtime();
    let engine = foreign.block_on(start(&relay(sink.addr(), "delivered", "")));
    drop(foreign);
    let load = kept.block_on(Loader::new(otlp(&engine)).requests(10).run());
    assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}");
    kept.block_on(drained(&engine));

    // A single-threaded one as well.
    let single = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    single.block_on(async {
        let engine = start(&relay(sink.addr(), "accepted", "")).await;
        let load = Loader::new(otlp(&engine)).requests(10).run().await;
        drained(&engine).await;
        assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}");
    });
}

/// A handle that is dropped drains: nobody is left who could ask for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_engine_drains() {
    let _turn = beside_others().await;
    let sink = sink().await;
    sink.answer(Answer::Slow(Duration::from_millis(50)));
    let engine = start(&relay(sink.addr(), "accepted", "").replace("50ms", "300ms")).await;
    let load = Loader::new(otlp(&engine)).closed(1, 4).requests(20).run().await;
    assert_eq!(load.acknowledged.len(), 2_000, "{load}");
    drop(engine);
    assert!(sink.wait_for(2_000, PATIENCE).await, "{}", sink.snapshot());
    assert!(verdict(&load, &sink.snapshot()).is_exact());
}
