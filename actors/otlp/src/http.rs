//! OTLP over HTTP: three resources to post to, in binary and in JSON.
//!
//! Source: opentelemetry-proto `docs/specification.md`, "OTLP/HTTP".

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use watershed_net::{ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpService, Status};
use watershed_stage::answer::over_http;
use watershed_stage::delivery::Permit;
use watershed_stage::{Body, Gate, Intake, Signal, TurnedAway};

use crate::answer;

/// The two encodings, by the media types that name them.
pub(crate) const PROTOBUF: &str = "application/x-protobuf";
pub(crate) const JSON: &str = "application/json";

/// The service of one lane.
pub(crate) struct Service {
    pub(crate) intake: Intake,
    pub(crate) gate: Gate,
    /// How long a sender waits for an answer at most.
    pub(crate) ack_timeout: Duration,
    pub(crate) paths: Paths,
}

/// Where each signal is posted to, in the order of [`Signal::ALL`].
#[derive(Clone)]
pub(crate) struct Paths(pub(crate) [Arc<str>; 3]);

impl HttpService for Service {
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        self.signal(request)?;
        let format = format(&request.headers);
        let passed = self.gate.pass(&self.intake, &request.headers, request.peer);
        passed.map_err(|denied| over_http::denied(denied, |status| say(format, status)))?;
        self.intake.admit(length.unwrap_or(0)).map_err(|full| say(format, &answer::shortage(full)))
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        let signal = match self.signal(&request) {
            Ok(signal) => signal,
            Err(response) => return response,
        };
        let format = format(&request.headers).unwrap_or(PROTOBUF);
        let patience = self.ack_timeout.saturating_sub(request.arrived.elapsed());
        let origin = match self.gate.origin(&self.intake, request.headers, request.peer) {
            Ok(origin) => origin,
            Err(denied) => return over_http::denied(denied, |status| say(Some(format), status)),
        };
        let body = Body { format, bytes: body };
        match answer::response(self.intake.submit(signal, body, origin, permit, patience).await) {
            Ok(()) => {
                let body = if format == JSON { Bytes::from_static(b"{}") } else { Bytes::new() };
                response(StatusCode::OK, format, body)
            }
            Err(status) => say(Some(format), &status),
        }
    }

    fn refuse(&self, request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        let (http, status) = over_http::refused(&self.intake, refusal);
        answer(format(&request.headers), http, &status)
    }

    fn panicked(&self, message: &str) {
        self.intake.panicked(message);
    }

    fn connection_refused(&self, _reason: ConnectionRefused) {
        self.intake.turned_away(TurnedAway::Connection);
    }
}

impl Service {
    /// What is posted, or why it is not taken.
    #[allow(clippy::result_large_err, reason = "an answer is made once, and goes straight out")]
    fn signal(&self, request: &HttpRequest) -> Result<Signal, HttpResponse> {
        let Paths(paths) = &self.paths;
        let format = format(&request.headers);
        // Whoever asks whether somebody is here, as balancers do, has nothing to send that could be turned away.
        let asks = request.method == Method::GET && request.uri.path() == "/";
        let refuse = |http: StatusCode, message: String| {
            if !asks {
                self.intake.turned_away(TurnedAway::Transport);
            }
            answer(format, http, &Status::new(answer::grpc_code(http), message))
        };
        let path = request.uri.path();
        let Some(signal) = Signal::ALL.into_iter().zip(paths).find(|(_, known)| ***known == *path) else {
            return Err(refuse(StatusCode::NOT_FOUND, format!("there is nothing at {path}")));
        };
        let signal = signal.0;
        if !self.intake.wants(signal) {
            let message = format!("no pipeline of receiver {} takes {signal}", self.intake.id());
            return Err(refuse(StatusCode::NOT_FOUND, message));
        }
        if request.method != Method::POST {
            let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{signal} are sent by POST"));
            response.headers.insert(ALLOW, HeaderValue::from_static("POST"));
            return Err(response);
        }
        if format.is_none() {
            let message = format!("the content type must be {PROTOBUF} or {JSON}");
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        Ok(signal)
    }
}

/// The encoding that a content type names, whatever its parameters (RFC 9110, 8.3.1).
fn format(headers: &HeaderMap) -> Option<&'static str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next().unwrap_or_default().trim();
    [PROTOBUF, JSON].into_iter().find(|known| media_type.eq_ignore_ascii_case(known))
}

/// The answer that says what gRPC would.
fn say(format: Option<&'static str>, status: &Status) -> HttpResponse {
    answer(format, answer::http_status(status), status)
}

/// The answer that says no: a `google.rpc.Status` in the request's encoding, or in JSON where that is neither.
fn answer(format: Option<&'static str>, http: StatusCode, status: &Status) -> HttpResponse {
    let format = format.unwrap_or(JSON);
    let body = if format == JSON { status_json(status) } else { status.to_bytes() };
    let mut response = response(http, format, body.into());
    over_http::wait(&mut response, status.retry_after);
    response
}

fn response(status: StatusCode, format: &'static str, body: Bytes) -> HttpResponse {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format));
    HttpResponse { status, headers, body }
}

/// `google.rpc.Status` in proto3's JSON.
fn status_json(status: &Status) -> Vec<u8> {
    let mut json = serde_json::json!({ "code": status.code as i32, "message": status.message });
    if let Some(wait) = status.retry_after {
        let delay = format!("{}s", wait.as_secs_f64());
        json["details"] =
            serde_json::json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay }]);
    }
    json.to_string().into_bytes()
}
