//! Datagrams (UDP): sockets lent as those for connections are, and the loop that reads from one.
//!
//! Nobody can be told to come again, so what can not be taken is lost, and whoever loses it counts it: the service what
//! it is handed, the kernel what found its buffer full ([`DatagramSocket::overflows`]).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};

use crate::Stop;

/// How long to leave the socket alone when it fails.
const FAILURE: Duration = Duration::from_millis(100);

/// A bound UDP socket. Any number of lanes may read from it: the kernel gives each datagram to one of them.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    local_addr: SocketAddr,
}

/// What takes datagrams.
pub trait DatagramService {
    /// Takes one, or counts it as lost. Never waits.
    fn take(&self, datagram: &[u8], peer: SocketAddr);

    /// Told of one that is larger than the largest taken.
    fn too_large(&self, peer: SocketAddr);
}

// === impl DatagramSocket ===

impl DatagramSocket {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let local_addr = socket.local_addr()?;
        Ok(Self { socket, local_addr })
    }

    /// The address it receives on, with the port that port 0 was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Asks the kernel to buffer so many bytes of what has not been read; it may give less (`net.core.rmem_max`).
    pub fn set_buffer_size(&self, bytes: usize) -> io::Result<()> {
        SockRef::from(&self.socket).set_recv_buffer_size(bytes)
    }

    /// Datagrams that the kernel has thrown away since the socket was opened, since its buffer was full. Known on Linux
    /// only (`/proc/net/udp`), elsewhere zero.
    pub fn overflows(&self) -> u64 {
        let table = if self.local_addr.is_ipv4() { "/proc/net/udp" } else { "/proc/net/udp6" };
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let local = in_table(self.local_addr);
        let drops = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.nth(1)? == local).then(|| words.last()?.parse::<u64>().ok()).flatten()
        });
        drops.sum()
    }
}

/// An address as the kernel's tables have it: words of the machine's byte order in hex.
fn in_table(address: SocketAddr) -> String {
    let word = |bytes: &[u8; 4]| format!("{:08X}", u32::from_ne_bytes(*bytes));
    let ip = match address {
        SocketAddr::V4(v4) => word(&v4.ip().octets()),
        SocketAddr::V6(v6) => v6.ip().octets().as_chunks().0.iter().map(word).collect(),
    };
    format!("{ip}:{:04X}", address.port())
}

/// Hands `service` what arrives at `socket`, up to `largest` bytes each, until `stop`, and then what has arrived by
/// then, as far as that is no more than `rest` datagrams.
pub async fn serve_datagrams(
    service: &impl DatagramService,
    socket: &DatagramSocket,
    largest: usize,
    rest: usize,
    stop: Stop,
) {
    // The socket outlives every runtime that polls it: each reader registers a handle of its own.
    let open = || tokio::net::UdpSocket::from_std(socket.socket.try_clone()?);
    let pause = async |error: &io::Error| {
        tracing::warn!(address = %socket.local_addr, %error, "cannot read datagrams for now");
        tokio::time::sleep(FAILURE).await;
    };
    // One byte more tells what is too large from what just fits.
    let mut buffer = vec![0; largest.saturating_add(1)];
    let read = async {
        let socket = loop {
            match open() {
                Ok(socket) => break socket,
                Err(error) => pause(&error).await,
            }
        };
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((length, peer)) => take(service, &buffer, length, largest, peer),
                Err(error) => pause(&error).await,
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.stopped() => {}
        () = read => {}
    }
    for _ in 0..rest {
        let Ok((length, peer)) = socket.socket.recv_from(&mut buffer) else { break };
        take(service, &buffer, length, largest, peer);
    }
}

fn take(service: &impl DatagramService, buffer: &[u8], length: usize, largest: usize, peer: SocketAddr) {
    match buffer.get(..length) {
        Some(datagram) if length <= largest => service.take(datagram, peer),
        _ => service.too_large(peer),
    }
}
