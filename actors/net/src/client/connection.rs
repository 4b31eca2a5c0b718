//! The one connection of a client: opened when a call needs it, shared by all calls, replaced when it is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::endpoint::Endpoint;
use super::{ClientKeepalive, Shared};
use crate::frame::Payload;
use crate::ping;
use crate::status::{Code, Status};

/// The first and the longest pause of a call that waits for a connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Cancelled calls whose late answers are expected. Answers beyond them look like an attack to HTTP/2, which then
/// ends the connection, and a moment's worth of timeouts should not.
const CANCELLED: usize = 1024;

/// The connection, if there is one, and whose turn it is to open one.
#[derive(Debug)]
pub(super) struct Connection {
    connect_timeout: Duration,
    keepalive: Option<ClientKeepalive>,
    live: Mutex<Option<SendRequest<Payload>>>,
    /// Held by whoever opens a connection; holds how the last attempt failed.
    turn: tokio::sync::Mutex<Option<Status>>,
    /// How many attempts have failed.
    failures: AtomicU64,
}

impl Connection {
    pub fn new(connect_timeout: Duration, keepalive: Option<ClientKeepalive>) -> Self {
        let (live, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { connect_timeout, keepalive, live, turn, failures: AtomicU64::new(0) }
    }

    /// A handle of the connection, unless it is lost or going.
    async fn live(&self) -> Option<SendRequest<Payload>> {
        let live = self.live.lock().clone()?;
        // A fresh handle has no stream of its own to wait for: this is ready at once.
        match live.ready().await {
            Ok(live) => Some(live),
            Err(error) => {
                tracing::debug!(%error, "the connection was lost");
                *self.live.lock() = None;
                None
            }
        }
    }
}

impl Shared {
    /// A handle to send a call on, of a connection that is opened if there is none.
    pub(super) async fn sender(&self) -> Result<SendRequest<Payload>, Status> {
        let (mut pause, longest) = PAUSES;
        loop {
            match self.connected().await {
                Err(status) if self.wait_for_ready => {
                    tracing::debug!(%status, "waiting for a connection");
                    tokio::time::sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
                end => return end,
            }
        }
    }

    async fn connected(&self) -> Result<SendRequest<Payload>, Status> {
        let connection = &self.connection;
        let failures = connection.failures.load(Ordering::Relaxed);
        if let Some(live) = connection.live().await {
            return Ok(live);
        }
        let mut turn = connection.turn.lock().await;
        if let Some(live) = connection.live().await {
            return Ok(live);
        }
        // Whoever waited while another tried has its answer, and need not try, and fail, for itself.
        if let Some(status) = &*turn
            && connection.failures.load(Ordering::Relaxed) != failures
        {
            return Err(status.clone());
        }
        match self.open().await {
            Ok(live) => {
                *connection.live.lock() = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                let text = format!("cannot connect to {}: {error}", self.endpoint.address);
                let status = Status::new(Code::Unavailable, text);
                connection.failures.fetch_add(1, Ordering::Relaxed);
                *turn = Some(status.clone());
                Err(status)
            }
        }
    }

    async fn open(&self) -> io::Result<SendRequest<Payload>> {
        let patience = self.connection.connect_timeout;
        let opening = async {
            let stream = connect(&self.endpoint).await?;
            let mut builder = h2::client::Builder::new();
            builder.enable_push(false).max_concurrent_reset_streams(CANCELLED);
            builder.handshake(stream).await.map_err(io::Error::other)
        };
        let (live, http) = tokio::time::timeout(patience, opening).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}"))
        })??;
        let driver = drive(http, self.connection.keepalive, self.calls.clone());
        // The connection must go on while no call is polled. It ends by itself when the client is dropped.
        #[allow(clippy::disallowed_methods)]
        drop(tokio::spawn(driver));
        Ok(live)
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Moves the bytes of a connection until it ends or is found dead.
async fn drive(
    mut http: h2::client::Connection<TcpStream, Payload>,
    keepalive: Option<ClientKeepalive>,
    calls: Arc<AtomicUsize>,
) {
    let pings = http.ping_pong();
    let lost = async move {
        match keepalive.zip(pings) {
            Some((keepalive, pings)) => {
                let wanted = || keepalive.permit_without_stream || calls.load(Ordering::Relaxed) > 0;
                ping::lost(pings, keepalive.time, keepalive.timeout, wanted).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        end = http => if let Err(error) = end {
            tracing::debug!(%error, "a connection broke");
        },
        () = lost => tracing::debug!("a connection answers no ping, cut it"),
    }
}
