//! A node's Service with fallback, as kube-proxy makes one: each connection goes to the first agent that is ready as far
//! as is known. Between the death of an agent and the moment at which that is known, a connection is refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::http;

/// How long it takes to be known that an agent is gone.
const GAP: Duration = Duration::from_secs(1);

/// The Service. It ends, with all connections through it, with this.
pub struct Service {
    /// Where it listens, for gRPC and for HTTP.
    pub addresses: [SocketAddr; 2],
    probes: [SocketAddr; 2],
    /// To which agent connections go; `None` is to one that is gone.
    chosen: watch::Sender<Option<usize>>,
    _tasks: JoinSet<()>,
}

impl Service {
    /// Stands before agents that listen there; `probes` is where they serve health.
    pub async fn start(agents: [[SocketAddr; 2]; 2], probes: [SocketAddr; 2]) -> Service {
        let chosen = watch::Sender::new(Some(0));
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        for protocol in 0..2 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            addresses.push(address);
            let of_protocol = agents.map(|agent| agent[protocol]);
            tasks.spawn(serve(listener, address, of_protocol, chosen.subscribe()));
        }
        Service { addresses: addresses.try_into().unwrap(), probes, chosen, _tasks: tasks }
    }

    /// Refuses connections, as if they went to an agent that is gone, until it is known which one is ready.
    pub async fn lose(&self) {
        self.chosen.send_replace(None);
        let refused = async |address: SocketAddr| TcpStream::connect(address).await.is_err();
        for address in self.addresses {
            assert!(watershed_testkit::wait_until(async || refused(address).await, GAP).await);
        }
    }

    /// Looks which agent is ready, after the time that this takes.
    pub async fn find(&self) {
        tokio::time::sleep(GAP).await;
        for (agent, probe) in self.probes.into_iter().enumerate() {
            if http::get(probe, "/readyz").await.is_some_and(|(status, _)| status == 200) {
                self.chosen.send_replace(Some(agent));
                return;
            }
        }
    }
}

async fn serve(
    first: TcpListener,
    address: SocketAddr,
    agents: [SocketAddr; 2],
    mut chosen: watch::Receiver<Option<usize>>,
) {
    let mut listener = Some(first);
    let mut connections = JoinSet::new();
    loop {
        let now = *chosen.borrow_and_update();
        let Some(agent) = now else {
            listener = None;
            let _ = chosen.changed().await;
            continue;
        };
        if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.unwrap());
        }
        let Some(listening) = &listener else { continue };
        tokio::select! {
            _ = chosen.changed() => {}
            accepted = listening.accept() => {
                let Ok((mut client, _)) = accepted else { continue };
                connections.spawn(async move {
                    if let Ok(mut agent) = TcpStream::connect(agents[agent]).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut agent).await;
                    }
                });
            }
        }
    }
}
