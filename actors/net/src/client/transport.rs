//! From a name to a connection: straight or through a proxy, encrypted or not.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::proxy::Via;
use crate::tls::{ClientTls, Stream};

/// How the system finds out that nobody is there any more: it asks after so long without a word, and then so often.
/// Nine times (`net.ipv4.tcp_keepalive_probes`) without an answer are the end, 42 s after the last word.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(3));

/// The way to a server.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
    pub via: Option<Via>,
    /// Speaks to the proxy itself, which then speaks to the server.
    pub forwarded: bool,
    /// Whether to find out that the other end is gone while nothing is sent: else whoever only reads never hears of it.
    pub watched: bool,
}

/// What is needed to shake hands.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub tls: ClientTls,
    /// Whose certificate is expected, unless the settings override it.
    pub name: String,
    /// What is going to be spoken (RFC 7301).
    pub alpn: &'static [u8],
}

impl Route {
    /// A new connection.
    pub async fn connect(&self) -> io::Result<Stream> {
        let tcp = match &self.via {
            None => tcp(&self.host, self.port).await?,
            Some(proxy) if self.forwarded => proxy.connect().await?,
            Some(proxy) => proxy.tunnel(&self.host, self.port).await?,
        };
        if self.watched {
            SockRef::from(&tcp).set_tcp_keepalive(&KEEPALIVE)?;
        }
        Ok(match &self.tls {
            None => Stream::Plain(tcp),
            Some(Tls { tls, name, alpn }) => Stream::Tls(Box::new(tls.connect(name, alpn, tcp).await?)),
        })
    }
}

/// A connection to the first of the name's addresses that takes one.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// IPv6 addresses stand in brackets, which name resolution does not know.
pub(super) fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}
