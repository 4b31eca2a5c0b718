//! Compressed messages, inside the budget.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::io::Write;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::codings::*;
use common::*;
use http::HeaderMap;
use watershed_delivery::Budget;
use watershed_net::{CallErrorKind, Code, Compression};

const WINDOW: u64 = 256 << 10;

const ENCODINGS: [(&str, Encode); 4] =
    [("gzip", gzip), ("zstd", zstd), ("snappy", snappy_frames), ("deflate", zlib)];

#[tokio::test]
async fn our_own_client_is_understood() {
    let server = Server::start();
    let levels = [Compression::Gzip(1), Compression::Gzip(6), Compression::Zstd(3)];
    for compression in levels {
        let client = server.client_with(|options| {
            options.compression = compression;
            options.budget = Some(server.service.budget.clone());
        });
        // The last does not fit the server's first step, and has no credible size.
        let zeros = Bytes::from(vec![0; 2 << 20]);
        for message in [telemetry(0), telemetry(10), telemetry(40_000), telemetry(1 << 20), zeros] {
            let third = message.len() / 3;
            let pieces = [message.slice(..third), Bytes::new(), message.slice(third..)];
            assert!(
                client.unary(ECHO, &HeaderMap::new(), &pieces, None).await.unwrap() == message,
                "{compression:?}"
            );
            assert_eq!(server.service.covered.load(Ordering::SeqCst), message.len(), "{compression:?}");
        }
    }
    server.end().await;
}

#[tokio::test]
async fn other_encoders_are_understood() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    for (name, encode) in ENCODINGS {
        let (one, two) = (telemetry(70_000), telemetry(1 << 20));
        // All formats but one let compressed data be laid end to end.
        let joined = match name {
            "deflate" => encode(&[one.clone(), two.clone()].concat()),
            _ => [encode(&one), encode(&two), encode(&[])].concat(),
        };
        let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &joined)).await;
        assert_eq!(answer.code, Some(Code::Ok), "{name}: {}", answer.message);
        assert!(answer.body[5..] == [one, two].concat(), "{name}");
        // A call that may compress need not.
        let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(0, b"plain")).await;
        assert_eq!(answer.body, framed(0, b"plain"), "{name}");
    }
    server.end().await;
}

#[tokio::test]
async fn broken_data_is_refused_for_good() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    for (name, encode) in ENCODINGS {
        let good = encode(&telemetry(10_000));
        let mut damaged = good.clone();
        damaged[good.len() / 2] ^= 0xff;
        for (what, bytes) in [
            ("empty", vec![]),
            ("cut short", good[..good.len() - 3].to_vec()),
            ("damaged", damaged),
            ("followed by garbage", [&good[..], b"garbage"].concat()),
            ("something else", b"not compressed at all".to_vec()),
        ] {
            let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &bytes)).await;
            assert_eq!(answer.code, Some(Code::Internal), "{name}, {what}: {}", answer.message);
            assert!(!answer.retry);
        }
        let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &good)).await;
        assert_eq!(answer.code, Some(Code::Ok), "{name}: the next message is none the worse");
    }
    server.end().await;
}

#[tokio::test]
async fn a_bomb_stops_at_the_limit() {
    for (name, encode) in ENCODINGS {
        let bomb = bomb(encode);
        let server = Server::with(Budget::new(1 << 30), |options| options.max_recv_msg_size = 4 << 20);
        let raw = Raw::connect(server.addr).await;
        let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &bomb)).await;
        assert_eq!(answer.code, Some(Code::ResourceExhausted), "{name}: {}", answer.message);
        assert!(!answer.retry, "{name}");
        assert!(server.service.budget.peak() <= WINDOW + (5 << 20), "{name}");
        server.end().await;
    }
}

#[tokio::test]
async fn a_bomb_stops_at_the_budget() {
    for (name, encode) in ENCODINGS {
        let bomb = bomb(encode);
        let budget = Budget::new(8 << 20);
        let server = Server::with(budget.clone(), |_| {});
        let raw = Raw::connect(server.addr).await;
        // Somebody else holds most of it, so there is no room now.
        let held = budget.try_take(6 << 20).unwrap();
        let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &bomb)).await;
        assert_eq!(answer.code, Some(Code::Unavailable), "{name}: {}", answer.message);
        assert_eq!(answer.message, "data refused due to high memory usage");
        assert!(answer.retry, "{name}");
        assert!(budget.peak() <= budget.limit(), "{name}: {}", budget.peak());
        drop(held);
        // With the budget to itself it still never fits a budget of that size, or is refused at its edge.
        let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &bomb)).await;
        assert!(matches!(answer.code, Some(Code::ResourceExhausted | Code::Unavailable)), "{name}");
        assert!(budget.peak() <= budget.limit(), "{name}: {}", budget.peak());
        server.end().await;
    }
}

#[tokio::test]
async fn a_message_of_just_the_limit_fits() {
    for (name, encode) in ENCODINGS {
        let server = Server::with(Budget::new(1 << 30), |options| options.max_recv_msg_size = 100_000);
        let raw = Raw::connect(server.addr).await;
        for (length, code) in [(100_000, Code::Ok), (100_001, Code::ResourceExhausted)] {
            let bytes = encode(&vec![0; length]);
            let answer = raw.call(ECHO, &[("grpc-encoding", name)], framed(1, &bytes)).await;
            assert_eq!(answer.code, Some(code), "{name}, {length}");
        }
        server.end().await;
    }
}

#[tokio::test]
async fn a_window_larger_than_decoders_must_support_is_refused() {
    let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    let bytes = encoder.finish().unwrap();
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let answer = raw.call(ECHO, &[("grpc-encoding", "zstd")], framed(1, &bytes)).await;
    assert_eq!(answer.code, Some(Code::Internal), "{}", answer.message);
    server.end().await;
}

#[tokio::test]
async fn a_cancelled_inflation_gives_everything_back() {
    let server = Server::start();
    let raw = Raw::connect(server.addr).await;
    let bytes = zstd(&vec![0; 60 << 20]);
    let (response, mut stream) = raw.open(ECHO, &[("grpc-encoding", "zstd")]).await;
    stream.send_data(framed(1, &bytes), true).unwrap();
    until(|| server.service.budget.used() > WINDOW + (1 << 20)).await;
    drop((response, stream));
    until(|| server.service.budget.used() == WINDOW).await;
    let good = zstd(&telemetry(10_000));
    let answer = raw.call(ECHO, &[("grpc-encoding", "zstd")], framed(1, &good)).await;
    assert_eq!(answer.code, Some(Code::Ok), "whoever comes next finds the decoder fit for use");
    server.end().await;
}

#[tokio::test]
async fn no_room_is_said_with_a_delay() {
    let server = Server::with(Budget::new(1 << 20), |_| {});
    let client = server.client();
    let _held = server.service.budget.try_take(700 << 10).unwrap();
    let error = client.unary(ECHO, &HeaderMap::new(), &[telemetry(200 << 10)], None).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::Answered));
    assert_eq!(error.status.retry_after, Some(RETRY_AFTER));
    drop(_held);
    assert!(client.unary(ECHO, &HeaderMap::new(), &[telemetry(200 << 10)], None).await.is_ok());
    let error = client.unary(ECHO, &HeaderMap::new(), &[telemetry(2 << 20)], None).await.unwrap_err();
    assert_eq!((error.status.code, error.status.retry_after), (Code::ResourceExhausted, None));
    server.end().await;
}
