//! What little says much of: each series repeats the labels of its resource.
#![allow(clippy::unwrap_used)]

use futures_util::FutureExt as _;
use opentelemetry_proto::tonic::metrics::v1 as otlp;
use watershed_stage::{Context, Origin};

use super::*;
use crate::fixtures::*;

fn batch(payload: Payload) -> Batch {
    let context =
        Context { receiver: "r".into(), pipeline: "p".into(), origin: Origin::default(), arrived: 0 };
    Batch { payload, context: Arc::new(context), trace: None, timeout: None, merged: false }
}

/// What becomes of a payload for which nothing is to be sent.
fn exported(exporter: &RemoteWrite, payload: Payload) -> Option<Result<Partial, ExportError>> {
    exporter.export(&batch(payload)).now_or_never()
}

fn exporter() -> RemoteWrite {
    let settings: Settings = toml::from_str("endpoint = \"http://127.0.0.1:1/\"").unwrap();
    RemoteWrite::build(&Arc::new(settings), &env(1 << 30)).unwrap()
}

fn of_metric(job: usize, data: otlp::metric::Data) -> Payload {
    let mut resource = resource(&[("service.name", &"x".repeat(job))]);
    let metrics = vec![metric("m", "", "", data)];
    resource.scope_metrics = vec![otlp::ScopeMetrics { metrics, ..Default::default() }];
    payload(vec![resource])
}

#[test]
fn a_histogram_that_would_be_too_much_is_too_large() {
    let bounds: Vec<f64> = (0..4_000).map(f64::from).collect();
    let point = otlp::HistogramDataPoint {
        bucket_counts: vec![1; bounds.len() + 1],
        explicit_bounds: bounds,
        time_unix_nano: 1_000_000,
        ..Default::default()
    };
    let histogram = otlp::Histogram { data_points: vec![point], aggregation_temporality: 2 };
    let payload = of_metric(50_000, otlp::metric::Data::Histogram(histogram));
    let exporter = exporter();
    assert!(matches!(exported(&exporter, payload), Some(Err(ExportError::TooMuch { .. }))));
    assert!(exporter.pending.borrow().is_none());
}

#[tokio::test]
async fn what_was_given_up_takes_no_room_while_nothing_is_sent() {
    let exporter = exporter();
    let payload = of_metric(10, gauge(vec![number(1.0, 0, 1_000_000)]));
    let failed = exporter.export(&batch(payload)).await;
    assert!(matches!(failed, Err(ExportError::Retryable { .. })), "{failed:?}");
    assert!(exporter.env.budget.used() > 0);
    exporter.rest();
    assert_eq!(exporter.env.budget.used(), 0);
    assert!(exporter.pending.borrow().is_none());
}

#[test]
fn many_points_of_a_large_resource_are_sent_in_pieces() {
    let point = |index: u64| labelled(number(1.0, 0, 1_000_000), &[("index", &index.to_string())]);
    let whole = of_metric(400_000, gauge((0..1_000).map(point).collect()));
    let (exporter, mut todo, mut series) = (exporter(), vec![whole], 0);
    while let Some(payload) = todo.pop() {
        let pending = exporter.pending(&payload);
        if pending.is_too_large {
            todo.extend(payload.clone().split_by_items(payload.items().div_ceil(2)));
        }
        series += pending
            .shards
            .iter()
            .map(|shard| shard.borrow().iter().map(Request::series).sum::<usize>())
            .sum::<usize>();
    }
    assert_eq!(series, 1_000);
}
