//! The one connection of a client: opened when a call needs it, shared by all calls, replaced when it is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use h2::PingPong;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{ClientKeepalive, Shared};
use crate::frame::Payload;
use crate::ping;
use crate::status::{Code, Status};
use crate::tls::Stream;

/// The first and the longest pause of a call that waits for a connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Cancelled calls whose late answers are expected.
const CANCELLED: usize = 1024;

/// Frames of answers beyond them, over the connection's whole life, before it is ended as an attack: few enough
/// that they cost nothing, enough that a slow server does not get there.
const STRAY: usize = 1 << 20;

/// How long a connection on which a call has timed out may take to answer a ping.
const DOUBT: Duration = Duration::from_secs(2);

/// How long a connection that has answered is not doubted again: servers take many pings for an attack.
const TRUST: Duration = Duration::from_secs(5);

/// A connection that can take calls.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub sender: SendRequest<Payload>,
    pub doubt: Doubt,
}

/// The doubt whether a connection is alive, raised by calls that time out: the other end may have vanished without
/// a word, and TCP would go on for a quarter of an hour while a new connection would work.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt(Arc<Notify>);

/// The connection, if there is one, and whose turn it is to open one.
#[derive(Debug)]
pub(super) struct Connection {
    connect_timeout: Duration,
    keepalive: Option<ClientKeepalive>,
    live: Mutex<Option<Live>>,
    /// Held by whoever opens a connection; holds how the last attempt failed.
    turn: tokio::sync::Mutex<Option<Status>>,
    /// How many attempts have failed.
    failures: AtomicU64,
}

impl Doubt {
    /// A call on the connection has timed out.
    pub fn raise(&self) {
        self.0.notify_one();
    }

    async fn raised(&self) {
        self.0.notified().await;
    }
}

impl Connection {
    pub fn new(connect_timeout: Duration, keepalive: Option<ClientKeepalive>) -> Self {
        let (live, turn) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { connect_timeout, keepalive, live, turn, failures: AtomicU64::new(0) }
    }

    /// A handle of the connection, unless it is lost or going.
    async fn live(&self) -> Option<Live> {
        let Live { sender, doubt } = self.live.lock().clone()?;
        // A fresh handle has no stream of its own to wait for: this is ready at once.
        match sender.ready().await {
            Ok(sender) => Some(Live { sender, doubt }),
            Err(error) => {
                tracing::debug!(%error, "the connection was lost");
                *self.live.lock() = None;
                None
            }
        }
    }
}

impl Shared {
    /// A connection to send a call on, opened if there is none.
    pub(super) async fn live(&self) -> Result<Live, Status> {
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

    async fn connected(&self) -> Result<Live, Status> {
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

    async fn open(&self) -> io::Result<Live> {
        let patience = self.connection.connect_timeout;
        let opening = async {
            let stream = self.endpoint.route.connect().await?;
            let mut builder = h2::client::Builder::new();
            builder
                .enable_push(false)
                .max_concurrent_reset_streams(CANCELLED)
                .max_local_error_reset_streams(Some(STRAY));
            builder.handshake(stream).await.map_err(io::Error::other)
        };
        let (sender, http) = tokio::time::timeout(patience, opening).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}"))
        })??;
        let doubt = Doubt::default();
        let driver = drive(http, self.connection.keepalive, doubt.clone(), self.calls.clone());
        // The connection must go on while no call is polled. It ends by itself when the client is dropped.
        #[allow(clippy::disallowed_methods)]
        drop(tokio::spawn(driver));
        Ok(Live { sender, doubt })
    }
}

/// Moves the bytes of a connection until it ends or is found dead.
async fn drive(
    mut http: h2::client::Connection<Stream, Payload>,
    keepalive: Option<ClientKeepalive>,
    doubt: Doubt,
    calls: Arc<AtomicUsize>,
) {
    let pings = http.ping_pong();
    let lost = async move {
        match pings {
            Some(pings) => lost(pings, keepalive, &doubt, &calls).await,
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

/// Ready when a ping was not answered, be it one of the keepalive's or one in doubt.
async fn lost(mut pings: PingPong, keepalive: Option<ClientKeepalive>, doubt: &Doubt, calls: &AtomicUsize) {
    let mut trusted = Instant::now();
    loop {
        let doubted = async {
            sleep_until(trusted).await;
            doubt.raised().await;
            DOUBT
        };
        let due = async {
            let Some(keepalive) = keepalive else { return std::future::pending().await };
            loop {
                ping::due(keepalive.time).await;
                if keepalive.permit_without_stream || calls.load(Ordering::Relaxed) > 0 {
                    return keepalive.timeout;
                }
            }
        };
        let patience = tokio::select! {
            patience = doubted => patience,
            patience = due => patience,
        };
        if !ping::answered(&mut pings, patience).await {
            return;
        }
        trusted = Instant::now() + TRUST;
    }
}
