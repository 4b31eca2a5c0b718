//! One call: admit, gather, inflate, answer.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::FutureExt;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::Instant;
use watershed_delivery::Permit;

use super::body::{Body, linger};
use super::{Call, Lane, Unary, panic_message, too_large};
use crate::compression::{Coding, MESSAGE_CODINGS};
use crate::frame::{Header, Payload};
use crate::status::{self, Code, GRPC, GRPC_STATUS, Status};

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Answers one call. Dropped with its connection.
pub(super) async fn answer<U: Unary>(
    lane: Arc<Lane<U>>,
    peer: Option<SocketAddr>,
    arrived: Instant,
    request: Request<RecvStream>,
    mut respond: SendResponse<Payload>,
) {
    let (parts, mut body) = request.into_parts();
    let answered = match not_grpc(&parts) {
        Some(refusal) => respond.send_response(refusal, true).map(drop),
        None => {
            let call = Call::new(parts, peer, arrived);
            match until_reset(caught(&lane, handle(&lane, call, &mut body)), &mut respond).await {
                // The client has cancelled; there is nobody to answer.
                None => return,
                Some(result) => match result.and_then(status::payload) {
                    Ok(payload) => send(&mut respond, payload),
                    Err(status) => respond.send_response(refusal(status), true).map(drop),
                },
            }
        }
    };
    if let Err(error) = answered {
        tracing::debug!(?peer, %error, "could not answer a call");
    }
    // The answer is complete, and so is the call to its client, whatever of the body is still to come.
    drop(respond);
    linger(body, lane.options.stream_window).await;
}

async fn handle<U: Unary>(lane: &Lane<U>, call: Call, stream: &mut RecvStream) -> Result<Bytes, Status> {
    let refused = |status: Status| {
        // Said of a client that has gone: nobody was refused.
        if status.code != Code::Cancelled {
            lane.service.refused(&status);
        }
        status
    };
    let mut body = Body::new(stream, &call);
    let (header, encoding) = begin(lane, &call, &mut body).await.map_err(refused)?;
    let permit = lane.service.admit(&call, u64::from(header.length))?;
    let message = gather(lane, body, header, encoding, &permit).await.map_err(refused)?;
    lane.service.call(call, message, permit).await
}

/// What is said of the message before it comes.
async fn begin<U>(
    lane: &Lane<U>,
    call: &Call,
    body: &mut Body<'_>,
) -> Result<(Header, Option<Coding>), Status> {
    let limit = lane.options.max_recv_msg_size;
    let header = body.header().await?;
    let encoding = encoding(&call.headers, header.flag)?;
    if u64::from(header.length) > limit {
        return Err(too_large(limit));
    }
    Ok((header, encoding))
}

/// The message, inflated, inside its permit.
async fn gather<U>(
    lane: &Lane<U>,
    body: Body<'_>,
    header: Header,
    encoding: Option<Coding>,
    permit: &Permit,
) -> Result<Bytes, Status> {
    let limit = lane.options.max_recv_msg_size;
    let length = usize::try_from(header.length).map_err(|_| too_large(limit))?;
    let mut message = body.message(length).await?;
    if let Some(encoding) = encoding {
        message = lane.inflater.inflate(encoding, &message, limit, permit).await?;
        permit.trim(message.len() as u64);
    }
    Ok(Bytes::from(message))
}

/// How the message is compressed, from its flag and the call's headers.
fn encoding(headers: &HeaderMap, flag: u8) -> Result<Option<Coding>, Status> {
    // An encoding that is not known is refused even where this one message does not use it, as gRPC wants.
    let encoding = match headers.get(&GRPC_ENCODING).map(HeaderValue::as_bytes) {
        None => None,
        Some(name) => Coding::of_message(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Status::new(Code::Unimplemented, format!("grpc-encoding {name} is not known here"))
        })?,
    };
    match (flag, encoding) {
        (0, _) => Ok(None),
        (1, Some(encoding)) => Ok(Some(encoding)),
        (1, None) => Err(Status::new(Code::Internal, "a compressed message in a call without grpc-encoding")),
        _ => Err(Status::new(Code::Internal, "what should be a message does not begin like one")),
    }
}

/// The HTTP error for what is not a gRPC call.
fn not_grpc(request: &Parts) -> Option<Response<()>> {
    let mut response = Response::new(());
    if request.method != Method::POST {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return Some(response);
    }
    // application/grpc, +proto or any other suffix, with or without parameters; but not grpc-web.
    let kind = request.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    match kind.strip_prefix(GRPC.as_bytes()) {
        Some([] | [b'+' | b';', ..]) => None,
        _ => {
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Some(response)
        }
    }
}

/// The whole of a response that refuses.
fn refusal(status: Status) -> Response<()> {
    let unimplemented = status.code == Code::Unimplemented;
    let mut response = status.into_response();
    if unimplemented {
        // It may have been the encoding, and then the client wants to know which are.
        response.headers_mut().insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(MESSAGE_CODINGS));
    }
    response
}

fn send(respond: &mut SendResponse<Payload>, payload: Payload) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(MESSAGE_CODINGS));
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(payload, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// What the call comes to, a panic included.
async fn caught<U: Unary>(
    lane: &Lane<U>,
    call: impl Future<Output = Result<Bytes, Status>>,
) -> Result<Bytes, Status> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| {
        lane.service.panicked(panic_message(&*panic));
        // Retryable: the part that failed is built again, and the message need not be to blame.
        Err(Status::new(Code::Unavailable, "failed on this call, and may not on the next"))
    })
}

/// The call's end, or `None` if the client cancels first.
async fn until_reset<T>(call: impl Future<Output = T>, respond: &mut SendResponse<Payload>) -> Option<T> {
    let mut call = pin!(call);
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending => respond.poll_reset(cx).map(|_: Result<Reason, h2::Error>| None),
    })
    .await
}
