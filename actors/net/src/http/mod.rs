//! HTTP/1.1 on the connections dealt to one lane.
//!
//! actix-http reads the heads and the chunks and writes the answers' heads ([`Codec`](actix_http::h1::Codec));
//! the connection is our own, since its dispatcher reads bodies in small pieces, bounds only the first head's time,
//! and cannot read a body into the buffer it was granted.

mod body;
mod connection;
mod cors;
mod message;
mod wire;

use std::borrow::Cow;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{KeepAlive, ServiceConfig};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use watershed_delivery::{Budget, Permit};

use crate::Stop;
use crate::compression::Inflater;
use crate::server::{ConnectionLimit, ConnectionRefused, Event, serve_dealt};
use crate::tls::ServerTls;

pub use cors::Cors;

/// What answers HTTP requests.
pub trait HttpService: Send + Sync + 'static {
    /// Decides on a request's head, before a byte of its body is gathered: the resource, the method, the content
    /// type, whoever asks, and whether there is room for a body of `length` bytes as sent. Where the length is not
    /// known (`None`) the permit grows as the body does. Never waits.
    #[allow(clippy::result_large_err, reason = "an answer is moved once, and boxed nowhere else")]
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse>;

    /// Answers the whole body, inflated, which `permit` covers.
    ///
    /// Dropped when the client goes away.
    fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> impl Future<Output = HttpResponse>;

    /// Says in this service's way what is refused here rather than by [`HttpService::admit`], and counts it.
    ///
    /// Of what could not be read as a request, and of a request whose call panicked, only some is known: a head
    /// that makes no sense is a `GET` of `/`, and after a panic the only header is the content type.
    fn refuse(&self, request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse;

    /// Told of a panic in one of these; the client is told to try again ([`HttpService::refuse`]).
    fn panicked(&self, message: &str);

    /// Told of every connection that was closed before a request could be made on it.
    fn connection_refused(&self, reason: ConnectionRefused) {
        let _ = reason;
    }
}

/// What is known of a request beside its body.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// What the client wants done.
    pub method: Method,
    /// What it wants it done to.
    pub uri: Uri,
    /// Everything it said along, as it came.
    pub headers: HeaderMap,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// When the head was complete.
    pub arrived: Instant,
}

/// The whole of an answer. `Content-Length`, `Connection` and `Date` are written by the server.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The answer in short.
    pub status: StatusCode,
    /// What is said along.
    pub headers: HeaderMap,
    /// What is not sent in answer to `HEAD`, though its length is said.
    pub body: Bytes,
}

/// What the server refuses by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRefusal {
    /// 400 for what is malformed, cannot be inflated or is in an encoding that is not known; 408 for a head or body
    /// that came too slowly; 413 for what is too large, inflated or not; 431 for too large a head; 503 where memory
    /// was short or a call panicked; 505 for another version of HTTP.
    pub status: StatusCode,
    /// One sentence for the client's log.
    pub reason: Cow<'static, str>,
    /// How long the client should wait before it sends the same again.
    pub retry_after: Option<Duration>,
    /// Whether it is for a panic, which [`HttpService::panicked`] was told of.
    pub panicked: bool,
}

/// How a lane serves HTTP/1.1. Heads are taken up to 16 KiB, one read more or less, and 96 headers.
#[derive(Clone, Debug)]
pub struct HttpServerOptions {
    /// The largest body taken, in bytes, as sent as well as inflated. 64 MiB unless told.
    pub max_request_body_size: u64,
    /// How many connections there may be, all lanes together: clones of these options count together. 8192 unless
    /// told.
    pub connections: ConnectionLimit,
    /// Whether a connection serves more than one request. It does unless told.
    pub keep_alive: bool,
    /// How long a connection may wait for the next request. 1 min unless told; zero for ever.
    pub idle_timeout: Duration,
    /// How long a head may take from its first byte. 1 min unless told; zero for ever.
    pub read_header_timeout: Duration,
    /// How long a body may take from the end of its head, where that is less than 30 s and what has come of it takes
    /// at 64 KiB a second, which is all a body has in any case. Zero, for no less, unless told.
    pub read_timeout: Duration,
    /// How long requests in flight may take to end after `stop`. 5 s unless told.
    pub grace: Duration,
    /// TLS; without it everything is sent in the clear. Not used unless told.
    pub tls: Option<ServerTls>,
    /// Which pages of other sites may call from browsers. None unless told.
    pub cors: Option<Cors>,
    /// Said in every answer that does not say otherwise. None unless told.
    pub response_headers: HeaderMap,
    /// What the connections' read buffers are charged to, 16 KiB each, as [`Budget::try_window`] allows.
    pub budget: Arc<Budget>,
}

/// What the connections of a lane share.
struct Lane<S> {
    service: Arc<S>,
    options: HttpServerOptions,
    inflater: Inflater,
    /// Writes the date, which is looked up twice a second.
    config: ServiceConfig,
}

/// Serves the connections dealt to this lane until `stop`, or until nobody can deal any more, then ends gracefully:
/// connections end with the answer to the request in flight, within [`HttpServerOptions::grace`].
///
/// Runs on the [`LocalSet`](tokio::task::LocalSet) that polls it (an actix `Arbiter` has one), in tasks that end
/// with it.
pub async fn serve_http<S: HttpService>(
    service: Arc<S>,
    connections: Receiver<TcpStream>,
    options: HttpServerOptions,
    stop: Stop,
) {
    let keep_alive = if options.keep_alive { KeepAlive::Os } else { KeepAlive::Disabled };
    let config = ServiceConfig::new(keep_alive, Duration::ZERO, Duration::ZERO, options.tls.is_some(), None);
    let lane = Rc::new(Lane { service, options, inflater: Inflater::default(), config });
    let told = |event: Event<'_>| match event {
        Event::Refused(reason) => lane.service.connection_refused(reason),
        Event::Panicked(message) => lane.service.panicked(message),
    };
    let options = &lane.options;
    serve_dealt(connections, &options.connections, options.grace, &stop, told, |running, stream, slot| {
        running.spawn_local(connection::run(lane.clone(), stream, slot, stop.clone()));
    })
    .await;
}

// === impl HttpServerOptions ===

impl HttpServerOptions {
    /// The defaults, charging `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            max_request_body_size: 64 << 20,
            connections: ConnectionLimit::default(),
            keep_alive: true,
            idle_timeout: Duration::from_secs(60),
            read_header_timeout: Duration::from_secs(60),
            read_timeout: Duration::ZERO,
            grace: Duration::from_secs(5),
            tls: None,
            cors: None,
            response_headers: HeaderMap::new(),
            budget,
        }
    }
}
