//! gRPC calls over one connection.

mod connection;
mod endpoint;
mod exchange;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use smallvec::{SmallVec, smallvec};
use watershed_delivery::{Budget, Permit};

use self::connection::{Connection, Doubt, Live};
use self::endpoint::Endpoint;
use super::{EndpointError, Proxy};
use crate::compression::{Compression, Deflater};
use crate::frame::Payload;
use crate::status::{Code, Status, too_long};
use crate::tls::ClientTls;

/// Whom a client calls, and how.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port`, `http://host:port`, or `https://host:port`, which is TLS with or without `tls`. The port is
    /// 443 for `https` where none is written.
    pub endpoint: String,
    /// TLS, whatever the endpoint says. `https` without it trusts the system's authorities.
    pub tls: Option<ClientTls>,
    /// The proxies to go through, by CONNECT. None unless told.
    pub proxy: Option<Proxy>,
    /// What is done to messages before they are sent. Nothing unless told.
    pub compression: Compression,
    /// Sent with every call. Names that gRPC uses itself are an error.
    pub headers: Vec<(String, String)>,
    /// Who calls (`user-agent`): `watershed/<version>` unless told.
    pub user_agent: String,
    /// The name to call the server by (`:authority`), and to expect in its certificate, where it is not the
    /// endpoint's. TLS may override the latter again.
    pub authority: Option<String>,
    /// How long opening a connection may take. 20 s unless told.
    pub connect_timeout: Duration,
    /// How a dead connection is found out before a call times out on it. Not at all unless told.
    pub keepalive: Option<ClientKeepalive>,
    /// While there is no connection, wait for one rather than fail.
    pub wait_for_ready: bool,
    /// What compressed copies are charged to while they are being sent.
    pub budget: Option<Arc<Budget>>,
}

/// How a client finds out that its connection is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientKeepalive {
    /// A ping is sent this often; never if it is zero.
    pub time: Duration,
    /// A connection that has not answered a ping for this long is dead.
    pub timeout: Duration,
    /// Send pings even while no call is in flight.
    pub permit_without_stream: bool,
}

/// Makes unary calls over one connection, opened at the first call and again whenever it was lost.
///
/// Clones share the connection. It lives on the runtime of the call that opens it: a client belongs to one lane.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    headers: HeaderMap,
    deflater: Option<Deflater>,
    connection: Connection,
    calls: Arc<AtomicUsize>,
    wait_for_ready: bool,
    budget: Option<Arc<Budget>>,
}

/// How a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{status}")]
pub struct CallError {
    /// What the server said, or what stood in the way: `UNAVAILABLE`, or `DEADLINE_EXCEEDED`.
    pub status: Status,
    /// What is known of the server's part in it.
    pub kind: CallErrorKind,
}

/// What is known of the server's part in a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallErrorKind {
    /// The server has answered.
    Answered,
    /// The server has not seen the call: sending it again duplicates nothing.
    NotSent,
    /// The answer was lost or not waited for: the server may have acted on the call.
    Unknown,
}

/// A message as it is sent, again where it must be.
struct Outgoing {
    compressed: bool,
    pieces: SmallVec<[Bytes; 1]>,
    permit: Option<Permit>,
}

/// One call in flight.
struct InFlight<'a>(&'a AtomicUsize);

// === impl Client ===

impl Client {
    /// A client that has no connection yet; the endpoint need not be there.
    pub fn new(options: ClientOptions) -> Result<Self, EndpointError> {
        let endpoint = Endpoint::new(&options)?;
        let deflater = Deflater::new(options.compression);
        let headers = endpoint::headers(&options, deflater.as_ref().map(Deflater::name))?;
        let calls = Arc::new(AtomicUsize::new(0));
        let connection = Connection::new(options.connect_timeout, options.keepalive);
        let ClientOptions { wait_for_ready, budget, .. } = options;
        let shared = Shared { endpoint, headers, deflater, connection, calls, wait_for_ready, budget };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Calls the method `path` (`/package.Service/Method`) with a message in pieces, and gives the response message.
    ///
    /// `headers` go beside those of the settings, and in the place of those of the same name; names that gRPC uses
    /// itself are left out. The pieces are sent without being joined unless they are compressed. `timeout` bounds the call, opening a
    /// connection included, and is what the server is told it has. Dropping the future cancels the call: what has
    /// not left by then never does. After a timeout the connection must answer a ping at once, or is replaced.
    pub async fn unary(
        &self,
        path: &'static str,
        headers: &HeaderMap,
        message: &[Bytes],
        timeout: Option<Duration>,
    ) -> Result<Bytes, CallError> {
        let mut sent = None;
        let call = self.shared.call(path, headers, message, timeout, &mut sent);
        let Some(timeout) = timeout else { return call.await };
        match tokio::time::timeout(timeout, call).await {
            Ok(end) => end,
            Err(_) => Err(CallError {
                status: Status::new(Code::DeadlineExceeded, format!("no answer within {timeout:?}")),
                kind: match sent {
                    Some(doubt) => {
                        doubt.raise();
                        CallErrorKind::Unknown
                    }
                    None => CallErrorKind::NotSent,
                },
            }),
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn call(
        &self,
        path: &'static str,
        headers: &HeaderMap,
        message: &[Bytes],
        timeout: Option<Duration>,
        sent: &mut Option<Doubt>,
    ) -> Result<Bytes, CallError> {
        let _in_flight = InFlight::new(&self.calls);
        let outgoing = self.outgoing(message)?;
        let mut again = true;
        loop {
            let Live { sender, doubt } = self.live().await.map_err(CallError::not_sent)?;
            let payload = outgoing.payload()?;
            let request = self.request(path, headers, timeout)?;
            *sent = Some(doubt);
            match exchange::run(sender, request, payload).await {
                // The connection was on its way out when the call came: not worth anybody's back-off.
                Err(error) if again && error.kind == CallErrorKind::NotSent => again = false,
                end => return end,
            }
        }
    }

    fn outgoing(&self, message: &[Bytes]) -> Result<Outgoing, CallError> {
        let Some(deflater) = &self.deflater else {
            return Ok(Outgoing { compressed: false, pieces: message.into(), permit: None });
        };
        let compressed = deflater.compress(message).map_err(|error| {
            CallError::not_sent(Status::new(
                Code::Internal,
                format!("could not compress the message: {error}"),
            ))
        })?;
        // What is inside may not be lost for want of memory, so the copy overdraws.
        let permit = self.budget.as_ref().map(|budget| budget.overdraw(compressed.len() as u64));
        Ok(Outgoing { compressed: true, pieces: smallvec![Bytes::from(compressed)], permit })
    }
}

impl Outgoing {
    fn payload(&self) -> Result<Payload, CallError> {
        let payload = Payload::new(self.compressed, self.pieces.clone());
        let payload = payload.ok_or_else(|| CallError::not_sent(too_long()))?;
        Ok(payload.covered(self.permit.clone()))
    }
}

// === impl InFlight ===

impl<'a> InFlight<'a> {
    fn new(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl CallError ===

impl CallError {
    fn not_sent(status: Status) -> Self {
        Self { status, kind: CallErrorKind::NotSent }
    }

    fn answered(status: Status) -> Self {
        Self { status, kind: CallErrorKind::Answered }
    }
}

// === impl ClientOptions ===

impl ClientOptions {
    /// The defaults, calling `endpoint`.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            tls: None,
            proxy: None,
            compression: Compression::None,
            headers: Vec::new(),
            user_agent: super::USER_AGENT.to_owned(),
            authority: None,
            connect_timeout: Duration::from_secs(20),
            keepalive: None,
            wait_for_ready: false,
            budget: None,
        }
    }
}
