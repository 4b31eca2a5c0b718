//! Outcomes as answers, and answers as outcomes: the one table that gRPC and HTTP share (docs/wire-answers.md).
//!
//! Where OTLP and otelcol differ, OTLP wins: what can be tried again is `UNAVAILABLE` with `RetryInfo`, what is
//! wrong is `INVALID_ARGUMENT`, what is too large is `RESOURCE_EXHAUSTED` without `RetryInfo`. HTTP says the same in
//! its own numbers ([`http_status`]), with the same `google.rpc.Status` as its body.

use std::time::Duration;

use http::StatusCode;
use watershed_net::{Code, Status};
use watershed_stage::delivery::{Exhausted, Fault, Outcome};
use watershed_stage::{Denied, ExportError, Partial, Signal};
use watershed_telemetry::wire::{Fields, Value};

/// How long a sender is asked to wait where memory is short.
pub(crate) const SHORTAGE: Duration = Duration::from_secs(1);

/// The path of a signal's `Export` method.
pub(crate) fn method(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// The signal whose `Export` method `path` is.
pub(crate) fn signal(path: &str) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| method(*signal) == path)
}

/// The answer to a request that was handled. Full success is a response message without a field.
pub(crate) fn response(outcome: Outcome) -> Result<(), Status> {
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
pub(crate) fn shortage(exhausted: Exhausted) -> Status {
    match exhausted {
        Exhausted::ForNow => Status::try_again("data refused due to high memory usage", SHORTAGE),
        Exhausted::ForEver => {
            Status::new(Code::ResourceExhausted, "the request is larger than the whole memory budget")
        }
    }
}

/// The answer to a sender that was turned away at the gate.
pub(crate) fn denied(denied: &Denied) -> Status {
    match denied {
        Denied::Unauthenticated(unauthenticated) => {
            Status::new(Code::Unauthenticated, unauthenticated.reason)
        }
        Denied::NotNow(reason, wait) => Status::try_again(*reason, *wait),
        Denied::TooOften(wait) => Status::try_again("the sender comes more often than it may", *wait),
    }
}

/// A status in HTTP's numbers. gRPC has no number for "too often", which is for the caller to say (429).
pub(crate) fn http_status(status: &Status) -> StatusCode {
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
pub(crate) fn grpc_code(status: StatusCode) -> Code {
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

/// What a destination said of a batch it took.
pub(crate) fn partial(response: &[u8]) -> Partial {
    let mut partial = Partial::default();
    for success in messages(response, 1) {
        for field in Fields::new(success).map_while(Result::ok) {
            match (field.number, field.value) {
                // A negative count is a defect of the destination; nothing was rejected.
                (1, Value::Varint(rejected)) => {
                    partial.rejected = u64::try_from(rejected as i64).unwrap_or(0)
                }
                (2, Value::Bytes(message)) => partial.message = String::from_utf8_lossy(message).into_owned(),
                _ => {}
            }
        }
    }
    partial
}

fn messages(bytes: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    Fields::new(bytes).map_while(Result::ok).filter_map(move |field| match field.value {
        Value::Bytes(message) if field.number == number => Some(message),
        _ => None,
    })
}

/// What a destination's failure means for the batch.
pub(crate) fn failure(status: Status) -> ExportError {
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

    use watershed_stage::delivery::Cause;

    use super::*;

    fn status(outcome: Outcome) -> Status {
        response(outcome).expect_err("an outcome that is no success")
    }

    #[test]
    fn paths_and_signals_are_inverse() {
        for signal in Signal::ALL {
            assert_eq!(super::signal(method(signal)), Some(signal));
        }
        assert_eq!(
            super::signal("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"),
            None
        );
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

    #[test]
    fn a_partial_success_is_read() {
        assert_eq!(partial(&[]), Partial::default());
        let response = [0x0a, 6, 0x08, 7, 0x12, 2, b'n', b'o'];
        assert_eq!(partial(&response), Partial { rejected: 7, message: "no".into(), which: None });
        assert_eq!(partial(&[0x0a, 200]), Partial::default(), "garbage is no reason to resend");
    }
}
