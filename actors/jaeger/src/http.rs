//! Over HTTP: batches in Thrift are posted to `/api/traces`, and clients ask how to sample.
//!
//! Source: Jaeger's documentation, "APIs", "Thrift over HTTP" and "Remote Sampling Configuration".

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use watershed_net::{ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpService};
use watershed_stage::answer::{self, over_http};
use watershed_stage::delivery::Permit;
use watershed_stage::{Body, Gate, Intake, Signal, TurnedAway};

use crate::receiver::BATCH;
use crate::strategies::Strategies;

const SPANS: &str = "/api/traces";
const SAMPLING: &str = "/api/sampling";
/// Both name Thrift's binary protocol.
const THRIFT: [&str; 2] = ["application/x-thrift", "application/vnd.apache.thrift.binary"];
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The service of one lane.
pub(crate) struct Service {
    pub(crate) intake: Intake,
    pub(crate) gate: Gate,
    /// How long a sender waits for an answer at most.
    pub(crate) ack_timeout: Duration,
    pub(crate) strategies: Option<Arc<Strategies>>,
    /// As a collector does; an agent is only asked how to sample, by any path.
    pub(crate) takes_spans: bool,
}

/// What is wanted.
enum Wanted<'a> {
    /// To send spans.
    Spans,
    /// To be told how to sample.
    Strategy(&'a Strategies),
}

impl HttpService for Service {
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        self.wanted(request)?;
        let passed = self.gate.pass(&self.intake, &request.headers, request.peer);
        passed.map_err(|denied| over_http::denied(denied, over_http::say))?;
        self.intake.admit(length.unwrap_or(0)).map_err(|full| over_http::say(&answer::shortage(full)))
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        match self.wanted(&request) {
            Ok(Wanted::Strategy(strategies)) => strategy(strategies, &request),
            Ok(Wanted::Spans) => {
                let patience = self.ack_timeout.saturating_sub(request.arrived.elapsed());
                let origin = match self.gate.origin(&self.intake, request.headers, request.peer) {
                    Ok(origin) => origin,
                    Err(denied) => return over_http::denied(denied, over_http::say),
                };
                let body = Body { format: BATCH, bytes: body };
                let outcome = self.intake.submit(Signal::Traces, body, origin, permit, patience).await;
                match answer::response(outcome) {
                    Ok(()) => over_http::empty(StatusCode::ACCEPTED),
                    Err(status) => over_http::say(&status),
                }
            }
            Err(response) => response,
        }
    }

    fn refuse(&self, _request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        over_http::refused_in_text(&self.intake, refusal)
    }

    fn panicked(&self, message: &str) {
        self.intake.panicked(message);
    }

    fn connection_refused(&self, _reason: ConnectionRefused) {
        self.intake.turned_away(TurnedAway::Connection);
    }
}

impl Service {
    /// What is wanted, or why it is not to be had.
    #[allow(clippy::result_large_err, reason = "an answer is made once, and goes straight out")]
    fn wanted(&self, request: &HttpRequest) -> Result<Wanted<'_>, HttpResponse> {
        let refuse = |status, message: String| {
            self.intake.turned_away(TurnedAway::Transport);
            over_http::text(status, &message)
        };
        let only = |method: Method, allowed: &'static str| {
            if request.method == method {
                return Ok(());
            }
            let mut response =
                refuse(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed} is answered here"));
            response.headers.insert(ALLOW, HeaderValue::from_static(allowed));
            Err(response)
        };
        let path = request.uri.path();
        if let Some(strategies) = &self.strategies
            && (path == SAMPLING || !self.takes_spans)
        {
            only(Method::GET, "GET")?;
            return Ok(Wanted::Strategy(strategies));
        }
        if path != SPANS || !self.takes_spans {
            return Err(refuse(StatusCode::NOT_FOUND, format!("there is nothing at {path}")));
        }
        only(Method::POST, "POST")?;
        if !is_thrift(&request.headers) {
            let message = format!("the content type must be {} or {}", THRIFT[0], THRIFT[1]);
            return Err(refuse(StatusCode::BAD_REQUEST, message));
        }
        Ok(Wanted::Spans)
    }
}

/// Whether a content type is Thrift's, whatever its parameters (RFC 9110, 8.3.1).
fn is_thrift(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    THRIFT.iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// How the service that a request names is to sample.
fn strategy(strategies: &Strategies, request: &HttpRequest) -> HttpResponse {
    let query = request.uri.query().unwrap_or_default();
    let mut named = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "service");
    match (named.next(), named.next()) {
        (Some((_, service)), None) if !service.is_empty() => {
            let mut response = over_http::empty(StatusCode::OK);
            response.headers.insert(CONTENT_TYPE, JSON);
            HttpResponse { body: strategies.of(&service).json(), ..response }
        }
        _ => over_http::text(StatusCode::BAD_REQUEST, "`service` must be named once"),
    }
}
