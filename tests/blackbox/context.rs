//! What comes along with telemetry: metadata and trace context; and who may come: rates, web pages, connections. And
//! the way out through a proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use watershed_testkit::call::{Client, Reply};
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::web::{PROTOBUF, WebClient, path};
use watershed_testkit::{Arrival, Loader, Sink, verdict, wait_until};

use crate::harness::tls::{Authority, Files};
use crate::harness::{
    PATIENCE, addresses, arrivals, beside_others, both_protocols, call, drained, header, metric, post, start,
};

const KINDS: [&str; 2] = ["otlp", "otlphttp"];
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

/// A collector on one lane for what a test says of its receiver and of its exporter.
fn collector(kind: &str, sink: SocketAddr, receiver: &str, exporter: &str, ack: &str) -> String {
    format!(
        r#"
service.lanes = 1
{}
[exporters.{kind}]
endpoint = "http://{sink}"
{exporter}
[pipelines.traces]
receivers = ["otlp"]
exporters = ["{kind}"]
ack = "{ack}"
"#,
        both_protocols(receiver)
    )
}

fn spans(count: usize) -> bytes::Bytes {
    TraceTemplate::new(1, count).message(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_keeps_batches_apart() {
    let _turn = beside_others().await;
    for kind in KINDS {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let arrived = arrivals(&sink);
        let batch = r#"sending_queue = { batch = { flush_timeout = "300ms", partition = { metadata_keys = ["X-Tenant"] } } }"#;
        let engine = start(&collector(kind, sink.addr(), "include_metadata = true", batch, "accepted")).await;
        let [grpc, http] = addresses(&engine);
        // Eight of one, eight times 20 of another, eight times 400 without: no mixture looks like one of them.
        let senders = [(vec![("x-tenant", "one")], 1), (vec![("x-tenant", "two")], 20), (vec![], 400)];
        for _ in 0..4 {
            for (headers, size) in &senders {
                assert_eq!(call(grpc, Signal::Traces, headers, &spans(*size)).await, Reply::Accepted);
                assert_eq!(post(http, Signal::Traces, headers, &spans(*size)).await.status, 200);
            }
        }
        drained(&engine).await;
        let items: Vec<u64> = arrived.lock().iter().map(|arrival| arrival.items).collect();
        for (_, size) in &senders {
            let size = *size as u64;
            let own = items.iter().filter(|items| **items >= size && **items < 20 * size);
            assert!(own.clone().all(|items| items % size == 0), "{kind}: {items:?}");
            assert_eq!(own.sum::<u64>(), 8 * size, "{kind}: {items:?}");
        }
        assert!(items.len() < 24, "{kind}: nothing was merged: {items:?}");
    }
}

/// One message, one trace: its headers go on. Several traces in one request: none of them does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trace_context_goes_with_a_message_of_its_own() {
    let _turn = beside_others().await;
    for kind in KINDS {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let arrived = arrivals(&sink);
        let engine = start(&collector(kind, sink.addr(), "", "", "delivered")).await;
        let [grpc, http] = addresses(&engine);
        let context = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
        for headers in [&context[..], &[("tracestate", "a=1")], &[("traceparent", "00-0-0-01")]] {
            assert_eq!(call(grpc, Signal::Traces, headers, &spans(1)).await, Reply::Accepted);
            assert_eq!(post(http, Signal::Traces, headers, &spans(1)).await.status, 200);
        }
        drained(&engine).await;
        let arrived = arrived.lock();
        let seen = |arrival: &Arrival| {
            [header(arrival, "traceparent").to_owned(), header(arrival, "tracestate").replace(' ', "")]
        };
        let seen: Vec<_> = arrived.iter().map(seen).collect();
        let nothing = [String::new(), String::new()];
        let own = [PARENT.to_owned(), "a=1,b=2".to_owned()];
        assert_eq!(seen, [&own, &own, &nothing, &nothing, &nothing, &nothing].map(Clone::clone), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merged_request_belongs_to_no_trace() {
    let _turn = beside_others().await;
    for (kind, second) in [("otlp", OTHER), ("otlphttp", OTHER), ("otlp", PARENT), ("otlphttp", PARENT)] {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let arrived = arrivals(&sink);
        // Sent when the second has come.
        let batch = r#"sending_queue = { batch = { flush_timeout = "30s", min_size = 5 } }"#;
        let engine = start(&collector(kind, sink.addr(), "", batch, "accepted")).await;
        let [grpc, http] = addresses(&engine);
        assert_eq!(call(grpc, Signal::Traces, &[("traceparent", PARENT)], &spans(2)).await, Reply::Accepted);
        assert_eq!(post(http, Signal::Traces, &[("traceparent", second)], &spans(3)).await.status, 200);
        drained(&engine).await;
        let arrived = arrived.lock();
        assert_eq!((arrived.len(), arrived[0].items), (1, 5), "{kind}: not merged");
        // Of one trace, it may say so.
        let parent = if second == PARENT { PARENT } else { "" };
        assert_eq!(header(&arrived[0], "traceparent"), parent, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_too_often_is_told_when_to_come_again() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let limit = r#"rate_limit = { requests_per_second = 1, burst = 3, by = "header", header = "x-tenant" }"#;
    let engine = start(&collector("otlp", sink.addr(), limit, "", "delivered")).await;
    let [grpc, http] = addresses(&engine);
    let (mut taken, mut refused) = ([0, 0], 0);
    let headers = [("x-tenant", "eager")];
    for _ in 0..6 {
        match call(grpc, Signal::Traces, &headers, &spans(1)).await {
            Reply::Accepted => taken[0] += 1,
            Reply::Refused(status) => {
                assert!(status.code == Code::UNAVAILABLE && status.retry_delay.is_some(), "{status}");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
        let reply = post(http, Signal::Traces, &headers, &spans(1)).await;
        if reply.status == 200 {
            taken[1] += 1;
        } else {
            assert_eq!((reply.status, reply.header("retry-after")), (429, "1"), "{reply:?}");
            refused += 1;
        }
    }
    // Each door has buckets of its own; while they are emptied, a second may give one more.
    assert!(taken.iter().all(|taken| (3..6).contains(taken)), "{taken:?}");
    assert_eq!(call(grpc, Signal::Traces, &[("x-tenant", "calm")], &spans(1)).await, Reply::Accepted);
    assert_eq!(post(http, Signal::Traces, &[("x-tenant", "calm")], &spans(1)).await.status, 200);
    let metrics = engine.metrics().render();
    let counted = "watershed_receiver_refused_requests{receiver=\"otlp\",reason=\"rate_limit\"}";
    assert_eq!(metric(&metrics, counted), f64::from(refused), "{metrics}");
    drained(&engine).await;
    assert_eq!(sink.arrived(), 1, "it is one and the same span");
    assert_eq!(sink.snapshot().spans, 2 + taken.iter().sum::<u64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_pages_may_send_if_they_are_allowed_to() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let text = collector("otlp", sink.addr(), "", "", "delivered").replace(
        "[exporters",
        r#"response_headers = { "X-Server" = "watershed" }
cors = { allowed_origins = ["https://*.example"], allowed_headers = ["X-Tenant"], max_age = 600 }
[exporters"#,
    );
    let engine = start(&text).await;
    let [_, http] = addresses(&engine);
    let mut client = WebClient::connect(http).await.unwrap();
    let mut ask = async |method: &str, origin: &str, header: &str| {
        let headers = [
            ("origin", origin),
            ("content-type", PROTOBUF),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", header),
        ];
        // A request that is none of a browser's questions does not say what it is about to do.
        let headers = if method == "OPTIONS" { &headers[..] } else { &headers[..2] };
        let body = if method == "OPTIONS" { bytes::Bytes::new() } else { spans(2) };
        client.send(method, path(Signal::Traces), headers, &body).await.unwrap()
    };
    let shop = "https://shop.example";
    let reply = ask("OPTIONS", shop, "x-tenant").await;
    assert_eq!(reply.status, 204, "{reply:?}");
    for (name, value) in [
        ("access-control-allow-origin", shop),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "x-tenant"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(reply.header(name), value, "{reply:?}");
    }
    let stranger = ask("OPTIONS", "https://shop.evil", "x-tenant").await;
    assert_eq!(stranger.header("access-control-allow-origin"), "", "{stranger:?}");
    let curious = ask("OPTIONS", shop, "x-secret").await;
    assert_eq!(curious.header("access-control-allow-headers"), "", "{curious:?}");

    let reply = ask("POST", shop, "").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, shop), "{reply:?}");
    assert_eq!(reply.header("x-server"), "watershed");
    drained(&engine).await;
    assert_eq!(sink.arrived(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_house_turns_connections_away() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector("otlp", sink.addr(), "max_connections = 2", "", "delivered")).await;
    let [grpc, http] = addresses(&engine);

    let headers = [("content-type", PROTOBUF)];
    let mut guests = Vec::new();
    for _ in 0..2 {
        let mut client = WebClient::connect(http).await.unwrap();
        let reply = client.send("POST", path(Signal::Traces), &headers, &spans(1)).await.unwrap();
        assert_eq!(reply.status, 200);
        guests.push(client);
    }
    let mut third = WebClient::connect(http).await.unwrap();
    assert!(third.send("POST", path(Signal::Traces), &headers, &spans(1)).await.is_err());
    let counted = "watershed_receiver_refused_requests{receiver=\"otlp\",reason=\"connection\"}";
    assert_eq!(metric(&engine.metrics().render(), counted), 1.0);
    guests.pop();
    let served = wait_until(
        async || {
            let mut client = WebClient::connect(http).await.unwrap();
            client.send("POST", path(Signal::Traces), &headers, &spans(1)).await.is_ok()
        },
        PATIENCE,
    );
    assert!(served.await, "a place that is free again is not given");

    let mut guests = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(grpc).await.unwrap();
        assert_eq!(client.export(Signal::Traces, &spans(1)).await.unwrap(), Reply::Accepted);
        guests.push(client);
    }
    let third = match Client::connect(grpc).await {
        Ok(mut client) => client.export(Signal::Traces, &spans(1)).await.is_ok(),
        Err(_) => false,
    };
    assert!(!third, "a third connection is served");
    drained(&engine).await;
}

/// A proxy that tunnels for CONNECT and hands on what is asked of `http://`. Keeps the first lines of both.
struct Double {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Double {
    async fn start() -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = asked.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut served = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                served.spawn(Self::serve(client, seen.clone()));
            }
        });
        Double { address, asked, _task: task }
    }

    async fn serve(mut client: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let start = head.lines().next().unwrap().to_owned();
        let target = start.split(' ').nth(1).unwrap();
        seen.lock().push(start.clone());
        let mut server = match target.strip_prefix("http://") {
            None => {
                let server = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                server
            }
            Some(target) => {
                let authority = target.split('/').next().unwrap();
                let mut server = TcpStream::connect(authority).await.unwrap();
                let head = head.replacen(&format!("http://{authority}"), "", 1);
                server.write_all(head.as_bytes()).await.unwrap();
                server
            }
        };
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exporters_go_through_a_proxy() {
    let _turn = beside_others().await;
    let files = Files::new();
    let authority = Authority::new("the shop's");
    let ca = files.write("ca.pem", &authority.pem());
    let tls = format!(
        "tls = {{ {} }}",
        files.identity("gateway", &authority.issue("127.0.0.1")).trim().replace('\n', ", ")
    );
    for kind in KINDS {
        let (sink, proxy) = (Sink::start("127.0.0.1:0").await.unwrap(), Double::start().await);
        let gateway = start(&collector("otlp", sink.addr(), &tls, "", "delivered")).await;
        let to = addresses(&gateway)[usize::from(kind == "otlphttp")];
        let exporter = format!("proxy_url = \"http://{}\"\ntls = {{ ca_file = {ca} }}", proxy.address);
        let text =
            collector(kind, to, "", &exporter, "delivered").replace("http://127.0.0.1", "https://127.0.0.1");
        let text = text.replace("proxy_url = \"https", "proxy_url = \"http");
        let agent = start(&text).await;
        let load = Loader::new(addresses(&agent)[0]).requests(5).run().await;
        assert!(verdict(&load, &sink.snapshot()).is_exact(), "{kind}: {load}");
        let asked = proxy.asked.lock().clone();
        assert!(!asked.is_empty(), "{kind}: not through the proxy");
        assert!(asked.iter().all(|asked| *asked == format!("CONNECT {to} HTTP/1.1")), "{kind}: {asked:?}");
        drained(&agent).await;
        drained(&gateway).await;
    }

    // Plain HTTP needs no tunnel: the proxy reads it.
    let (sink, proxy) = (Sink::start("127.0.0.1:0").await.unwrap(), Double::start().await);
    let exporter = format!("proxy_url = \"http://{}\"\ndisable_keep_alives = true", proxy.address);
    let agent = start(&collector("otlphttp", sink.addr(), "", &exporter, "delivered")).await;
    let load = Loader::new(addresses(&agent)[0]).requests(5).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}");
    let expected = format!("POST http://{}/v1/traces HTTP/1.1", sink.addr());
    assert_eq!(*proxy.asked.lock(), [const { String::new() }; 5].map(|_| expected.clone()));
    drained(&agent).await;
}
