//! Compressed bodies over HTTP, inside the budget.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::atomic::Ordering;

use common::codings::*;
use common::telemetry;
use common::web::*;
use watershed_delivery::Budget;

const CODINGS: [(&str, Encode); 11] = [
    ("gzip", gzip),
    ("GZip", gzip),
    ("zstd", zstd),
    ("zlib", zlib),
    ("deflate", zlib),
    ("deflate", deflate),
    ("snappy", snappy_frames),
    ("snappy", snappy_block),
    ("x-snappy-framed", snappy_frames),
    ("lz4", lz4_linked),
    ("LZ4", lz4_blocks),
];

/// Those that can tell that they were damaged.
const CHECKED: [(&str, Encode); 6] = [
    ("gzip", gzip),
    ("zstd", zstd),
    ("zlib", zlib),
    ("snappy", snappy_frames),
    ("lz4", lz4_linked),
    ("lz4", lz4_blocks),
];

#[tokio::test]
async fn every_coding_is_understood() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for (name, encode) in CODINGS {
        let coding = [("content-encoding", name)];
        for length in [0, 1, 10, 40_000, 65_536, 3 << 20] {
            let body = telemetry(length);
            let answer = wire.post("/echo", &coding, &encode(&body)).await;
            assert_eq!(answer.status, 200, "{name}, {length}");
            assert!(answer.body == body, "{name}, {length}");
            assert_eq!(server.web.covered.load(Ordering::SeqCst), length, "{name}");
        }
        let body = telemetry(300_000);
        let encoded = encode(&body);
        wire.send(chunked("/echo", &coding, &encoded.chunks(7000).collect::<Vec<_>>())).await;
        assert!(wire.answer().await.body == body, "{name} in chunks");
        assert_eq!(server.web.covered.load(Ordering::SeqCst), body.len(), "{name}");
    }
    for none in ["", "identity"] {
        assert_eq!(wire.post("/echo", &[("content-encoding", none)], b"plain").await.text(), "plain");
    }
    assert_eq!(wire.post("/echo", &[("content-encoding", "gzip")], b"").await.status, 200, "nothing at all");
    server.end().await;
}

#[tokio::test]
async fn codings_that_are_not_known_are_named() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for name in ["lzma", "br", "gzip, zstd", "\u{ff}"] {
        let answer = wire.post("/echo", &[("content-encoding", name)], b"body").await;
        assert_eq!((answer.status, answer.closes()), (400, false), "{name}");
        let known = "gzip, zstd, zlib, deflate, snappy, x-snappy-framed, lz4";
        assert_eq!(answer.header("accept-encoding"), Some(known));
        assert!(answer.text().contains(known) && answer.text().contains(name), "{}", answer.text());
    }
    let twice = [("content-encoding", "gzip"), ("content-encoding", "gzip")];
    assert_eq!(wire.post("/echo", &twice, b"body").await.status, 400);
    assert!(server.web.admitted.lock().is_empty());
    server.end().await;
}

#[tokio::test]
async fn broken_bodies_are_refused_and_the_connection_goes_on() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for (name, encode) in CODINGS {
        let coding = [("content-encoding", name)];
        let good = encode(&telemetry(10_000));
        for (what, body) in [
            ("cut short", good[..good.len() - 3].to_vec()),
            ("cut shorter", good[..good.len() / 2].to_vec()),
            ("followed by garbage", [&good[..], b"garbage"].concat()),
            ("something else", b"\x07not compressed at all".to_vec()),
        ] {
            let answer = wire.post("/echo", &coding, &body).await;
            assert_eq!((answer.status, answer.closes()), (400, false), "{name}, {what}: {}", answer.text());
        }
        assert_eq!(wire.post("/echo", &coding, &good).await.status, 200, "{name}");
    }
    for (name, encode) in CHECKED {
        let mut damaged = encode(&telemetry(10_000));
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        let answer = wire.post("/echo", &[("content-encoding", name)], &damaged).await;
        assert_eq!(answer.status, 400, "{name}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_body_of_just_the_limit_fits() {
    let limit = |options: &mut watershed_net::HttpServerOptions| options.max_request_body_size = 100_000;
    let server = WebServer::with(Budget::new(1 << 30), limit);
    let mut wire = server.connect().await;
    for (name, encode) in CODINGS {
        for (length, status) in [(100_000, 200), (100_001, 413)] {
            let answer = wire.post("/echo", &[("content-encoding", name)], &encode(&vec![0; length])).await;
            assert_eq!((answer.status, answer.closes()), (status, false), "{name}, {length}: {status}");
        }
    }
    server.end().await;
}

#[tokio::test]
async fn a_bomb_stops_at_the_limit_and_at_the_budget() {
    for (name, encode) in CODINGS {
        let bomb = bomb(encode);
        let coding = [("content-encoding", name)];
        let limit = |options: &mut watershed_net::HttpServerOptions| options.max_request_body_size = 4 << 20;
        let server = WebServer::with(Budget::new(1 << 30), limit);
        assert_eq!(server.connect().await.post("/echo", &coding, &bomb).await.status, 413, "{name}");
        assert!(server.web.budget.peak() < 6 << 20, "{name}: {}", server.web.budget.peak());
        server.end().await;

        let budget = Budget::new(8 << 20);
        let server = WebServer::with(budget.clone(), |_| {});
        let held = budget.try_take(6 << 20).unwrap();
        assert_eq!(server.connect().await.post("/echo", &coding, &bomb).await.status, 503, "{name}");
        assert!(server.web.refusals.lock()[0].retry_after.is_some());
        drop(held);
        let status = server.connect().await.post("/echo", &coding, &bomb).await.status;
        assert!(matches!(status, 413 | 503), "{name}: {status}");
        assert!(budget.peak() <= budget.limit(), "{name}: {}", budget.peak());
        server.end().await;
    }
}

#[tokio::test]
async fn frames_of_several_kinds_are_one_body_and_those_not_understood_are_refused() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    let coding = [("content-encoding", "lz4")];
    let (one, two) = (telemetry(300_000), telemetry(5 << 20));
    let joined = [lz4_linked(&one), lz4_blocks(&two), lz4_linked(&[]), lz4_linked(&two)].concat();
    assert!(wire.post("/echo", &coding, &joined).await.body == [&one[..], &two, &two].concat());
    let good = lz4_blocks(&one);
    for (what, at, byte) in [
        ("another version", 4, 0x80),
        ("a dictionary", 4, 0x59),
        ("a reserved bit", 4, 0x5A),
        ("blocks too small", 5, 0x30),
        ("another length", 6, 0xFF),
        ("a wrong header", 14, good[14] ^ 1),
        ("the legacy format", 0, 2),
        ("a block too large", 18, 0x7F),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(wire.post("/echo", &coding, &bad).await.status, 400, "{what}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_block_that_lies_about_its_length_takes_no_memory() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    // 60 MB, says the head of ten bytes.
    let lie = [&[0x80, 0x8e, 0xce, 0x1c][..], b"\x00abcde"].concat();
    assert_eq!(wire.post("/echo", &[("content-encoding", "snappy")], &lie).await.status, 400);
    assert!(server.web.budget.peak() < 1 << 20, "{}", server.web.budget.peak());
    server.end().await;
}
