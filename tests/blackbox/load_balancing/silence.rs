//! Gateways that say nothing: out within a second, and never for being slow.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use watershed::engine::Engine;
use watershed_testkit::{Answer, Loader, Sink};

use super::{
    all_arrive, balancer, becomes, hostnames, lost, patient_balancer, rerouted, share, sinks,
    traces_are_whole,
};
use crate::harness::{alone, beside_others, drained, metric, otlp};

/// Stands before a sink. While it is down, connections are taken and kept, and nothing comes through: as a process that
/// hangs, or a host that has left the network, looks to those who are connected to it.
struct Curtain {
    address: SocketAddr,
    down: watch::Sender<bool>,
}

impl Curtain {
    #[allow(clippy::disallowed_methods, reason = "it lives as long as the test")]
    async fn before(sink: &Sink) -> Curtain {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, to) = (listener.local_addr().unwrap(), sink.addr());
        let down = watch::Sender::new(false);
        let seen = down.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let seen = seen.subscribe();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(to).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(
                        through(from_client, to_server, seen.clone()),
                        through(from_server, to_client, seen)
                    );
                });
            }
        });
        Curtain { address, down }
    }

    fn fall(&self) {
        self.down.send_replace(true);
    }

    fn rise(&self) {
        self.down.send_replace(false);
    }
}

/// Moves bytes while the curtain is up.
async fn through(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut down: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let up = down.wait_for(|down| !down).await.is_ok();
        if !up || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// An address that answers no connection, as one behind a firewall that drops: its backlog is full. For as long as what
/// fills it is held.
async fn black_hole() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        filling.push(stream);
    }
    (address, (listener, filling))
}

fn used_at(endpoint: impl std::fmt::Display) -> String {
    format!("watershed_loadbalancer_backend_used{{exporter=\"load_balancing\",endpoint=\"{endpoint}\"}}")
}

fn ejections(engine: &Engine) -> f64 {
    metric(&engine.metrics().render(), "watershed_loadbalancer_ejections")
}

/// It goes on taking connections, and answers nothing: by the defaults it is out within a second, and what was on its
/// way to it goes to the others long before its time is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_falls_silent_under_load_is_left_out_within_a_second() {
    let _turn = alone().await;
    let [a, b] = sinks().await;
    let curtain = Curtain::before(&b).await;
    let names = [a.addr().to_string(), curtain.address.to_string()];
    let exporter = format!("resolver.static.hostnames = {names:?}");
    let engine = patient_balancer("delivered", "50s", &exporter).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(20).retry(true).open(2, 64, 4_000.0);
    let load = load.duration(Duration::from_secs(4)).start();
    while load.acknowledged() < 2_000 {
        sleep(Duration::from_millis(5)).await;
    }
    curtain.fall();
    let out = becomes(&engine, &used_at(curtain.address), 0.0).await;
    assert!(out <= Duration::from_secs(1), "{out:?}");
    // Whoever waited for it is answered by another.
    let before = load.acknowledged();
    while load.acknowledged() < before + 4_000 {
        sleep(Duration::from_millis(5)).await;
    }
    curtain.rise();
    let back = becomes(&engine, &used_at(curtain.address), 1.0).await;
    let load = load.finish().await;
    assert_eq!((load.refusals(), load.unresolved), (0, 0), "{load}");
    all_arrive(&load, &[&a, &b]).await;
    traces_are_whole(&engine, &[&a, &b], load.run + 1).await;
    assert!(rerouted(&engine) > 0.0);
    drained(&engine).await;
    eprintln!("left out after {out:?}, back after {back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_never_answered_is_left_out_within_a_second() {
    let _turn = alone().await;
    let [a] = sinks().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (hole, _full) = black_hole().await;
    let mute_address = mute.local_addr().unwrap();
    let names = [a.addr(), mute_address, hole].map(|address| address.to_string());
    let exporter = format!("resolver.static.hostnames = {names:?}");
    let engine = patient_balancer("accepted", "50s", &exporter).await;
    let began = Instant::now();
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(1, 4).requests(100).run().await;
    for silent in [mute_address, hole] {
        becomes(&engine, &used_at(silent), 0.0).await;
    }
    let out = began.elapsed();
    all_arrive(&load, &[&a]).await;
    let arrived = began.elapsed();
    assert_eq!(load.acknowledged.len(), 1_000, "{load}");
    assert!(out <= Duration::from_secs(1), "{out:?}");
    drained(&engine).await;
    eprintln!("left out after {out:?}, all with the other after {arrived:?}");
}

/// Slow is not gone: it answers late, and says that it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_gateway_stays() {
    let _turn = alone().await;
    let [a, b] = sinks().await;
    b.answer(Answer::Slow(Duration::from_millis(1_500)));
    let engine = balancer("accepted", &hostnames(&[&a, &b])).await;
    let load = Loader::new(otlp(&engine)).spans_per_request(20).open(2, 64, 2_000.0);
    let load = load.duration(Duration::from_secs(5)).run().await;
    assert_eq!(ejections(&engine), 0.0, "{}", engine.metrics().render());
    b.answer(Answer::Ok);
    drained(&engine).await;
    assert!(lost(&load, &[&a, &b]).is_empty(), "{load}");
    assert!(share(&b, load.run) > load.acknowledged.len() / 4);
}

/// It is found out only while the collector ends, when the others have nothing left to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_gateway_that_falls_silent_in_a_drain_goes_to_the_others() {
    let _turn = beside_others().await;
    let [a, b] = sinks().await;
    let curtain = Curtain::before(&b).await;
    let names = [a.addr().to_string(), curtain.address.to_string()];
    let exporter = format!("resolver.static.hostnames = {names:?}");
    let engine = patient_balancer("accepted", "50s", &exporter).await;
    let warm = Loader::new(otlp(&engine)).spans_per_request(10).closed(1, 4).requests(20).run().await;
    all_arrive(&warm, &[&a, &b]).await;
    curtain.fall();
    let load = Loader::new(otlp(&engine)).spans_per_request(10).closed(2, 4).requests(40).run().await;
    let began = Instant::now();
    drained(&engine).await;
    assert!(lost(&load, &[&a]).is_empty() && load.acknowledged.len() == 400, "{load}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
