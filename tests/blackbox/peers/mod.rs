//! Real counterparts, counted at the destination.
//!
//! A peer that is not installed is skipped with a word; `.ci/run` installs some and requires them.

mod backends;
mod clients;
mod elastic;
mod jaeger;
mod pairs;
mod picture;
mod prometheus;
mod rust;
mod scrape;
mod servers;
mod zipkin;

use serde::Deserialize;

use crate::harness::certificates::Certificates;

/// What a client says was acknowledged, by signal, and how many exports were not.
#[derive(Clone, Debug, Deserialize)]
struct Sent {
    sdk: String,
    spans: u64,
    points: u64,
    logs: u64,
    failures: u64,
}

impl Sent {
    /// As a client prints it.
    fn told(output: &str) -> Sent {
        serde_json::from_str(output.trim()).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// What every client sends. Some make metrics of their own beside these.
    fn check(&self) {
        assert_eq!((self.spans, self.logs, self.failures), (500, 300, 0), "{self:?}");
        assert!(self.points >= 480 && !self.sdk.is_empty(), "{self:?}");
    }

    fn counts(&self) -> [u64; 3] {
        [self.spans, self.points, self.logs]
    }
}

/// How a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    Gzip,
    Tls,
    MutualTls,
}

impl Way {
    const ALL: [Way; 4] = [Way::Plain, Way::Gzip, Way::Tls, Way::MutualTls];
}

/// What a client is told, in the variables of docs/testing.md.
struct Destination {
    endpoint: String,
    protocol: &'static str,
    way: Way,
    certificates: std::sync::Arc<Certificates>,
}

impl Destination {
    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("WATERSHED_ENDPOINT", self.endpoint.clone()),
            ("WATERSHED_PROTOCOL", self.protocol.to_owned()),
        ];
        if self.way == Way::Gzip {
            environment.push(("WATERSHED_COMPRESSION", "gzip".to_owned()));
        }
        if matches!(self.way, Way::Tls | Way::MutualTls) {
            environment.push(("WATERSHED_CA", self.certificates.ca()));
        }
        if self.way == Way::MutualTls {
            environment.push(("WATERSHED_CERT", self.certificates.cert()));
            environment.push(("WATERSHED_KEY", self.certificates.key()));
        }
        environment
    }
}
