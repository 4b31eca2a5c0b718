//! The kit's certificates, and a plain TLS client for them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
pub use watershed_testkit::certs::{Authority, Files, Identity};

/// A connection to a server whose certificate `authority` has signed for its address.
pub async fn connect(to: SocketAddr, authority: &Authority, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
    let mut config = ClientConfig::clone(&authority.client(None));
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::from(to.ip());
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
}
