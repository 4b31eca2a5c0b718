//! A small TCP proxy: the address of a service with several endpoints, or a long way to one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Pieces that may be under way in one direction of a connection.
const UNDER_WAY: usize = 64;

/// Listens until it is dropped. A connection goes to the next endpoint that takes it, and stays there.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    way: Arc<Way>,
    task: JoinHandle<()>,
}

struct Way {
    endpoints: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
    /// What each piece takes, in each direction, in milliseconds.
    delay: AtomicU64,
}

impl Proxy {
    /// A proxy on any port of this address.
    pub async fn start(on: IpAddr, endpoints: Vec<SocketAddr>) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind((on, 0)).await?;
        let address = listener.local_addr()?;
        let way = Arc::new(Way { endpoints: endpoints.into(), turn: 0.into(), delay: 0.into() });
        let task = tokio::spawn(accept(listener, way.clone()));
        Ok(Proxy { address, way, task })
    }

    /// Where connections go from now on.
    pub fn lead_to(&self, endpoints: Vec<SocketAddr>) {
        *self.way.endpoints.lock() = endpoints;
    }

    /// How long everything takes from now on, each way.
    pub fn delay(&self, delay: Duration) {
        self.way.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let way = way.clone();
        connections.spawn(async move {
            let Some(far) = way.dial().await else { return };
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            // One end that is gone takes the other with it, as a connection does.
            tokio::select! {
                () = carry(&way, near_in, far_out) => {}
                () = carry(&way, far_in, near_out) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Way {
    async fn dial(&self) -> Option<TcpStream> {
        let endpoints = self.endpoints.lock().clone();
        for _ in &endpoints {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % endpoints.len();
            if let Ok(stream) = TcpStream::connect(endpoints[turn]).await {
                let _ = stream.set_nodelay(true);
                return Some(stream);
            }
        }
        None
    }
}

async fn carry(way: &Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (pieces, mut arrive) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let depart = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let delay = Duration::from_millis(way.delay.load(Ordering::Relaxed));
            if pieces.send((Instant::now() + delay, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
        drop(pieces);
    };
    let arrival = async {
        while let Some((due, piece)) = arrive.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(depart, arrival);
}

#[cfg(test)]
mod tests {
    use watershed_testkit::{Loader, Sink};

    use super::*;

    #[tokio::test]
    async fn it_takes_its_time_and_leads_elsewhere() {
        let [one, other] =
            [Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap()];
        let proxy = Proxy::start([127, 0, 0, 1].into(), vec![one.addr()]).await.unwrap();
        let send = || Loader::new(proxy.address).requests(10).run();
        assert_eq!(send().await.acknowledged.len(), 1_000);
        proxy.lead_to(vec![other.addr()]);
        proxy.delay(Duration::from_millis(20));
        let load = send().await;
        assert!(load.latency.quantile(0.0) >= 40_000_000, "{load}");
        assert_eq!((one.arrived(), other.arrived()), (1_000, 1_000));
    }
}
