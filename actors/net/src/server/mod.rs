//! The receiving end: gRPC on the connections dealt to one lane.

mod accept;
mod body;
mod connection;
mod request;
mod retirement;

use std::any::Any;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;
use watershed_delivery::{Budget, Permit};

use crate::compression::Inflater;
use crate::status::{Code, Status};
use crate::tls::ServerTls;
use crate::{Stop, timeout};

pub use accept::{ConnectionLimit, ConnectionRefused};
pub(crate) use accept::{Event, HANDSHAKE_AT_STOP, Slot, secured, serve_dealt};
#[cfg(test)]
pub(crate) use body::PATIENCE;
pub(crate) use body::{LINGER, due};

/// How long a sender is asked to wait where memory was short.
const SHORTAGE: Duration = Duration::from_secs(1);

/// What answers unary calls.
pub trait Unary: Send + Sync + 'static {
    /// Decides on a message's header, before a byte of the message is gathered: whether there is such a method,
    /// and whether there is room for `length` bytes, compressed as they may be. Never waits.
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status>;

    /// Answers the whole message, inflated, which `permit` covers. What is returned is the response message.
    ///
    /// Dropped when the client cancels or goes away.
    fn call(
        &self,
        call: Call,
        message: Bytes,
        permit: Permit,
    ) -> impl Future<Output = Result<Bytes, Status>> + Send;

    /// Told of every call that was refused here rather than by [`Unary::admit`] or [`Unary::call`]: no message or
    /// more than one, too large, an encoding that is not known, data that cannot be inflated or for whose inflation
    /// there is no memory, a body that comes too slowly. Calls that their clients gave up are none of these.
    fn refused(&self, status: &Status) {
        let _ = status;
    }

    /// Told of a panic in [`Unary::admit`] or [`Unary::call`]; the client was told to try again.
    fn panicked(&self, message: &str);

    /// Told of every connection that was closed before a call could be made on it.
    fn connection_refused(&self, reason: ConnectionRefused) {
        let _ = reason;
    }
}

/// What is known of a call beside its message.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whom the client called; its path is `/package.Service/Method`.
    pub uri: Uri,
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// When its headers were taken in: what the client's patience counts from, as far as can be known here.
    pub arrived: Instant,
    /// How long the client waits (`grpc-timeout`).
    pub timeout: Option<Duration>,
    /// Everything the client sent along, as it came.
    pub headers: HeaderMap,
}

/// How a lane serves.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The largest message taken, in bytes, on the wire as well as inflated. 64 MiB unless told.
    pub max_recv_msg_size: u64,
    /// Calls one connection may have in flight; `None` for as many as it likes. 1024 unless told: what a call
    /// costs beside its message is small, but no permit covers it.
    pub max_concurrent_streams: Option<u32>,
    /// When connections end, and how a dead one is found out.
    pub keepalive: ServerKeepalive,
    /// Bytes a connection may send ahead of what was gathered, all its calls together. 256 KiB unless told.
    /// Charged to the budget for as long as the connection lives; where windows have had their part of the budget
    /// ([`Budget::try_window`]), new connections get 64 KiB.
    pub connection_window: u32,
    /// Bytes a call may send ahead of what was gathered. 256 KiB unless told.
    pub stream_window: u32,
    /// How long calls in flight may take to end after `stop`. 5 s unless told.
    pub grace: Duration,
    /// How many connections there may be, all lanes together: clones of these options count together. 8192 unless
    /// told.
    pub connections: ConnectionLimit,
    /// TLS; without it everything is sent in the clear. Not used unless told.
    pub tls: Option<ServerTls>,
    /// What the connections' windows are charged to.
    pub budget: Arc<Budget>,
}

/// When connections end, and how a dead one is found out. The names and defaults are gRPC's. Zero is never, except
/// as a `timeout`.
#[derive(Clone, Debug)]
pub struct ServerKeepalive {
    /// A connection without a call for this long (at most twice as long) is closed. Never unless told.
    pub max_connection_idle: Option<Duration>,
    /// A connection this old, give or take a tenth, takes no new calls. Never unless told.
    pub max_connection_age: Option<Duration>,
    /// How long a connection that takes no new calls may then take to end. For ever unless told.
    pub max_connection_age_grace: Option<Duration>,
    /// A ping is sent this often. Every 2 h unless told.
    pub time: Duration,
    /// A connection that has not answered a ping for this long is dead. 20 s unless told.
    pub timeout: Duration,
}

/// What the connections of a lane share.
struct Lane<U> {
    service: Arc<U>,
    options: ServerOptions,
    inflater: Inflater,
}

/// Serves the connections dealt to this lane until `stop`, or until nobody can deal any more, then ends
/// gracefully: clients are told to go elsewhere and calls in flight end, within [`ServerOptions::grace`].
///
/// Runs on the runtime that polls it, in tasks that end with it.
pub async fn serve<U: Unary>(
    service: Arc<U>,
    connections: Receiver<TcpStream>,
    options: ServerOptions,
    stop: Stop,
) {
    let lane = Arc::new(Lane { service, options, inflater: Inflater::default() });
    let told = |event: Event<'_>| match event {
        Event::Refused(reason) => lane.service.connection_refused(reason),
        Event::Panicked(message) => lane.service.panicked(message),
    };
    let options = &lane.options;
    serve_dealt(connections, &options.connections, options.grace, &stop, told, |running, stream, slot| {
        running.spawn(connection::run(lane.clone(), stream, slot, stop.clone()));
    })
    .await;
}

// === impl ServerOptions ===

impl ServerOptions {
    /// The defaults, charging `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            max_recv_msg_size: 64 << 20,
            max_concurrent_streams: Some(1024),
            keepalive: ServerKeepalive::default(),
            connection_window: 256 << 10,
            stream_window: 256 << 10,
            grace: Duration::from_secs(5),
            connections: ConnectionLimit::default(),
            tls: None,
            budget,
        }
    }
}

impl Default for ServerKeepalive {
    fn default() -> Self {
        Self {
            max_connection_idle: None,
            max_connection_age: None,
            max_connection_age_grace: None,
            time: Duration::from_secs(2 * 60 * 60),
            timeout: Duration::from_secs(20),
        }
    }
}

// === impl Call ===

impl Call {
    fn new(request: http::request::Parts, peer: Option<SocketAddr>, arrived: Instant) -> Self {
        let timeout = request.headers.get("grpc-timeout").and_then(|value| timeout::parse(value.as_bytes()));
        Self { uri: request.uri, peer, arrived, timeout, headers: request.headers }
    }

    /// The method called, as `/package.Service/Method`.
    pub fn path(&self) -> &str {
        self.uri.path()
    }
}

/// Retryable: there is no room for it now.
pub(crate) fn memory_refused() -> Status {
    Status::try_again("data refused due to high memory usage", SHORTAGE)
}

/// Not retryable, so without a delay: there never is room for it.
pub(crate) fn too_large(limit: u64) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!("the message is larger than {limit} bytes, the most that is taken"),
    )
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (None, Some(message)) => message,
        (None, None) => "a panic without a message",
    }
}
