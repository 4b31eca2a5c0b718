//! HTTP/1.1, from clients that do what they should.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::web::*;
use common::{telemetry, until};
use http::{HeaderMap, HeaderValue};
use tokio::io::AsyncWriteExt;
use watershed_delivery::Budget;
use watershed_net::Cors;

/// What an open connection is charged.
const AHEAD: u64 = 16 << 10;

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for length in [0, 1, 4096, 40_000, 3 << 20] {
        let body = telemetry(length);
        let answer = wire.post("/echo", &[("content-type", "application/x-protobuf")], &body).await;
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{length}");
        assert_eq!(answer.header("content-type"), Some("application/x-protobuf"));
        assert!(answer.header("date").is_some() && !answer.closes());
        assert_eq!(server.web.covered.load(Ordering::SeqCst), length);
        until(|| server.used() == AHEAD).await;
    }
    assert_eq!(*server.web.admitted.lock(), [0, 1, 4096, 40_000, 3 << 20].map(Some));
    server.end().await;
}

#[tokio::test]
async fn requests_may_be_sent_ahead() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    let bodies: Vec<_> = [5, 30_000, 0, 700].map(telemetry).into();
    let all: Vec<u8> = bodies.iter().flat_map(|body| request("/echo", &[], body)).collect();
    wire.send(chunked("/hold", &[], &[b"first"])).await;
    wire.send(all).await;
    until(|| server.begun() == 1).await;
    server.web.release.add_permits(1);
    assert_eq!(wire.answer().await.text(), "first");
    for body in bodies {
        assert!(wire.answer().await.body == body);
    }
    server.end().await;
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for bytes in [request("/echo", &[], b"slowly"), chunked("/echo", &[], &[b"slow", b"ly"])] {
        for byte in bytes {
            wire.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(wire.answer().await.text(), "slowly");
    }
    server.end().await;
}

#[tokio::test]
async fn chunks_are_gathered_inside_the_permit() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for length in [0, 1, 1000, 300_000, 3 << 20] {
        let body = telemetry(length);
        let chunks: Vec<_> = body.chunks(40_000).collect();
        wire.send(chunked("/echo", &[], &chunks)).await;
        let answer = wire.answer().await;
        assert!(answer.status == 200 && answer.body == body, "{length}");
        assert_eq!(server.web.covered.load(Ordering::SeqCst), length);
        assert_eq!(server.web.admitted.lock().pop(), Some(None));
    }
    assert!(server.web.budget.peak() < 10 << 20);
    server.end().await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    let body = telemetry(100_000);
    let asking = request("/echo", &[("expect", "100-continue")], &body);
    let (head, body) = asking.split_at(asking.len() - body.len());
    for _ in 0..2 {
        wire.send(head).await;
        assert_eq!(wire.answer_to("HEAD").await.status, 100);
        wire.send(body).await;
        assert!(wire.answer().await.body == body);
    }
    // And not where it is refused: then nobody knows whether the body comes all the same.
    wire.send(request("/refuse", &[("expect", "100-continue")], &[1; 100])[..110].to_vec()).await;
    let answer = wire.answer().await;
    assert!(answer.status == 503 && answer.closes());
    server.end().await;
}

#[tokio::test]
async fn heads_and_options_are_answered() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    wire.send("HEAD /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nabcde").await;
    let answer = wire.answer_to("HEAD").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("5")));
    wire.send("OPTIONS /echo HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 405);
    wire.send("OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 404);
    wire.send("POST http://test/echo?a=b HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\n\r\nx").await;
    assert_eq!(wire.answer().await.text(), "x");
    assert_eq!(server.web.last.lock().as_ref().unwrap().uri, "http://test/echo?a=b");
    server.end().await;
}

#[tokio::test]
async fn a_request_knows_who_asks_and_what_was_said() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    let headers = [("x-tenant", "blue"), ("x-tenant", "green"), ("X-Odd", "caf\u{e9}")];
    assert_eq!(wire.post("/echo?q=1", &headers, b"").await.status, 200);
    let request = server.web.last.lock().take().unwrap();
    assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("POST", "/echo?q=1"));
    assert_eq!(request.headers.get_all("x-tenant").iter().collect::<Vec<_>>(), ["blue", "green"]);
    assert_eq!(request.headers["x-odd"].as_bytes(), "caf\u{e9}".as_bytes());
    assert_eq!(request.peer.unwrap(), wire.stream.local_addr().unwrap());
    assert!(request.arrived.elapsed() < Duration::from_secs(10));
    server.end().await;
}

#[tokio::test]
async fn connections_end_when_either_side_says_so() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    assert!(wire.post("/echo", &[("connection", "close")], b"last").await.closes());
    wire.closed().await;
    let mut wire = server.connect().await;
    wire.send("POST /echo HTTP/1.0\r\ncontent-length: 3\r\n\r\nold").await;
    assert_eq!(wire.answer().await.text(), "old");
    wire.closed().await;
    let mut wire = server.connect().await;
    for _ in 0..2 {
        wire.send("POST /echo HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nold").await;
        assert_eq!(wire.answer().await.header("connection"), Some("keep-alive"));
    }
    server.end().await;
    let server = WebServer::with(Budget::new(1 << 20), |options| options.keep_alive = false);
    let mut wire = server.connect().await;
    assert!(wire.post("/echo", &[], b"only").await.closes());
    wire.closed().await;
    server.end().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server =
        WebServer::with(Budget::new(1 << 20), |options| options.idle_timeout = Duration::from_millis(20));
    let mut wire = server.connect().await;
    wire.closed().await;
    let mut wire = server.connect().await;
    // Not while it is waiting for us.
    wire.send(request("/hold", &[], b"busy")).await;
    until(|| server.begun() == 1).await;
    tokio::time::sleep(Duration::from_millis(60)).await; // sleep-ok: that nothing happens has no condition
    server.web.release.add_permits(1);
    assert_eq!(wire.answer().await.text(), "busy");
    wire.closed().await;
    server.end().await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_what_is_idle() {
    let server = WebServer::start();
    let (mut busy, mut idle, mut fresh) =
        (server.connect().await, server.connect().await, server.connect().await);
    assert_eq!(idle.post("/echo", &[], b"x").await.status, 200);
    busy.send(request("/hold", &[], b"late")).await;
    until(|| server.begun() == 2).await;
    server.stop.stop();
    // On its way when the stop came.
    let answer = fresh.post("/echo", &[], b"just in time").await;
    assert!(answer.status == 200 && answer.closes());
    idle.closed().await;
    fresh.closed().await;
    server.web.release.add_permits(1);
    let answer = busy.answer().await;
    assert!(answer.text() == "late" && answer.closes());
    busy.closed().await;
    server.end().await;
}

#[tokio::test]
async fn a_stop_has_an_end() {
    let server = WebServer::with(Budget::new(1 << 20), |options| options.grace = Duration::from_millis(20));
    let mut wire = server.connect().await;
    wire.send(request("/hold", &[], b"never")).await;
    until(|| server.begun() == 1).await;
    server.end().await;
    wire.closed().await;
}

#[tokio::test]
async fn clients_that_leave_take_their_bytes_along() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    wire.send(&request("/echo", &[], &[1; 5000])[..3000]).await;
    until(|| server.used() == AHEAD + 5000).await;
    drop(wire);
    until(|| server.used() == 0).await;
    let mut wire = server.connect().await;
    wire.send(request("/hold", &[], &[1; 7000])).await;
    until(|| server.holding() == 1 && server.used() == AHEAD + 7000).await;
    drop(wire);
    until(|| server.holding() == 0 && server.used() == 0).await;
    server.end().await;
}

#[tokio::test]
async fn a_panic_is_answered_and_reported() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    for path in ["/panic", "/panic-in-admit", "/panic-in-refuse"] {
        let answer = wire.post(path, &[("content-type", "a/b")], b"x").await;
        assert_eq!((answer.status, answer.closes()), (503, false), "{path}");
    }
    let panics = server.web.panics.lock().clone();
    assert_eq!(panics, ["call is broken", "admit is broken", "call is broken", "refuse is broken"]);
    assert_eq!(wire.post("/echo", &[], b"x").await.status, 200, "the connection goes on");
    server.end().await;
}

#[tokio::test]
async fn every_answer_has_the_headers_that_were_set() {
    let mut headers = HeaderMap::new();
    headers.insert("x-served-by", HeaderValue::from_static("us"));
    headers.insert("content-type", HeaderValue::from_static("text/else"));
    let server = WebServer::with(Budget::new(1 << 20), |options| options.response_headers = headers);
    let mut wire = server.connect().await;
    let answer = wire.post("/echo", &[], b"x").await;
    assert_eq!(answer.header("x-served-by"), Some("us"));
    assert_eq!(answer.header("content-type"), Some("application/x-protobuf"));
    wire.send("nonsense\r\n\r\n").await;
    assert_eq!(wire.answer().await.header("x-served-by"), Some("us"));
    server.end().await;
}

#[tokio::test]
async fn browsers_are_told_which_pages_may_call() {
    let strings = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let cors = Cors {
        allowed_origins: strings(&["https://*.Example.com", "http://localhost:3000"]),
        allowed_headers: strings(&["x-tenant"]),
        exposed_headers: strings(&["retry-after", "x-a"]),
        max_age: Some(Duration::from_secs(600)),
    };
    let server = WebServer::with(Budget::new(1 << 20), |options| options.cors = Some(cors));
    let mut wire = server.connect().await;
    let mut preflight = async |origin: &str, method: &str, headers: &str| {
        wire.send(format!(
            "OPTIONS /nowhere HTTP/1.1\r\nhost: test\r\norigin: {origin}\r\n\
             access-control-request-method: {method}\r\naccess-control-request-headers: {headers}\r\n\r\n"
        ))
        .await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.body.len(), answer.header("vary")), (204, 0, Some("origin")));
        answer.header("access-control-allow-methods").is_some()
    };
    assert!(preflight("https://a.example.com", "POST", "content-type, X-Tenant").await);
    assert!(preflight("http://localhost:3000", "POST", "").await);
    assert!(!preflight("https://a.example.com", "DELETE", "").await);
    assert!(!preflight("https://a.example.com", "POST", "x-other").await);
    assert!(!preflight("https://example.com", "POST", "").await);
    assert!(!preflight("https://a.example.com.evil.org", "POST", "").await);
    assert!(server.web.admitted.lock().is_empty());

    let origin = |origin| [("origin", origin)];
    let answer = wire.post("/echo", &origin("https://b.example.com"), b"x").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://b.example.com"));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("retry-after, x-a"));
    let answer = wire.post("/refuse", &origin("https://b.example.com"), b"x").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://b.example.com"));
    let answer = wire.post("/echo", &origin("https://evil.org"), b"x").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    server.end().await;

    let cors = Cors { allowed_origins: strings(&["*"]), ..Cors::default() };
    let server = WebServer::with(Budget::new(1 << 20), |options| options.cors = Some(cors));
    let answer = server.connect().await.post("/echo", &origin("https://evil.org"), b"x").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    server.end().await;
}

#[tokio::test]
async fn a_client_may_be_slow_to_read_its_answer() {
    let server = WebServer::start();
    let mut wire = server.connect().await;
    let body = telemetry(16 << 20);
    let (mut reading, mut writing) = tokio::io::split(&mut wire.stream);
    let _ = &mut reading;
    writing.write_all(&request("/echo", &[], &body)).await.unwrap();
    until(|| server.begun() == 1).await;
    assert!(wire.answer().await.body == body);
    server.end().await;
}
