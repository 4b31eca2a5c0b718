//! Requests as their reader sees them, by prost.

use std::collections::BTreeMap;

use prost::Message as _;

use super::Request;

/// `prometheus`, of remote write 1.0.
pub mod v1 {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub timeseries: Vec<TimeSeries>,
        #[prost(message, repeated, tag = "3")]
        pub metadata: Vec<Metadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Metadata {
        #[prost(int32, tag = "1")]
        pub kind: i32,
        #[prost(string, tag = "2")]
        pub name: String,
        #[prost(string, tag = "4")]
        pub help: String,
        #[prost(string, tag = "5")]
        pub unit: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Label {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub exemplars: Vec<Exemplar>,
        #[prost(message, repeated, tag = "4")]
        pub histograms: Vec<super::Histogram>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub time: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Exemplar {
        #[prost(message, repeated, tag = "1")]
        pub labels: Vec<Label>,
        #[prost(double, tag = "2")]
        pub value: f64,
        #[prost(int64, tag = "3")]
        pub time: i64,
    }
}

/// `io.prometheus.write.v2`.
pub mod v2 {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Request {
        #[prost(string, repeated, tag = "4")]
        pub symbols: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        pub timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct TimeSeries {
        #[prost(uint32, repeated, tag = "1")]
        pub labels_refs: Vec<u32>,
        #[prost(message, repeated, tag = "2")]
        pub samples: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub histograms: Vec<super::Histogram>,
        #[prost(message, repeated, tag = "4")]
        pub exemplars: Vec<Exemplar>,
        #[prost(message, optional, tag = "5")]
        pub metadata: Option<Metadata>,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(double, tag = "1")]
        pub value: f64,
        #[prost(int64, tag = "2")]
        pub time: i64,
        #[prost(int64, tag = "3")]
        pub start: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Exemplar {
        #[prost(uint32, repeated, tag = "1")]
        pub labels_refs: Vec<u32>,
        #[prost(double, tag = "2")]
        pub value: f64,
        #[prost(int64, tag = "3")]
        pub time: i64,
    }

    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub struct Metadata {
        #[prost(int32, tag = "1")]
        pub kind: i32,
        #[prost(uint32, tag = "3")]
        pub help: u32,
        #[prost(uint32, tag = "4")]
        pub unit: u32,
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Span {
    #[prost(sint32, tag = "1")]
    pub offset: i32,
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Histogram {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(double, tag = "3")]
    pub sum: f64,
    #[prost(sint32, tag = "4")]
    pub schema: i32,
    #[prost(double, tag = "5")]
    pub zero_threshold: f64,
    #[prost(uint64, tag = "6")]
    pub zero_count: u64,
    #[prost(message, repeated, tag = "8")]
    pub negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    pub negative_deltas: Vec<i64>,
    #[prost(message, repeated, tag = "11")]
    pub positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    pub positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    pub time: i64,
    #[prost(int64, tag = "17")]
    pub start: i64,
}

/// A series of either version: time and value of its samples, and its histograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    pub samples: Vec<(i64, u64)>,
    pub histograms: Vec<Histogram>,
    pub exemplars: Vec<(i64, u64, String)>,
}

pub type All = BTreeMap<String, Series>;

fn labels(pairs: impl Iterator<Item = (String, String)>) -> String {
    let pairs: Vec<_> = pairs.collect();
    assert!(pairs.is_sorted_by(|one, other| one.0 < other.0), "{pairs:?}");
    assert!(pairs.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()), "{pairs:?}");
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(",")
}

fn add(all: &mut All, name: String, series: Series) {
    assert!(name.contains("__name__="), "{name}");
    assert!(series.samples.is_empty() || series.histograms.is_empty());
    assert!(series.samples.is_sorted_by(|one, other| one.0 < other.0), "{name}: {series:?}");
    let known = all.entry(name).or_default();
    known.samples.extend(series.samples);
    known.histograms.extend(series.histograms);
    known.exemplars.extend(series.exemplars);
}

pub fn read_v1(request: &Request, all: &mut All) -> v1::WriteRequest {
    let read = v1::WriteRequest::decode(&*request.body).unwrap();
    assert_eq!(request.series(), read.timeseries.len());
    let text =
        |list: &[v1::Label]| labels(list.iter().map(|label| (label.name.clone(), label.value.clone())));
    for series in &read.timeseries {
        let exemplars = series.exemplars.iter().map(|e| (e.time, e.value.to_bits(), text(&e.labels)));
        let made = Series {
            samples: series.samples.iter().map(|sample| (sample.time, sample.value.to_bits())).collect(),
            histograms: series.histograms.clone(),
            exemplars: exemplars.collect(),
        };
        add(all, text(&series.labels), made);
    }
    read
}

pub fn read_v2(request: &Request, all: &mut All) -> v2::Request {
    let read = v2::Request::decode(&*request.body).unwrap();
    assert_eq!(read.symbols[0], "");
    // A reader of 1.0 sees nothing.
    assert_eq!(v1::WriteRequest::decode(&*request.body).map(|read| read.timeseries.len()).unwrap_or(0), 0);
    let text = |refs: &[u32]| {
        let symbol = |index: u32| read.symbols[index as usize].clone();
        labels(refs.chunks(2).map(|pair| (symbol(pair[0]), symbol(pair[1]))))
    };
    for series in &read.timeseries {
        let exemplars = series.exemplars.iter().map(|e| (e.time, e.value.to_bits(), text(&e.labels_refs)));
        let histograms =
            series.histograms.iter().cloned().map(|histogram| Histogram { start: 0, ..histogram });
        let made = Series {
            samples: series.samples.iter().map(|sample| (sample.time, sample.value.to_bits())).collect(),
            histograms: histograms.collect(),
            exemplars: exemplars.collect(),
        };
        add(all, text(&series.labels_refs), made);
    }
    read
}
