//! Refused on the header, with the body on its way.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use watershed_net::Code;

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let (response, mut stream) = raw.open(REFUSE, &[]).await;
    // The header announces a megabyte of which not a byte ever comes.
    stream.send_data(framed(0, &[]).slice(..1), false).unwrap();
    stream.send_data(Bytes::from_static(&[0, 16, 0, 0]), false).unwrap();
    let answer = answer(response).await;
    assert_eq!(answer.code, Some(Code::Unavailable), "{answer:?}");
    assert!(answer.retry);
    drop(stream);
    server.end().await;
}

#[tokio::test]
async fn thousands_of_refused_requests_leave_the_connection_whole() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let body = framed(0, &telemetry(100_000));
    // A gigabyte through windows of 256 KiB: the body of each is still on its way when it is refused.
    let calls = (0..10_000).map(|_| async {
        let (response, mut stream) = raw.open(REFUSE, &[]).await;
        stream.send_data(body.clone(), true).unwrap();
        answer(response).await
    });
    let mut answers = futures_util::stream::iter(calls).buffer_unordered(1000);
    while let Some(answer) = answers.next().await {
        assert_eq!(answer.code, Some(Code::Unavailable));
    }
    drop(answers);
    assert_eq!(server.service.refused.load(Ordering::SeqCst), 10_000);
    let answer = raw.call(ECHO, &[], body.clone()).await;
    assert_eq!(answer.code, Some(Code::Ok));
    assert_eq!(answer.body, body);
    assert!(!raw.driver.is_finished());
    server.end().await;
}

#[tokio::test]
async fn a_body_that_drips_ends_with_its_call() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let used = server.service.budget.used();
    let (response, mut stream) = raw.open(ECHO, &[("grpc-timeout", "200m")]).await;
    stream.send_data(framed(0, &[0; 9999]).slice(..5), false).unwrap();
    let dripping = tokio::spawn(async move {
        // An empty frame is a frame too, and no progress.
        for drop in [&b"."[..], b""].into_iter().cycle() {
            if stream.send_data(Bytes::from_static(drop), false).is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await; // sleep-ok: a slow sender is the subject
        }
    });
    assert_eq!(answer(response).await.code, Some(Code::DeadlineExceeded));
    until(|| server.service.budget.used() <= used.max(256 << 10)).await;
    assert_eq!(*server.service.refused_by_net.lock(), [Code::DeadlineExceeded]);
    dripping.abort();
    server.end().await;
}

#[tokio::test]
async fn a_message_whose_call_does_not_end_is_refused() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let (response, mut stream) = raw.open(ECHO, &[]).await;
    stream.send_data(framed(0, b"and?"), false).unwrap();
    // In five seconds, not thirty.
    assert_eq!(answer(response).await.code, Some(Code::Internal));
    assert_eq!(server.begun(), 0);
    drop(stream);
    server.end().await;
}

/// HTTP/2 by hand: this client sends what it likes, whatever it has been told.
struct Frames {
    stream: TcpStream,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Frames {
    async fn connect(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Self { stream };
        frames.send(SETTINGS, 0, 0, &[]).await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn open(&mut self, id: u32, path: &str) {
        let mut block = Vec::new();
        let headers =
            [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")];
        for (name, value) in headers {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.send(HEADERS, END_HEADERS, id, &block).await;
    }

    /// Reads until `count` streams have been ended by the server.
    async fn ended(&mut self, mut count: usize) {
        while count > 0 {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.expect("the connection ended");
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            assert_ne!(kind, GOAWAY, "{}", String::from_utf8_lossy(&payload));
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                count -= 1;
            }
        }
    }
}

#[tokio::test]
async fn bodies_that_come_after_their_refusal_do_not_end_the_connection() {
    let server = Server::start();
    let mut frames = Frames::connect(&server).await;
    let (header, message) = ([0, 0, 0, 0, 100], [7; 100]);
    let mut ids = (1..).step_by(2);
    for _ in 0..15 {
        let calls: Vec<u32> = ids.by_ref().take(100).collect();
        for id in &calls {
            frames.open(*id, REFUSE).await;
            frames.send(DATA, 0, *id, &header).await;
        }
        frames.ended(calls.len()).await;
        // On a longer wire these would have been under way when the answers were written.
        for id in &calls {
            frames.send(DATA, END_STREAM, *id, &message).await;
        }
    }
    let id = ids.next().unwrap();
    frames.open(id, ECHO).await;
    frames.send(DATA, END_STREAM, id, &[&header[..], &message].concat()).await;
    frames.ended(1).await;
    assert_eq!(server.begun(), 1);
    drop(frames);
    server.end().await;
}

#[tokio::test]
async fn bodies_that_come_long_after_their_refusal_do_not_either() {
    let server = Server::start();
    let mut frames = Frames::connect(&server).await;
    let mut ids = (1..).step_by(2);
    for _ in 0..2 {
        let calls: Vec<u32> = ids.by_ref().take(800).collect();
        for id in &calls {
            frames.open(*id, REFUSE).await;
            frames.send(DATA, 0, *id, &[0, 0, 0, 0, 100]).await;
        }
        frames.ended(calls.len()).await;
        // By now nobody waits for them any more, and HTTP/2 has forgotten them.
        tokio::time::sleep(Duration::from_millis(2300)).await; // sleep-ok: h2 forgets by time, and shows it to nobody
        for id in &calls {
            frames.send(DATA, END_STREAM, *id, &[7; 100]).await;
        }
    }
    let id = ids.next().unwrap();
    frames.open(id, ECHO).await;
    frames.send(DATA, END_STREAM, id, &framed(0, b"fine")).await;
    frames.ended(1).await;
    assert_eq!(server.begun(), 1);
    drop(frames);
    server.end().await;
}
