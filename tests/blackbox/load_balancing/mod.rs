//! Several gateways behind one exporter: who gets what, and what becomes of it when one of them goes.

mod scale;
mod several;
mod silence;

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use watershed::engine::Engine;
use watershed_testkit::{Answer, LoadReport, Loader, SeqSet, Sink};

use crate::harness::{PATIENCE, alone, beside_others, drained, metric, otlp, start};

async fn sinks<const COUNT: usize>() -> [Sink; COUNT] {
    let mut sinks = Vec::new();
    for _ in 0..COUNT {
        sinks.push(Sink::start("127.0.0.1:0").await.unwrap());
    }
    sinks.try_into().unwrap_or_else(|_| panic!("as many as were asked for"))
}

/// A collector that balances; `exporter` is the table of the exporter.
async fn balancer(ack: &str, exporter: &str) -> Engine {
    patient_balancer(ack, "2s", exporter).await
}

/// As [`balancer`], where an attempt may take as long as that.
async fn patient_balancer(ack: &str, patience: &str, exporter: &str) -> Engine {
    start(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[exporters.load_balancing]
protocol.otlp.tls.insecure = true
protocol.otlp.compression = "none"
protocol.otlp.timeout = "{patience}"
{exporter}
[pipelines.traces]
receivers = ["otlp"]
exporters = ["load_balancing"]
ack = "{ack}"
"#
    ))
    .await
}

/// Quick retries, where it is not the point that others are quicker.
const QUICK: &str =
    "protocol.otlp.retry_on_failure = { initial_interval = \"20ms\", max_interval = \"100ms\" }";

fn listed(sinks: &[&Sink]) -> String {
    let names: Vec<String> = sinks.iter().map(|sink| sink.addr().to_string()).collect();
    format!("{names:?}")
}

fn hostnames(sinks: &[&Sink]) -> String {
    format!("resolver.static.hostnames = {}", listed(sinks))
}

/// Acknowledged and in none of the sinks.
fn lost(load: &LoadReport, sinks: &[&Sink]) -> SeqSet {
    let mut missing = load.acknowledged.clone();
    for sink in sinks {
        if let Some(arrivals) = sink.snapshot().runs.get(&load.run) {
            missing = missing.difference(&arrivals.seen);
        }
    }
    missing
}

/// Spans of a run that a sink has, once each.
fn share(sink: &Sink, run: u64) -> u64 {
    sink.snapshot().runs.get(&run).map_or(0, |arrivals| arrivals.seen.len())
}

/// Waits until a metric has this value; how long that took.
async fn becomes(engine: &Engine, start: &str, value: f64) -> Duration {
    let began = Instant::now();
    loop {
        let text = engine.metrics().render();
        if metric(&text, start) == value {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "{start} is not {value}:\n{text}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn used(sink: &Sink) -> String {
    let labels = format!("exporter=\"load_balancing\",endpoint=\"{}\"", sink.addr());
    format!("watershed_loadbalancer_backend_used{{{labels}}}")
}

/// Waits until all that was acknowledged has arrived somewhere; how long that took.
async fn all_arrive(load: &LoadReport, sinks: &[&Sink]) -> Duration {
    let began = Instant::now();
    while !lost(load, sinks).is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} are missing of {load}", lost(load, sinks).len());
        sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

fn rerouted(engine: &Engine) -> f64 {
    metric(&engine.metrics().render(), "watershed_loadbalancer_rerouted_items")
}

/// Both halves of each of so many traces, one after the other; whether each has arrived whole at one sink.
async fn traces_are_whole(engine: &Engine, sinks: &[&Sink], run: u64) {
    const TRACES: u64 = 3_000;
    for half in 0..2 {
        let load =
            Loader::new(otlp(engine)).run_id(run).spans_per_request(100).closed(2, 2).requests(TRACES / 100);
        let load = load.run().await;
        assert_eq!(load.acknowledged.len(), TRACES, "half {half}: {load}");
    }
    let counts = || {
        let of =
            |sink: &&Sink| sink.snapshot().runs.get(&run).map_or((0, 0), |run| (run.seen.len(), run.extra));
        sinks.iter().map(of).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    let began = Instant::now();
    while counts().0 + counts().1 < 2 * TRACES && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(counts(), (TRACES, TRACES), "a trace has come apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_trace_is_whole_on_one_of_three_gateways() {
    let _turn = beside_others().await;
    let [a, b, c] = sinks().await;
    let engine = balancer("delivered", &hostnames(&[&a, &b, &c])).await;
    traces_are_whole(&engine, &[&a, &b, &c], 7).await;
    for sink in [&a, &b, &c] {
        let share = share(sink, 7);
        assert!((500..1500).contains(&share), "{share} of 3000");
        let text = engine.metrics().render();
        let outcome = format!("endpoint=\"{}\",success=\"true\"", sink.addr());
        assert!(
            text.lines()
                .any(|line| line.starts_with("otelcol_loadbalancer_backend_outcome")
                    && line.contains(&outcome)),
            "{text}"
        );
    }
    let text = engine.metrics().render();
    assert_eq!(
        metric(&text, "otelcol_loadbalancer_num_backends{exporter=\"load_balancing\",resolver=\"static\"}"),
        3.0
    );
    drained(&engine).await;
}

/// Under load one of three is killed and comes back, with what was acknowledged lying in memory alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_loses_nothing_and_is_left_out_within_a_second() {
    let _turn = alone().await;
    let [a, b, c] = sinks().await;
    let all = [&a, &b, &c];
    let engine = balancer("accepted", &hostnames(&all)).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(20).open(2, 64, 4_000.0);
    let load = load.duration(Duration::from_secs(6)).start();
    while load.acknowledged() < 2_000 {
        sleep(Duration::from_millis(5)).await;
    }
    b.stop().await;
    let took = becomes(&engine, &used(&b), 0.0).await;
    assert!(took <= Duration::from_secs(1), "{took:?}");
    let before = load.acknowledged();
    while load.acknowledged() < before + 4_000 {
        sleep(Duration::from_millis(5)).await;
    }
    b.restart().await.unwrap();
    becomes(&engine, &used(&b), 1.0).await;
    let load = load.finish().await;
    traces_are_whole(&engine, &all, load.run + 1).await;
    drained(&engine).await;
    let lost = lost(&load, &all);
    assert!(lost.is_empty() && load.acknowledged.len() > 10_000, "{} lost of {load}", lost.len());
    assert!(rerouted(&engine) > 0.0, "{}", engine.metrics().render());
    assert!(share(&b, load.run + 1) > 300, "it is back");
    eprintln!("left out after {took:?}, {} items re-routed", rerouted(&engine));
}

/// The others are not sent again what they have, though all of it came in one request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_part_that_failed_is_sent_again() {
    let _turn = beside_others().await;
    let [a, b, c] = sinks().await;
    let all = [&a, &b, &c];
    let unavailable = || Answer::Unavailable { retry_delay: None };
    b.answer_next([unavailable(), unavailable()]);
    let engine = balancer("delivered", &format!("{}\n{QUICK}", hostnames(&all))).await;
    let load =
        Loader::new(otlp(&engine)).retry(false).spans_per_request(60).closed(1, 1).requests(20).run().await;
    drained(&engine).await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (1_200, 0), "{load}");
    assert!(lost(&load, &all).is_empty());
    let copies = |sink: &&Sink| sink.snapshot().runs.values().map(|run| run.extra).sum::<u64>();
    assert_eq!((all.iter().map(copies).sum::<u64>(), b.snapshot().refused), (0, 2));
}

fn write(path: &Path, sinks: &[&Sink]) {
    let lines: Vec<String> = sinks.iter().map(|sink| format!("{}\n", sink.addr())).collect();
    // As whatever writes such a file should: it is whole or not there.
    let new = path.with_extension("new");
    std::fs::write(&new, lines.concat()).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_backend_that_is_removed_goes_to_the_others() {
    let _turn = beside_others().await;
    let [a, b, c] = sinks().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateways");
    write(&path, &[&a, &b, &c]);
    b.answer(Answer::Hang);
    let exporter = format!(
        "resolver.file = {{ path = {path:?}, interval = \"20ms\" }}\nhealth_check = {{ enabled = false }}"
    );
    let engine = balancer("accepted", &exporter).await;
    becomes(&engine, &used(&b), 1.0).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(30).closed(2, 4).requests(200).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (6_000, 0), "{load}");
    assert!(!lost(&load, &[&a, &c]).is_empty(), "something waits for the one that hangs");
    write(&path, &[&a, &c]);
    let began = Instant::now();
    while !lost(&load, &[&a, &c]).is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} wait", lost(&load, &[&a, &c]).len());
        sleep(Duration::from_millis(10)).await;
    }
    assert!(rerouted(&engine) > 1_000.0, "{}", rerouted(&engine));
    assert_eq!(metric(&engine.metrics().render(), "otelcol_loadbalancer_num_backends"), 2.0);
    // A new one takes its part.
    b.answer(Answer::Ok);
    write(&path, &[&a, &b, &c]);
    becomes(&engine, &used(&b), 1.0).await;
    traces_are_whole(&engine, &[&a, &b, &c], load.run + 1).await;
    assert!(share(&b, load.run + 1) > 300);
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_group_stands_in_for_the_first_and_gives_back() {
    let _turn = beside_others().await;
    let [a, b, c] = sinks().await;
    let exporter = format!(
        "policy = \"round_robin\"\n{}\nhealth_check = {{ interval = \"50ms\", slow_start = \"0s\" }}\n\
         [[exporters.load_balancing.failover]]\n{}",
        hostnames(&[&a, &b]),
        hostnames(&[&c])
    );
    let engine = balancer("accepted", &exporter).await;
    let send = |run: u64| {
        let load = Loader::new(otlp(&engine)).run_id(run).spans_per_request(10).closed(1, 2).requests(100);
        async move { load.run().await }
    };
    let first = send(1).await;
    let second = {
        a.stop().await;
        b.stop().await;
        becomes(&engine, &used(&c), 1.0).await;
        send(2).await
    };
    // Until it has arrived: what waits for the second group goes back to the first with everything else.
    assert!(c.wait_for(1_000, PATIENCE).await, "{}", c.snapshot());
    a.restart().await.unwrap();
    b.restart().await.unwrap();
    for sink in [&a, &b] {
        becomes(&engine, &used(sink), 1.0).await;
    }
    becomes(&engine, &used(&c), 0.0).await;
    let third = send(3).await;
    drained(&engine).await;
    for load in [&first, &second, &third] {
        assert_eq!(load.acknowledged.len(), 1_000, "{load}");
        assert!(lost(load, &[&a, &b, &c]).is_empty(), "{load}");
    }
    assert_eq!((share(&c, 2), share(&c, 3)), (1_000, 0));
    // In turn, on each lane for itself.
    for run in [1, 3] {
        let (one, other) = (share(&a, run), share(&b, run));
        assert!(one.abs_diff(other) <= 100, "{one} and {other}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_loaded_gets_what_a_slow_one_does_not() {
    let _turn = beside_others().await;
    let [slow, quick] = sinks().await;
    slow.answer(Answer::Hang);
    let exporter = format!(
        "policy = \"least_loaded\"\n{}\nhealth_check = {{ enabled = false }}",
        hostnames(&[&slow, &quick])
    );
    let engine = balancer("accepted", &exporter).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(1, 1).requests(300).run().await;
    assert_eq!(load.acknowledged.len(), 3_000, "{load}");
    assert!(quick.wait_for(2_700, PATIENCE).await, "{}", quick.snapshot());
    slow.answer(Answer::Ok);
    drained(&engine).await;
    assert!(lost(&load, &[&slow, &quick]).is_empty());
}

/// What the backends hold when the collector ends goes to those that are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_with_everything_sent_although_a_backend_is_dead() {
    let _turn = beside_others().await;
    let [a, b] = sinks().await;
    b.stop().await;
    let engine = balancer("accepted", &hostnames(&[&a, &b])).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(2, 4).requests(100).run().await;
    drained(&engine).await;
    assert!(lost(&load, &[&a]).is_empty() && load.acknowledged.len() == 1_000, "{load}");
}

/// Nobody is known yet: whoever waits is told so, and what was acknowledged waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_no_backend_is_known_a_sender_is_refused_and_what_is_accepted_waits() {
    let _turn = beside_others().await;
    let [a] = sinks().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateways");
    let exporter = format!("resolver.file = {{ path = {path:?}, interval = \"20ms\" }}");
    let engine = balancer("delivered", &exporter).await;
    let load = Loader::new(otlp(&engine)).retry(false).closed(1, 1).requests(1).run().await;
    assert_eq!((load.acknowledged.len(), load.with_retry_info), (0, 1), "{load}");
    drained(&engine).await;

    let engine = balancer("accepted", &exporter).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(1, 1).requests(10).run().await;
    assert_eq!(load.acknowledged.len(), 100, "{load}");
    write(&path, &[&a]);
    assert!(a.wait_for(100, PATIENCE).await, "{}", a.snapshot());
    drained(&engine).await;
}
