//! A gRPC client for unary exports, straight on `h2`: what it sends is exactly what it is given.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::grpc::{Code, FRAME_HEADER, Signal, Status};
use crate::net::{self, H2, Tls};
use crate::web;
use crate::wire::{self, Value};
use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};

/// What most OTLP clients put into a DATA frame at most, whatever the server would take.
pub const USUAL_FRAME: usize = 16 << 10;

const USER_AGENT: &str = "watershed-testkit";

/// One HTTP/2 connection. Clones share it and may call at the same time.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    scheme: Scheme,
    authority: Authority,
    frame: usize,
}

/// What a call came to, where an answer came at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `OK` and no partial success.
    Accepted,
    /// `OK` with a partial success: items rejected, and why.
    Partial(u64, String),
    /// Any other status.
    Refused(Status),
}

/// Why no answer came.
#[derive(Debug)]
pub enum CallError {
    /// The connection could not be used any more before the request was sent.
    NotSent(std::io::Error),
    /// The connection or the stream broke after the request had been sent at least in part.
    Broken(std::io::Error),
    /// The peer's answer is not gRPC.
    NotGrpc(http::StatusCode),
    /// The call's own timeout passed; the stream was reset.
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::NotSent(error) => write!(f, "not sent: {error}"),
            CallError::Broken(error) => write!(f, "broken off: {error}"),
            CallError::NotGrpc(status) => write!(f, "HTTP {status} without a grpc-status"),
            CallError::TimedOut => f.write_str("timed out"),
        }
    }
}

impl std::error::Error for CallError {}

/// A request's head, made once and cloned for each call.
#[derive(Clone)]
pub struct Head {
    pub(crate) request: Request<()>,
    pub(crate) timeout: Option<Duration>,
}

impl Head {
    /// The head of `signal`'s `Export` with these options: `grpc-timeout` (kept by the client too) and
    /// `grpc-encoding` (of the bytes given; nothing is compressed here).
    pub fn new(signal: Signal, timeout: Option<Duration>, encoding: Option<&str>) -> Head {
        Head::grpc(signal.path(), timeout, encoding)
    }

    /// The same of any unary method.
    pub fn grpc(path: &str, timeout: Option<Duration>, encoding: Option<&str>) -> Head {
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .method(Method::POST)
            .uri(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", USER_AGENT);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", grpc_timeout(timeout));
        }
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        Head { request: request.body(()).expect("every part is a constant or a number"), timeout }
    }

    /// The head of a post of `signal` over HTTP/1.1: its media type ([`web::PROTOBUF`] or [`web::JSON`]), a
    /// timeout that the client keeps, and `content-encoding` (of the bytes given).
    pub fn web(signal: Signal, media: &str, timeout: Option<Duration>, encoding: Option<&str>) -> Head {
        Head::post(web::path(signal), media, timeout, encoding)
    }

    pub(crate) fn post(path: &str, media: &str, timeout: Option<Duration>, encoding: Option<&str>) -> Head {
        let mut request = Request::post(path).header("content-type", media);
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        let request = request.header("user-agent", USER_AGENT).body(());
        Head { request: request.expect("every part is a constant"), timeout }
    }

    /// Request metadata besides the options, for what tests want to add (authorization, tenant).
    pub fn headers(&mut self) -> &mut HeaderMap {
        self.request.headers_mut()
    }
}

fn grpc_timeout(timeout: Duration) -> String {
    // At most eight digits are allowed, so milliseconds only for what fits.
    match timeout.as_millis() {
        millis @ 0..100_000_000 => format!("{millis}m"),
        _ => format!("{}S", timeout.as_secs().min(99_999_999)),
    }
}

impl Client {
    /// Connects and starts HTTP/2; the connection is driven by a task of the current runtime and ends with
    /// the last clone.
    pub async fn connect(to: SocketAddr) -> std::io::Result<Client> {
        Client::dial(to, None).await
    }

    /// The same, secured if `tls` is given.
    pub(crate) async fn dial(to: SocketAddr, tls: Option<&Tls>) -> std::io::Result<Client> {
        let io = net::dial(to, tls, H2).await?;
        let (send, connection) = h2::client::handshake(io).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            // An error reaches the callers through their streams.
            let _ = connection.await;
        });
        let authority = to.to_string().parse().expect("a socket address is an authority");
        let scheme = if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        Ok(Client { send, scheme, authority, frame: USUAL_FRAME })
    }

    /// Bytes in a DATA frame at most, if the server takes as much. Default [`USUAL_FRAME`].
    pub fn frame(mut self, bytes: usize) -> Client {
        self.frame = bytes.max(1);
        self
    }

    /// Sends `framed` (frame header included) and waits for the answer.
    pub async fn call(&mut self, head: &Head, framed: Bytes) -> Result<Reply, CallError> {
        match head.timeout {
            None => self.exchange(head, framed).await,
            // Dropping the exchange resets its stream, as gRPC clients do at their deadline.
            Some(timeout) => tokio::time::timeout(timeout, self.exchange(head, framed))
                .await
                .unwrap_or(Err(CallError::TimedOut)),
        }
    }

    /// Frames `message` and sends it to `signal`'s service: the short form of [`Client::call`].
    pub async fn export(&mut self, signal: Signal, message: &[u8]) -> Result<Reply, CallError> {
        self.call(&Head::new(signal, None, None), crate::requests::frame(message)).await
    }

    async fn exchange(&mut self, head: &Head, mut framed: Bytes) -> Result<Reply, CallError> {
        std::future::poll_fn(|cx| self.send.poll_ready(cx)).await.map_err(not_sent)?;
        let request = self.absolute(head);
        let (response, mut body) = self.send.send_request(request, false).map_err(not_sent)?;
        // h2 fills frames as far as the server allows, but makes each piece a frame of its own. A server may have
        // answered, and closed the stream, before the last one: then the answer is what counts.
        let mut open = true;
        while open && framed.len() > self.frame {
            open = body.send_data(framed.split_to(self.frame), false).is_ok();
        }
        if open {
            let _ = body.send_data(framed, true);
        }
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        if let Some(status) = Status::read(&head.headers) {
            return reply(status, &[]);
        }
        let mut message = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(broken)?;
            let _ = body.flow_control().release_capacity(chunk.len());
            message.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await.map_err(broken)?;
        match trailers.as_ref().and_then(Status::read) {
            Some(status) => reply(status, &message),
            None => Err(CallError::NotGrpc(head.status)),
        }
    }

    fn absolute(&self, head: &Head) -> Request<()> {
        let mut request = head.request.clone();
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path make a URI");
        request
    }
}

fn not_sent(error: h2::Error) -> CallError {
    CallError::NotSent(std::io::Error::other(error))
}

fn broken(error: h2::Error) -> CallError {
    CallError::Broken(std::io::Error::other(error))
}

fn reply(status: Status, framed: &[u8]) -> Result<Reply, CallError> {
    if status.code != Code::OK {
        return Ok(Reply::Refused(status));
    }
    Ok(success(framed.get(FRAME_HEADER..).unwrap_or_default()))
}

/// A response message with a partial success.
pub(crate) fn partial(rejected: u64, why: &str) -> Vec<u8> {
    let (mut partial, mut response) = (Vec::new(), Vec::new());
    wire::put_uint(&mut partial, 1, rejected);
    wire::put_bytes(&mut partial, 2, why.as_bytes());
    wire::put_bytes(&mut response, 1, &partial);
    response
}

/// What a response message says.
pub(crate) fn success(message: &[u8]) -> Reply {
    // An answer this client cannot read is still an "ok"; a partial success is field 1, if present.
    let partial = wire::children(message, 1).next().and_then(Result::ok);
    let Some(partial) = partial else { return Reply::Accepted };
    let (mut rejected, mut why) = (0, String::new());
    for field in wire::fields(partial).flatten() {
        match field {
            (1, Value::Varint(count)) => rejected = count,
            (2, Value::Bytes(text)) => why = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    Reply::Partial(rejected, why)
}
