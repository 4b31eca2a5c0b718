//! The table over HTTP: numbers, `Retry-After` and challenges for all protocols, and a line of text for those that have no
//! message of their own to say it in.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use watershed_net::{HttpRefusal, HttpResponse, Status};

use super::{SHORTAGE, grpc_code, http_status};
use crate::gate::Denied;
use crate::intake::{Intake, TurnedAway};

/// An answer without a body.
pub fn empty(status: StatusCode) -> HttpResponse {
    HttpResponse { status, headers: HeaderMap::new(), body: Bytes::new() }
}

/// An answer of one line.
pub fn text(status: StatusCode, line: &str) -> HttpResponse {
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    HttpResponse { status, headers: headers.into_iter().collect(), body: format!("{line}\n").into() }
}

/// The line that says what gRPC would.
pub fn say(status: &Status) -> HttpResponse {
    let mut response = text(http_status(status), &status.message);
    wait(&mut response, status.retry_after);
    response
}

/// The answer to a sender that was turned away at the gate, which is `say`'s but for what only HTTP has a word for.
pub fn denied(denied: Denied, say: impl FnOnce(&Status) -> HttpResponse) -> HttpResponse {
    let mut response = say(&super::denied(&denied));
    match denied {
        Denied::TooOften(_) => response.status = StatusCode::TOO_MANY_REQUESTS,
        Denied::NotNow(..) => {}
        Denied::Unauthenticated(unauthenticated) => {
            response.headers.extend(unauthenticated.challenge.map(|value| (WWW_AUTHENTICATE, value)));
        }
    }
    response
}

/// Counts a request that was refused before it was whole, and says what to answer.
pub fn refused(intake: &Intake, refusal: HttpRefusal) -> (StatusCode, Status) {
    if !refusal.panicked {
        intake.turned_away(match refusal.status {
            StatusCode::PAYLOAD_TOO_LARGE => TurnedAway::TooLarge,
            StatusCode::SERVICE_UNAVAILABLE => TurnedAway::Memory,
            _ => TurnedAway::Transport,
        });
    }
    // 408 means "never" to OTLP's clients ("Failures"), though what came too slowly may come faster next time.
    let (http, retry_after) = match refusal.status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::SERVICE_UNAVAILABLE => {
            (StatusCode::SERVICE_UNAVAILABLE, refusal.retry_after.or(Some(SHORTAGE)))
        }
        status => (status, refusal.retry_after),
    };
    (http, Status { code: grpc_code(http), message: refusal.reason, retry_after })
}

/// The same as a line of text.
pub fn refused_in_text(intake: &Intake, refusal: HttpRefusal) -> HttpResponse {
    let (http, status) = refused(intake, refusal);
    let mut response = text(http, &status.message);
    wait(&mut response, status.retry_after);
    response
}

/// Asks to wait so long: in whole seconds, and not so soon that it is none (RFC 9110, 10.2.3).
pub fn wait(response: &mut HttpResponse, delay: Option<Duration>) {
    if let Some(delay) = delay {
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        response.headers.insert(RETRY_AFTER, seconds.into());
    }
}
