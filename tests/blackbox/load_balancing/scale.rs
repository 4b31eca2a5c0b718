//! Gateways that come and go: what each of them gets, what is left of those that are gone, and what waits on disk.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use watershed::engine::Ended;
use watershed_balance::{RingKind, shares};
use watershed_testkit::{Answer, Loader, Sink};

use super::{
    QUICK, all_arrive, balancer, becomes, hostnames, lost, patient_balancer, share, sinks, traces_are_whole,
    used, write,
};
use crate::harness::{PATIENCE, alone, beside_others, drained, metric, otlp};

/// One that is gone, and answers nothing, does not hold up the end for the five minutes that it may take otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_a_backend_that_was_removed_before() {
    let _turn = beside_others().await;
    let [a, b] = sinks().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateways");
    write(&path, &[&a, &b]);
    b.answer(Answer::Hang);
    let exporter = format!(
        "resolver.file = {{ path = {path:?}, interval = \"20ms\" }}\nhealth_check = {{ enabled = false }}"
    );
    let engine = patient_balancer("accepted", "300s", &exporter).await;
    becomes(&engine, &used(&b), 1.0).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(1, 1).requests(10).run().await;
    write(&path, &[&a]);
    becomes(&engine, "otelcol_loadbalancer_num_backends", 1.0).await;
    let began = Instant::now();
    let ended = engine.drain(Duration::from_secs(3)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // What it has on the wire is lost by the deadline, and said to be.
    assert_ne!(ended, Ended::Drained);
    assert_eq!(load.acknowledged.len(), 100, "{load}");
}

/// Backends come and go under new names; what was shown of those that are gone is shown no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_of_a_backend_that_is_gone() {
    let _turn = beside_others().await;
    let [a, b] = sinks().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateways");
    write(&path, &[&a, &b]);
    let exporter = format!("resolver.file = {{ path = {path:?}, interval = \"20ms\" }}");
    let engine = balancer("accepted", &exporter).await;
    let gone = format!("endpoint=\"{}\"", b.addr());
    for _ in 0..3 {
        write(&path, &[&a, &b]);
        becomes(&engine, &used(&b), 1.0).await;
        write(&path, &[&a]);
        let began = Instant::now();
        while engine.metrics().render().contains(&gone) {
            assert!(began.elapsed() < PATIENCE, "{}", engine.metrics().render());
            sleep(Duration::from_millis(5)).await;
        }
    }
    drained(&engine).await;
}

/// From three gateways to ten and back, under load: nothing is lost, and each has the part that its ring says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gateway_has_the_share_that_its_ring_says() {
    let _turn = alone().await;
    let all: [Sink; 10] = sinks().await;
    let all: Vec<&Sink> = all.iter().collect();
    let folder = tempfile::tempdir().unwrap();
    for (name, ring) in [("even", RingKind::Even), ("otelcol", RingKind::Otelcol)] {
        let path = folder.path().join(name);
        write(&path, &all[..3]);
        let exporter =
            format!("resolver.file = {{ path = {path:?}, interval = \"20ms\" }}\nring = \"{name}\"");
        let engine = balancer("accepted", &exporter).await;
        // What comes and goes meanwhile is counted in the end.
        let meanwhile = Loader::new(otlp(&engine)).spans_per_request(50).open(1, 16, 2_000.0).start();
        let mut off: Vec<f64> = Vec::new();
        // So many spans that a share is off by chance by less than one percent as a rule.
        for (count, spans) in [(3, 100_000), (10, 300_000), (3, 100_000)] {
            write(&path, &all[..count]);
            becomes(&engine, "otelcol_loadbalancer_num_backends", count as f64).await;
            for sink in &all {
                let is_used = f64::from(u8::from(all[..count].iter().any(|used| used.addr() == sink.addr())));
                becomes(&engine, &used(sink), is_used).await;
            }
            let load = Loader::new(otlp(&engine)).spans_per_request(500).closed(2, 4);
            let load = load.requests(spans / 500).retry(true).run().await;
            all_arrive(&load, &all).await;
            let mut names: Vec<String> = all[..count].iter().map(|sink| sink.addr().to_string()).collect();
            names.sort();
            let mut worst: f64 = 0.0;
            for (name, expected) in names.iter().zip(shares(ring, &names)) {
                let sink = all.iter().find(|sink| sink.addr().to_string() == *name).unwrap();
                let taken = share(sink, load.run) as f64 / load.acknowledged.len() as f64;
                worst = worst.max((taken / expected - 1.0).abs());
            }
            off.push(worst);
        }
        meanwhile.stop();
        let meanwhile = meanwhile.finish().await;
        drained(&engine).await;
        assert!(lost(&meanwhile, &all).is_empty(), "{name}: {meanwhile}");
        assert!(off.iter().all(|off| *off < 0.03), "{name}: off by {off:?}");
        eprintln!("{name}: off by {off:?}");
    }
}

/// What is on disk before a balancer outlives the process, and the absence of all gateways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_queue_before_the_balancer_outlives_the_absence_of_all_gateways() {
    let _turn = beside_others().await;
    let [a, b] = sinks().await;
    let folder = tempfile::tempdir().unwrap();
    let exporter = format!(
        "{}\n{QUICK}\nprotocol.otlp.sending_queue.storage = \"file_storage\"\n\
         [extensions.file_storage]\ndirectory = {:?}",
        hostnames(&[&a, &b]),
        folder.path()
    );
    for sink in [&a, &b] {
        sink.stop().await;
    }
    let engine = balancer("journaled", &exporter).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(2, 4).requests(200).run().await;
    assert_eq!(load.acknowledged.len(), 2_000, "{load}");
    let began = Instant::now();
    drained(&engine).await;
    assert!(began.elapsed() < Duration::from_secs(10), "nobody is waited for who is not there");
    // The next one finds one of them, and then both.
    a.restart().await.unwrap();
    let engine = balancer("journaled", &exporter).await;
    all_arrive(&load, &[&a]).await;
    b.restart().await.unwrap();
    becomes(&engine, &used(&b), 1.0).await;
    traces_are_whole(&engine, &[&a, &b], load.run + 1).await;
    drained(&engine).await;
    let engine = balancer("journaled", &exporter).await;
    assert_eq!(metric(&engine.metrics().render(), "watershed_journal_owed_records"), 0.0);
    drained(&engine).await;
}
