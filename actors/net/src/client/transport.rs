//! From a name to a connection: straight or through a proxy, encrypted or not.

use std::io;

use tokio::net::TcpStream;

use super::proxy::Via;
use crate::tls::{ClientTls, Stream};

/// The way to a server.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub host: String,
    pub port: u16,
    pub tls: Option<Tls>,
    pub via: Option<Via>,
    /// Speaks to the proxy itself, which then speaks to the server.
    pub forwarded: bool,
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
