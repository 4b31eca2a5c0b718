//! The receiving end against clients that do what they should, and clients that do not.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use http::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use watershed_delivery::Budget;
use watershed_net::{
    CallErrorKind, Client, ClientOptions, Code, ConnectionLimit, ConnectionRefused, ServerOptions, Sockets,
    StopSignal, serve,
};

#[tokio::test]
async fn a_message_comes_back_as_it_was() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    for length in [0, 1, 5, 16_384, 100_000, 3 << 20] {
        let message = telemetry(length);
        let answer = raw.call(ECHO, &[], framed(0, &message)).await;
        assert_eq!(answer.code, Some(Code::Ok), "{answer:?}");
        assert_eq!(answer.body, framed(0, &message));
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert_eq!(answer.headers["grpc-accept-encoding"], "identity,gzip,zstd,snappy,deflate");
        assert_eq!(server.service.covered.load(Ordering::SeqCst), length);
    }
    server.end().await;
}

#[tokio::test]
async fn a_header_may_straddle_frames() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let body = framed(0, b"straddling");
    let (response, mut stream) = raw.open(ECHO, &[]).await;
    for at in 0..body.len() {
        stream.send_data(body.slice(at..=at), false).unwrap();
        // Each byte must leave in a frame of its own before the next is queued.
        tokio::task::yield_now().await;
    }
    stream.send_data(Bytes::new(), true).unwrap();
    let answer = answer(response).await;
    assert_eq!(answer.code, Some(Code::Ok), "{answer:?}");
    assert_eq!(answer.body, body);
    server.end().await;
}

#[tokio::test]
async fn methods_that_are_not_there_are_unimplemented() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let answer = raw.call("/test.Service/Nothing", &[], framed(0, b"x")).await;
    assert_eq!(answer.code, Some(Code::Unimplemented));
    assert_eq!(answer.message, "no method /test.Service/Nothing");
    server.end().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_for_good() {
    let server = Server::with(Budget::new(1 << 20), |options| options.max_recv_msg_size = 1000);
    let raw = Raw::connect(server.addr).await;
    assert_eq!(raw.call(ECHO, &[], framed(0, &[7; 1000])).await.code, Some(Code::Ok));
    let answer = raw.call(ECHO, &[], framed(0, &[7; 1001])).await;
    assert_eq!(answer.code, Some(Code::ResourceExhausted));
    assert!(!answer.retry, "it would be sent again for ever");
    server.end().await;
}

#[tokio::test]
async fn bodies_that_are_not_one_message_are_refused() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let two = [framed(0, b"one"), framed(0, b"two")].concat();
    for (body, what) in [
        (Bytes::new(), "nothing"),
        (framed(0, b"abc").slice(..4), "half a header"),
        (framed(0, b"abc").slice(..7), "half a message"),
        (Bytes::from(two), "two messages"),
        (Bytes::from_static(&[0, 0, 0, 0, 0, 9]), "a byte after an empty message"),
        (framed(1, b"abc"), "compressed with nothing"),
        (framed(2, b"abc"), "no such flag"),
    ] {
        let answer = raw.call(ECHO, &[], body).await;
        assert_eq!(answer.code, Some(Code::Internal), "{what}");
        assert!(!answer.retry, "{what}");
    }
    let answer = raw.call(ECHO, &[("grpc-encoding", "lz4")], framed(1, b"abc")).await;
    assert_eq!(answer.code, Some(Code::Unimplemented));
    assert_eq!(answer.headers["grpc-accept-encoding"], "identity,gzip,zstd,snappy,deflate");
    assert_eq!(server.begun(), 0);
    let mut told = vec![Code::Internal; 7];
    told.push(Code::Unimplemented);
    assert_eq!(*server.service.refused_by_net.lock(), told);
    assert_eq!(raw.call(REFUSE, &[], framed(0, b"x")).await.code, Some(Code::Unavailable));
    assert_eq!(server.service.refused_by_net.lock().len(), told.len(), "the service knows of its own");
    server.end().await;
}

#[tokio::test]
async fn what_is_not_grpc_gets_an_http_error() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    for kind in ["application/json", "application/grpc-web", "application/grpcx", ""] {
        let answer = raw.call(ECHO, &[("content-type", kind)], framed(0, b"x")).await;
        assert_eq!((answer.http, answer.code), (415, None), "{kind}");
    }
    for kind in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        assert_eq!(
            raw.call(ECHO, &[("content-type", kind)], framed(0, b"x")).await.code,
            Some(Code::Ok),
            "{kind}"
        );
    }
    let request = http::Request::get(format!("http://test{ECHO}")).body(()).unwrap();
    let (response, _) = raw.sender.clone().ready().await.unwrap().send_request(request, true).unwrap();
    let answer = answer(response).await;
    assert_eq!((answer.http, answer.headers["allow"].to_str().unwrap()), (405, "POST"));
    server.end().await;
}

#[tokio::test]
async fn a_panic_is_answered_and_reported() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    for path in [PANIC, PANIC_IN_ADMIT] {
        assert_eq!(raw.call(path, &[], framed(0, b"x")).await.code, Some(Code::Unavailable));
    }
    assert_eq!(*server.service.panics.lock(), ["call is broken", "admit is broken"]);
    assert_eq!(raw.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok), "the connection goes on");
    server.end().await;
}

#[tokio::test]
async fn clients_that_leave_take_their_bytes_along() {
    let server = Server::start();
    let window = 256 << 10;
    let raw = Raw::connect(server.addr).await;
    // One cancels while its body is gathered, one while its call runs.
    let (_response, mut half) = raw.open(ECHO, &[]).await;
    half.send_data(framed(0, &[1; 5000]).slice(..3000), false).unwrap();
    let (_response, mut whole) = raw.open(HOLD, &[]).await;
    whole.send_data(framed(0, &[2; 7000]), true).unwrap();
    until(|| server.service.budget.used() == window + 12_000 && server.begun() == 1).await;
    half.send_reset(h2::Reason::CANCEL);
    until(|| server.service.budget.used() == window + 7000).await;
    whole.send_reset(h2::Reason::CANCEL);
    until(|| server.service.budget.used() == window).await;
    // And the whole connection, with a call that runs.
    let (_response, mut again) = raw.open(HOLD, &[]).await;
    again.send_data(framed(0, &[2; 9000]), true).unwrap();
    until(|| server.service.budget.used() == window + 9000).await;
    raw.driver.abort();
    until(|| server.service.budget.used() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn a_call_knows_who_calls_and_for_how_long() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let headers = [("grpc-timeout", "1500m"), ("x-tenant", "blue")];
    assert_eq!(raw.call(ECHO, &headers, framed(0, b"x")).await.code, Some(Code::Ok));
    let call = server.service.last.lock().take().unwrap();
    assert_eq!(call.path(), ECHO);
    assert_eq!(call.timeout, Some(Duration::from_millis(1500)));
    assert!(call.arrived.elapsed() < Duration::from_secs(10));
    assert_eq!(call.headers["x-tenant"], "blue");
    assert_eq!(call.peer.unwrap().ip(), server.addr.ip());
    server.end().await;
}

#[tokio::test]
async fn a_graceful_stop_lets_calls_end() {
    let server = Server::start();
    let client = server.client();
    let message = [Bytes::from_static(b"late")];
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.unary(HOLD, &HeaderMap::new(), &message, None).await }
    });
    until(|| server.begun() == 1).await;
    server.stop.stop();
    // Calls that were under way are answered, then new ones go elsewhere, and there is nowhere: the port is
    // bound, but nobody deals from it.
    let refused = loop {
        if let Err(error) = client.unary(ECHO, &HeaderMap::new(), &[], Some(Duration::from_millis(50))).await
        {
            break error;
        }
    };
    assert_eq!(refused.status.code, Code::DeadlineExceeded);
    assert!(!calling.is_finished());
    server.service.release.add_permits(1);
    assert_eq!(calling.await.unwrap().unwrap(), "late");
    drop(client);
    server.end().await;
}

#[tokio::test]
async fn a_graceful_stop_has_an_end() {
    let server = Server::with(Budget::new(1 << 20), |options| options.grace = Duration::from_millis(20));
    let client = server.client();
    let calling = tokio::spawn(async move {
        client.unary(HOLD, &HeaderMap::new(), &[Bytes::from_static(b"never")], None).await
    });
    until(|| server.begun() == 1).await;
    server.end().await;
    let error = calling.await.unwrap().unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::Unknown));
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_up_a_stop() {
    let server = Server::with(Budget::new(1 << 20), |options| options.grace = Duration::from_secs(3600));
    let mute = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    until(|| server.service.budget.used() > 0).await;
    tokio::time::timeout(Duration::from_secs(10), server.end()).await.expect("waits for the mute one");
    drop(mute);
}

#[tokio::test]
async fn what_was_dealt_at_the_last_moment_is_sent_elsewhere() {
    let server = Server::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connecting = tokio::spawn(Raw::connect(listener.local_addr().unwrap()));
    let (stream, _) = listener.accept().await.unwrap();
    let (lane, connections) = mpsc::channel(1);
    lane.send(stream.into_std().unwrap()).await.unwrap();
    let (signal, stop) = StopSignal::new();
    signal.stop();
    let options = ServerOptions::new(server.service.budget.clone());
    serve(server.service.clone(), connections, options, stop).await;
    // A clean end, not a broken connection.
    connecting.await.unwrap().driver.await.unwrap().unwrap();
    server.end().await;
}

#[tokio::test]
async fn lanes_are_threads() {
    let server = Server::start();
    let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr();
    let (signal, stop) = StopSignal::new();
    let mut lanes = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..2 {
        let (lane, connections) = mpsc::channel(4);
        lanes.push(lane);
        let (service, stop) = (server.service.clone(), stop.clone());
        threads.push(std::thread::spawn(move || {
            let options = ServerOptions::new(service.budget.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(service, connections, options, stop));
        }));
    }
    let dealing = tokio::spawn(socket.deal(lanes, stop));
    let client = Client::new(ClientOptions::new(addr.to_string())).unwrap();
    let raws = [Raw::connect(addr).await, Raw::connect(addr).await, Raw::connect(addr).await];
    for raw in &raws {
        assert_eq!(raw.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok));
    }
    assert!(client.unary(ECHO, &HeaderMap::new(), &[], None).await.is_ok());
    drop((raws, client));
    signal.stop();
    dealing.await.unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    server.end().await;
}

#[tokio::test]
async fn idle_connections_are_retired_and_busy_ones_are_not() {
    let server = Server::with(Budget::new(1 << 20), |options| {
        options.keepalive.max_connection_idle = Some(Duration::from_millis(20));
    });
    let idle = Raw::connect(server.addr).await;
    let busy = Raw::connect(server.addr).await;
    let (response, mut stream) = busy.open(HOLD, &[]).await;
    stream.send_data(framed(0, b"busy"), true).unwrap();
    until(|| idle.driver.is_finished()).await;
    idle.driver.await.unwrap().unwrap();
    server.service.release.add_permits(1);
    assert_eq!(answer(response).await.code, Some(Code::Ok));
    server.end().await;
}

#[tokio::test]
async fn old_connections_are_retired_and_then_cut() {
    let server = Server::with(Budget::new(1 << 20), |options| {
        options.keepalive.max_connection_age = Some(Duration::from_millis(20));
        options.keepalive.max_connection_age_grace = Some(Duration::from_millis(20));
    });
    let raw = Raw::connect(server.addr).await;
    let (response, mut stream) = raw.open(HOLD, &[]).await;
    stream.send_data(framed(0, b"for ever"), true).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(10), response).await.unwrap().is_err());
    server.end().await;
}

#[tokio::test]
async fn connections_that_answer_no_ping_are_cut() {
    let server = Server::with(Budget::new(4 << 20), |options| {
        options.keepalive.time = Duration::from_millis(20);
        options.keepalive.timeout = Duration::from_millis(20);
    });
    let raw = Raw::connect(server.addr).await;
    assert_eq!(raw.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok));
    let used = server.service.budget.used();
    // A peer that reads nothing and says nothing: its connection stays open and is not polled.
    let dead = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let (_sender, _dead) = h2::client::handshake(dead).await.unwrap();
    until(|| server.service.budget.used() == 2 * used).await;
    until(|| server.service.budget.used() == used).await;
    assert!(!raw.driver.is_finished(), "the one that answers goes on");
    server.end().await;
}

#[tokio::test]
async fn zero_is_never() {
    let server = Server::with(Budget::new(1 << 20), |options| {
        options.keepalive.time = Duration::ZERO;
        options.keepalive.max_connection_idle = Some(Duration::ZERO);
        options.keepalive.max_connection_age = Some(Duration::ZERO);
        options.keepalive.max_connection_age_grace = Some(Duration::ZERO);
    });
    let raw = Raw::connect(server.addr).await;
    for _ in 0..3 {
        assert_eq!(raw.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok));
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep-ok: that nothing happens has no condition
    }
    assert!(!raw.driver.is_finished());
    server.end().await;
}

#[tokio::test]
async fn an_age_without_end_is_one() {
    let server = Server::with(Budget::new(1 << 20), |options| {
        options.keepalive.max_connection_idle = Some(Duration::MAX);
        options.keepalive.max_connection_age = Some(Duration::MAX);
    });
    let raw = Raw::connect(server.addr).await;
    assert_eq!(raw.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok));
    server.end().await;
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once() {
    let server = Server::with(Budget::new(4 << 20), |options| {
        options.connections = ConnectionLimit::new(2);
    });
    let first = Raw::connect(server.addr).await;
    let second = Raw::connect(server.addr).await;
    for raw in [&first, &second] {
        assert_eq!(raw.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok));
    }
    let mut third = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(third.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(*server.service.connections_refused.lock(), [ConnectionRefused::TooMany]);
    first.driver.abort();
    drop(first.sender);
    until(|| server.limit.free() == 1).await;
    let third = Raw::connect(server.addr).await;
    assert_eq!(third.call(ECHO, &[], framed(0, b"x")).await.code, Some(Code::Ok));
    server.end().await;
}
