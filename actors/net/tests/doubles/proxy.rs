//! A proxy that understands CONNECT and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Connects {
    pub addr: SocketAddr,
    /// The heads of all requests.
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Connects {
    /// Tunnels for whoever says `authorization`; to `to` where that is given, whatever the name.
    pub async fn start(authorization: Option<&'static str>, to: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(client.read_u8().await.unwrap());
                    }
                    let head = String::from_utf8(head).unwrap();
                    seen.lock().push(head.clone());
                    let expected = |value| head.contains(&format!("Proxy-Authorization: {value}\r\n"));
                    if !authorization.is_none_or(expected) {
                        let refusal =
                            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
                        client.write_all(refusal).await.unwrap();
                        return;
                    }
                    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
                    let Ok(mut server) = (match to {
                        Some(addr) => TcpStream::connect(addr).await,
                        None => TcpStream::connect(target).await,
                    }) else {
                        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.unwrap();
                    };
                    client.write_all(b"HTTP/1.1 200 Connected\r\nVia: double\r\n\r\n").await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { addr, heads }
    }
}
