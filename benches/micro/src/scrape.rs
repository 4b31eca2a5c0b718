//! Expositions of a thousand series: what a scrape costs once it is here, into OTLP.

use std::fmt::Write as _;
use std::hint::black_box;

use prost::Message;
use watershed_delivery::Budget;
use watershed_prometheus::{Exposition, ExpositionFormat};

use crate::case::Case;

/// Counters and gauges, half of each, five labels a series; and histograms of ten buckets.
const SERIES: usize = 1000;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let (text, open_metrics, histograms) = (numbers(false), numbers(true), histograms());
    vec![
        scrape("scrape: text", ExpositionFormat::Text, text.clone().into(), SERIES),
        scrape("scrape: OpenMetrics", ExpositionFormat::OpenMetrics, open_metrics.into(), SERIES),
        scrape("scrape: protobuf", ExpositionFormat::Protobuf, protobuf(), SERIES),
        scrape("scrape: text, histograms", ExpositionFormat::Text, histograms.into(), SERIES),
        Case::new("scrape: text, for the first time", (SERIES, "series"), {
            let text = text.clone();
            move || {
                let mut target = target();
                drop(black_box(target.read(ExpositionFormat::Text, text.as_bytes(), 1)));
            }
        })
        .bytes(text.len()),
    ]
}

fn target() -> Exposition {
    Exposition::new("bench", "host:9100", Budget::new(1 << 30).overdraw(0))
}

/// The same exposition again and again, as most of one is.
fn scrape(name: &'static str, format: ExpositionFormat, body: Vec<u8>, series: usize) -> Case {
    let (mut target, mut time, length) = (target(), 0, body.len());
    let (_, samples) = target.read(format, &body, time).expect("it is an exposition");
    assert_eq!(samples as usize, series, "{name}");
    Case::new(name, (series, "series"), move || {
        time += 1_000_000_000;
        drop(black_box(target.read(format, &body, time)));
    })
    .bytes(length)
}

fn labels(series: usize) -> [(&'static str, String); 5] {
    [
        ("method", ["GET", "POST", "PUT"][series % 3].to_owned()),
        ("code", (200 + series % 5).to_string()),
        ("handler", format!("/api/v1/resource/{}", series / 15)),
        ("namespace", "production".to_owned()),
        ("pod", format!("frontend-7c9d8b5f6-{series:05}")),
    ]
}

fn text_labels(series: usize) -> String {
    labels(series).map(|(name, value)| format!("{name}=\"{value}\"")).join(",")
}

fn value(series: usize) -> f64 {
    series as f64 * 17.25
}

fn numbers(open_metrics: bool) -> String {
    let mut text = String::new();
    for series in 0..SERIES {
        let (family, kind) = (series / 50, if series / 50 % 2 == 0 { "counter" } else { "gauge" });
        let suffix = if kind == "counter" { "_total" } else { "" };
        if series % 50 == 0 {
            let declared = if open_metrics { "" } else { suffix };
            let _ = write!(
                text,
                "# HELP metric_{family}{declared} What it counts.\n# TYPE metric_{family}{declared} {kind}\n"
            );
        }
        let _ = writeln!(text, "metric_{family}{suffix}{{{}}} {}", text_labels(series), value(series));
    }
    if open_metrics {
        text.push_str("# EOF\n");
    }
    text
}

fn protobuf() -> Vec<u8> {
    let metric = |series| Metric {
        label: labels(series).map(|(name, value)| Label { name: name.to_owned(), value }).into(),
        gauge: Some(Number { value: value(series) }),
    };
    let family = |family| MetricFamily {
        name: format!("metric_{family}"),
        help: "What it counts.".to_owned(),
        kind: 1,
        metric: (family * 50..(family + 1) * 50).map(metric).collect(),
    };
    (0..SERIES / 50).flat_map(|at| family(at).encode_length_delimited_to_vec()).collect()
}

/// Ten buckets, sum and count are twelve series and a bit; what is over is a gauge each.
fn histograms() -> String {
    let mut text = String::from("# HELP latency_seconds How long.\n# TYPE latency_seconds histogram\n");
    let mut series = 0;
    while series + 12 <= SERIES {
        let labels = text_labels(series);
        for (bucket, bound) in
            ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"].iter().enumerate()
        {
            let _ = writeln!(text, "latency_seconds_bucket{{{labels},le=\"{bound}\"}} {}", bucket * 7);
        }
        let _ = write!(text, "latency_seconds_sum{{{labels}}} 12.5\nlatency_seconds_count{{{labels}}} 63\n");
        series += 12;
    }
    text.push_str("# TYPE rest gauge\n");
    (series..SERIES).for_each(|at| text.push_str(&format!("rest{{at=\"{at}\"}} 1\n")));
    text
}
