//! Agent and gateway inside TLS: who is let in, what is said to the others, and certificates that change.

use std::net::SocketAddr;
use std::time::Duration;

use watershed::engine::Engine;
use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::web::{PROTOBUF, WebClient, path};
use watershed_testkit::{Loader, Sink, reserve, verdict, wait_until};

use crate::harness::process::{Finished, file, finish};
use crate::harness::tls::{Authority, Files, Identity, connect};
use crate::harness::{PATIENCE, beside_others, drained, start};

const KINDS: [&str; 2] = ["otlp", "otlphttp"];

/// An agent whose exporter speaks TLS, and a gateway that does on both of its ports.
struct Pair {
    engine: Engine,
    sink: Sink,
    agent: SocketAddr,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Pair {
    /// `server` and `client` are what the two `tls` tables say, `receiver` and `exporter` what stands beside them.
    async fn start(kind: &str, server: &str, receiver: [&str; 2], client: &str, exporter: &str) -> Pair {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let (grpc, http) = (reserve(), reserve());
        let destination = if kind == "otlp" { grpc } else { http };
        let [for_grpc, for_http] = receiver;
        let text = format!(
            r#"
[agent.receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[agent.exporters.{kind}]
endpoint = "https://{destination}"
{exporter}
[agent.exporters.{kind}.tls]
{client}
[agent.pipelines.traces]
receivers = ["otlp"]
exporters = ["{kind}"]
ack = "delivered"

[gateway.receivers.otlp.protocols.grpc]
endpoint = "{grpc}"
{for_grpc}
[gateway.receivers.otlp.protocols.grpc.tls]
{server}
[gateway.receivers.otlp.protocols.http]
endpoint = "{http}"
{for_http}
[gateway.receivers.otlp.protocols.http.tls]
{server}
[gateway.exporters.otlp]
endpoint = "http://{}"
[gateway.pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp"]
ack = "delivered"
"#,
            sink.addr()
        );
        let engine = start(&text).await;
        let agent = engine.address(Some("agent"), "otlp").unwrap();
        Pair { engine, sink, agent, grpc, http }
    }

    /// What the agent says to one request of seven spans.
    async fn ask(&self) -> Reply {
        let mut client = Client::connect(self.agent).await.unwrap();
        client.export(Signal::Traces, &TraceTemplate::new(1, 7).message(0)).await.unwrap()
    }
}

/// The authority, and the gateway's certificate by its address.
fn shop(files: &Files) -> (Authority, Identity, String) {
    let authority = Authority::new("the shop's");
    let identity = authority.issue("127.0.0.1");
    let ca = files.write("ca.pem", &authority.pem());
    (authority, identity, ca)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_to_gateway_loses_nothing() {
    let _turn = beside_others().await;
    let files = Files::new();
    let (authority, identity, ca) = shop(&files);
    let server = files.identity("gateway", &identity);
    let mutual = format!("{server}client_ca_file = {ca}\n");
    let client = format!("ca_file = {ca}\n");
    let known = client.clone() + &files.identity("agent", &authority.issue("agent"));
    for kind in KINDS {
        for (server, client) in [(&server, &client), (&mutual, &known)] {
            let pair = Pair::start(kind, server, ["", ""], client, "").await;
            let load = Loader::new(pair.agent).closed(2, 4).requests(30).run().await;
            assert_eq!((load.acknowledged.len(), load.refusals()), (3_000, 0), "{kind}: {load}");
            assert!(verdict(&load, &pair.sink.snapshot()).is_exact(), "{kind}: {load}");
            drained(&pair.engine).await;
        }
    }
}

/// Who does not trust or is not trusted is told why, and nothing passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_told_what_is_wrong() {
    let _turn = beside_others().await;
    let files = Files::new();
    let (authority, identity, ca) = shop(&files);
    let other = Authority::new("another");
    let other_ca = files.write("other.pem", &other.pem());
    let server = files.identity("gateway", &identity);
    let misnamed = files.identity("misnamed", &authority.issue("gateway.example"));
    let mutual = format!("{server}client_ca_file = {ca}\n");
    let trusting = format!("ca_file = {ca}\n");
    let stranger = trusting.clone() + &files.identity("stranger", &other.issue("agent"));
    let unknown = format!("ca_file = {other_ca}\n");
    let old = format!("{trusting}max_version = \"1.2\"\n");
    let new = format!("{server}min_version = \"1.3\"\n");
    let careless = format!("{unknown}insecure_skip_verify = true\n");
    let renamed = format!("{trusting}server_name_override = \"gateway.example\"\n");

    for (case, server, client, told) in [
        ("unknown authority", &server, &unknown, Some("ca_file")),
        ("wrong name", &misnamed, &trusting, Some("server_name_override")),
        ("no client certificate", &mutual, &trusting, Some("cert_file")),
        ("a stranger's certificate", &mutual, &stranger, Some("cert_file")),
        ("too old", &new, &old, Some("version")),
        ("new enough", &new, &trusting, None),
        ("careless", &server, &careless, None),
        ("careless about the name", &misnamed, &careless, None),
        ("by another name", &misnamed, &renamed, None),
    ] {
        for kind in KINDS {
            let pair =
                Pair::start(kind, server, ["", ""], client, "retry_on_failure = { enabled = false }").await;
            let reply = pair.ask().await;
            match (told, &reply) {
                (None, Reply::Accepted) => assert_eq!(pair.sink.arrived(), 7, "{case}, {kind}"),
                (Some(told), Reply::Refused(status)) => {
                    assert_eq!(status.code, Code::UNAVAILABLE, "{case}, {kind}: {status}");
                    assert!(status.message.contains(told), "{case}, {kind}: {status}");
                    assert_eq!(pair.sink.snapshot().requests, 0, "{case}, {kind}");
                }
                _ => panic!("{case}, {kind}: {reply:?}"),
            }
            drained(&pair.engine).await;
        }
    }
}

/// Certificates change three times while spans flow over connections that do not last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_taken_up_under_load() {
    let _turn = beside_others().await;
    for kind in KINDS {
        let files = Files::new();
        let (authority, identity, ca) = shop(&files);
        let server = files.identity("gateway", &identity) + "reload_interval = \"10ms\"\n";
        let short = "keepalive.server_parameters = { max_connection_age = \"100ms\" }";
        let exporter = if kind == "otlp" { "" } else { "disable_keep_alives = true" };
        let client = format!("ca_file = {ca}\n");
        let pair = Pair::start(kind, &server, [short, ""], &client, exporter).await;
        let load = Loader::new(pair.agent).closed(2, 2).duration(PATIENCE).start();
        for _ in 0..3 {
            let before = load.acknowledged();
            let next = authority.issue("127.0.0.1");
            files.identity("gateway", &next);
            for (port, alpn) in [(pair.grpc, &b"h2"[..]), (pair.http, b"http/1.1")] {
                let shown = async || {
                    let stream = connect(port, &authority, alpn).await.unwrap();
                    stream.get_ref().1.peer_certificates().unwrap()[0] == next.der()
                };
                assert!(wait_until(shown, PATIENCE).await, "{kind}: the old certificate stays");
            }
            // Connections of 100 ms: after so many spans most have met the new one.
            let moved = wait_until(async || load.acknowledged() >= before + 5_000, PATIENCE);
            assert!(moved.await, "{kind}: it stands still: {}", load.progress());
        }
        load.stop();
        let load = load.finish().await;
        assert_eq!((load.refusals(), load.transport_errors), (0, 0), "{kind}: {load}");
        drained(&pair.engine).await;
        assert!(verdict(&load, &pair.sink.snapshot()).is_exact(), "{kind}: {load}");
    }
}

/// Inside TLS the receivers answer as they do outside of it, and outside they do not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_served_in_plain_text() {
    let _turn = beside_others().await;
    let files = Files::new();
    let (authority, identity, ca) = shop(&files);
    let server = files.identity("gateway", &identity);
    let pair = Pair::start("otlp", &server, ["", ""], &format!("ca_file = {ca}\n"), "").await;
    let headers = [("content-type", PROTOBUF)];
    let message = TraceTemplate::new(1, 3).message(0);
    for (body, status) in [(&message[..], 200), (b"\xff", 400)] {
        let stream = connect(pair.http, &authority, b"http/1.1").await.unwrap();
        let reply = WebClient::over(stream).send("POST", path(Signal::Traces), &headers, body).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
    }
    let mut plain = WebClient::connect(pair.http).await.unwrap();
    let reply = tokio::time::timeout(
        Duration::from_secs(30),
        plain.send("POST", path(Signal::Traces), &headers, &message),
    );
    assert!(reply.await.unwrap().is_err(), "served without TLS");
    assert_eq!(pair.sink.arrived(), 3);
    drained(&pair.engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_there_is_told_by_its_key() {
    let _turn = beside_others().await;
    let files = Files::new();
    let (_, identity, ca) = shop(&files);
    let key = files.write("own.key", &identity.key);
    let junk = files.write("junk.crt", "no certificate");
    let receiver = |tls: &str| {
        format!(
            "[receivers.otlp.protocols.grpc]\nendpoint = \"127.0.0.1:0\"\n\
             [receivers.otlp.protocols.grpc.tls]\n{tls}\n\
             [pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"debug\"]\n"
        )
    };
    let exporter = |tls: &str| {
        format!(
            "[receivers.otlp.protocols.grpc]\nendpoint = \"127.0.0.1:0\"\n\
             [exporters.otlp]\nendpoint = \"https://127.0.0.1:1\"\n[exporters.otlp.tls]\n{tls}\n\
             [pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"otlp\"]\n"
        )
    };
    let quiet = ["--set", "service.health.endpoint=\"\"", "--set", "service.telemetry.metrics.address=\"\""];
    for (text, told) in [
        (receiver(&format!("cert_file = \"/missing.crt\"\nkey_file = {key}")), ["cert_file", "/missing.crt"]),
        (receiver(&format!("cert_file = {junk}\nkey_file = {key}")), ["cert_file", "junk.crt"]),
        (exporter("ca_file = \"/missing.pem\""), ["ca_file", "/missing.pem"]),
        (
            exporter(&format!("ca_file = {ca}\ncert_file = {junk}\nkey_file = {key}")),
            ["cert_file", "junk.crt"],
        ),
    ] {
        let (_directory, path) = file("tls.toml", &text);
        let path = path.display().to_string();
        let arguments = [&["run", "--config", &path][..], &quiet].concat();
        let Finished { code, stderr, .. } = finish(&arguments).await;
        assert_eq!(code, Some(2), "{stderr}");
        assert!(told.iter().all(|told| stderr.contains(told)), "{told:?}:\n{stderr}");
    }
    for (text, key, at) in [
        (receiver(&format!("key_file = {key}")), "needs a certificate", "3:32"),
        (exporter("min_version = \"1.1\""), "min_version", "6:15"),
        (exporter(&format!("ca_file = {ca}\nca_pem = \"x\"")), "ca_file` says it already", "7:10"),
    ] {
        let (_directory, path) = file("tls.toml", &text);
        let path = path.display().to_string();
        let Finished { code, stderr, .. } = finish(&["validate", "--config", &path]).await;
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(key) && stderr.contains(&format!(":{at}")), "{key} at {at}:\n{stderr}");
    }
}
