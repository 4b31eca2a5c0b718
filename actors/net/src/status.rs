//! What either end of a call says, and how it travels.
//!
//! A status is three headers: `grpc-status`, `grpc-message` (percent-encoded) and, where there is a delay to say,
//! `grpc-status-details-bin`: a base64 `google.rpc.Status` that holds a `google.rpc.RetryInfo`. Those two protobuf
//! messages are a dozen bytes, written and read here by hand.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
pub use tonic::Code;

use crate::frame::Payload;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Bytes of a message that are sent: it is a sentence for a log, and header blocks are small.
const MESSAGE_LIMIT: usize = 1024;

/// Written without padding, as gRPC wants; read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const RETRY_INFO: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";

/// How a call ended, other than with a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Status {
    /// What kind of end.
    pub code: Code,
    /// One sentence for the other end's log; what exceeds 1024 bytes is not sent.
    pub message: Cow<'static, str>,
    /// How long the caller should wait before it sends the same again (`google.rpc.RetryInfo`).
    pub retry_after: Option<Duration>,
}

// === impl Status ===

impl Status {
    /// A status without a delay.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// `UNAVAILABLE`: the same can be sent again after `wait`.
    pub fn try_again(message: impl Into<Cow<'static, str>>, wait: Duration) -> Self {
        Self { code: Code::Unavailable, message: message.into(), retry_after: Some(wait) }
    }

    /// The status as a `google.rpc.Status` message.
    pub fn to_bytes(&self) -> Vec<u8> {
        details(self.code, bounded(&self.message), self.retry_after)
    }

    /// What a `google.rpc.Status` message says, as far as it can be read.
    pub fn from_bytes(status: &[u8]) -> Self {
        let code = fields(status).find_map(|field| field.number(1)).and_then(|code| i32::try_from(code).ok());
        let message = fields(status).find_map(|field| field.bytes(2)).unwrap_or_default();
        Self {
            code: Code::from_i32(code.unwrap_or(Code::Unknown as i32)),
            message: String::from_utf8_lossy(message).into_owned().into(),
            retry_after: retry_delay(status),
        }
    }

    /// The whole of a response that has no message.
    pub(crate) fn into_response(self) -> http::Response<()> {
        let mut response = http::Response::new(());
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
        self.write(response.headers_mut());
        response
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as i32));
        let message = bounded(&self.message);
        if !message.is_empty()
            && let Ok(value) = HeaderValue::try_from(percent_encoded(message))
        {
            headers.insert(GRPC_MESSAGE, value);
        }
        if let Some(wait) = self.retry_after
            && let Ok(value) = HeaderValue::try_from(BASE64.encode(details(self.code, message, Some(wait))))
        {
            headers.insert(GRPC_DETAILS, value);
        }
    }

    /// Reads the status in a response's headers or trailers; `None` where there is none.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let code = Code::from_bytes(headers.get(&GRPC_STATUS)?.as_bytes());
        let message = headers.get(&GRPC_MESSAGE).map_or(Cow::Borrowed(""), percent_decoded);
        let details = headers.get(&GRPC_DETAILS).and_then(|value| BASE64.decode(value).ok());
        Some(Self { code, message, retry_after: details.and_then(|details| retry_delay(&details)) })
    }
}

/// One message on its way out, of one piece. Messages are bounded far below what the header can say.
pub(crate) fn payload(message: bytes::Bytes) -> Result<Payload, Status> {
    Payload::new(false, smallvec::smallvec![message]).ok_or_else(too_long)
}

pub(crate) fn too_long() -> Status {
    Status::new(Code::ResourceExhausted, "the message is longer than gRPC can carry (4 GiB)")
}

fn bounded(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

// === grpc-message ===

fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    encoded
}

/// Reads what others wrote, well or badly: an escape that is none stands for itself.
fn percent_decoded(value: &HeaderValue) -> Cow<'static, str> {
    let mut rest = value.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, ..] if byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            None => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(
        String::from_utf8(decoded).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
    )
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

// === google.rpc.Status { 1 code, 2 message, 3 details: Any { 1 type_url, 2 value: RetryInfo { 1 Duration } } } ===

fn details(code: Code, message: &str, wait: Option<Duration>) -> Vec<u8> {
    let mut status = Vec::new();
    put_number(&mut status, 1, u64::from((code as i32).unsigned_abs()));
    put_bytes(&mut status, 2, message.as_bytes());
    if let Some(wait) = wait {
        let mut duration = Vec::new();
        put_number(&mut duration, 1, wait.as_secs());
        put_number(&mut duration, 2, u64::from(wait.subsec_nanos()));
        let mut info = Vec::new();
        put_bytes(&mut info, 1, &duration);
        let mut any = Vec::new();
        put_bytes(&mut any, 1, RETRY_INFO);
        put_bytes(&mut any, 2, &info);
        put_bytes(&mut status, 3, &any);
    }
    status
}

fn retry_delay(status: &[u8]) -> Option<Duration> {
    let any = fields(status)
        .filter_map(|field| field.bytes(3))
        .find(|any| fields(any).filter_map(|field| field.bytes(1)).any(|type_url| type_url == RETRY_INFO))?;
    // A field that is not there has its default: no delay at all.
    let info = fields(any).find_map(|field| field.bytes(2)).unwrap_or_default();
    let duration = fields(info).find_map(|field| field.bytes(1)).unwrap_or_default();
    let seconds = fields(duration).find_map(|field| field.number(1)).unwrap_or(0);
    let nanos = fields(duration).find_map(|field| field.number(2)).unwrap_or(0);
    // A negative delay is none, and comes as a number beyond these.
    let seconds = u64::try_from(seconds.cast_signed()).unwrap_or(0);
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).unwrap_or(0);
    Some(Duration::new(seconds, nanos))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

struct Field<'a> {
    number: u64,
    value: Value<'a>,
}

impl<'a> Field<'a> {
    fn bytes(&self, number: u64) -> Option<&'a [u8]> {
        match self.value {
            Value::Bytes(bytes) if self.number == number => Some(bytes),
            _ => None,
        }
    }

    fn number(&self, number: u64) -> Option<u64> {
        match self.value {
            Value::Number(value) if self.number == number => Some(value),
            _ => None,
        }
    }
}

/// The fields of a message, up to the first that is broken.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let tag = take_number(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(take_number(&mut rest)?),
            1 => rest.split_off(..8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(take_number(&mut rest)?).ok()?;
                Value::Bytes(rest.split_off(..length)?)
            }
            5 => rest.split_off(..4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some(Field { number: tag >> 3, value })
    })
}

fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn put_number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        put_varint(out, value);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct RetryInfo {
        #[prost(message, tag = "1")]
        retry_delay: Option<RpcDuration>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcDuration {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }

    /// The longest delay a `google.protobuf.Duration` may hold, in seconds.
    const TEN_THOUSAND_YEARS: u64 = 315_576_000_000;

    proptest! {
        #[test]
        fn reads_what_it_writes(
            code in 1i32..17,
            message in "\\PC{0,400}",
            wait in proptest::option::of((0..TEN_THOUSAND_YEARS, 0..1_000_000_000u32)),
        ) {
            let retry_after = wait.map(|(seconds, nanos)| Duration::new(seconds, nanos));
            let status = Status { code: Code::from_i32(code), message: message.into(), retry_after };
            let read = Status::read(status.clone().into_response().headers()).unwrap();
            prop_assert_eq!(read.code, status.code);
            prop_assert_eq!(read.retry_after, status.retry_after);
            prop_assert!(status.message.starts_with(&*read.message));
            prop_assert!(read.message.len() == status.message.len() || read.message.len() > MESSAGE_LIMIT - 4);
        }

        #[test]
        fn writes_what_protobuf_reads(
            code in 1i32..17,
            message in "\\PC{0,40}",
            seconds in 0..TEN_THOUSAND_YEARS,
            nanos in 0..1_000_000_000u32,
        ) {
            let bytes = details(Code::from_i32(code), &message, Some(Duration::new(seconds, nanos)));
            let status = RpcStatus::decode(&bytes[..]).unwrap();
            prop_assert_eq!(status.code, code);
            prop_assert_eq!(status.message, message);
            prop_assert_eq!(&status.details[0].type_url, "type.googleapis.com/google.rpc.RetryInfo");
            let delay = RetryInfo::decode(&status.details[0].value[..]).unwrap().retry_delay.unwrap();
            prop_assert_eq!((delay.seconds, delay.nanos), (seconds as i64, nanos as i32));
        }

        #[test]
        fn finds_the_delay_among_other_details(
            others in proptest::collection::vec(("[a-z./]{0,20}", any::<Vec<u8>>()), 0..4),
            seconds in 0..TEN_THOUSAND_YEARS,
        ) {
            let info = RetryInfo { retry_delay: Some(RpcDuration { seconds: seconds as i64, nanos: 5 }) };
            let mut details: Vec<Any> =
                others.into_iter().map(|(type_url, value)| Any { type_url, value }).collect();
            let type_url = String::from_utf8(RETRY_INFO.to_vec()).unwrap();
            details.push(Any { type_url, value: info.encode_to_vec() });
            let status = RpcStatus { code: 14, message: "busy".to_owned(), details };
            prop_assert_eq!(retry_delay(&status.encode_to_vec()), Some(Duration::new(seconds, 5)));
        }

        #[test]
        fn no_bytes_are_too_odd_to_read(bytes: Vec<u8>) {
            let _ = retry_delay(&bytes);
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = percent_decoded(&value);
            }
        }
    }

    #[test]
    fn a_delay_of_nothing_and_a_negative_one_are_no_delay() {
        for retry_delay in [None, Some(RpcDuration { seconds: -3, nanos: -7 })] {
            let type_url = String::from_utf8(RETRY_INFO.to_vec()).unwrap();
            let any = Any { type_url, value: RetryInfo { retry_delay }.encode_to_vec() };
            let status = RpcStatus { code: 14, message: String::new(), details: vec![any] };
            assert_eq!(super::retry_delay(&status.encode_to_vec()), Some(Duration::ZERO));
        }
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let status = Status::new(Code::Internal, "é".repeat(2000));
        let read = Status::read(status.into_response().headers()).unwrap();
        assert_eq!(read.message, "é".repeat(512));
    }
}
