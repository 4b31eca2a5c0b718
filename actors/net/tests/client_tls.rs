//! Clients of servers with certificates, good and bad, over HTTP and gRPC.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;
mod doubles;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use doubles::h1::{H1, ok};
use doubles::tls::{Authority, Identity, front};
use http::{HeaderMap, HeaderValue};
use watershed_net::{
    CallErrorKind, Client, ClientOptions, ClientTls, ClientTlsOptions, Code, HttpAnswer, HttpClient,
    HttpClientOptions, HttpError, HttpErrorKind, Pem, TlsVersion,
};

const HTTP: &[u8] = b"http/1.1";
const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

fn tls(change: impl FnOnce(&mut ClientTlsOptions)) -> ClientTls {
    let mut options = ClientTlsOptions::default();
    change(&mut options);
    ClientTls::new(&options).unwrap()
}

fn trusting(authority: &Authority) -> ClientTls {
    tls(|options| options.ca = Some(authority.pem()))
}

/// An HTTP server behind a certificate.
async fn https(identity: &Identity, clients: Option<&Authority>) -> (H1, SocketAddr) {
    let server = H1::start(|_| ok()).await;
    let addr = front(server.addr, identity, HTTP, clients).await;
    (server, addr)
}

async fn post(addr: SocketAddr, tls: ClientTls) -> Result<HttpAnswer, HttpError> {
    let client =
        HttpClient::new(HttpClientOptions { tls: Some(tls), ..HttpClientOptions::default() }).unwrap();
    let url = format!("https://localhost:{}/", addr.port()).parse().unwrap();
    let content_type = HeaderValue::from_static("text/plain");
    client.post(&url, content_type, &HeaderMap::new(), &[telemetry(100_000)], PATIENCE).await
}

#[tokio::test]
async fn a_server_whose_authority_is_trusted_is_spoken_to() {
    let authority = Authority::new("unit");
    let (server, addr) = https(&authority.issue("localhost"), None).await;
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let client = tls(|options| {
            options.ca = Some(authority.pem());
            (options.min_version, options.max_version) = (version, Some(version));
        });
        assert_eq!(post(addr, client).await.unwrap().body, "ok");
    }
    assert!(server.requests.lock().pop().unwrap().body == telemetry(100_000));
    // The address itself, where the certificate has it.
    let addr = front(server.addr, &authority.issue("127.0.0.1"), HTTP, None).await;
    let url = format!("https://{addr}/").parse().unwrap();
    let options = HttpClientOptions { tls: Some(trusting(&authority)), ..HttpClientOptions::default() };
    let client = HttpClient::new(options).unwrap();
    let content_type = HeaderValue::from_static("text/plain");
    assert!(client.post(&url, content_type, &HeaderMap::new(), &[], PATIENCE).await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_not_who_it_says_is_told_apart() {
    let (authority, other) = (Authority::new("unit"), Authority::new("other"));
    let expired = authority.issue_with("localhost", |params| {
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let cases = [
        (other.issue("localhost"), "UnknownIssuer", "ca_file"),
        (authority.issue("elsewhere.example"), "not valid for", "server_name_override"),
        (expired, "expired", "the server needs a new one"),
    ];
    for (identity, reason, remedy) in cases {
        let (server, addr) = https(&identity, None).await;
        let error = post(addr, trusting(&authority)).await.unwrap_err();
        assert_eq!(error.kind, HttpErrorKind::Tls, "{error}");
        for text in ["cannot connect to localhost:", reason, remedy] {
            assert!(error.message.contains(text), "{text:?} in {error}");
        }
        assert_eq!(server.accepted(), 0);
        // Whoever asks for it gets it all the same.
        let gullible = tls(|options| options.insecure_skip_verify = true);
        assert_eq!(post(addr, gullible).await.unwrap().body, "ok");
    }
}

#[tokio::test]
async fn a_server_can_have_another_name() {
    let authority = Authority::new("unit");
    let (_server, addr) = https(&authority.issue("inside.example"), None).await;
    let client = tls(|options| {
        options.ca = Some(authority.pem());
        options.server_name_override = Some("inside.example".to_owned());
    });
    assert_eq!(post(addr, client).await.unwrap().body, "ok");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_it() {
    let (authority, clients) = (Authority::new("unit"), Authority::new("clients"));
    let (server, addr) = https(&authority.issue("localhost"), Some(&clients)).await;
    let with = |identity: Option<Identity>| {
        tls(|options| {
            options.ca = Some(authority.pem());
            // Here the refusal is part of the handshake.
            options.max_version = Some(TlsVersion::V1_2);
            if let Some(Identity { cert, key }) = identity {
                (options.cert, options.key) = (Some(Pem::Text(cert)), Some(Pem::Text(key)));
            }
        })
    };
    assert_eq!(post(addr, with(Some(clients.issue("me")))).await.unwrap().body, "ok");
    let error = post(addr, with(None)).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Tls, "{error}");
    assert!(error.message.contains("cert_file"), "{error}");
    let error = post(addr, with(Some(authority.issue("me")))).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Tls, "{error}");
    assert!(error.message.contains("cert_file"), "{error}");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn certificates_that_changed_are_read_again() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (_server, addr) = https(&new.issue("localhost"), None).await;
    let file = std::env::temp_dir().join(format!("watershed-net-ca-{}.pem", std::process::id()));
    let write = |authority: &Authority| {
        let Pem::Text(pem) = authority.pem() else { panic!("text") };
        std::fs::write(&file, pem).unwrap();
    };
    let reading = |reload_interval| {
        tls(|options| {
            options.ca = Some(Pem::File(file.clone()));
            options.reload_interval = reload_interval;
        })
    };
    write(&old);
    let (once, again) = (reading(None), reading(Some(Duration::from_nanos(1))));
    assert!(post(addr, again.clone()).await.is_err());
    write(&new);
    assert!(post(addr, again.clone()).await.is_ok());
    assert!(post(addr, once).await.is_err());
    // What cannot be read is not taken up.
    std::fs::remove_file(&file).unwrap();
    assert!(post(addr, again).await.is_ok());
}

#[tokio::test]
async fn who_does_not_speak_tls_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let error = post(addr, tls(|options| options.insecure_skip_verify = true)).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Tls, "{error}");
    assert!(error.message.contains("the server seems not to speak TLS there"), "{error}");
}

#[test]
fn settings_that_cannot_be_are_blamed_by_name() {
    let authority = Authority::new("unit");
    let (me, you) = (authority.issue("me"), authority.issue("you"));
    let text = |text: &String| Some(Pem::Text(text.clone()));
    let blame = |change: &dyn Fn(&mut ClientTlsOptions)| {
        let mut options = ClientTlsOptions { ca: Some(authority.pem()), ..ClientTlsOptions::default() };
        change(&mut options);
        let error = ClientTls::new(&options).unwrap_err();
        assert!(!format!("{error} {options:?}").contains("PRIVATE KEY"));
        (error.key, error.to_string())
    };
    let (key, message) = blame(&|options| options.ca = Some(Pem::File("/nowhere/ca.pem".into())));
    assert_eq!(key, "ca_file");
    assert!(message.contains("/nowhere/ca.pem"), "{message}");
    assert_eq!(blame(&|options| options.ca = Some(Pem::Text("hello".into()))).0, "ca_pem");
    assert_eq!(blame(&|options| options.cert = text(&me.cert)).0, "key_file");
    assert_eq!(blame(&|options| options.key = text(&me.key)).0, "cert_file");
    let (key, message) = blame(&|options| (options.cert, options.key) = (text(&me.cert), text(&you.key)));
    assert_eq!(key, "key_pem");
    assert!(message.contains("does not belong"), "{message}");
    assert_eq!(blame(&|options| (options.cert, options.key) = (text(&me.cert), text(&me.cert))).0, "key_pem");
    let (min, max) = (TlsVersion::V1_3, Some(TlsVersion::V1_2));
    assert_eq!(blame(&|options| (options.min_version, options.max_version) = (min, max)).0, "max_version");
}

// === gRPC ===

fn grpc(endpoint: String, tls: ClientTls) -> Client {
    Client::new(ClientOptions { tls: Some(tls), ..ClientOptions::new(endpoint) }).unwrap()
}

#[tokio::test]
async fn grpc_is_spoken_inside_tls() {
    let authority = Authority::new("unit");
    let server = Server::start();
    let addr = front(server.addr, &authority.issue("localhost"), b"h2", None).await;
    for scheme in ["https://", ""] {
        let client = grpc(format!("{scheme}localhost:{}", addr.port()), trusting(&authority));
        for message in [telemetry(0), telemetry(40_000), telemetry(1 << 20)] {
            let answer =
                client.unary(ECHO, &HeaderMap::new(), std::slice::from_ref(&message), PATIENCE).await;
            assert!(answer.unwrap() == message);
        }
        let call = server.service.last.lock().take().unwrap();
        assert_eq!(call.uri.scheme_str(), Some("https"));
        assert_eq!(call.uri.authority().unwrap(), &format!("localhost:{}", addr.port()));
    }
}

#[tokio::test]
async fn grpc_expects_the_name_it_asks_for() {
    let authority = Authority::new("unit");
    let server = Server::start();
    let addr = front(server.addr, &authority.issue("inside.example"), b"h2", None).await;
    let tls = Some(trusting(&authority));
    let options = ClientOptions { tls, ..ClientOptions::new(addr.to_string()) };
    let call = async |options| {
        Client::new(options).unwrap().unary(ECHO, &HeaderMap::new(), &[Bytes::new()], PATIENCE).await
    };
    let error = call(options.clone()).await.unwrap_err();
    assert_eq!((error.status.code, error.kind), (Code::Unavailable, CallErrorKind::NotSent));
    assert!(error.status.message.contains("server_name_override"), "{error}");
    assert!(call(ClientOptions { authority: Some("inside.example:1".to_owned()), ..options }).await.is_ok());
    assert_eq!(server.service.last.lock().take().unwrap().uri.authority().unwrap(), "inside.example:1");
}

#[tokio::test]
async fn a_certificate_that_is_missed_late_is_asked_for() {
    let (authority, clients) = (Authority::new("unit"), Authority::new("clients"));
    let server = Server::start();
    let addr = front(server.addr, &authority.issue("localhost"), b"h2", Some(&clients)).await;
    // In TLS 1.3 the client has shaken hands before the server looks at its certificate.
    let client = grpc(format!("localhost:{}", addr.port()), trusting(&authority));
    let error = client.unary(ECHO, &HeaderMap::new(), &[], PATIENCE).await.unwrap_err();
    assert_eq!(error.status.code, Code::Unavailable);
    assert!(error.status.message.contains("set cert_file and key_file"), "{error}");
}

#[tokio::test]
async fn grpc_is_not_spoken_to_who_offers_something_else() {
    let authority = Authority::new("unit");
    let (server, addr) = https(&authority.issue("localhost"), None).await;
    let client = grpc(format!("https://localhost:{}", addr.port()), trusting(&authority));
    let error = client.unary(ECHO, &HeaderMap::new(), &[], PATIENCE).await.unwrap_err();
    assert_eq!(error.kind, CallErrorKind::NotSent);
    assert!(error.status.message.contains("does not speak this protocol"), "{error}");
    assert_eq!(server.accepted(), 0);
}
