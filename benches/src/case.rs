//! What is sent, what is done to it and how it goes out: the rows of the table.

use std::str::FromStr;

use anyhow::Context;
use watershed_testkit::Coding;
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::Foreign;

/// One row of the table for each relay that can do it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub name: &'static str,
    /// What differs from the plain relay.
    pub about: &'static str,
    pub signal: Signal,
    pub way_in: Way,
    pub way_out: Way,
    pub coding_in: Option<Coding>,
    pub coding_out: Option<Coding>,
    pub tls: Tls,
    /// What is done besides the memory limit and batches.
    pub work: Work,
    /// Items in a request.
    pub items: usize,
    pub connections: usize,
    /// Items a second at a fixed rate, instead of as many as are answered.
    pub rate: Option<f64>,
    /// "Ok" means that the sink has it, and nothing waits to be merged.
    pub delivered: bool,
    /// Watershed's lanes, where they are not one for each core.
    pub lanes: Option<u32>,
}

/// A protocol at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Grpc,
    /// HTTP/1.1 with protobuf.
    Http,
    /// HTTP/1.1 with JSON.
    Json,
    /// Not OTLP at all.
    Foreign(Foreign),
}

/// Whether both ends are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Off,
    /// Servers prove who they are.
    Server,
    /// Clients do too.
    Mutual,
}

/// What a relay does besides relaying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Relay,
    /// Three actions on the attributes of every span.
    Attributes,
    /// On the disk before the "ok".
    Journal,
    /// Traces of five spans, scattered over requests: those that failed, that are slow and one in a hundred go on, four
    /// seconds later.
    TailSampling,
    /// Two more destinations, of which one is gone; their queues drop.
    Branches,
}

/// What the others differ from.
pub const PLAIN: Case = Case {
    name: "relay",
    about: "gRPC in and out, not compressed, 100 spans of 404 B in a request",
    signal: Signal::Traces,
    way_in: Way::Grpc,
    way_out: Way::Grpc,
    coding_in: None,
    coding_out: None,
    tls: Tls::Off,
    work: Work::Relay,
    items: 100,
    connections: 4,
    rate: None,
    delivered: false,
    lanes: None,
};

const fn coded(coding: Coding, name: &'static str, about: &'static str) -> Case {
    Case { name, about, coding_in: Some(coding), coding_out: Some(coding), ..PLAIN }
}

const fn foreign(format: Foreign, name: &'static str, about: &'static str) -> Case {
    Case { name, about, way_in: Way::Foreign(format), ..PLAIN }
}

/// Every case, in the order of the table.
pub const CASES: [Case; 28] = [
    PLAIN,
    Case { name: "lanes-1", about: "one lane", lanes: Some(1), ..PLAIN },
    Case { name: "attributes", about: "three actions on every span", work: Work::Attributes, ..PLAIN },
    Case { name: "gzip-in", about: "gzip in", coding_in: Some(Coding::Gzip), ..PLAIN },
    Case { name: "gzip-out", about: "gzip out", coding_out: Some(Coding::Gzip), ..PLAIN },
    coded(Coding::Gzip, "gzip", "gzip in and out"),
    coded(Coding::Zstd, "zstd", "zstd in and out"),
    Case { name: "tls", about: "TLS at both ends", tls: Tls::Server, ..PLAIN },
    Case { name: "mtls", about: "mutual TLS at both ends", tls: Tls::Mutual, ..PLAIN },
    Case {
        name: "http",
        about: "HTTP/1.1 with protobuf at both ends",
        way_in: Way::Http,
        way_out: Way::Http,
        ..PLAIN
    },
    Case { name: "json", about: "HTTP/1.1 with JSON in", way_in: Way::Json, ..PLAIN },
    foreign(Foreign::Jaeger, "jaeger", "Jaeger's api_v2 in"),
    foreign(Foreign::Zipkin, "zipkin", "Zipkin's protobuf in"),
    foreign(Foreign::ZipkinJson, "zipkin-json", "Zipkin's JSON in"),
    Case { name: "spans-1", about: "1 span in a request", items: 1, ..PLAIN },
    Case { name: "spans-10", about: "10 spans in a request", items: 10, ..PLAIN },
    Case { name: "spans-5000", about: "5,000 spans in a request", items: 5_000, ..PLAIN },
    Case { name: "logs", about: "log records", signal: Signal::Logs, ..PLAIN },
    Case { name: "metrics", about: "data points", signal: Signal::Metrics, ..PLAIN },
    Case { name: "branches", about: "three destinations, one of them dead", work: Work::Branches, ..PLAIN },
    Case { name: "journal", about: "on the disk before the \"ok\"", work: Work::Journal, ..PLAIN },
    Case {
        name: "tail_sampling",
        about: "100,000 spans a second, in traces of 5 that are held for 4 s; three policies",
        work: Work::TailSampling,
        rate: Some(100_000.0),
        ..PLAIN
    },
    Case {
        name: "tail_sampling-1",
        about: "the same on one lane, as the floor has one thread",
        work: Work::TailSampling,
        rate: Some(100_000.0),
        lanes: Some(1),
        ..PLAIN
    },
    Case { name: "connections-100", about: "100 connections", connections: 100, ..PLAIN },
    Case { name: "steady", about: "50,000 spans a second", rate: Some(50_000.0), ..PLAIN },
    Case {
        name: "steady-delivered",
        about: "50,000 spans a second, \"ok\" when the sink has them, no batches",
        rate: Some(50_000.0),
        delivered: true,
        ..PLAIN
    },
    Case { name: "grpc-10k", about: "10,000 spans a second", items: 10, rate: Some(10_000.0), ..PLAIN },
    Case {
        name: "http-5k",
        about: "5,000 spans a second over HTTP/1.1",
        way_in: Way::Http,
        way_out: Way::Http,
        items: 10,
        rate: Some(5_000.0),
        ..PLAIN
    },
];

impl Case {
    /// How long a turn lasts by default. What is held for seconds has to leave as fast as it comes.
    pub fn seconds(self) -> f64 {
        if self.work == Work::TailSampling { 15.0 } else { 1.2 }
    }

    /// Turns of each relay in a round. Where little happens at a time most of the cost is waking up, which depends on the
    /// cores that processes come to share, and before a journal the disk has its moods: so it takes more processes to know it.
    pub fn turns(self) -> usize {
        match self.work {
            Work::TailSampling => 1,
            Work::Journal => 2,
            _ if self.rate.is_some() => 4,
            _ if self.items < PLAIN.items => 2,
            _ => 1,
        }
    }

    /// In how many parts a turn is played, with a part of each other relay between two of one: what a shared machine has of
    /// CPU changes from second to second, and so it changes for all. What is held for seconds has to be released in its part.
    pub fn parts(self) -> u32 {
        if self.work == Work::TailSampling { 1 } else { 4 }
    }

    /// The memory limit of Watershed and of the collector in MiB. The collector decodes a request of 2 MB into several times
    /// as much; at the usual limit it is its garbage collector that is measured, which differs by a factor of two from turn to
    /// turn.
    pub fn limit_mib(self, usual: u64) -> u64 {
        if self.items > 1_000 { usual.max(1_024) } else { usual }
    }

    /// The same load for a relay that does nothing but relay, over plain gRPC.
    pub fn bare(self) -> Case {
        let Case { name, about, signal, items, connections, rate, delivered, .. } = self;
        Case { name, about, signal, items, connections, rate, delivered, ..PLAIN }
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Case> {
        let known = || CASES.map(|case| case.name).join(", ");
        let found = CASES.into_iter().find(|case| case.name == name);
        found.with_context(|| format!("no such case; there are: {}", known()))
    }
}
