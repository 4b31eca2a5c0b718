//! One exchange: a request out, a response in.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use watershed_delivery::Budget;

use super::{CallError, CallErrorKind, Shared, endpoint};
use crate::client::override_headers;
use crate::compression::{Coding, Inflater};
use crate::frame::{HEADER, Header, Payload};
use crate::status::{Code, GRPC, Status};
use crate::timeout;

/// The largest response taken, in bytes: what OTLP recommends. Larger ones are not retried.
const RESPONSE_LIMIT: usize = 4 << 20;

impl Shared {
    /// The head of a request to `path`.
    pub(super) fn request(
        &self,
        path: &'static str,
        headers: &HeaderMap,
        timeout: Option<Duration>,
    ) -> Result<Request<()>, CallError> {
        let unsendable = |error: &dyn std::fmt::Display| {
            CallError::not_sent(Status::new(Code::Internal, format!("cannot call {path}: {error}")))
        };
        let path = PathAndQuery::from_maybe_shared(Bytes::from_static(path.as_bytes()));
        let uri = Uri::builder()
            .scheme(self.endpoint.scheme())
            .authority(self.endpoint.authority.clone())
            .path_and_query(path.map_err(|error| unsendable(&error))?);
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.build().map_err(|error| unsendable(&error))?;
        *request.headers_mut() = self.headers.clone();
        override_headers(request.headers_mut(), headers, endpoint::is_reserved);
        if let Some(timeout) = timeout {
            let value = HeaderValue::try_from(timeout::format(timeout));
            request.headers_mut().insert("grpc-timeout", value.map_err(|error| unsendable(&error))?);
        }
        Ok(request)
    }
}

/// Sends the request and reads the response. Dropped, it cancels the call.
pub(super) async fn run(
    mut sender: SendRequest<Payload>,
    request: Request<()>,
    payload: Payload,
) -> Result<Bytes, CallError> {
    let (response, mut body) =
        sender.send_request(request, false).map_err(|error| CallError::not_sent(lost_status(&error)))?;
    // The whole message is in memory as it is: it is queued at once, and leaves as the server makes room.
    body.send_data(payload, true).map_err(lost)?;
    let (parts, mut body) = response.await.map_err(lost)?.into_parts();
    if let Some(status) = Status::read(&parts.headers) {
        return Err(CallError::answered(match status.code {
            Code::Ok => Status::new(Code::Internal, "the server said OK without a response"),
            _ => status,
        }));
    }
    if parts.status != StatusCode::OK {
        return Err(CallError::answered(from_http(parts.status)));
    }
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if !content_type.starts_with(GRPC.as_bytes()) {
        let content_type = String::from_utf8_lossy(content_type).into_owned();
        let text = format!("the server does not speak gRPC: its response is \"{content_type}\"");
        return Err(CallError::answered(Status::new(Code::Unknown, text)));
    }
    let message = read(&mut body).await?;
    let trailers = body.trailers().await.map_err(lost)?.unwrap_or_default();
    match Status::read(&trailers) {
        Some(Status { code: Code::Ok, .. }) => {
            let encoding = parts.headers.get("grpc-encoding").map_or(&b""[..], HeaderValue::as_bytes);
            unframed(message, encoding).await.map_err(CallError::answered)
        }
        Some(status) => Err(CallError::answered(status)),
        None => {
            let status = Status::new(Code::Unknown, "the server ended the call without a status");
            Err(CallError { status, kind: CallErrorKind::Unknown })
        }
    }
}

/// Everything before the trailers. A response is a few bytes, which come in one frame and are taken as they are.
async fn read(body: &mut RecvStream) -> Result<Bytes, CallError> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.data().await {
        let frame = frame.map_err(lost)?;
        // Fails only of more than was received.
        let _ = body.flow_control().release_capacity(frame.len());
        if first.len() + joined.len() + frame.len() > HEADER + RESPONSE_LIMIT {
            let text = format!("the response is larger than {RESPONSE_LIMIT} bytes");
            return Err(CallError::answered(Status::new(Code::ResourceExhausted, text)));
        }
        if first.is_empty() && joined.is_empty() {
            first = frame;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&frame);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// The message in a response's body. Servers in Go compress it as the request was, whatever the request said to accept.
async fn unframed(mut body: Bytes, encoding: &[u8]) -> Result<Bytes, Status> {
    let wrong = |text: String| Status::new(Code::Internal, text);
    let Some(header) = body.first_chunk::<HEADER>() else {
        return Err(wrong("the response has no message".into()));
    };
    let header = Header::read(*header);
    body.advance(HEADER);
    if body.len() as u64 != u64::from(header.length) {
        return Err(wrong("the response is not exactly one message".into()));
    }
    if header.flag == 0 {
        return Ok(body);
    }
    let Some(Some(coding)) = Coding::of_message(encoding) else {
        let encoding = String::from_utf8_lossy(encoding);
        return Err(wrong(format!("the response is compressed in a way that is not known: \"{encoding}\"")));
    };
    // The limit is its only bound: what the server has taken must not be sent again for want of memory here.
    let permit = Budget::new(u64::from(u32::MAX)).overdraw(body.len() as u64);
    let inflated = Inflater::default().inflate(coding, &body, RESPONSE_LIMIT as u64, &permit).await;
    inflated.map(Bytes::from).map_err(|status| wrong(format!("the response: {}", status.message)))
}

/// gRPC's reading of an answer by something that does not speak it, such as a proxy.
fn from_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the server answered with HTTP status {status}"))
}

/// A call that ended without an answer. Whatever ended it, the same can be sent again.
fn lost(error: h2::Error) -> CallError {
    // Streams that a GOAWAY leaves out and streams that are refused were never looked at, says HTTP/2.
    let unseen = error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
    let kind = if unseen { CallErrorKind::NotSent } else { CallErrorKind::Unknown };
    CallError { status: lost_status(&error), kind }
}

fn lost_status(error: &h2::Error) -> Status {
    Status::new(Code::Unavailable, format!("the call was lost: {error}"))
}
