//! Zipkin's API for those who report: two resources to post to, each in two encodings.
//!
//! Source: `zipkin2-api.yaml` and `zipkin-api.yaml` of openzipkin/zipkin-api. Refusals are one line of text.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use watershed_net::{ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpService};
use watershed_stage::answer::{self, over_http};
use watershed_stage::delivery::Permit;
use watershed_stage::{Body, Gate, Intake, Signal, TurnedAway};

use crate::Format;

/// What a body can be, by the name under which it goes through the receiver's mailbox: its format, and whether its
/// sender asked for the traces to be kept in any case.
const BODIES: [(&str, Format, bool); 8] = [
    ("v2 JSON", Format::Json, false),
    ("v2 JSON, debug", Format::Json, true),
    ("v2 protobuf", Format::Proto, false),
    ("v2 protobuf, debug", Format::Proto, true),
    ("v1 JSON", Format::JsonV1, false),
    ("v1 JSON, debug", Format::JsonV1, true),
    ("v1 Thrift", Format::ThriftV1, false),
    ("v1 Thrift, debug", Format::ThriftV1, true),
];

/// The service of one lane.
pub(crate) struct Service {
    pub(crate) intake: Intake,
    pub(crate) gate: Gate,
    /// How long a sender waits for an answer at most.
    pub(crate) ack_timeout: Duration,
}

impl HttpService for Service {
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        self.format(request)?;
        let passed = self.gate.pass(&self.intake, &request.headers, request.peer);
        passed.map_err(|denied| over_http::denied(denied, over_http::say))?;
        self.intake.admit(length.unwrap_or(0)).map_err(|full| over_http::say(&answer::shortage(full)))
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        let format = match self.format(&request) {
            Ok(format) => format,
            Err(response) => return response,
        };
        let patience = self.ack_timeout.saturating_sub(request.arrived.elapsed());
        let origin = match self.gate.origin(&self.intake, request.headers, request.peer) {
            Ok(origin) => origin,
            Err(denied) => return over_http::denied(denied, over_http::say),
        };
        let body = Body { format, bytes: body };
        match answer::response(self.intake.submit(Signal::Traces, body, origin, permit, patience).await) {
            Ok(()) => over_http::empty(StatusCode::ACCEPTED),
            Err(status) => {
                let mut response = over_http::say(&status);
                // What is said here is final, and 500 means "again" to who speaks with a Zipkin server.
                if response.status == StatusCode::INTERNAL_SERVER_ERROR {
                    response.status = StatusCode::BAD_REQUEST;
                }
                response
            }
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
    /// What is posted, by its name in [`BODIES`], or why it is not taken.
    #[allow(clippy::result_large_err, reason = "an answer is made once, and goes straight out")]
    fn format(&self, request: &HttpRequest) -> Result<&'static str, HttpResponse> {
        let refuse = |status: StatusCode, reason: String| {
            self.intake.turned_away(TurnedAway::Transport);
            over_http::text(status, &reason)
        };
        let path = request.uri.path();
        // Behind a proxy something may stand before it.
        let is_first = path.ends_with("/api/v1/spans");
        if !is_first && !path.ends_with("/api/v2/spans") {
            let reason = format!("there is nothing at {path}: spans go to /api/v2/spans");
            return Err(refuse(StatusCode::NOT_FOUND, reason));
        }
        if !self.intake.wants(Signal::Traces) {
            let reason = format!("no pipeline of receiver {} takes traces", self.intake.id());
            return Err(refuse(StatusCode::NOT_FOUND, reason));
        }
        if request.method != Method::POST {
            let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, "spans are sent by POST".into());
            response.headers.insert(ALLOW, HeaderValue::from_static("POST"));
            return Err(response);
        }
        let media_type = request.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let is = |kind: &[u8]| media_type.windows(kind.len()).any(|part| part.eq_ignore_ascii_case(kind));
        // As in Zipkin, all that does not say otherwise is JSON: browsers call it text/plain.
        let format = match (is_first, is(b"/x-protobuf"), is(b"/x-thrift") || is(b"apache.thrift")) {
            (false, true, _) => Format::Proto,
            (true, _, true) => Format::ThriftV1,
            (false, _, true) => {
                let reason = "Thrift is of version 1: it goes to /api/v1/spans";
                return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason.into()));
            }
            (true, true, _) => {
                let reason = "protobuf is of version 2: it goes to /api/v2/spans";
                return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason.into()));
            }
            (true, ..) => Format::JsonV1,
            (false, ..) => Format::Json,
        };
        let debug = request.headers.get("x-b3-flags").is_some_and(|flags| flags == "1");
        let body = BODIES.iter().find(|body| (body.1, body.2) == (format, debug));
        Ok(body.map_or("", |(name, ..)| name))
    }
}

/// What a name in [`BODIES`] stands for.
pub(crate) fn body(name: &str) -> Option<(Format, bool)> {
    BODIES.iter().find(|body| body.0 == name).map(|(_, format, debug)| (*format, *debug))
}
