//! HTTP/1.1, from clients that do what they should not.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::web::*;
use common::{telemetry, until};
use http::StatusCode;
use tokio::io::AsyncWriteExt;
use watershed_delivery::Budget;
use watershed_net::{ConnectionLimit, ConnectionRefused};

#[tokio::test]
async fn heads_that_make_no_sense_are_refused_and_end_the_connection() {
    let server = WebServer::start();
    let post = |rest: &str| format!("POST /echo HTTP/1.1\r\nhost: test\r\n{rest}\r\n\r\n").into_bytes();
    let long = format!("x-long: {}", "a".repeat(20_000));
    let many = "x-a: b\r\n".repeat(97);
    for (what, bytes, status) in [
        ("nonsense", b"nonsense\r\n\r\n".to_vec(), 400),
        ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        ("no host", b"POST /echo HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("an odd path", b"POST /\xff HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(), 400),
        ("two lengths", post("content-length: 3\r\ncontent-length: 4"), 400),
        ("a length and chunks", post("content-length: 3\r\ntransfer-encoding: chunked"), 400),
        ("a negative length", post("content-length: -1"), 400),
        ("a signed length", post("content-length: +1"), 400),
        ("a length without end", post("content-length: 99999999999999999999999"), 400),
        ("gzip as a transfer", post("transfer-encoding: gzip, chunked"), 400),
        ("a header of two lines", post("x-a: b\r\n c"), 400),
        ("a space before the colon", post("x-a : b"), 400),
        ("too long a header", post(&long), 431),
        ("too many headers", post(many.trim_end()), 431),
        ("no end of a line", vec![b'a'; 40_000], 431),
    ] {
        let mut wire = server.connect().await;
        wire.send(bytes).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.closes()), (status, true), "{what}: {}", answer.text());
        assert!(answer.text().starts_with("refused: "), "{what}");
        wire.closed().await;
    }
    assert_eq!(server.begun(), 0);
    assert_eq!(server.web.refusals.lock().len(), 16);
    server.end().await;
}

#[tokio::test]
async fn upgrades_are_ignored_and_end_the_connection() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    let answer = wire.post("/echo", &[("connection", "upgrade"), ("upgrade", "websocket")], b"body").await;
    assert_eq!((answer.status, answer.text(), answer.closes()), (200, "body", true));
    wire.closed().await;
    let mut wire = server.connect().await;
    wire.send("CONNECT other:80 HTTP/1.1\r\nhost: other\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 404);
    server.end().await;
}

#[tokio::test]
async fn chunks_that_make_no_sense_are_refused() {
    let server = WebServer::start();
    for (what, chunks) in [
        ("no number", "x\r\nabc\r\n0\r\n\r\n"),
        ("too long for a number", "fffffffffffffffff\r\nabc"),
        ("longer than it says", "2\r\nabc\r\n0\r\n\r\n"),
    ] {
        let mut wire = server.connect().await;
        wire.send("POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
        wire.send(chunks).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.closes()), (400, true), "{what}: {}", answer.text());
        wire.closed().await;
    }
    assert_eq!(server.begun(), 0);
    server.end().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let server = WebServer::with(Budget::new(1 << 20), |options| options.max_request_body_size = 1000);
    let mut wire = server.connect().await;
    assert_eq!(wire.post("/echo", &[], &[7; 1000]).await.status, 200);
    // Small enough to be skipped, so that the connection goes on.
    let answer = wire.post("/echo", &[], &[7; 1001]).await;
    assert_eq!((answer.status, answer.closes()), (413, false));
    wire.send(chunked("/echo", &[], &[&[7; 900], &[7; 100]])).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send(chunked("/echo", &[], &[&[7; 900], &[7; 101]])).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.closes()), (413, true));
    wire.closed().await;
    // The announcement is enough.
    let mut wire = server.connect().await;
    wire.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 18446744073709551615\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.closes()), (413, true));
    assert_eq!(server.begun(), 2);
    assert_eq!(*server.web.admitted.lock(), [Some(1000), None, None]);
    server.end().await;
}

#[tokio::test]
async fn chunks_stop_where_the_budget_does() {
    let budget = Budget::new(1 << 20);
    let server = WebServer::with(budget.clone(), |_| {});
    let held = budget.try_take(700 << 10).unwrap();
    let body = telemetry(600_000);
    for (status, retry) in [(503, true), (200, false)] {
        let mut wire = server.connect().await;
        wire.send(chunked("/echo", &[], &[&body])).await;
        assert_eq!(wire.answer().await.status, status);
        assert!(budget.peak() <= budget.limit());
        assert_eq!(
            server.web.refusals.lock().pop().is_some_and(|refusal| refusal.retry_after.is_some()),
            retry
        );
        if status == 503 {
            held.trim(0);
        }
    }
    until(|| budget.used() == 0).await;
    let mut wire = server.connect().await;
    wire.send(chunked("/echo", &[], &[&telemetry(2 << 20)])).await;
    // It never fits, though each step would.
    assert_eq!(wire.answer().await.status, 413);
    assert!(budget.peak() <= budget.limit());
    drop(wire);
    server.end().await;
}

#[tokio::test]
async fn a_refused_request_leaves_the_connection_whole_where_its_body_is_small() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for _ in 0..100 {
        let answer = wire.post("/refuse", &[], &telemetry(100_000)).await;
        assert_eq!((answer.status, answer.closes()), (503, false));
    }
    assert_eq!(wire.post("/echo", &[], b"x").await.status, 200);
    server.end().await;
}

#[tokio::test]
async fn a_refused_body_without_end_is_not_read() {
    let server = WebServer::start();
    for head in [
        "POST /refuse HTTP/1.1\r\nhost: test\r\ncontent-length: 60000000\r\n\r\n",
        "POST /refuse HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        let mut wire = server.connect().await;
        wire.send(head).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.closes()), (503, true));
        // What is sent all the same is taken for a moment only.
        let megabyte = vec![b'0'; 1 << 20];
        let mut sent = 0;
        while wire.stream.write_all(&megabyte).await.is_ok() {
            sent += 1;
            assert!(sent < 50, "it is read to the end");
        }
    }
    until(|| server.used() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn a_head_that_stalls_is_refused() {
    let server = WebServer::with(Budget::new(1 << 20), |options| {
        options.read_header_timeout = Duration::from_millis(30);
    });
    let mut wire = server.connect().await;
    assert_eq!(wire.post("/echo", &[], b"x").await.status, 200);
    // The second on its connection no less than the first.
    wire.send("POST /echo HTTP/1.1\r\nhost: te").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.closes()), (408, true));
    wire.closed().await;
    server.end().await;
}

#[tokio::test]
async fn a_body_that_stalls_or_drips_is_refused() {
    let server = WebServer::with(Budget::new(1 << 20), |options| {
        options.read_timeout = Duration::from_millis(100);
    });
    for (head, part) in [("content-length: 100000", "abc"), ("transfer-encoding: chunked", "5000\r\nabc")] {
        for drips in [false, true] {
            let mut wire = server.connect().await;
            wire.send(format!("POST /echo HTTP/1.1\r\nhost: test\r\n{head}\r\n\r\n{part}")).await;
            let (read, mut write) = tokio::io::split(wire.stream);
            let dripping = tokio::spawn(async move {
                while drips && write.write_all(b".").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await; // sleep-ok: a slow sender is the subject
                }
                std::future::pending::<()>().await;
            });
            let answer = Wire::new(tokio::io::join(read, tokio::io::sink())).answer().await;
            assert_eq!((answer.status, answer.closes()), (408, true));
            dripping.abort();
        }
    }
    assert_eq!(server.web.refusals.lock()[0].status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(server.begun(), 0);
    server.end().await;
}

#[tokio::test]
async fn a_connection_over_the_limit_is_closed_at_once() {
    let server =
        WebServer::with(Budget::new(1 << 20), |options| options.connections = ConnectionLimit::new(2));
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    assert_eq!(first.post("/echo", &[], b"x").await.status, 200);
    assert_eq!(second.post("/echo", &[], b"x").await.status, 200);
    server.connect().await.closed().await;
    assert_eq!(*server.web.connections_refused.lock(), [ConnectionRefused::TooMany]);
    drop(first);
    until(|| server.limit.free() == 1).await;
    assert_eq!(server.connect().await.post("/echo", &[], b"x").await.status, 200);
    drop(second);
    server.end().await;
}

#[tokio::test]
async fn the_lanes_of_a_listener_count_their_connections_together() {
    let limit = ConnectionLimit::new(1);
    let lane = || WebServer::with(Budget::new(1 << 20), |options| options.connections = limit.clone());
    let (one, other) = (lane(), lane());
    let mut wire = one.connect().await;
    assert_eq!(wire.post("/echo", &[], b"x").await.status, 200);
    other.connect().await.closed().await;
    drop(wire);
    until(|| limit.free() == 1).await;
    assert_eq!(other.connect().await.post("/echo", &[], b"x").await.status, 200);
    other.end().await;
    one.end().await;
}

/// Bytes that look like requests, more or less.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }

    fn bytes(&mut self) -> Vec<u8> {
        const PIECES: [&[u8]; 24] = [
            b"POST /echo HTTP/1.1\r\nhost: test\r\n",
            b"GET / HTTP/1.0\r\n",
            b"content-length: 5\r\n",
            b"content-length: 99\r\n",
            b"transfer-encoding: chunked\r\n",
            b"content-encoding: gzip\r\n",
            b"content-encoding: snappy\r\n",
            b"expect: 100-continue\r\n",
            b"connection: close\r\n",
            b"\r\n\r\n",
            b"\r\n",
            b"\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"ffffffff\r\n",
            b"hello",
            b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x03\0\0\0\0\0\0\0\0\0",
            b"\xff\x06\0\0sNaPpY",
            b":",
            b" ",
            b"\0",
            b"HEAD /echo HTTP/1.1\r\nhost: test\r\n",
            b"POST /panic HTTP/1.1\r\nhost: test\r\n",
            b"OPTIONS * HTTP/1.1\r\nhost: test\r\n",
        ];
        let mut bytes = Vec::new();
        for _ in 0..1 + self.next(12) {
            match self.next(8) {
                0 => bytes.extend((0..self.next(40)).map(|_| self.next(256) as u8).collect::<Vec<_>>()),
                _ => bytes.extend_from_slice(PIECES[self.next(PIECES.len())]),
            }
        }
        if self.next(4) == 0 {
            let at = self.next(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << self.next(8);
            }
        }
        bytes
    }
}

#[tokio::test]
async fn whatever_is_sent_is_answered_or_ends_the_connection() {
    let server = WebServer::with(Budget::new(4 << 20), |_| {});
    let mut noise = Noise(7);
    let mut answers = 0;
    for round in 0..4000 {
        let bytes = noise.bytes();
        let mut wire = server.connect().await;
        // The server may have refused the beginning already.
        let _ = wire.stream.write_all(&bytes).await;
        let _ = wire.stream.shutdown().await;
        let answering = async {
            while let Some(answer) = wire.read_answer("HEAD").await {
                answers += 1;
                if answer.header("content-length").is_some_and(|length| length != "0") {
                    // What follows may be a body or an answer, and it is not for this test to tell.
                    break;
                }
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        tokio::time::timeout(Duration::from_secs(10), answering)
            .await
            .unwrap_or_else(|_| panic!("{round}: {text}"));
    }
    assert!(answers > 1000, "{answers}");
    assert!(server.web.panics.lock().iter().all(|panic| panic == "call is broken"));
    until(|| server.used() == 0).await;
    server.end().await;
}
