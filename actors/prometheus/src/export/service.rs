//! What a scraper meets.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use watershed_net::{ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpService};
use watershed_stage::delivery::{Budget, Exhausted, Permit};
use watershed_stage::{Counter, Denied, Env, Gate};

use super::negotiate::{Format, Syntax, takes_gzip};
use super::protobuf::ProtoWriter;
use super::settings::Settings;
use super::text::{TextWriter, family_name};

/// Where metrics are.
const PATH: &str = "/metrics";

/// How much is written before others on the lane have their turn, in bytes.
const TURN: usize = 256 << 10;

/// How long a scraper waits where memory is short, in seconds.
const SHORTAGE: u64 = 1;

/// What is scraped, and what is counted of it.
pub(super) struct Scraped {
    settings: Arc<Settings>,
    gate: Gate,
    budget: Arc<Budget>,
    served: Counter,
    refused: Counter,
    starved: Counter,
    failed: Counter,
    unserved: Counter,
}

/// The service of one lane.
pub(super) struct Service(pub(super) Arc<Scraped>);

/// A body, and the memory that it takes until it is sent.
struct Held {
    bytes: Vec<u8>,
    _permit: Permit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// === impl Scraped ===

impl Scraped {
    pub(super) fn new(settings: &Arc<Settings>, gate: Gate, env: &Env) -> Self {
        let exporter = ("exporter", &*env.id);
        let scrapes = |outcome| {
            let labels = [exporter, ("outcome", outcome)];
            env.metrics.counter("watershed_prometheus_scrapes", "Scrapes, by how they ended.", &labels)
        };
        let (series, bytes) = (settings.clone(), settings.clone());
        env.metrics.gauge(
            "watershed_prometheus_series",
            "Series that are served.",
            &[exporter],
            Arc::new(move || series.store.size().0 as f64),
        );
        env.metrics.gauge(
            "watershed_prometheus_series_bytes",
            "Memory that they take, in bytes.",
            &[exporter],
            Arc::new(move || bytes.store.size().1 as f64),
        );
        Self {
            settings: settings.clone(),
            gate,
            budget: env.budget.clone(),
            served: scrapes("served"),
            refused: scrapes("refused"),
            starved: scrapes("memory"),
            failed: scrapes("failed"),
            unserved: env.metrics.counter(
                "watershed_prometheus_unserved_families",
                "Families left out of a scrape because another has their name in its format.",
                &[exporter],
            ),
        }
    }

    /// All that there is, as asked for. Memory is granted before it is taken: a scraper comes from outside.
    async fn scrape(&self, format: Format, gzip: bool, permit: &Permit) -> Result<Vec<u8>, Exhausted> {
        let store = &self.settings.store;
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        let mut turn = 0;
        let mut encoder = gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        for key in store.names(self.settings.metric_expiration.0) {
            let compressed = encoder.as_ref().map_or(0, |encoder| encoder.get_ref().capacity());
            let written = store.with(&key, |family| {
                let name = family_name(family, format);
                if !seen.insert(name.clone()) {
                    self.unserved.add(1);
                } else if !family.series.is_empty() {
                    let wanted: usize =
                        family.series.iter().map(|series| series.text_bytes(name.len())).sum();
                    let all = (out.len() + wanted + family.help.len()).max(out.capacity()) + compressed;
                    permit.try_cover(all as u64)?;
                    self.write(family, &name, format, &mut out);
                }
                Ok(())
            });
            written.unwrap_or(Ok(()))?;
            permit.try_cover((out.capacity() + compressed) as u64)?;
            if out.len() >= turn + TURN {
                tokio::task::yield_now().await;
                turn = out.len();
            }
            if let Some(encoder) = encoder.as_mut().filter(|_| out.len() >= TURN) {
                // A vector takes everything.
                let _ = encoder.write_all(&out);
                out.clear();
                turn = 0;
            }
        }
        if format.syntax == Syntax::OpenMetrics {
            out.extend_from_slice(b"# EOF\n");
        }
        if let Some(mut encoder) = encoder {
            let _ = encoder.write_all(&out);
            out = encoder.finish().unwrap_or_default();
        }
        permit.try_cover(out.capacity() as u64)?;
        permit.trim(out.capacity() as u64);
        Ok(out)
    }

    fn write(&self, family: &super::store::Family, name: &str, format: Format, out: &mut Vec<u8>) {
        let timestamps = self.settings.send_timestamps;
        match format.syntax {
            Syntax::Protobuf => ProtoWriter { out, utf8: format.utf8, timestamps }.family(family, name),
            Syntax::Text | Syntax::OpenMetrics => TextWriter { out, format, timestamps }.family(family, name),
        }
    }
}

// === impl Service ===

impl HttpService for Service {
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        let Self(scraped) = self;
        let refuse = |status, text: &'static str| {
            scraped.refused.add(1);
            HttpResponse::text(status, text)
        };
        scraped.gate.decide(&request.headers, request.peer).map_err(|denied| deny(denied, refuse))?;
        if request.uri.path() != PATH {
            return Err(refuse(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
        }
        if ![Method::GET, Method::HEAD].contains(&request.method) {
            let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "metrics are read by GET\n");
            response.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(response);
        }
        scraped.budget.try_take(length.unwrap_or(0)).map_err(|_| starved(scraped))
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        let Self(scraped) = self;
        drop(body);
        let format = Format::choose(&request.headers, scraped.settings.enable_open_metrics);
        let gzip = takes_gzip(&request.headers);
        let Ok(bytes) = scraped.scrape(format, gzip, &permit).await else { return starved(scraped) };
        scraped.served.add(1);
        let mut response = HttpResponse::new(StatusCode::OK);
        response.headers.insert(CONTENT_TYPE, format.content_type());
        response.headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        if gzip {
            response.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response.body = Bytes::from_owner(Held { bytes, _permit: permit });
        response
    }

    fn refuse(&self, _request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        if !refusal.panicked {
            self.0.refused.add(1);
        }
        let mut response = HttpResponse::text(refusal.status, refusal.reason);
        let seconds = refusal.retry_after.map(seconds);
        response.headers.extend(seconds.map(|seconds| (RETRY_AFTER, seconds.into())));
        response
    }

    fn panicked(&self, message: &str) {
        self.0.failed.add(1);
        tracing::error!(panic = message, "a scrape panicked; its sender was refused");
    }

    fn connection_refused(&self, _reason: ConnectionRefused) {
        self.0.refused.add(1);
    }
}

fn starved(scraped: &Scraped) -> HttpResponse {
    scraped.starved.add(1);
    let mut response = HttpResponse::text(StatusCode::SERVICE_UNAVAILABLE, "memory is short\n");
    response.headers.insert(RETRY_AFTER, SHORTAGE.into());
    response
}

/// The answer to a scraper that was turned away at the gate.
fn deny(denied: Denied, refuse: impl FnOnce(StatusCode, &'static str) -> HttpResponse) -> HttpResponse {
    match denied {
        Denied::Unauthenticated(unauthenticated) => {
            let mut response = refuse(StatusCode::UNAUTHORIZED, unauthenticated.reason);
            response.headers.extend(unauthenticated.challenge.map(|value| (WWW_AUTHENTICATE, value)));
            response
        }
        Denied::NotNow(reason, wait) => {
            let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, reason);
            response.headers.insert(RETRY_AFTER, seconds(wait).into());
            response
        }
        Denied::TooOften(wait) => {
            let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
            response.headers.insert(RETRY_AFTER, seconds(wait).into());
            response
        }
    }
}

/// Whole seconds, and not so few that it is none (RFC 9110, 10.2.3).
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
