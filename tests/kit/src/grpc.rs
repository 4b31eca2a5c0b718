//! gRPC as far as OTLP needs it: services, status codes, status details, the five-byte frame.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::wire::{self, Value};

/// Bytes before each message: one for compression, four for the length.
pub const FRAME_HEADER: usize = 5;

/// What an OTLP service carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Spans.
    Traces,
    /// Data points.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// The path of the signal's `Export` method.
    pub fn path(self) -> &'static str {
        match self {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// The signal whose `Export` method `path` names.
    pub fn from_path(path: &str) -> Option<Signal> {
        [Signal::Traces, Signal::Metrics, Signal::Logs].into_iter().find(|signal| signal.path() == path)
    }
}

/// A gRPC status code, known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($name:ident = $number:literal),* $(,)?) => {
        /// The codes by name, numbers as in the gRPC specification.
        #[allow(missing_docs, reason = "the names are the specification's")]
        impl Code {
            $(pub const $name: Code = Code($number);)*

            /// The code's name as the specification spells it.
            pub fn name(self) -> Option<&'static str> {
                match self { $(Code::$name => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

codes! {
    OK = 0, CANCELLED = 1, UNKNOWN = 2, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, NOT_FOUND = 5,
    ALREADY_EXISTS = 6, PERMISSION_DENIED = 7, RESOURCE_EXHAUSTED = 8, FAILED_PRECONDITION = 9, ABORTED = 10,
    OUT_OF_RANGE = 11, UNIMPLEMENTED = 12, INTERNAL = 13, UNAVAILABLE = 14, DATA_LOSS = 15, UNAUTHENTICATED = 16,
}

impl Code {
    /// Whether the OTLP table lets a client send the same request again.
    pub fn retryable(self, with_retry_info: bool) -> bool {
        match self {
            Code::RESOURCE_EXHAUSTED => with_retry_info,
            Code::CANCELLED | Code::DEADLINE_EXCEEDED | Code::ABORTED => true,
            Code::OUT_OF_RANGE | Code::UNAVAILABLE | Code::DATA_LOSS => true,
            _ => false,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// `grpc-status`.
    pub code: Code,
    /// `grpc-message`, percent-decoded.
    pub message: String,
    /// The delay of the `RetryInfo` in `grpc-status-details-bin`, if there is one.
    pub retry_delay: Option<Duration>,
}

// Peers differ on padding: gRPC asks for none and for tolerance.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const RETRY_INFO: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";

impl Status {
    /// A status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Status {
        Status { code, message: message.into(), retry_delay: None }
    }

    /// Whether the OTLP table lets a client send the same request again.
    pub fn retryable(&self) -> bool {
        self.code.retryable(self.retry_delay.is_some())
    }

    /// Reads a status from trailers, or from the headers of a trailers-only answer.
    pub fn read(headers: &HeaderMap) -> Option<Status> {
        let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        let message = headers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
        let details = headers.get("grpc-status-details-bin").and_then(|value| BASE64.decode(value).ok());
        Some(Status {
            code: Code(code),
            message: percent_decode(message),
            retry_delay: details.and_then(|details| read_retry_delay(&details).ok().flatten()),
        })
    }

    /// Writes the status into trailers, or into the headers of a trailers-only answer.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", self.code.0.into());
        if !self.message.is_empty() {
            let message = HeaderValue::try_from(percent_encode(&self.message));
            headers.insert("grpc-message", message.expect("percent-encoded text is a header value"));
        }
        if let Some(delay) = self.retry_delay {
            let details = BASE64.encode(retry_details(self, delay));
            let details = HeaderValue::try_from(details).expect("base64 is a header value");
            headers.insert("grpc-status-details-bin", details);
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        self.retry_delay.map_or(Ok(()), |delay| write!(f, " (retry after {delay:?})"))
    }
}

/// `google.rpc.Status { code, message, details: [Any { RetryInfo { retry_delay } }] }`.
fn retry_details(status: &Status, delay: Duration) -> Vec<u8> {
    let (mut duration, mut info, mut any, mut out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    wire::put_uint(&mut duration, 1, delay.as_secs());
    wire::put_uint(&mut duration, 2, u64::from(delay.subsec_nanos()));
    wire::put_bytes(&mut info, 1, &duration);
    wire::put_bytes(&mut any, 1, RETRY_INFO);
    wire::put_bytes(&mut any, 2, &info);
    wire::put_uint(&mut out, 1, u64::from(status.code.0));
    wire::put_bytes(&mut out, 2, status.message.as_bytes());
    wire::put_bytes(&mut out, 3, &any);
    out
}

fn read_retry_delay(status: &[u8]) -> Result<Option<Duration>, wire::Malformed> {
    for any in wire::children(status, 3) {
        let (mut is_retry_info, mut delay) = (false, Duration::ZERO);
        for field in wire::fields(any?) {
            match field? {
                (1, Value::Bytes(url)) => is_retry_info = url == RETRY_INFO,
                (2, Value::Bytes(info)) => delay = read_duration(info)?,
                _ => {}
            }
        }
        if is_retry_info {
            return Ok(Some(delay));
        }
    }
    Ok(None)
}

fn read_duration(info: &[u8]) -> Result<Duration, wire::Malformed> {
    let mut delay = Duration::ZERO;
    for duration in wire::children(info, 1) {
        for field in wire::fields(duration?) {
            match field? {
                (1, Value::Varint(seconds)) => delay += Duration::from_secs(seconds.min(86_400)),
                (2, Value::Varint(nanos)) => delay += Duration::from_nanos(nanos.min(999_999_999)),
                _ => {}
            }
        }
    }
    Ok(delay)
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_survives_headers() {
        let delay = Some(Duration::from_millis(1_250));
        let status = Status { code: Code::UNAVAILABLE, message: "50 % voll: ü".into(), retry_delay: delay };
        let mut headers = HeaderMap::new();
        status.write(&mut headers);
        assert_eq!(Status::read(&headers), Some(status));
    }

    #[test]
    fn resource_exhausted_is_retryable_only_with_retry_info() {
        let mut status = Status::new(Code::RESOURCE_EXHAUSTED, "");
        assert!(!status.retryable());
        status.retry_delay = Some(Duration::ZERO);
        assert!(status.retryable());
        let retryable: Vec<u16> = (0..20).filter(|code| Code(*code).retryable(false)).collect();
        assert_eq!(retryable, [1, 4, 10, 11, 14, 15]);
    }
}
