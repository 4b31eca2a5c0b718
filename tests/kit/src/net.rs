//! Ports, connections, and waiting for what has no event of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::web::Io;

// Below Linux' ephemeral range (32768 up), so that no outgoing connection takes a port between its
// reservation and its use.
const FIRST: u16 = 18_000;
const COUNT: u16 = 14_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port on 127.0.0.1 that this process has not handed out before and no connection takes by chance.
pub fn free_port() -> u16 {
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        // Processes that run at once start at different places.
        let spread = (std::process::id().wrapping_mul(7_919) % u32::from(COUNT)) as u16;
        let port = FIRST + (spread as u32 + u32::from(step)) as u16 % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {FIRST}..{}", FIRST + COUNT)
}

/// [`free_port`] as a loopback address.
pub fn reserve() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// What protocols call themselves in a TLS handshake.
pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// How a client secures its connections.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

/// Connects, secured if `tls` is given, and then for `protocol` alone.
pub(crate) async fn dial(to: SocketAddr, tls: Option<&Tls>, protocol: &[u8]) -> io::Result<Box<dyn Io>> {
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    let Some(Tls { config, name }) = tls else { return Ok(Box::new(tcp)) };
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name.clone(), tcp).await?))
}

/// Polls `condition` every 5 ms until it holds or `timeout` has passed; says whether it held.
///
/// For things without an event: a process that is to listen, a file that is to appear. What the sink has
/// received is better awaited with [`crate::Sink::wait_for`].
pub async fn wait_until(mut condition: impl AsyncFnMut() -> bool, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ports_differ_and_waiting_ends() {
        assert_ne!(free_port(), free_port());
        let mut left = 3;
        let counted = async || {
            left -= 1;
            left == 0
        };
        assert!(wait_until(counted, Duration::from_secs(5)).await);
        assert!(!wait_until(async || false, Duration::ZERO).await);
    }
}
