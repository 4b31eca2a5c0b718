//! The sending end against servers that are not there, go away, or say odd things.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use watershed_delivery::Budget;
use watershed_net::{CallErrorKind, Client, ClientKeepalive, ClientOptions, Code, Compression, Sockets};

fn client(addr: SocketAddr) -> Client {
    Client::new(ClientOptions::new(addr.to_string())).unwrap()
}

/// A server of one connection that hands every call to the test.
async fn scripted(mut script: impl FnMut(usize, &mut SendResponse<Bytes>) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut call = 0;
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            script(call, &mut respond);
            call += 1;
        }
    });
    addr
}

fn respond(
    respond: &mut SendResponse<Bytes>,
    head: Response<()>,
    body: Option<Bytes>,
    trailers: &[(&'static str, &str)],
) {
    let Some(body) = body else { return drop(respond.send_response(head, true).unwrap()) };
    let mut stream = respond.send_response(head, false).unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    stream.send_data(body, map.is_empty()).unwrap();
    if !map.is_empty() {
        stream.send_trailers(map).unwrap();
    }
}

fn grpc() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let error = client(addr).unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::NotSent));
    assert!(
        error.status.message.contains(&format!("cannot connect to {addr}: Connection refused")),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_finds_a_server_that_came_back() {
    let sockets = Sockets::new();
    let budget = Budget::new(1 << 30);
    let server = Server::on(sockets.bind("127.0.0.1:0").unwrap(), budget.clone(), |_| {});
    let address = server.addr.to_string();
    let client = server.client();
    let patient = server.client_with(|options| options.wait_for_ready = true);
    assert!(client.unary(ECHO, &HeaderMap::new(), &[], None).await.is_ok());
    server.end().await;
    let error = client.unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap_err();
    assert_eq!(error.kind, CallErrorKind::NotSent, "{error}");
    let error =
        patient.unary(ECHO, &HeaderMap::new(), &[], Some(Duration::from_millis(10))).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::DeadlineExceeded, CallErrorKind::NotSent));

    let waiting = tokio::spawn(async move { patient.unary(ECHO, &HeaderMap::new(), &[], None).await });
    let server = Server::on(sockets.bind(&address).unwrap(), budget, |_| {});
    assert!(client.unary(ECHO, &HeaderMap::new(), &[], None).await.is_ok());
    assert!(waiting.await.unwrap().is_ok());
    server.end().await;
}

#[tokio::test]
async fn what_goes_along_arrives() {
    let server = Server::start();
    let client = server.client_with(|options| {
        options.headers = vec![("x-tenant".to_owned(), "blue".to_owned())];
        options.user_agent = "unit/1".to_owned();
        options.authority = Some("collector.example".to_owned());
        options.compression = Compression::Zstd(3);
    });
    client
        .unary(ECHO, &HeaderMap::new(), &[Bytes::from_static(b"x")], Some(Duration::from_secs(9)))
        .await
        .unwrap();
    let call = server.service.last.lock().take().unwrap();
    assert_eq!(call.timeout, Some(Duration::from_secs(9)));
    assert_eq!(call.headers["x-tenant"], "blue");
    assert_eq!(call.headers["user-agent"], "unit/1");
    assert_eq!(call.headers["grpc-encoding"], "zstd");
    assert_eq!(call.uri.authority().unwrap(), "collector.example");
    server.end().await;
}

#[tokio::test]
async fn many_calls_share_one_connection() {
    let server = Server::start();
    let client = server.client();
    let calls = (0..60).map(|call| {
        let client = client.clone();
        async move {
            let message = telemetry(call * 1000);
            let pieces: Vec<Bytes> = message.chunks(777).map(Bytes::copy_from_slice).collect();
            assert!(client.unary(ECHO, &HeaderMap::new(), &pieces, None).await.unwrap() == message);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(server.service.budget.used(), 256 << 10, "one window");
    server.end().await;
}

#[tokio::test]
async fn a_timeout_ends_a_call_and_what_the_server_does_for_it() {
    let server = Server::start();
    let client = server.client();
    client.unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap();
    let used = server.service.budget.used();
    let error = client
        .unary(HOLD, &HeaderMap::new(), &[telemetry(1000)], Some(Duration::from_millis(20)))
        .await
        .unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::DeadlineExceeded, CallErrorKind::Unknown));
    until(|| server.service.budget.used() == used).await;
    server.end().await;
}

#[tokio::test]
async fn a_dropped_call_is_cancelled() {
    let server = Server::start();
    let client = server.client();
    client.unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap();
    let used = server.service.budget.used();
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.unary(HOLD, &HeaderMap::new(), &[telemetry(1000)], None).await }
    });
    until(|| server.service.budget.used() == used + 1000).await;
    calling.abort();
    until(|| server.service.budget.used() == used).await;
    server.end().await;
}

#[tokio::test]
async fn a_lost_connection_leaves_the_outcome_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let _call = connection.accept().await;
        // Both are dropped here: the call was taken, and the connection breaks.
    });
    let error = client.unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::Unknown), "{error}");
}

#[tokio::test]
async fn a_call_the_server_never_looked_at_is_sent_again() {
    let addr = scripted(|call, respond_to| match call {
        0 => respond_to.send_reset(h2::Reason::REFUSED_STREAM),
        _ => respond(respond_to, grpc(), Some(framed(0, b"again")), &[("grpc-status", "0")]),
    })
    .await;
    assert_eq!(client(addr).unary(ECHO, &HeaderMap::new(), &[telemetry(100)], None).await.unwrap(), "again");
}

#[tokio::test]
async fn a_server_that_refuses_for_ever_is_not_asked_for_ever() {
    let addr = scripted(|_, respond_to| respond_to.send_reset(h2::Reason::REFUSED_STREAM)).await;
    let error = client(addr).unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::NotSent));
}

#[tokio::test]
async fn a_dead_connection_is_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ClientOptions {
        keepalive: Some(ClientKeepalive {
            time: Duration::from_millis(10),
            timeout: Duration::from_millis(20),
            permit_without_stream: false,
        }),
        ..ClientOptions::new(listener.local_addr().unwrap().to_string())
    };
    // Connections are taken by the kernel, and nobody ever speaks on them.
    let error = Client::new(options).unwrap().unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::Unknown));
}

#[tokio::test]
async fn odd_answers_are_read_for_what_they_are() {
    type Script = fn(&mut SendResponse<Bytes>);
    let cases: [(Script, Code, &str); 9] = [
        (
            |r| {
                respond(
                    r,
                    Response::builder().status(503).body(()).unwrap(),
                    Some(Bytes::from("<html>")),
                    &[],
                )
            },
            Code::Unavailable,
            "HTTP status 503",
        ),
        (
            |r| respond(r, Response::builder().status(404).body(()).unwrap(), None, &[]),
            Code::Unimplemented,
            "404",
        ),
        (
            |r| respond(r, Response::new(()), Some(Bytes::from("hello")), &[]),
            Code::Unknown,
            "does not speak gRPC",
        ),
        (|r| respond(r, grpc(), Some(framed(0, b"x")), &[]), Code::Unknown, "without a status"),
        (
            |r| respond(r, grpc(), Some(framed(1, b"x")), &[("grpc-status", "0")]),
            Code::Internal,
            "compressed",
        ),
        (
            |r| respond(r, grpc(), Some(framed(0, b"xy").slice(..6)), &[("grpc-status", "0")]),
            Code::Internal,
            "one message",
        ),
        (|r| respond(r, grpc(), Some(Bytes::new()), &[("grpc-status", "0")]), Code::Internal, "no message"),
        (
            |r| {
                respond(
                    r,
                    grpc(),
                    Some(framed(0, b"x")),
                    &[("grpc-status", "3"), ("grpc-message", "b%C3%A4d")],
                )
            },
            Code::InvalidArgument,
            "bäd",
        ),
        (
            |r| respond(r, grpc(), Some(framed(0, &[0; (4 << 20) + 1])), &[("grpc-status", "0")]),
            Code::ResourceExhausted,
            "larger than 4194304 bytes",
        ),
    ];
    for (script, code, text) in cases {
        let addr = scripted(move |_, respond_to| script(respond_to)).await;
        let error = client(addr).unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap_err();
        assert_eq!(error.status.code, code, "{error}");
        assert!(error.status.message.contains(text), "{error}");
        assert_eq!(error.status.retry_after, None);
    }
}

/// Servers in Go answer as they were asked, whatever the call says to accept.
#[tokio::test]
async fn a_compressed_response_is_read() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"packed").unwrap();
    let zstd = zstd::encode_all(&b"packed"[..], 1).unwrap();
    let bomb = zstd::encode_all(&[0; (4 << 20) + 1][..], 1).unwrap();
    for (encoding, body, expected) in [
        ("gzip", gzip.finish().unwrap(), Ok("packed")),
        ("zstd", zstd.clone(), Ok("packed")),
        ("gzip", zstd.clone(), Err("cannot be decompressed")),
        ("zstd", bomb, Err("larger than 4194304 bytes")),
        ("br", zstd, Err("\"br\"")),
    ] {
        let addr = scripted(move |_, respond_to| {
            let mut head = grpc();
            head.headers_mut().insert("grpc-encoding", HeaderValue::from_static(encoding));
            respond(respond_to, head, Some(framed(1, &body)), &[("grpc-status", "0")]);
        })
        .await;
        match (client(addr).unary(ECHO, &HeaderMap::new(), &[], None).await, expected) {
            (Ok(response), Ok(expected)) => assert_eq!(response, expected),
            (Err(error), Err(text)) => {
                assert_eq!(error.status.code, Code::Internal, "{error}");
                assert!(error.status.message.contains(text), "{error}");
            }
            (heard, expected) => panic!("{encoding}: {heard:?} and not {expected:?}"),
        }
    }
}

#[tokio::test]
async fn a_response_of_the_limit_is_read() {
    let addr = scripted(|_, respond_to| {
        respond(respond_to, grpc(), Some(framed(0, &[7; 4 << 20])), &[("grpc-status", "0")]);
    })
    .await;
    assert_eq!(client(addr).unary(ECHO, &HeaderMap::new(), &[], None).await.unwrap().len(), 4 << 20);
}

#[tokio::test]
async fn a_connection_on_which_calls_time_out_is_doubted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let budget = Budget::new(1 << 20);
    let client = Client::new(ClientOptions {
        compression: Compression::Zstd(3),
        budget: Some(budget.clone()),
        ..ClientOptions::new(addr.to_string())
    })
    .unwrap();
    let (gone, back) = (client.clone(), client);
    let first = tokio::spawn(async move {
        gone.unary(ECHO, &HeaderMap::new(), &[telemetry(100)], Some(Duration::from_millis(50)))
            .await
            .unwrap_err()
    });
    // It is there, and neither reads nor closes: for all that the client can see it has vanished.
    let (vanished, _) = listener.accept().await.unwrap();
    assert_eq!(first.await.unwrap().kind, CallErrorKind::Unknown);
    let second = back
        .unary(ECHO, &HeaderMap::new(), &[telemetry(100)], Some(Duration::from_secs(10)))
        .await
        .unwrap_err();
    assert_eq!(
        (second.status.code, second.kind),
        (Code::Unavailable, CallErrorKind::Unknown),
        "cut: {second}"
    );
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_request, mut respond_to))) = connection.accept().await {
            respond(&mut respond_to, grpc(), Some(framed(0, b"new")), &[("grpc-status", "0")]);
        }
    });
    assert_eq!(
        back.unary(ECHO, &HeaderMap::new(), &[telemetry(100)], Some(Duration::from_secs(10))).await.unwrap(),
        "new"
    );
    until(|| budget.used() == 0).await;
    drop(vanished);
}

/// A server in HTTP/2's bare frames, which answers calls that were cancelled: a real one would know better.
///
/// It waits until it is released, and from then on answers at once.
async fn answers_late(listener: TcpListener, cancelled: &AtomicUsize, release: &Notify) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut read, mut write) = stream.split();
    read.read_exact(&mut [0; 24]).await.unwrap();
    // MAX_CONCURRENT_STREAMS is 10,000.
    write.write_all(&h2_frame(4, 0, 0, &[0, 3, 0, 0, 0x27, 0x10])).await.unwrap();
    let mut calls = Some(Vec::new());
    loop {
        let mut head = [0; 9];
        tokio::select! {
            biased;
            () = release.notified() => {
                let answers = calls.take().unwrap().into_iter().flat_map(|id| h2_frame(1, 4, id, &[0x88]));
                write.write_all(&answers.collect::<Vec<u8>>()).await.unwrap();
                continue;
            }
            end = read.read_exact(&mut head) => if end.is_err() { return },
        }
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        read.read_exact(&mut payload).await.unwrap();
        let id = u32::from_be_bytes(id);
        match (kind, &mut calls) {
            (1, Some(calls)) => calls.push(id),
            (1, None) => {
                let status = [&[0x88, 0, 11][..], b"grpc-status", &[1], b"7"].concat();
                write.write_all(&h2_frame(1, 5, id, &status)).await.unwrap();
            }
            (3, _) => drop(cancelled.fetch_add(1, Ordering::SeqCst)),
            (4, _) if flags == 0 => write.write_all(&h2_frame(4, 1, 0, &[])).await.unwrap(),
            (6, _) if flags == 0 => write.write_all(&h2_frame(6, 1, 0, &payload)).await.unwrap(),
            _ => {}
        }
    }
}

fn h2_frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn late_answers_to_thousands_of_cancelled_calls_leave_the_connection_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(listener.local_addr().unwrap());
    let (cancelled, release) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let (seen, released) = (cancelled.clone(), release.clone());
    let serving = tokio::spawn(async move { answers_late(listener, &seen, &released).await });
    let none = HeaderMap::new();
    // More than HTTP/2 remembers, and more again than it lets pass by itself.
    while cancelled.load(Ordering::SeqCst) < 2500 {
        let calls = (0..100).map(|_| client.unary(ECHO, &none, &[], Some(Duration::from_millis(20))));
        for end in futures_util::future::join_all(calls).await {
            assert_eq!(end.unwrap_err().status.code, Code::DeadlineExceeded);
        }
    }
    release.notify_one();
    for _ in 0..3 {
        let error = client.unary(ECHO, &none, &[], Some(Duration::from_secs(10))).await.unwrap_err();
        assert_eq!(
            (error.status.code, error.kind),
            (Code::PermissionDenied, CallErrorKind::Answered),
            "{error}"
        );
    }
    drop(client);
    serving.await.unwrap();
}
