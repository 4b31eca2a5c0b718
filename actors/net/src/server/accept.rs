//! What a lane does with the connections dealt to it, whatever is spoken on them.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use super::panic_message;
use crate::Stop;
use crate::tls::{ServerTls, Stream};

/// How long a client may take to say what it speaks, and how long once the lane has stopped: most say it with
/// their first byte, and something that only looks whether the port is open never does.
const HANDSHAKE: Duration = Duration::from_secs(20);
pub(crate) const HANDSHAKE_AT_STOP: Duration = Duration::from_millis(250);

/// Connections that a listener has open at most unless told: each takes some ten kilobytes that no permit covers.
const CONNECTIONS: usize = 8192;

/// Why a connection was closed before anything was asked on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionRefused {
    /// There are as many as there may be.
    TooMany,
    /// The TLS handshake failed or took too long: no client certificate or an unknown one, no common version, or
    /// something else than TLS. A client that goes away meanwhile is not refused.
    Handshake,
}

/// How many connections the lanes of one listener may have open together. Clones count together.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    free: Arc<Semaphore>,
}

/// What happens to connections.
pub(crate) enum Event<'a> {
    Refused(ConnectionRefused),
    /// A connection's task panicked. Calls are caught one by one, so this is a defect of our own.
    Panicked(&'a str),
}

/// One of the connections that a [`ConnectionLimit`] allows.
pub(crate) type Slot = OwnedSemaphorePermit;

// === impl ConnectionLimit ===

impl ConnectionLimit {
    /// At most `most` connections, from the last of which on others are closed as they come.
    pub fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))) }
    }

    /// How many more there may be.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }
}

impl Default for ConnectionLimit {
    /// 8192 connections.
    fn default() -> Self {
        Self::new(CONNECTIONS)
    }
}

/// Has `open` spawn what serves each connection until `stop`, or until nobody can deal any more, then waits for
/// all to end, for `grace` at most.
pub(crate) async fn serve_dealt(
    mut connections: Receiver<TcpStream>,
    limit: &ConnectionLimit,
    grace: Duration,
    stop: &Stop,
    told: impl Fn(Event<'_>),
    open: impl Fn(&mut JoinSet<()>, TcpStream, Slot),
) {
    let mut running = JoinSet::new();
    let admit = |running: &mut JoinSet<()>, stream| match limit.free.clone().try_acquire_owned() {
        Ok(slot) => open(running, stream, slot),
        Err(_) => told(Event::Refused(ConnectionRefused::TooMany)),
    };
    let ended = |connection: Result<(), JoinError>| {
        if let Err(error) = connection
            && let Ok(panic) = error.try_into_panic()
        {
            told(Event::Panicked(panic_message(&*panic)));
        }
    };
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.stopped() => break,
            stream = connections.recv() => stream,
            Some(connection) = running.join_next() => { ended(connection); continue }
        };
        let Some(stream) = stream else { break };
        admit(&mut running, stream);
    }
    // What was dealt but not served is told to go elsewhere too: a connection that breaks is worse to a client.
    connections.close();
    while let Ok(stream) = connections.try_recv() {
        admit(&mut running, stream);
    }
    let ending = async {
        while let Some(connection) = running.join_next().await {
            ended(connection);
        }
    };
    // Without a stop the dealer has ended: what is open is served for as long as it stays.
    let deadline = async {
        stop.stopped().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        biased;
        () = ending => {}
        () = deadline => running.shutdown().await,
    }
}

/// The connection, ready to speak on, or `None` where there is nobody to speak to.
pub(crate) async fn secured(
    stream: TcpStream,
    tls: Option<&ServerTls>,
    stop: &Stop,
    refused: impl FnOnce(ConnectionRefused),
) -> Option<Stream> {
    let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream)).ok()?;
    let Some(tls) = tls else { return Some(Stream::Plain(stream)) };
    let peer = stream.peer_addr().ok();
    let shaken = tokio::select! {
        biased;
        shaken = tls.accept(stream) => shaken,
        () = too_late(stop) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    match shaken {
        Ok(stream) => Some(Stream::Tls(Box::new(stream))),
        Err(error) => {
            use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};
            tracing::debug!(?peer, %error, "no TLS on a connection");
            if !matches!(error.kind(), ConnectionReset | UnexpectedEof) {
                refused(ConnectionRefused::Handshake);
            }
            None
        }
    }
}

/// Ready when a client has had its time to say what it speaks.
pub(crate) async fn too_late(stop: &Stop) {
    let _ = tokio::time::timeout(HANDSHAKE - HANDSHAKE_AT_STOP, stop.stopped()).await;
    tokio::time::sleep(HANDSHAKE_AT_STOP).await;
}
