//! A wire: a port before a port, which counts the bytes that go towards the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A wire to one address. It ends with this.
pub struct Wire {
    /// Where it begins.
    pub address: SocketAddr,
    bytes: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl Wire {
    /// A wire to `to`, on any port.
    pub async fn to(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, bytes) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let mut task = JoinSet::new();
        let counted = bytes.clone();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let counted = counted.clone();
                // An end that breaks off ends its connection, as on any wire.
                connections.spawn(async move { carry(near, to, &counted).await.unwrap_or_default() });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, bytes, _task: task })
    }

    /// Bytes that have gone through, HTTP/2's own included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn carry(near: TcpStream, to: SocketAddr, counted: &AtomicU64) -> io::Result<()> {
    let far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let there = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from_near.read(&mut buffer).await? {
                0 => return to_far.shutdown().await,
                read => {
                    counted.fetch_add(read as u64, Ordering::Relaxed);
                    to_far.write_all(&buffer[..read]).await?;
                }
            }
        }
    };
    let back = async move {
        copy(&mut from_far, &mut to_near).await?;
        to_near.shutdown().await
    };
    tokio::try_join!(there, back).map(drop)
}
