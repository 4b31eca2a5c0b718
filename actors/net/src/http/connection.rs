//! One connection: its requests, one after another, and its end.

use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;

use actix_http::Request;
use actix_http::body::BodySize;
use actix_http::error::ParseError;
use actix_http::h1::{Codec, Message};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};
use watershed_delivery::Permit;

use super::body::{Failure, Source, Unread, linger};
use super::wire::{AHEAD, HEAD, Wire, after};
use super::{HttpRefusal, HttpRequest, HttpResponse, HttpService, Lane};
use crate::Stop;
use crate::compression::{CONTENT_CODINGS, Coding};
use crate::server::{HANDSHAKE_AT_STOP, LINGER, Slot, due, panic_message, secured, too_large};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What came where a request was expected.
enum Head {
    Request(Request),
    Refused(HttpRefusal),
    /// Nothing, or nothing whole.
    End,
}

/// Serves a connection until it ends. The request in flight is dropped with it.
pub(super) async fn run<S: HttpService>(lane: Rc<Lane<S>>, stream: TcpStream, _slot: Slot, stop: Stop) {
    let peer = stream.peer_addr().ok();
    let _ahead = lane.options.budget.try_window(AHEAD as u64);
    let refused = |reason| lane.service.connection_refused(reason);
    let Some(stream) = secured(stream, lane.options.tls.as_ref(), &stop, refused).await else { return };
    let mut connection =
        Connection { lane: &*lane, wire: Wire::new(stream), head: BytesMut::new(), peer, stop: &stop };
    let mut stopped = pin!(stop.stopped());
    loop {
        // One for each request: what it knows of the last must not matter to the next.
        let mut codec = Codec::new(lane.config.clone());
        let goes_on = match connection.head(&mut codec, stopped.as_mut()).await {
            Head::Request(head) => connection.exchange(&mut codec, head).await,
            Head::Refused(refusal) => connection.refuse_head(&mut codec, refusal).await,
            Head::End => return connection.wire.end(Instant::now() + LINGER).await.unwrap_or_default(),
        };
        if !goes_on {
            return;
        }
    }
}

struct Connection<'a, S> {
    lane: &'a Lane<S>,
    wire: Wire,
    /// The head of an answer on its way out; the next uses its memory again.
    head: BytesMut,
    peer: Option<SocketAddr>,
    stop: &'a Stop,
}

impl<S: HttpService> Connection<'_, S> {
    /// The head of the next request.
    async fn head(&mut self, codec: &mut Codec, mut stopped: Pin<&mut impl Future<Output = ()>>) -> Head {
        let options = &self.lane.options;
        let (mut begun, mut stopping) = (false, false);
        let mut by = after(Instant::now(), options.idle_timeout);
        loop {
            if !self.wire.ahead.is_empty() {
                if !std::mem::replace(&mut begun, true) {
                    by = after(Instant::now(), options.read_header_timeout);
                }
                match codec.decode(&mut self.wire.ahead) {
                    Ok(Some(Message::Item(head))) => return Head::Request(head),
                    Ok(_) if self.wire.ahead.len() >= AHEAD => {
                        return Head::Refused(unreadable(ParseError::TooLarge));
                    }
                    Ok(_) => {}
                    Err(error) => return Head::Refused(unreadable(error)),
                }
            }
            if !begun && !stopping && self.stop.is_stopped() {
                // A request may be on its way already: to have it answered is better for a client.
                stopping = true;
                by = by.min(Instant::now() + HANDSHAKE_AT_STOP);
            }
            let filled = tokio::select! {
                biased;
                filled = self.wire.fill(HEAD, by) => filled,
                () = stopped.as_mut(), if !begun && !stopping => continue,
            };
            if let Err(error) = filled {
                if begun && error.kind() == std::io::ErrorKind::TimedOut {
                    let reason = "the head of the request came too slowly";
                    return Head::Refused(HttpRefusal::new(StatusCode::REQUEST_TIMEOUT, reason));
                }
                return Head::End;
            }
        }
    }

    /// Answers a request; whether another may follow.
    async fn exchange(&mut self, codec: &mut Codec, head: Request) -> bool {
        let mut unread = Unread::announced(head.head());
        let expects = head.head().expect();
        let Some(request) = HttpRequest::read(head.head(), self.peer, Instant::now()) else {
            let refusal = HttpRefusal::new(StatusCode::BAD_REQUEST, "the head of the request makes no sense");
            return self.refuse_head(codec, refusal).await;
        };
        // What was read ahead can be read into again only when nobody holds the head any more.
        drop(head);
        let is_head = request.method == Method::HEAD;
        let cors = self.lane.options.cors.as_ref();
        let (shared, preflight) = match cors {
            None => (HeaderMap::new(), None),
            Some(cors) => (cors.headers(&request), cors.preflight(&request)),
        };
        let answered = match preflight {
            Some(response) => Some(response),
            None => self.answer(codec, &mut unread, expects, request).await,
        };
        let Some(mut response) = answered else { return false };
        response.headers.extend(shared);
        // Who was told to wait before it sends the body need not send it, and then there is none to skip.
        let whole = unread == Unread::Bytes(0);
        let skips = whole || (!expects && unread.is_skippable());
        let close = !skips || !codec.keep_alive() || self.stop.is_stopped();
        if !self.send(codec, response, is_head, close).await {
            return false;
        }
        if !close && unread.skip(&mut self.wire).await {
            return true;
        }
        if !whole || !self.wire.ahead.is_empty() {
            linger(&mut self.wire).await;
        } else {
            let _ = self.wire.end(due(Instant::now(), 0)).await;
        }
        false
    }

    /// Answers what is no request, for the last time.
    async fn refuse_head(&mut self, codec: &mut Codec, refusal: HttpRefusal) -> bool {
        let response = self.lane.refuse(&HttpRequest::unread(self.peer), refusal);
        if self.send(codec, response, false, true).await {
            linger(&mut self.wire).await;
        }
        false
    }

    /// The answer, a panic included, or `None` if there is nobody to take it.
    async fn answer(
        &mut self,
        codec: &mut Codec,
        unread: &mut Unread,
        expects: bool,
        request: HttpRequest,
    ) -> Option<HttpResponse> {
        let lane = self.lane;
        let (mut short, content_type) = request.digest();
        let answer = AssertUnwindSafe(self.call(codec, unread, expects, request)).catch_unwind();
        answer.await.unwrap_or_else(|panic| {
            lane.service.panicked(panic_message(&*panic));
            short.headers.extend(content_type.map(|value| (CONTENT_TYPE, value)));
            // Retryable: the part that failed is built again, and the request need not be to blame.
            let reason = "failed on this request, and may not on the next";
            let refusal = HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, reason);
            Some(lane.refuse(&short, HttpRefusal { panicked: true, ..refusal }))
        })
    }

    async fn call(
        &mut self,
        codec: &mut Codec,
        unread: &mut Unread,
        expects: bool,
        request: HttpRequest,
    ) -> Option<HttpResponse> {
        let service = &self.lane.service;
        match self.take(codec, unread, expects, &request).await {
            Ok((body, permit)) => tokio::select! {
                biased;
                response = service.call(request, body, permit) => Some(response),
                () = self.wire.gone() => None,
            },
            Err(Failure::Refused(refusal)) => Some(service.refuse(&request, refusal)),
            Err(Failure::Answered(response)) => Some(*response),
            Err(Failure::Gone) => None,
        }
    }

    /// The body, inflated, inside its permit.
    async fn take(
        &mut self,
        codec: &mut Codec,
        unread: &mut Unread,
        expects: bool,
        request: &HttpRequest,
    ) -> Result<(Bytes, Permit), Failure> {
        let (lane, limit) = (self.lane, self.lane.options.max_request_body_size);
        let refused = |status| Failure::Refused(HttpRefusal::from(status));
        let encoding = encoding(&request.headers).map_err(|refusal| {
            let mut response = lane.service.refuse(request, refusal);
            response.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(CONTENT_CODINGS));
            Failure::Answered(Box::new(response))
        })?;
        if unread.length().is_some_and(|length| length > limit) {
            return Err(refused(too_large(limit)));
        }
        let permit = lane
            .service
            .admit(request, unread.length())
            .map_err(|response| Failure::Answered(Box::new(response)))?;
        if expects && *unread != Unread::Bytes(0) && self.wire.ahead.is_empty() {
            let by = due(request.arrived, 0);
            self.wire.write(CONTINUE, &[], by).await.map_err(|_| Failure::Gone)?;
        }
        let source = Source {
            wire: &mut self.wire,
            codec,
            arrived: request.arrived,
            by: after(request.arrived, lane.options.read_timeout),
        };
        let mut body = unread.gather(source, limit, &permit).await?;
        if let Some(encoding) = encoding.filter(|_| !body.is_empty()) {
            body = lane.inflater.inflate(encoding, &body, limit, &permit).await.map_err(refused)?;
            permit.trim(body.len() as u64);
        }
        Ok((Bytes::from(body), permit))
    }

    /// Writes an answer; whether that worked.
    async fn send(
        &mut self,
        codec: &mut Codec,
        mut response: HttpResponse,
        is_head: bool,
        close: bool,
    ) -> bool {
        for (name, value) in &self.lane.options.response_headers {
            if !response.headers.contains_key(name) {
                response.headers.append(name, value.clone());
            }
        }
        self.head.clear();
        let length = response.body.len() as u64;
        let message = Message::Item((response.head(close), BodySize::Sized(length)));
        if codec.encode(message, &mut self.head).is_err() {
            return false;
        }
        let bodiless =
            is_head || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if bodiless { &[] } else { &response.body[..] };
        self.wire.write(&self.head, body, due(Instant::now(), length)).await.is_ok()
    }
}

impl<S: HttpService> Lane<S> {
    /// What the service says, should it panic too.
    fn refuse(&self, request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        let status = refusal.status;
        catch_unwind(AssertUnwindSafe(|| self.service.refuse(request, refusal))).unwrap_or_else(|panic| {
            self.service.panicked(panic_message(&*panic));
            HttpResponse::new(status)
        })
    }
}

/// How the body is compressed.
fn encoding(headers: &HeaderMap) -> Result<Option<Coding>, HttpRefusal> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let (value, more) = (values.next(), values.next());
    match (value.map_or(Some(None), |value| Coding::of_content(value.as_bytes())), more) {
        (Some(encoding), None) => Ok(encoding),
        _ => {
            let named = String::from_utf8_lossy(value.map_or(&[], |value| value.as_bytes()));
            let reason = format!("Content-Encoding {named} is not known here; known are {CONTENT_CODINGS}");
            Err(HttpRefusal::new(StatusCode::BAD_REQUEST, reason))
        }
    }
}

/// What is said of a head that is none.
fn unreadable(error: ParseError) -> HttpRefusal {
    match error {
        ParseError::TooLarge => HttpRefusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head of the request is larger than 16 KiB, or has more than 96 headers",
        ),
        ParseError::Version => {
            HttpRefusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "this port speaks HTTP/1.1")
        }
        error => {
            let reason = format!("the head of the request makes no sense: {error}");
            HttpRefusal::new(StatusCode::BAD_REQUEST, reason)
        }
    }
}
