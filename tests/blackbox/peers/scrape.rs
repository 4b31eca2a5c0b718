//! Real targets, in text, OpenMetrics and protobuf: all that they expose arrives.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use watershed_testkit::reserve;

use crate::harness::capture::{Capture, Captured};
use crate::harness::peer::Peer;
use crate::harness::{beside_others, drained, http, start};
use crate::scrape::{has, topology};

/// What the `Accept` of a job asks for alone.
const FORMATS: [&str; 3] = ["PrometheusText0.0.4", "OpenMetricsText1.0.0", "PrometheusProto"];

fn metrics(captured: &Captured) -> Vec<Metric> {
    let scopes = captured.metrics.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    scopes.flat_map(|scope| scope.metrics.clone()).collect()
}

/// The families that a target shows to everybody, those without a sample left out.
async fn families(target: SocketAddr) -> BTreeSet<String> {
    let (status, text) = http::get(target, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let has_samples = |name: &str| text.lines().any(|line| line.starts_with(name));
    kinds.filter(|(name, _)| has_samples(name)).map(|(name, _)| name.to_owned()).collect()
}

/// Scrapes a peer in this format until `enough` has come; `None` where the peer is not installed.
async fn scraped(peer: &'static str, format: &str, enough: impl Fn(&[Metric]) -> bool) -> Option<()> {
    let (address, capture) = (reserve(), Capture::start().await);
    let spawned = Peer::spawn(peer, &[], &[("PORT", address.port().to_string())]);
    let ready = async || http::get(address, "/metrics").await.is_some_and(|(status, _)| status == 200);
    let _peer = spawned.ready(ready).await?;
    let job = format!(
        "[[receivers.prometheus.config.scrape_configs]]\njob_name = \"j\"\nscrape_interval = \"1s\"\n\
         scrape_protocols = [\"{format}\"]\nscrape_native_histograms = true\n\
         static_configs = [{{ targets = [\"{address}\"] }}]\n"
    );
    let engine = start(&topology(&capture, &job)).await;
    // It shows something of its own scrapes only after one.
    let expected = families(address).await;
    let captured =
        capture.wait(|captured| has(captured, "up{}", Some(1.0)) && enough(&metrics(captured))).await;
    let told: BTreeSet<String> = metrics(&captured).into_iter().map(|metric| metric.name).collect();
    let missing: Vec<_> = expected.difference(&told).collect();
    assert!(missing.is_empty(), "{peer} in {format}: {missing:?} of {}", expected.len());
    assert!(!has(&captured, "up{}", Some(0.0)), "{peer} in {format}: a scrape failed");
    println!("{peer} in {format}: {} families, all there", expected.len());
    drained(&engine).await;
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_node_exporter_arrives_in_every_format() {
    let _turn = beside_others().await;
    for format in FORMATS {
        if scraped("node-exporter", format, |_| true).await.is_none() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_own_histograms_arrive_as_native_ones() {
    let _turn = beside_others().await;
    let native = |metrics: &[Metric]| {
        metrics.iter().any(|metric| {
            matches!(&metric.data, Some(Data::ExponentialHistogram(histogram))
                if histogram.data_points.iter().any(|point| point.count > 0))
        })
    };
    scraped("prometheus", "PrometheusProto", native).await;
}
