//! gRPC inside TLS: who may come in, and how certificates change.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::web::{WebServer, Wire, request};
use common::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use watershed_delivery::Budget;
use watershed_net::{Alpn, Code, ConnectionRefused, Pem, ServerTls, ServerTlsOptions, TlsVersion};

/// An authority.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
#[derive(Clone)]
struct Identity {
    cert: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { cert, key: key.serialize_pem() }
    }

    fn identity(&self) -> Identity {
        self.sign(|_| {})
    }
}

impl Identity {
    fn options(&self) -> ServerTlsOptions {
        ServerTlsOptions::new(Pem::Text(self.cert.clone()), Pem::Text(self.key.clone()))
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).unwrap()
    }
}

fn serving(options: &ServerTlsOptions) -> Server {
    let tls = ServerTls::new(options, Alpn::H2).unwrap();
    Server::with(Budget::new(1 << 20), |options| options.tls = Some(tls))
}

/// A client that trusts `authority` and is `identity`, if anybody.
struct Caller<'a> {
    authority: &'a Authority,
    identity: Option<&'a Identity>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: &'static [u8],
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];
const OLD: &[&SupportedProtocolVersion] = &[&version::TLS12];
const NEW: &[&SupportedProtocolVersion] = &[&version::TLS13];

impl<'a> Caller<'a> {
    fn trusting(authority: &'a Authority) -> Self {
        Self { authority, identity: None, versions: BOTH, alpn: b"h2" }
    }

    async fn connect(&self, server: &Server) -> io::Result<TlsStream<TcpStream>> {
        self.connect_to(server.addr).await
    }

    async fn connect_to(&self, addr: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![identity.der()], key).unwrap()
            }
        };
        config.alpn_protocols = vec![self.alpn.to_vec()];
        let stream = TcpStream::connect(addr).await?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// Whether a call is answered.
    async fn call(&self, server: &Server) -> bool {
        let Ok(stream) = self.connect(server).await else { return false };
        let Ok(raw) = Raw::over(stream).await else { return false };
        match raw.try_open(ECHO).await {
            Ok((response, mut stream)) => {
                stream.send_data(framed(0, b"secret"), true).unwrap();
                // Under TLS 1.3 a client learns only now that it was not let in.
                let Ok(Ok(answered)) = tokio::time::timeout(Duration::from_secs(10), response).await else {
                    return false;
                };
                answered.headers().get("grpc-status").is_none()
            }
            Err(_) => false,
        }
    }
}

async fn refused(server: &Server, count: usize) {
    let expected = vec![ConnectionRefused::Handshake; count];
    until(|| *server.service.connections_refused.lock() == expected).await;
}

#[tokio::test]
async fn calls_are_answered_inside_tls() {
    let authority = Authority::new();
    let identity = authority.identity();
    let server = serving(&identity.options());
    let stream = Caller::trusting(&authority).connect(&server).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let raw = Raw::over(stream).await.unwrap();
    for length in [0, 5, 100_000] {
        let message = telemetry(length);
        let answer = raw.call(ECHO, &[], framed(0, &message)).await;
        assert_eq!((answer.code, answer.body), (Some(Code::Ok), framed(0, &message)));
    }
    drop(raw);
    assert!(server.service.connections_refused.lock().is_empty());
    server.end().await;
}

#[tokio::test]
async fn who_trusts_another_authority_or_speaks_something_else_is_refused() {
    let authority = Authority::new();
    let server = serving(&authority.identity().options());
    assert!(!Caller::trusting(&Authority::new()).call(&server).await);
    refused(&server, 1).await;
    assert!(!Caller { alpn: b"smtp", ..Caller::trusting(&authority) }.call(&server).await);
    refused(&server, 2).await;
    // HTTP/2 in the clear.
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let raw = Raw::over(stream).await.unwrap();
    assert!(raw.driver.await.unwrap().is_err());
    refused(&server, 3).await;
    // Who only looks whether the port is open is not refused.
    drop(TcpStream::connect(server.addr).await.unwrap());
    assert!(Caller::trusting(&authority).call(&server).await);
    refused(&server, 3).await;
    server.end().await;
}

#[tokio::test]
async fn only_versions_that_are_wanted_are_spoken() {
    let authority = Authority::new();
    let identity = authority.identity();
    for (min, max, old, new) in [
        (TlsVersion::V1_2, None, true, true),
        (TlsVersion::V1_3, None, false, true),
        (TlsVersion::V1_2, Some(TlsVersion::V1_2), true, false),
    ] {
        let options = ServerTlsOptions { min_version: min, max_version: max, ..identity.options() };
        let server = serving(&options);
        let caller = |versions| Caller { versions, ..Caller::trusting(&authority) };
        assert_eq!(caller(OLD).call(&server).await, old, "{min:?} to {max:?}");
        assert_eq!(caller(NEW).call(&server).await, new, "{min:?} to {max:?}");
        server.end().await;
    }
}

#[tokio::test]
async fn clients_must_show_a_certificate_where_one_is_asked_for() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let client_ca = Some(Pem::Text(clients.pem.clone()));
    let server = serving(&ServerTlsOptions { client_ca, ..authority.identity().options() });
    let (good, wrong) = (clients.identity(), Authority::new().identity());
    let expired = clients.sign(|params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let mut count = 0;
    for versions in [OLD, NEW] {
        let caller = |identity| Caller { identity, versions, ..Caller::trusting(&authority) };
        assert!(caller(Some(&good)).call(&server).await);
        for stranger in [None, Some(&wrong), Some(&expired)] {
            assert!(!caller(stranger).call(&server).await);
            count += 1;
            refused(&server, count).await;
        }
    }
    server.end().await;
}

/// Files that are rewritten, in a directory of their own.
struct Files {
    directory: PathBuf,
}

impl Files {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("watershed-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, identity: &Identity) {
        std::fs::write(self.path("key"), &identity.key).unwrap();
        std::fs::write(self.path("cert"), &identity.cert).unwrap();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The certificate a client is shown.
async fn shown(server: &Server, authority: &Authority) -> CertificateDer<'static> {
    let stream = Caller::trusting(authority).connect(server).await.expect("a connection was refused");
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let (first, second, third) = (authority.identity(), authority.identity(), authority.identity());
    let files = Files::new();
    files.write(&first);
    let server = serving(&ServerTlsOptions {
        reload_interval: Some(Duration::from_nanos(1)),
        ..ServerTlsOptions::new(Pem::File(files.path("cert")), Pem::File(files.path("key")))
    });
    assert_eq!(shown(&server, &authority).await, first.der());
    files.write(&second);
    assert_eq!(shown(&server, &authority).await, second.der());
    std::fs::write(files.path("cert"), &third.cert).unwrap();
    assert_eq!(shown(&server, &authority).await, second.der(), "the key has not changed yet");
    std::fs::remove_file(files.path("key")).unwrap();
    assert_eq!(shown(&server, &authority).await, second.der(), "there is no key at all");
    files.write(&third);
    assert_eq!(shown(&server, &authority).await, third.der());
    server.end().await;

    std::fs::write(files.path("ca"), &clients.pem).unwrap();
    let (old, new) = (clients.identity(), others.identity());
    for (reload, let_in) in [(false, false), (true, true)] {
        std::fs::write(files.path("ca"), &clients.pem).unwrap();
        let server = serving(&ServerTlsOptions {
            client_ca: Some(Pem::File(files.path("ca"))),
            reload_interval: Some(Duration::from_nanos(1)),
            client_ca_reload: reload,
            ..first.options()
        });
        let caller = |identity| Caller { identity: Some(identity), ..Caller::trusting(&authority) };
        assert!(caller(&old).call(&server).await);
        std::fs::write(files.path("ca"), &others.pem).unwrap();
        assert_eq!(caller(&new).call(&server).await, let_in);
        assert_eq!(caller(&old).call(&server).await, !let_in);
        server.end().await;
    }
}

#[test]
fn errors_name_the_setting_the_file_and_what_is_wrong() {
    let authority = Authority::new();
    let (identity, other) = (authority.identity(), authority.identity());
    let files = Files::new();
    files.write(&identity);
    std::fs::write(files.path("empty"), "").unwrap();
    let file = |name: &str| Pem::File(files.path(name));
    let text = |text: &str| Pem::Text(text.to_owned());
    let good = ServerTlsOptions::new(file("cert"), file("key"));
    let cases = [
        (ServerTlsOptions { cert: file("absent"), ..good.clone() }, "cert_file", "No such file"),
        (ServerTlsOptions { cert: file("empty"), ..good.clone() }, "cert_file", "no PEM certificate"),
        (ServerTlsOptions { cert: text("hello"), ..good.clone() }, "cert_pem", "no PEM certificate"),
        (ServerTlsOptions { key: file("cert"), ..good.clone() }, "key_file", "no PEM private key"),
        (ServerTlsOptions { key: text(&other.key), ..good.clone() }, "key_pem", "does not belong"),
        (ServerTlsOptions { client_ca: Some(file("key")), ..good.clone() }, "client_ca_file", "no PEM cert"),
        (
            ServerTlsOptions {
                min_version: TlsVersion::V1_3,
                max_version: Some(TlsVersion::V1_2),
                ..good.clone()
            },
            "max_version",
            "lower than min_version",
        ),
    ];
    for (options, key, problem) in cases {
        let error = ServerTls::new(&options, Alpn::H2).unwrap_err();
        assert_eq!(error.key, key, "{error}");
        assert!(error.problem.contains(problem), "{error}");
        assert!(
            key.ends_with("pem") || !key.ends_with("file") || names_a_file(&error.problem, &files.directory)
        );
    }
    let printed = format!("{:?}", identity.options());
    assert!(!printed.contains("PRIVATE") && !printed.contains("BEGIN"), "{printed}");
}

fn names_a_file(problem: &str, directory: &Path) -> bool {
    problem.contains(directory.to_str().unwrap())
}

#[tokio::test]
async fn http_is_answered_inside_tls() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let client_ca = Some(Pem::Text(clients.pem.clone()));
    let options = ServerTlsOptions { client_ca, ..authority.identity().options() };
    let tls = ServerTls::new(&options, Alpn::Http11).unwrap();
    let server = WebServer::with(Budget::new(64 << 20), |options| options.tls = Some(tls));
    let identity = clients.identity();
    let caller = Caller { identity: Some(&identity), alpn: b"http/1.1", ..Caller::trusting(&authority) };
    let mut wire = Wire::new(caller.connect_to(server.addr).await.unwrap());
    assert_eq!(wire.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    for length in [0, 5, 40_000, 3 << 20] {
        let body = telemetry(length);
        assert!(wire.post("/echo", &[], &body).await.body == body, "{length}");
    }
    wire.send(request("/hold", &[], b"late")).await;
    until(|| server.begun() == 5).await;
    // Strangers and those who speak in the clear are refused, each once.
    let stranger = Caller { identity: None, ..Caller::trusting(&authority) };
    let stranger = Caller { alpn: b"http/1.1", ..stranger }.connect_to(server.addr).await;
    if let Ok(stranger) = stranger {
        assert_eq!(Wire::new(stranger).read_answer("POST").await, None);
    }
    assert_eq!(server.connect().await.read_answer_to(request("/echo", &[], b"x")).await, None);
    until(|| *server.web.connections_refused.lock() == [ConnectionRefused::Handshake; 2]).await;
    server.stop.stop();
    server.web.release.add_permits(1);
    let answer = wire.answer().await;
    assert!(answer.text() == "late" && answer.closes());
    wire.closed().await;
    server.end().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_does_not_hold_up_a_stop() {
    let server = serving(&Authority::new().identity().options());
    let mute = TcpStream::connect(server.addr).await.unwrap();
    until(|| server.service.budget.used() > 0).await;
    let service = server.service.clone();
    tokio::time::timeout(Duration::from_secs(4), server.end()).await.expect("waits for the mute one");
    assert_eq!(*service.connections_refused.lock(), [ConnectionRefused::Handshake]);
    drop(mute);
}
