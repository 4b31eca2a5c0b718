//! Clients behind a proxy.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;
mod doubles;

use std::time::Duration;

use common::*;
use doubles::h1::{H1, Then, answer, ok};
use doubles::proxy::Connects;
use doubles::tls::{Authority, front};
use http::{HeaderMap, HeaderValue};
use watershed_net::{
    CallErrorKind, Client, ClientOptions, ClientTls, ClientTlsOptions, HttpClient, HttpClientOptions,
    HttpErrorKind, Proxy,
};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
/// Of `me` and `pass word`.
const ME: &str = "Basic bWU6cGFzcyB3b3Jk";

fn http(proxy: &str, tls: Option<ClientTls>) -> HttpClient {
    let proxy = Some(Proxy::new(proxy).unwrap());
    HttpClient::new(HttpClientOptions { proxy, tls, ..HttpClientOptions::default() }).unwrap()
}

#[tokio::test]
async fn grpc_goes_through_a_tunnel() {
    let server = Server::start();
    let proxy = Connects::start(Some(ME), None).await;
    let client = |url: String| {
        let proxy = Some(Proxy::new(&url).unwrap());
        Client::new(ClientOptions { proxy, ..ClientOptions::new(server.addr.to_string()) }).unwrap()
    };
    let known = client(format!("http://me:pass%20word@{}", proxy.addr));
    let message = telemetry(100_000);
    let answer = known.unary(ECHO, &HeaderMap::new(), std::slice::from_ref(&message), PATIENCE).await;
    assert!(answer.unwrap() == message);
    let head = proxy.heads.lock().pop().unwrap();
    assert!(head.starts_with(&format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n", server.addr)), "{head}");

    let stranger = client(format!("http://{}", proxy.addr));
    let error = stranger.unary(ECHO, &HeaderMap::new(), &[], PATIENCE).await.unwrap_err();
    assert_eq!(error.kind, CallErrorKind::NotSent);
    for text in [&format!("the proxy {}", proxy.addr), "http://user:password@host:port"] {
        assert!(error.status.message.contains(text), "{error}");
    }
    server.end().await;
}

#[tokio::test]
async fn https_goes_through_a_tunnel_to_a_name_only_the_proxy_knows() {
    let authority = Authority::new("unit");
    let server = H1::start(|_| ok()).await;
    let addr = front(server.addr, &authority.issue("collector.example"), b"http/1.1", None).await;
    let proxy = Connects::start(None, Some(addr)).await;
    let options = ClientTlsOptions { ca: Some(authority.pem()), ..ClientTlsOptions::default() };
    let client = http(&format!("http://{}", proxy.addr), Some(ClientTls::new(&options).unwrap()));
    let url = "https://collector.example/v1/logs".parse().unwrap();
    for _ in 0..3 {
        client.post(&url, TEXT, &HeaderMap::new(), &[telemetry(50_000)], PATIENCE).await.unwrap();
    }
    assert_eq!(proxy.heads.lock().len(), 1, "a tunnel is kept");
    assert!(proxy.heads.lock()[0].starts_with("CONNECT collector.example:443 HTTP/1.1\r\n"));
    let request = server.requests.lock().pop().unwrap();
    assert_eq!(request.line, "POST /v1/logs HTTP/1.1");
    assert_eq!(request.header("host"), Some("collector.example"));
    assert_eq!(request.header("proxy-authorization"), None);
}

#[tokio::test]
async fn a_proxy_forwards_plain_requests() {
    let proxy = H1::start(|_| ok()).await;
    let client = http(&format!("http://me:pass%20word@{}", proxy.addr), None);
    let url = "http://collector.example:4318/v1/logs".parse().unwrap();
    let body = telemetry(50_000);
    client.post(&url, TEXT, &HeaderMap::new(), std::slice::from_ref(&body), PATIENCE).await.unwrap();
    let request = proxy.requests.lock().pop().unwrap();
    assert_eq!(request.line, "POST http://collector.example:4318/v1/logs HTTP/1.1");
    assert_eq!(request.header("host"), Some("collector.example:4318"));
    assert_eq!(request.header("proxy-authorization"), Some(ME));
    assert!(request.body == body);
}

#[tokio::test]
async fn a_proxy_that_does_not_connect_says_why() {
    let endless = "x".repeat(10_000);
    let cases = [
        (answer("403 Forbidden", "", "no"), "it says \"HTTP/1.1 403 Forbidden\""),
        (b"220 ready\r\n\r\n".to_vec(), "it does not speak HTTP"),
        (endless.into_bytes(), "its answer has no end"),
        (Vec::new(), "the proxy "),
    ];
    for (bytes, text) in cases {
        let proxy = H1::start(move |_| (bytes.clone(), Then::Close)).await;
        let believe = ClientTlsOptions { insecure_skip_verify: true, ..ClientTlsOptions::default() };
        let client = http(&format!("http://{}", proxy.addr), Some(ClientTls::new(&believe).unwrap()));
        let url = "https://collector.example/".parse().unwrap();
        let error = client.post(&url, TEXT, &HeaderMap::new(), &[], PATIENCE).await.unwrap_err();
        assert_eq!(error.kind, HttpErrorKind::Connect);
        assert!(error.message.contains(text), "{error}");
    }
}

#[tokio::test]
async fn headers_of_one_call_take_the_place_of_those_of_all() {
    let server = Server::start();
    let client = server.client_with(|options| {
        options.headers =
            vec![("x-tenant".to_owned(), "blue".to_owned()), ("x-team".to_owned(), "a".to_owned())];
    });
    let mut headers = HeaderMap::new();
    headers.append("x-tenant", HeaderValue::from_static("green"));
    headers.append("x-tenant", HeaderValue::from_static("red"));
    headers.insert("authorization", HeaderValue::from_static("Bearer t"));
    headers.insert("grpc-timeout", HeaderValue::from_static("1n"));
    headers.insert("content-length", HeaderValue::from_static("7"));
    client.unary(ECHO, &headers, &[telemetry(100)], PATIENCE).await.unwrap();
    let call = server.service.last.lock().take().unwrap();
    let tenants: Vec<_> = call.headers.get_all("x-tenant").iter().collect();
    assert_eq!(tenants, ["green", "red"]);
    assert_eq!(
        (&call.headers["x-team"], &call.headers["authorization"]),
        (&HeaderValue::from_static("a"), &HeaderValue::from_static("Bearer t"))
    );
    assert_eq!(call.timeout, PATIENCE);
    // And the next call is as it was.
    client.unary(ECHO, &HeaderMap::new(), &[], PATIENCE).await.unwrap();
    let call = server.service.last.lock().take().unwrap();
    assert_eq!(call.headers["x-tenant"], "blue");
    assert!(!call.headers.contains_key("authorization"));
    server.end().await;
}
