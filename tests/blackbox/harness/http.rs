//! As much HTTP as it takes to use an endpoint: one request without a body, one answer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use watershed_testkit::wait_until;

use super::PATIENCE;

/// Status and body of `GET path`; `None` where nobody answers.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    ask("GET", address, path, Duration::from_secs(5)).await
}

/// Status and body of `POST path`, likewise.
pub async fn post(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    ask("POST", address, path, PATIENCE).await
}

async fn ask(method: &str, address: SocketAddr, path: &str, patience: Duration) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    tokio::time::timeout(patience, exchange).await.ok().flatten()
}

/// Waits until `GET path` is answered with `status`, and gives the body.
pub async fn wait_for(address: SocketAddr, path: &str, status: u16) -> String {
    let mut last = None;
    let answered = wait_until(
        async || {
            last = get(address, path).await;
            last.as_ref().is_some_and(|(got, _)| *got == status)
        },
        PATIENCE,
    );
    assert!(answered.await, "{path} was never answered with {status}, last with {last:?}");
    last.map(|(_, body)| body).unwrap_or_default()
}
