//! Zipkin's API for those who report: two resources to post to, each in two encodings.
//!
//! Source: `zipkin2-api.yaml` and `zipkin-api.yaml` of openzipkin/zipkin-api. Refusals are one line of text.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use watershed_net::{ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpService};
use watershed_stage::delivery::{Exhausted, Fault, Outcome, Permit};
use watershed_stage::{Body, Denied, Gate, Intake, Signal, TurnedAway};

use crate::Format;

/// How long a sender is asked to wait where memory is short.
const SHORTAGE: Duration = Duration::from_secs(1);

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

/// What is answered, but for 202.
struct Refusal {
    status: StatusCode,
    reason: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl HttpService for Service {
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        self.format(request)?;
        let passed = self.gate.pass(&self.intake, &request.headers, request.peer);
        passed.map_err(deny)?;
        self.intake.admit(length.unwrap_or(0)).map_err(|full| shortage(full).into())
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        let format = match self.format(&request) {
            Ok(format) => format,
            Err(response) => return response,
        };
        let patience = self.ack_timeout.saturating_sub(request.arrived.elapsed());
        let origin = match self.gate.origin(&self.intake, request.headers, request.peer) {
            Ok(origin) => origin,
            Err(denied) => return deny(denied),
        };
        let body = Body { format, bytes: body };
        match refusal(self.intake.submit(Signal::Traces, body, origin, permit, patience).await) {
            None => response(StatusCode::ACCEPTED, Bytes::new()),
            Some(refusal) => refusal.into(),
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
        // What came too slowly may come faster next time.
        let (status, retry_after) = match refusal.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => {
                (StatusCode::SERVICE_UNAVAILABLE, refusal.retry_after.or(Some(SHORTAGE)))
            }
            status => (status, refusal.retry_after),
        };
        Refusal { status, reason: refusal.reason, retry_after }.into()
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
            HttpResponse::from(Refusal { status, reason: reason.into(), retry_after: None })
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

/// The answer to a request that was handled; `None` is 202.
fn refusal(outcome: Outcome) -> Option<Refusal> {
    match outcome {
        Outcome::Delivered | Outcome::Dropped { .. } => None,
        Outcome::Refused(refusal) => Some(Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: refusal.reason,
            retry_after: refusal.retry_after.or(Some(SHORTAGE)),
        }),
        Outcome::Rejected(rejection) => {
            let status = match rejection.fault {
                Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                Fault::Exhausted => StatusCode::INTERNAL_SERVER_ERROR,
                Fault::Invalid | Fault::Poison | Fault::Destination(_) => StatusCode::BAD_REQUEST,
            };
            Some(Refusal { status, reason: rejection.reason, retry_after: None })
        }
    }
}

/// The answer to a request there was no memory for.
fn shortage(exhausted: Exhausted) -> Refusal {
    match exhausted {
        Exhausted::ForNow => Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "data refused due to high memory usage".into(),
            retry_after: Some(SHORTAGE),
        },
        Exhausted::ForEver => Refusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            reason: "the request is larger than the whole memory budget".into(),
            retry_after: None,
        },
    }
}

/// The answer to a sender that was turned away at the gate.
fn deny(denied: Denied) -> HttpResponse {
    let (status, reason, retry_after, challenge) = match denied {
        Denied::TooOften(wait) => {
            let reason = "the sender comes more often than it may".into();
            (StatusCode::TOO_MANY_REQUESTS, reason, Some(wait), None)
        }
        Denied::NotNow(reason, wait) => (StatusCode::SERVICE_UNAVAILABLE, reason.into(), Some(wait), None),
        Denied::Unauthenticated(denied) => {
            (StatusCode::UNAUTHORIZED, denied.reason.into(), None, denied.challenge)
        }
    };
    let mut response = HttpResponse::from(Refusal { status, reason, retry_after });
    response.headers.extend(challenge.map(|value| (WWW_AUTHENTICATE, value)));
    response
}

fn response(status: StatusCode, body: Bytes) -> HttpResponse {
    HttpResponse { status, headers: HeaderMap::new(), body }
}

impl From<Refusal> for HttpResponse {
    fn from(refusal: Refusal) -> Self {
        let body = Bytes::from(format!("{}\n", refusal.reason));
        let mut response = response(refusal.status, body);
        response.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(wait) = refusal.retry_after {
            // In whole seconds, and not so soon that it is none (RFC 9110, 10.2.3).
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
