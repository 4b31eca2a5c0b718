//! Foreign clients → agent → gateway → a sink that counts.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use watershed::engine::Engine;
use watershed_testkit::{Sink, reserve};

use super::{Destination, Sent, Way, rust};
use crate::harness::certificates::Certificates;
use crate::harness::peer::Peer;
use crate::harness::{PATIENCE, beside_others, drained, http, start};

const GRPC: &str = "grpc";
const HTTP: &str = "http/protobuf";
const JSON: &str = "http/json";

/// An agent that listens in every way, and the gateway behind it: gRPC between the two for what comes in plain text,
/// HTTP under mutual TLS for the rest.
struct Chain {
    engine: Engine,
    sink: Sink,
    certificates: Arc<Certificates>,
    /// Of the agent's receivers `plain`, `tls` and `mutual`: gRPC and HTTP.
    addresses: [[SocketAddr; 2]; 3],
}

impl Chain {
    async fn start() -> Chain {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let certificates = Arc::new(Certificates::new());
        let (ca, cert, key) = (certificates.ca(), certificates.cert(), certificates.key());
        let addresses = [(); 3].map(|()| [reserve(), reserve()]);
        let [plain, tls, mutual] =
            addresses.map(|[grpc, http]| format!("grpc.endpoint = \"{grpc}\", http.endpoint = \"{http}\""));
        let with_tls = |protocols: String, tls: &str| {
            format!("{protocols}, grpc.tls = {{ {tls} }}, http.tls = {{ {tls} }}")
        };
        let server = format!("cert_file = \"{cert}\", key_file = \"{key}\"");
        let mutual_server = format!("{server}, client_ca_file = \"{ca}\"");
        let (tls, mutual) = (with_tls(tls, &server), with_tls(mutual, &mutual_server));
        let (gateway, secure_gateway, sink_addr) = (reserve(), reserve(), sink.addr());
        let engine = start(&format!(
            r#"
[agent]
receivers."otlp/plain".protocols = {{ {plain} }}
receivers."otlp/tls".protocols = {{ {tls} }}
receivers."otlp/mutual".protocols = {{ {mutual} }}
processors = {{ memory_limiter.limit_mib = 64, batch.timeout = "50ms" }}
exporters.otlp = {{ endpoint = "http://{gateway}", compression = "zstd" }}
[agent.exporters.otlphttp]
endpoint = "https://{secure_gateway}"
tls = {{ ca_file = "{ca}", cert_file = "{cert}", key_file = "{key}" }}
[agent.pipelines.plain]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp/plain"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp"]
[agent.pipelines.secure]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp/tls", "otlp/mutual"]
processors = ["memory_limiter", "batch"]
exporters = ["otlphttp"]

[gateway]
receivers.otlp.protocols.grpc.endpoint = "{gateway}"
receivers.otlp.protocols.http = {{ endpoint = "{secure_gateway}", tls = {{ {mutual_server} }} }}
processors = {{ memory_limiter.limit_mib = 64, batch.timeout = "50ms" }}
exporters.otlp = {{ endpoint = "http://{sink_addr}" }}
[gateway.pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp"]
"#
        ))
        .await;
        Chain { engine, sink, certificates, addresses }
    }

    fn destination(&self, protocol: &'static str, way: Way) -> Destination {
        let [plain, tls, mutual] = self.addresses;
        let (scheme, [grpc, http]) = match way {
            Way::Plain | Way::Gzip => ("http", plain),
            Way::Tls => ("https", tls),
            Way::MutualTls => ("https", mutual),
        };
        let address = if protocol == GRPC { grpc } else { http };
        let endpoint = format!("{scheme}://{address}");
        Destination { endpoint, protocol, way, certificates: self.certificates.clone() }
    }

    /// What the client was told "ok" for is there, once; under `delivered`, as soon as it has ended.
    fn check(&self, what: &str, sent: &Sent) {
        sent.check();
        let counts = self.sink.snapshot();
        assert_eq!([counts.spans, counts.points, counts.logs], sent.counts(), "{what}: {counts}");
        self.sink.reset();
    }

    async fn end(self) {
        drained(&self.engine).await;
        assert_eq!(self.sink.snapshot().requests, 0, "nothing came later");
    }
}

/// Runs a client by each protocol in these ways.
async fn everything_arrives(peer: &'static str, table: &[(&'static str, &[Way])]) {
    let _turn = beside_others().await;
    let chain = Chain::start().await;
    for &(protocol, ways) in table {
        for &way in ways {
            let begin = Instant::now();
            let client = Peer::spawn(peer, &[], &chain.destination(protocol, way).environment());
            let Some(output) = client.output().await else { return };
            let sent = Sent::told(&output);
            let what = format!("{peer} {protocol} {way:?}");
            println!("{what}: {sent:?} in {:?}", begin.elapsed());
            chain.check(&what, &sent);
        }
    }
    chain.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_the_python_sdk_sends_arrives() {
    everything_arrives("python", &[(GRPC, &Way::ALL), (HTTP, &Way::ALL)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_the_javascript_sdk_sends_arrives() {
    everything_arrives("javascript", &[(GRPC, &Way::ALL), (HTTP, &Way::ALL), (JSON, &Way::ALL)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_the_java_sdk_sends_arrives() {
    // Seconds of CPU a run: each protocol and each way, but not all of both.
    let table = [(GRPC, &[Way::Gzip, Way::MutualTls][..]), (HTTP, &[Way::Plain, Way::Tls])];
    everything_arrives("java", &table).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_the_go_sdk_sends_arrives() {
    everything_arrives("go", &[(GRPC, &Way::ALL), (HTTP, &Way::ALL)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_the_rust_sdk_sends_arrives() {
    let _turn = beside_others().await;
    let chain = Chain::start().await;
    let plain = [Way::Plain, Way::Gzip];
    for (protocol, ways) in [(GRPC, &Way::ALL[..]), (HTTP, &plain), (JSON, &plain)] {
        for &way in ways {
            let begin = Instant::now();
            let sent = rust::run(chain.destination(protocol, way)).await;
            let what = format!("rust {protocol} {way:?}");
            println!("{what}: {sent:?} in {:?}", begin.elapsed());
            chain.check(&what, &sent);
        }
    }
    chain.end().await;
}

/// Caddy is a server: a span of every request it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_span_of_caddy_arrives() {
    const REQUESTS: u64 = 100;
    let _turn = beside_others().await;
    let chain = Chain::start().await;
    for protocol in [GRPC, HTTP] {
        for way in Way::ALL {
            let begin = Instant::now();
            let address = reserve();
            let mut environment = chain.destination(protocol, way).environment();
            environment.push(("PORT", address.port().to_string()));
            let mut answered = 0;
            let mut get = async || {
                let is_answered = http::get(address, "/").await.is_some_and(|(status, _)| status == 200);
                answered += u64::from(is_answered);
                is_answered
            };
            let Some(mut caddy) = Peer::spawn("caddy", &[], &environment).ready(&mut get).await else {
                return;
            };
            for _ in 0..REQUESTS {
                assert!(get().await);
            }
            let all = chain.sink.wait_until(|counts| counts.spans > REQUESTS, PATIENCE).await;
            assert!(all, "{}", chain.sink.snapshot());
            caddy.stop().await;
            println!("caddy {protocol} {way:?}: {answered} spans in {:?}", begin.elapsed());
            let counts = chain.sink.snapshot();
            assert_eq!([counts.spans, counts.points, counts.logs], [answered, 0, 0], "{counts}");
            chain.sink.reset();
        }
    }
    chain.end().await;
}
