//! Outcomes as answers, and answers as outcomes: the one table that all protocols share (docs/wire-answers.md).
//!
//! Where OTLP and otelcol differ, OTLP wins: what can be tried again is `UNAVAILABLE` with `RetryInfo`, what is
//! wrong is `INVALID_ARGUMENT`, what is too large is `RESOURCE_EXHAUSTED` without `RetryInfo`. HTTP says the same in
//! its own numbers ([`http_status`]), with the same `google.rpc.Status` as its body.

pub mod over_http;

use std::time::Duration;

use http::StatusCode;
use watershed_delivery::{Exhausted, Fault, Outcome};
use watershed_net::{Code, Status};

use crate::exporter::ExportError;
use crate::gate::Denied;

/// How long a sender is asked to wait where memory is short.
pub const SHORTAGE: Duration = Duration::from_secs(1);

/// The answer to a request that was handled. Full success is a response message without a field.
pub fn response(outcome: Outcome) -> Result<(), Status> {
    match outcome {
        Outcome::Delivered | Outcome::Dropped { .. } => Ok(()),
        Outcome::Refused(refusal) => {
            Err(Status::try_again(refusal.reason, refusal.retry_after.unwrap_or(SHORTAGE)))
        }
        Outcome::Rejected(rejection) => {
            let code = match rejection.fault {
                Fault::Invalid | Fault::Poison => Code::InvalidArgument,
                Fault::TooLarge => Code::ResourceExhausted,
                // Passed through, unless it would read as "try again".
                Fault::Destination(code) => match Code::from_i32(code) {
                    code if code == Code::Ok || is_retryable(code) => Code::Internal,
                    code => code,
                },
                Fault::Exhausted => Code::Internal,
            };
            Err(Status::new(code, rejection.reason))
        }
    }
}

/// The answer to a request there was no memory for.
pub fn shortage(exhausted: Exhausted) -> Status {
    match exhausted {
        Exhausted::ForNow => Status::try_again("data refused due to high memory usage", SHORTAGE),
        Exhausted::ForEver => {
            Status::new(Code::ResourceExhausted, "the request is larger than the whole memory budget")
        }
    }
}

/// The answer to a sender that was turned away at the gate.
pub fn denied(denied: &Denied) -> Status {
    match denied {
        Denied::Unauthenticated(unauthenticated) => {
            Status::new(Code::Unauthenticated, unauthenticated.reason)
        }
        Denied::NotNow(reason, wait) => Status::try_again(*reason, *wait),
        Denied::TooOften(wait) => Status::try_again("the sender comes more often than it may", *wait),
    }
}

/// A status in HTTP's numbers. gRPC has no number for "too often", which is for the caller to say (429).
pub fn http_status(status: &Status) -> StatusCode {
    match status.code {
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::DataLoss => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound | Code::Unimplemented => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An HTTP status that says no, in gRPC's codes.
pub fn grpc_code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 405 => Code::Unimplemented,
        408 | 429 | 502..=504 => Code::Unavailable,
        413 => Code::ResourceExhausted,
        _ => Code::Unknown,
    }
}

/// What a destination's failure means for the batch.
pub fn failure(status: Status) -> ExportError {
    let Status { code, message, retry_after } = status;
    // Servers of tonic say so of what is larger than they read. Such a request never fits, but its halves may.
    let is_too_large = code == Code::OutOfRange && message.contains("message length too large");
    let reason = if message.is_empty() { format!("{code:?}").into() } else { message };
    // A destination that is full says when to come back; without that it means the size of the request.
    if is_too_large || (code == Code::ResourceExhausted && retry_after.is_none()) {
        ExportError::TooLarge { code: code as i32, reason }
    } else if is_retryable(code) || code == Code::ResourceExhausted {
        ExportError::Retryable { reason, retry_after }
    } else {
        ExportError::Permanent { code: code as i32, reason }
    }
}

/// OTLP's table of retryable codes ("Failures", OTLP/gRPC).
fn is_retryable(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use watershed_delivery::Cause;

    use super::*;

    fn status(outcome: Outcome) -> Status {
        response(outcome).expect_err("an outcome that is no success")
    }

    #[test]
    fn what_can_be_tried_again_is_unavailable_with_a_delay() {
        for cause in [Cause::Overload, Cause::Deadline, Cause::Shutdown, Cause::Failure, Cause::Abandoned] {
            let status = status(Outcome::refused(cause, "not now"));
            assert_eq!((status.code, status.retry_after.is_some()), (Code::Unavailable, true), "{cause:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_never_answered_with_a_code_that_asks_for_more() {
        for code in 0..17 {
            let status = status(Outcome::rejected(Fault::Destination(code), 1, "no"));
            assert!(status.retry_after.is_none());
            assert!(status.code != Code::Ok && !is_retryable(status.code), "{code} became {:?}", status.code);
        }
        assert_eq!(status(Outcome::rejected(Fault::Invalid, 1, "no")).code, Code::InvalidArgument);
        assert_eq!(status(Outcome::rejected(Fault::TooLarge, 1, "no")).code, Code::ResourceExhausted);
    }

    #[test]
    fn a_full_destination_is_tried_again_only_if_it_says_when() {
        let error = |code, retry_after| Status { code, message: "full".into(), retry_after };
        let wait = Some(Duration::from_secs(3));
        let retryable = |error| matches!(failure(error), ExportError::Retryable { .. });
        assert!(retryable(error(Code::ResourceExhausted, wait)));
        assert!(!retryable(error(Code::ResourceExhausted, None)));
        assert!(retryable(error(Code::OutOfRange, None)));
        for code in
            [Code::Unknown, Code::InvalidArgument, Code::Unauthenticated, Code::Unimplemented, Code::Internal]
        {
            assert!(!retryable(error(code, wait)), "{code:?}");
        }
    }

    #[test]
    fn a_request_that_a_server_does_not_read_is_too_large() {
        let tonic =
            "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes";
        let grpc_go = "grpc: received message larger than max (5000000 vs. 4194304)";
        for (code, message) in [(Code::OutOfRange, tonic), (Code::ResourceExhausted, grpc_go)] {
            let error = failure(Status::new(code, message));
            assert!(matches!(error, ExportError::TooLarge { .. }), "{error:?}");
        }
    }
}
