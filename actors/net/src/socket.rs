//! Listening sockets, owned by address and lent.
//!
//! A receiver comes and goes: it panics and is built again, it is renamed, its settings change. Its socket stays,
//! and what connects meanwhile waits in the socket's backlog instead of being refused.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Type};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::{DatagramSocket, Stop};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long to leave the socket alone when the process or the system is short of what a connection needs.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Every listening socket of an engine, by address as it was written. Clones are the same sockets.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    streams: Open<Socket>,
    datagrams: Open<DatagramSocket>,
}

/// Sockets of one kind that are open.
type Open<S> = Arc<Mutex<HashMap<String, Arc<S>>>>;

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    listener: TcpListener,
    local_addr: SocketAddr,
    /// Held by whoever deals: two at once would split the connections between them.
    dealing: tokio::sync::Mutex<()>,
    /// A connection that was accepted but found no lane before its dealer was stopped: the next one deals it.
    undealt: Mutex<Option<TcpStream>>,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on \"{address}\": {source}; {hint}")]
pub struct BindError {
    /// The address as it was written.
    pub address: String,
    /// What the operating system said.
    pub source: io::Error,
    /// What to do about it.
    pub hint: &'static str,
}

// === impl Sockets ===

impl Sockets {
    /// No sockets.
    pub fn new() -> Self {
        Self::default()
    }

    /// The socket that listens on `address` (`host:port`; port 0 takes a free one), opened if it is not open.
    ///
    /// The same text gives the same socket until [`Sockets::close`], except that port 0 is another port each time,
    /// which only whoever holds the socket keeps. A name is looked up here, which may block; of its addresses the
    /// first that can be bound is taken, IPv4 before IPv6.
    pub fn bind(&self, address: &str) -> Result<Arc<Socket>, BindError> {
        lend(&self.streams, address, Socket::listen)
    }

    /// The socket that receives datagrams (UDP) for `address`, as [`Sockets::bind`] has it for connections.
    pub fn bind_datagrams(&self, address: &str) -> Result<Arc<DatagramSocket>, BindError> {
        lend(&self.datagrams, address, DatagramSocket::bind)
    }

    /// Gives up the sockets of `address`; each closes when whoever deals or reads from it has ended too.
    pub fn close(&self, address: &str) {
        self.streams.lock().remove(address);
        self.datagrams.lock().remove(address);
    }
}

/// The socket of an address, opened by `bind` if it is not open.
fn lend<S>(
    open: &Open<S>,
    address: &str,
    bind: fn(SocketAddr) -> io::Result<S>,
) -> Result<Arc<S>, BindError> {
    let mut open = open.lock();
    if let Some(socket) = open.get(address) {
        return Ok(socket.clone());
    }
    let socket = first(address, bind).map_err(|source| BindError {
        address: address.to_owned(),
        hint: hint(source.kind()),
        source,
    })?;
    let socket = Arc::new(socket);
    if !address.ends_with(":0") {
        open.insert(address.to_owned(), socket.clone());
    }
    Ok(socket)
}

/// A socket on the first of an address' meanings that can be bound.
fn first<S>(address: &str, bind: fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let mut candidates: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    candidates.sort_by_key(SocketAddr::is_ipv6);
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        match bind(candidate) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

// === impl Socket ===

impl Socket {
    fn listen(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let local_addr = listener.local_addr()?;
        Ok(Self { listener, local_addr, dealing: tokio::sync::Mutex::default(), undealt: Mutex::default() })
    }

    /// The address it listens on, with the port that port 0 was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Accepts connections until `stop`, dealing them to `lanes` in turn; a lane whose channel is full is passed
    /// over, and while all are full nothing is accepted. Ends early when no lane listens any more.
    ///
    /// Connections are non-blocking and have `TCP_NODELAY` set. A socket has one dealer at a time: a second one
    /// waits until the first has ended.
    pub async fn deal(self: Arc<Self>, lanes: Vec<Sender<TcpStream>>, stop: Stop) {
        tokio::select! {
            biased;
            () = stop.stopped() => {}
            () = self.accept(&lanes) => {}
        }
    }

    async fn accept(&self, lanes: &[Sender<TcpStream>]) {
        let _turn = self.dealing.lock().await;
        // The listener outlives every runtime that polls it: each dealer registers a handle of its own.
        let listener = loop {
            match self.listener.try_clone().and_then(tokio::net::TcpListener::from_std) {
                Ok(listener) => break listener,
                Err(_) if lanes.iter().all(Sender::is_closed) => return,
                Err(error) => self.pause(&error).await,
            }
        };
        let mut turn = 0;
        loop {
            if self.undealt.lock().is_none() {
                match accept(&listener).await {
                    Ok(stream) => *self.undealt.lock() = Some(stream),
                    Err(error) => self.pause(&error).await,
                }
            }
            // Between here and its lane the connection stays in `undealt`: stopped at an await, it is not lost.
            while self.undealt.lock().is_some() {
                if lanes.iter().all(Sender::is_closed) {
                    return;
                }
                if !self.place(lanes, &mut turn) {
                    room(lanes).await;
                }
            }
        }
    }

    /// Puts the connection in hand into the next lane that has room.
    fn place(&self, lanes: &[Sender<TcpStream>], turn: &mut usize) -> bool {
        let mut undealt = self.undealt.lock();
        for _ in 0..lanes.len() {
            let Some(stream) = undealt.take() else { return true };
            let lane = &lanes[*turn % lanes.len()];
            *turn = turn.wrapping_add(1);
            match lane.try_send(stream) {
                Ok(()) => return true,
                Err(TrySendError::Full(stream) | TrySendError::Closed(stream)) => *undealt = Some(stream),
            }
        }
        false
    }

    async fn pause(&self, error: &io::Error) {
        // These say something about one connection that went away before it was accepted, nothing about the next.
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        tracing::warn!(
            address = %self.local_addr, %error,
            "cannot accept a connection for now; is the limit of open files (ulimit -n) too low?"
        );
        tokio::time::sleep(SHORTAGE).await;
    }
}

/// The next connection, free of this runtime: it will live on another one.
async fn accept(listener: &tokio::net::TcpListener) -> io::Result<TcpStream> {
    let (stream, _peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    stream.into_std()
}

/// Ready when a lane may have room, or has closed.
async fn room(lanes: &[Sender<TcpStream>]) {
    let open = lanes.iter().filter(|lane| !lane.is_closed());
    let waiting: Vec<_> = open.map(|lane| Box::pin(lane.reserve())).collect();
    if !waiting.is_empty() {
        // Whichever it is, and whether it has room or has closed: the next look finds out.
        let _ = futures_util::future::select_all(waiting).await.0;
    }
}

fn hint(kind: io::ErrorKind) -> &'static str {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, PermissionDenied};
    match kind {
        AddrInUse => "another process listens there: stop it or choose another port",
        AddrNotAvailable => "this machine has no such address: use one of its own, or 0.0.0.0 for all",
        PermissionDenied => {
            "ports below 1024 need a privilege: use a higher one or grant CAP_NET_BIND_SERVICE"
        }
        InvalidInput => "write host:port, such as localhost:4317 or 0.0.0.0:4317",
        _ => "check the host name and port",
    }
}
