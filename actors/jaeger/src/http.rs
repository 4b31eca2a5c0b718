//! Over HTTP: batches in Thrift are posted to `/api/traces`, and clients ask how to sample.
//!
//! Source: Jaeger's documentation, "APIs", "Thrift over HTTP" and "Remote Sampling Configuration".

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use watershed_net::{ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpService, Status};
use watershed_stage::delivery::Permit;
use watershed_stage::{Body, Denied, Gate, Intake, Signal, TurnedAway, answer};

use crate::receiver::BATCH;
use crate::strategies::Strategies;

const SPANS: &str = "/api/traces";
const SAMPLING: &str = "/api/sampling";
/// Both name Thrift's binary protocol.
const THRIFT: [&str; 2] = ["application/x-thrift", "application/vnd.apache.thrift.binary"];
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

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
        passed.map_err(deny)?;
        self.intake.admit(length.unwrap_or(0)).map_err(|full| say(&answer::shortage(full)))
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        match self.wanted(&request) {
            Ok(Wanted::Strategy(strategies)) => strategy(strategies, &request),
            Ok(Wanted::Spans) => {
                let patience = self.ack_timeout.saturating_sub(request.arrived.elapsed());
                let origin = match self.gate.origin(&self.intake, request.headers, request.peer) {
                    Ok(origin) => origin,
                    Err(denied) => return deny(denied),
                };
                let body = Body { format: BATCH, bytes: body };
                let outcome = self.intake.submit(Signal::Traces, body, origin, permit, patience).await;
                match answer::response(outcome) {
                    Ok(()) => response(StatusCode::ACCEPTED, None, Bytes::new()),
                    Err(status) => say(&status),
                }
            }
            Err(response) => response,
        }
    }

    fn refuse(&self, _request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        if !refusal.panicked {
            self.intake.turned_away(match refusal.status {
                StatusCode::PAYLOAD_TOO_LARGE => TurnedAway::TooLarge,
                StatusCode::SERVICE_UNAVAILABLE => TurnedAway::Memory,
                _ => TurnedAway::Transport,
            });
        }
        let mut response = text(refusal.status, refusal.reason);
        wait(&mut response, refusal.retry_after);
        response
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
            text(status, message)
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
            response(StatusCode::OK, Some(JSON), strategies.of(&service).json())
        }
        _ => text(StatusCode::BAD_REQUEST, "`service` must be named once".to_owned()),
    }
}

/// The answer to a sender that was turned away at the gate.
fn deny(denied: Denied) -> HttpResponse {
    let mut response = say(&answer::denied(&denied));
    match denied {
        Denied::TooOften(_) => response.status = StatusCode::TOO_MANY_REQUESTS,
        Denied::NotNow(..) => {}
        Denied::Unauthenticated(unauthenticated) => {
            response.headers.extend(unauthenticated.challenge.map(|value| (WWW_AUTHENTICATE, value)));
        }
    }
    response
}

/// The answer that says what gRPC would.
fn say(status: &Status) -> HttpResponse {
    let mut response = text(answer::http_status(status), status.message.clone());
    wait(&mut response, status.retry_after);
    response
}

/// Asks to wait so long: in whole seconds, and not so soon that it is none (RFC 9110, 10.2.3).
fn wait(response: &mut HttpResponse, delay: Option<Duration>) {
    if let Some(delay) = delay {
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        response.headers.insert(RETRY_AFTER, seconds.into());
    }
}

fn text(status: StatusCode, message: impl Into<Cow<'static, str>>) -> HttpResponse {
    response(status, Some(TEXT), message.into().into_owned().into())
}

fn response(status: StatusCode, content_type: Option<HeaderValue>, body: Bytes) -> HttpResponse {
    let headers = content_type.map(|content_type| (CONTENT_TYPE, content_type)).into_iter().collect();
    HttpResponse { status, headers, body }
}
