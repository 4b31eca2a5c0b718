//! Sockets that outlive those who deal from them.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use watershed_delivery::Budget;
use watershed_net::{Socket, Sockets, StopSignal};

/// A socket on a port that was free, under an address that names it.
fn bind_somewhere(sockets: &Sockets) -> (String, Arc<Socket>) {
    loop {
        let address = Sockets::new().bind("127.0.0.1:0").unwrap().local_addr().to_string();
        // Somebody else may have been given the port meanwhile.
        if let Ok(socket) = sockets.bind(&address) {
            return (address, socket);
        }
    }
}

#[tokio::test]
async fn one_address_is_one_socket() {
    let sockets = Sockets::new();
    let (address, first) = bind_somewhere(&sockets);
    assert!(Arc::ptr_eq(&first, &sockets.clone().bind(&address).unwrap()));
    let error = Sockets::new().bind(&address).unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("another process listens there"), "{error}");
    sockets.close(&address);
    drop(first);
    Sockets::new().bind(&address).unwrap();
}

#[tokio::test]
async fn port_0_is_another_port_each_time() {
    let sockets = Sockets::new();
    let (one, two) = (sockets.bind("127.0.0.1:0").unwrap(), sockets.bind("127.0.0.1:0").unwrap());
    assert_ne!(one.local_addr(), two.local_addr());
}

#[tokio::test]
async fn addresses_come_in_many_forms() {
    let sockets = Sockets::new();
    assert!(sockets.bind("localhost:0").unwrap().local_addr().is_ipv4());
    assert!(sockets.bind("[::1]:0").unwrap().local_addr().is_ipv6());
    for (address, hint) in
        [("4317", "host:port"), ("192.0.2.1:0", "one of its own"), ("localhost:x", "host:port")]
    {
        let error = sockets.bind(address).unwrap_err().to_string();
        assert!(error.contains(address) && error.contains(hint), "{error}");
    }
}

#[tokio::test]
async fn connections_are_dealt_in_turn() {
    let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
    let (stop, stopped) = StopSignal::new();
    let (lanes, mut ends): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel(8)).unzip();
    let dealing = tokio::spawn(socket.clone().deal(lanes, stopped));
    for round in 0..2 {
        for (lane, end) in ends.iter_mut().enumerate() {
            let client = TcpStream::connect(socket.local_addr()).await.unwrap();
            let dealt = end.recv().await.unwrap();
            assert_eq!(
                dealt.peer_addr().unwrap(),
                client.local_addr().unwrap(),
                "round {round}, lane {lane}"
            );
            assert!(dealt.nodelay().unwrap());
        }
    }
    stop.stop();
    dealing.await.unwrap();
}

#[tokio::test]
async fn full_lanes_are_passed_over_and_waited_for() {
    let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
    let (stop, stopped) = StopSignal::new();
    let (small, mut first) = mpsc::channel(1);
    let (large, mut second) = mpsc::channel(2);
    let dealing = tokio::spawn(socket.clone().deal(vec![small, large.clone()], stopped));
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(TcpStream::connect(socket.local_addr()).await.unwrap());
    }
    // Three fill the lanes; the fourth waits in the dealer's hand, the fifth in the backlog.
    until(|| large.capacity() == 0).await;
    let mut dealt = vec![second.recv().await.unwrap(), second.recv().await.unwrap()];
    dealt.push(second.recv().await.unwrap());
    dealt.push(second.recv().await.unwrap());
    dealt.push(first.recv().await.unwrap());
    let mut peers: Vec<_> = dealt.iter().map(|stream| stream.peer_addr().unwrap()).collect();
    let mut expected: Vec<_> = clients.iter().map(|stream| stream.local_addr().unwrap()).collect();
    peers.sort();
    expected.sort();
    assert_eq!(peers, expected);
    stop.stop();
    dealing.await.unwrap();
}

#[tokio::test]
async fn a_connection_in_the_dealers_hand_goes_to_the_next_dealer() {
    let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
    let (stop, stopped) = StopSignal::new();
    let (lane, _full) = mpsc::channel(1);
    let dealing = tokio::spawn(socket.clone().deal(vec![lane.clone()], stopped));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(socket.local_addr()).await.unwrap());
    }
    until(|| lane.capacity() == 0).await;
    stop.stop();
    dealing.await.unwrap();

    let (_stop, stopped) = StopSignal::new();
    let (lane, mut end) = mpsc::channel(8);
    tokio::spawn(socket.clone().deal(vec![lane], stopped));
    for client in &clients[1..] {
        let dealt = tokio::time::timeout(Duration::from_secs(10), end.recv()).await.unwrap().unwrap();
        assert_eq!(dealt.peer_addr().unwrap(), client.local_addr().unwrap());
    }
}

#[tokio::test]
async fn a_dealer_without_lanes_ends() {
    let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
    let (_stop, stopped) = StopSignal::new();
    let (lane, end) = mpsc::channel(1);
    drop(end);
    let _client = TcpStream::connect(socket.local_addr()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), socket.deal(vec![lane], stopped)).await.unwrap();
}

#[tokio::test]
async fn a_restart_refuses_no_connection() {
    let sockets = Sockets::new();
    let budget = Budget::new(1 << 30);
    let (address, socket) = bind_somewhere(&sockets);
    let server = Server::on(socket, budget.clone(), |_| {});
    let client = server.client();
    let message = [Bytes::from_static(b"here")];
    assert_eq!(client.unary(ECHO, &HeaderMap::new(), &message, None).await.unwrap(), "here");
    server.end().await;

    // Nobody serves: the call waits in the backlog rather than fails.
    let none = HeaderMap::new();
    let call = client.unary(ECHO, &none, &message, Some(Duration::from_secs(10)));
    let restart = async { Server::on(sockets.bind(&address).unwrap(), budget, |_| {}) };
    let (answer, server) = tokio::join!(call, restart);
    assert_eq!(answer.unwrap(), "here");
    server.end().await;
}
