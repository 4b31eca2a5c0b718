//! The table of wire answers (docs/components/otlp.md): every outcome, over gRPC, HTTP with protobuf and HTTP with JSON.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use watershed::engine::{Ended, Engine};
use watershed::stage::{Signal as Telemetry, telemetry};
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::{Code, Signal, Status};
use watershed_testkit::requests::{self, TraceTemplate};
use watershed_testkit::web::{JSON, PROTOBUF, WebClient, WebReply, path};
use watershed_testkit::{Answer, Sink, reserve, wire};

use crate::harness::{PATIENCE, addresses, beside_others, drained, start};

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Grpc,
    Protobuf,
    Json,
}

const WAYS: [Way; 3] = [Way::Grpc, Way::Protobuf, Way::Json];

/// What was heard, in the numbers of the way it came: a gRPC code or an HTTP status, and whether there was a delay.
type Heard = (u16, bool);

const OK: [Heard; 3] = [(0, false), (200, false), (200, false)];
const TRY_AGAIN: [Heard; 3] = [(14, true), (503, true), (503, true)];

/// The same status over HTTP, whatever the encoding.
const fn no(code: Code, status: u16) -> [Heard; 3] {
    [(code.0, false), (status, false), (status, false)]
}

/// A collector for `signals` with both listeners, in front of `sink`.
fn collector(sink: std::net::SocketAddr, grpc: &str, http: &str, exporter: &str, rest: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
ack_timeout = "1500ms"
{grpc}

[receivers.otlp.protocols.http]
endpoint = "127.0.0.1:0"
ack_timeout = "1500ms"
{http}

[exporters.otlp]
endpoint = "http://{sink}"
compression = "none"
retry_on_failure = {{ initial_interval = "20ms", max_interval = "100ms", circuit_breaker = {{ enabled = false }} }}
{exporter}

[pipelines.everything]
signals = ["traces", "logs"]
receivers = ["otlp"]
exporters = ["otlp"]
ack = "delivered"
{rest}
"#
    )
}

fn traces(number: u64) -> Bytes {
    TraceTemplate::new(number, 1).message(0)
}

fn to_json(signal: Telemetry, message: &[u8]) -> Vec<u8> {
    let mut json = Vec::new();
    telemetry::json::encode(signal, message, &mut json).unwrap();
    json
}

/// Posts traces and checks that the answer is written as the request was.
async fn post(engine: &Engine, way: Way, headers: &[(&str, &str)], body: &[u8]) -> Heard {
    let mut client = WebClient::connect(addresses(engine)[1]).await.unwrap();
    let media = if way == Way::Json { JSON } else { PROTOBUF };
    let headers: Vec<(&str, &str)> = headers.iter().copied().chain([("content-type", media)]).collect();
    let reply = client.send("POST", path(Signal::Traces), &headers, body).await.unwrap();
    assert_eq!(reply.header("content-type"), media, "{reply:?}");
    heard(&reply, way)
}

/// The answer in short, once its body has been understood.
fn heard(reply: &WebReply, way: Way) -> Heard {
    let after = reply.header("retry-after");
    if reply.status == 200 {
        assert_eq!(reply.body, if way == Way::Json { &b"{}"[..] } else { b"" });
    } else if way == Way::Json {
        let status: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert!(!status["message"].as_str().unwrap().is_empty(), "{status}");
        assert_eq!(status["details"].is_null(), after.is_empty(), "{status}");
    } else {
        let message = wire::children(&reply.body, 2).next().expect("a google.rpc.Status").unwrap();
        assert!(!message.is_empty());
        assert_eq!(wire::children(&reply.body, 3).count(), usize::from(!after.is_empty()));
    }
    assert!(after.is_empty() || after.parse::<u64>().unwrap() > 0, "{after}");
    (reply.status, !after.is_empty())
}

async fn call(engine: &Engine, head: &Head, framed: Bytes) -> Heard {
    let mut client = Client::connect(addresses(engine)[0]).await.unwrap();
    match client.call(head, framed).await.unwrap() {
        Reply::Accepted => (0, false),
        Reply::Partial(..) => panic!("nobody asked for a partial success"),
        Reply::Refused(status) => {
            assert!(!status.message.is_empty());
            (status.code.0, status.retry_delay.is_some())
        }
    }
}

/// Sends the same by every way.
async fn ask_all(engine: &Engine, message: &[u8]) -> [Heard; 3] {
    let head = Head::new(Signal::Traces, None, None);
    let json = to_json(Telemetry::Traces, message);
    let heard = tokio::join!(
        call(engine, &head, requests::frame(message)),
        post(engine, Way::Protobuf, &[], message),
        post(engine, Way::Json, &[], &json),
    );
    heard.into()
}

/// What the destination says, and what the sender then hears.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_destinations_answer_decides() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), "", "", "", "")).await;
    let status = |code: Code| Answer::Status(code, "not with me".into());
    let wait = Some(Duration::from_secs(1));
    for (answer, expected) in [
        (Answer::Ok, OK),
        (Answer::Partial(1, "half of it".into()), OK),
        (Answer::Partial(0, "a warning".into()), OK),
        (Answer::Unavailable { retry_delay: wait }, TRY_AGAIN),
        (Answer::Unavailable { retry_delay: None }, TRY_AGAIN),
        (status(Code::OUT_OF_RANGE), TRY_AGAIN),
        (status(Code::ABORTED), TRY_AGAIN),
        (Answer::Hang, TRY_AGAIN),
        (Answer::Close, TRY_AGAIN),
        (status(Code::INVALID_ARGUMENT), no(Code::INVALID_ARGUMENT, 400)),
        (status(Code::UNAUTHENTICATED), no(Code::UNAUTHENTICATED, 401)),
        (status(Code::PERMISSION_DENIED), no(Code::PERMISSION_DENIED, 403)),
        (status(Code::NOT_FOUND), no(Code::NOT_FOUND, 404)),
        (status(Code::UNIMPLEMENTED), no(Code::UNIMPLEMENTED, 404)),
        (status(Code::RESOURCE_EXHAUSTED), no(Code::RESOURCE_EXHAUSTED, 413)),
        (status(Code::INTERNAL), no(Code::INTERNAL, 500)),
        (status(Code::UNKNOWN), no(Code::UNKNOWN, 500)),
        (status(Code::ALREADY_EXISTS), no(Code::ALREADY_EXISTS, 500)),
        (status(Code::FAILED_PRECONDITION), no(Code::FAILED_PRECONDITION, 500)),
    ] {
        sink.answer(answer.clone());
        assert_eq!(ask_all(&engine, &traces(1)).await, expected, "{answer:?}");
    }
    sink.stop().await;
    assert_eq!(ask_all(&engine, &traces(1)).await, TRY_AGAIN, "nobody there");
    drained(&engine).await;
}

/// What is wrong with the request itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_request_is_told_what_is_wrong() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let limits = ["max_recv_msg_size_mib = 1", "max_request_body_size = \"1MiB\""];
    let engine = start(&collector(sink.addr(), limits[0], limits[1], "", "")).await;
    let head = |encoding| Head::new(Signal::Traces, None, encoding);
    let invalid = no(Code::INVALID_ARGUMENT, 400);
    let too_large = no(Code::RESOURCE_EXHAUSTED, 413);

    // Nothing is a success, and nothing is sent.
    assert_eq!(ask_all(&engine, b"").await, OK);
    assert_eq!(sink.snapshot().requests, 0);

    for bad in [&b"\xff\xff\xff\xff"[..], b"\x0a\x05abc", b"not protobuf"] {
        let heard = [
            call(&engine, &head(None), requests::frame(bad)).await,
            post(&engine, Way::Protobuf, &[], bad).await,
        ];
        assert_eq!(heard, invalid[..2]);
    }
    for bad in [
        &b""[..],
        b"{",
        b"[]",
        b"{\"resourceSpans\":3}",
        b"\xff",
        b"{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"kind\":\"SPAN_KIND_SERVER\"}]}]}]}",
    ] {
        assert_eq!(post(&engine, Way::Json, &[], bad).await, invalid[2], "{}", bad.escape_ascii());
    }

    let large = TraceTemplate::new(1, 5_000).message(0);
    assert!(large.len() > 1 << 20);
    assert_eq!(ask_all(&engine, &large).await, too_large);

    // Small on the wire, large inflated.
    let zeros = vec![0; 64 << 20];
    let packed = zstd::encode_all(&zeros[..], 1).unwrap();
    let framed: Bytes = [&[1][..], &(packed.len() as u32).to_be_bytes(), &packed].concat().into();
    let bomb = [
        call(&engine, &head(Some("zstd")), framed.clone()).await,
        post(&engine, Way::Protobuf, &[("content-encoding", "zstd")], &packed).await,
        post(&engine, Way::Json, &[("content-encoding", "zstd")], &packed).await,
    ];
    assert_eq!(bomb, too_large);

    // An encoding nobody knows, and one that the body is not in.
    let unknown = [
        call(&engine, &head(Some("br")), framed.clone()).await,
        post(&engine, Way::Protobuf, &[("content-encoding", "br")], &packed).await,
        post(&engine, Way::Json, &[("content-encoding", "br")], &packed).await,
    ];
    assert_eq!(unknown, no(Code::UNIMPLEMENTED, 400));
    let corrupt = [
        call(&engine, &head(Some("gzip")), framed).await,
        post(&engine, Way::Protobuf, &[("content-encoding", "gzip")], &packed).await,
        post(&engine, Way::Json, &[("content-encoding", "gzip")], &packed).await,
    ];
    assert_eq!(corrupt, no(Code::INTERNAL, 400));
    drained(&engine).await;
    assert_eq!(sink.snapshot().requests, 0);
}

/// What only HTTP can get wrong, and what nobody listens to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_there_can_be_asked_for() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), "", "traces_url_path = \"/in/traces\"", "", "")).await;
    let mut client = WebClient::connect(addresses(&engine)[1]).await.unwrap();
    let good = traces(1);
    for (method, path, media, expected) in [
        ("POST", "/in/traces", "application/x-protobuf; charset=utf-8", 200),
        ("POST", "/in/traces", "Application/X-Protobuf", 200),
        ("POST", "/v1/traces", PROTOBUF, 404),
        ("POST", "/v1/metrics", PROTOBUF, 404),
        ("POST", "/v1development/profiles", PROTOBUF, 404),
        ("POST", "/", PROTOBUF, 404),
        ("POST", "/in/traces", "text/plain", 415),
        ("POST", "/in/traces", "application/protobuf", 415),
        ("PUT", "/in/traces", PROTOBUF, 405),
        ("GET", "/in/traces", PROTOBUF, 405),
        ("DELETE", "/in/traces", PROTOBUF, 405),
    ] {
        let reply = client.send(method, path, &[("content-type", media)], &good).await;
        // A refusal may end the connection, since the body is not read.
        let reply = match reply {
            Ok(reply) => reply,
            Err(_) => {
                client = WebClient::connect(addresses(&engine)[1]).await.unwrap();
                client.send(method, path, &[("content-type", media)], &good).await.unwrap()
            }
        };
        assert_eq!(reply.status, expected, "{method} {path} {media}");
        assert!(reply.status != 405 || reply.header("allow") == "POST");
        if reply.status >= 400 && reply.header("connection") == "close" {
            client = WebClient::connect(addresses(&engine)[1]).await.unwrap();
        }
    }
    // Without a content type nothing says how to answer: in JSON then, which anybody can read.
    let mut client = WebClient::connect(addresses(&engine)[1]).await.unwrap();
    let reply = client.send("POST", "/in/traces", &[], &good).await.unwrap();
    assert_eq!((reply.status, reply.header("content-type")), (415, JSON));
    let mut client = WebClient::connect(addresses(&engine)[1]).await.unwrap();
    let reply = client.send_raw(b"POST /in/traces\r\n\r\n").await.unwrap();
    assert_eq!(reply.status, 400);

    let mut grpc = Client::connect(addresses(&engine)[0]).await.unwrap();
    let reply = grpc.export(Signal::Metrics, &requests::metrics(1)).await.unwrap();
    assert!(matches!(reply, Reply::Refused(Status { code: Code::UNIMPLEMENTED, .. })), "{reply:?}");
    drained(&engine).await;
}

/// Slow is not wrong: the sender may try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_too_slowly_may_come_again() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), "", "read_timeout = \"300ms\"", "", "")).await;
    let mut client = WebClient::connect(addresses(&engine)[1]).await.unwrap();
    let head = format!(
        "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ncontent-length: 1000\r\n\r\n"
    );
    let reply = client.send_raw(head.as_bytes()).await.unwrap();
    assert_eq!(heard(&reply, Way::Protobuf), (503, true));
    drained(&engine).await;
}

/// More than there is room for, and more than a sender may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_too_much_is_asked_to_wait() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    // Full: one request is in flight for as long as the destination hangs, and nothing waits behind it.
    let full = "timeout = \"30s\"\nsending_queue = { queue_size = 1, num_consumers = 1 }\n";
    let engine = start(&collector(sink.addr(), "", "", full, "")).await;
    sink.answer(Answer::Hang);
    for _ in 0..2 {
        assert_eq!(ask_all(&engine, &traces(1)).await, TRY_AGAIN);
    }
    sink.answer(Answer::Ok);
    drained(&engine).await;

    // No memory: the whole budget is smaller than what is in flight.
    let memory = collector(
        sink.addr(),
        "",
        "",
        "timeout = \"30s\"",
        "processors = [\"memory_limiter\"]\n[processors.memory_limiter]\nlimit_mib = 2\nspike_limit_mib = 1",
    );
    let engine = start(&memory).await;
    sink.answer(Answer::Hang);
    let large = TraceTemplate::new(2, 1_500).message(0);
    assert!(large.len() > 1 << 19 && large.len() < 1 << 20, "{}", large.len());
    let mut holding = Client::connect(addresses(&engine)[0]).await.unwrap();
    let before = sink.snapshot().requests;
    let refused = async {
        assert!(sink.wait_until(|counts| counts.requests > before, PATIENCE).await);
        let heard = [
            call(&engine, &Head::new(Signal::Traces, None, None), requests::frame(&large)).await,
            post(&engine, Way::Protobuf, &[], &large).await,
            post(&engine, Way::Json, &[], &to_json(Telemetry::Traces, &large)[..large.len()]).await,
        ];
        sink.answer(Answer::Ok);
        heard
    };
    let (_, heard) = tokio::join!(holding.export(Signal::Traces, &large), refused);
    assert_eq!(heard, TRY_AGAIN);
    drained(&engine).await;

    // Too often.
    let limit = "rate_limit = { requests_per_second = 1, burst = 2 }";
    let engine = start(&collector(sink.addr(), limit, limit, "", "")).await;
    for way in WAYS {
        let mut heard = Vec::new();
        for _ in 0..4 {
            heard.push(match way {
                Way::Grpc => {
                    call(&engine, &Head::new(Signal::Traces, None, None), requests::frame(&traces(3))).await
                }
                Way::Protobuf => post(&engine, way, &[], &traces(3)).await,
                Way::Json => post(&engine, way, &[], &to_json(Telemetry::Traces, &traces(3))).await,
            });
        }
        let expected = if way == Way::Grpc { (14, true) } else { (429, true) };
        assert_eq!(heard.last(), Some(&expected), "{way:?}: {heard:?}");
    }
    drained(&engine).await;
}

/// A collector that ends: what it has not passed on is refused, not dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_while_it_shuts_down_is_asked_to_try_again() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine =
        start(&collector(sink.addr(), "", "", "timeout = \"30s\"", "").replace("\"1500ms\"", "\"8s\"")).await;
    sink.answer(Answer::Hang);
    let asked = timeout(PATIENCE, async {
        tokio::join!(
            ask_one(&engine, Way::Grpc),
            ask_one(&engine, Way::Protobuf),
            ask_one(&engine, Way::Json),
            async {
                assert!(sink.wait_until(|counts| counts.requests >= 3, PATIENCE).await);
                // What is drained in time is refused; the deadline of the drain is before the senders'.
                let ended = engine.drain(Duration::from_secs(1)).await;
                assert!(matches!(ended, Ended::Drained | Ended::Incomplete { .. }), "{ended:?}");
            }
        )
    });
    let (grpc, protobuf, json, ()) = asked.await.unwrap();
    assert_eq!([grpc, protobuf, json], TRY_AGAIN);
}

async fn ask_one(engine: &Engine, way: Way) -> Heard {
    match way {
        Way::Grpc => call(engine, &Head::new(Signal::Traces, None, None), requests::frame(&traces(1))).await,
        Way::Protobuf => post(engine, way, &[], &traces(1)).await,
        Way::Json => post(engine, way, &[], &to_json(Telemetry::Traces, &traces(1))).await,
    }
}

/// The other direction: what the HTTP exporter does with each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_exporter_obeys_each_answer() {
    let _turn = beside_others().await;
    for encoding in ["proto", "json"] {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let text = collector(reserve(), "", "", "", "")
            .replace("[exporters.otlp]", "[exporters.otlphttp]")
            .replace("exporters = [\"otlp\"]", "exporters = [\"otlphttp\"]");
        let text = text.replacen(
            "endpoint = \"http://",
            &format!("encoding = \"{encoding}\"\nendpoint = \"http://{}\" # ", sink.addr()),
            1,
        );
        let engine = start(&text).await;
        let http = |status: u16| Answer::Http(status, Vec::new());
        // Taken at the second attempt.
        for status in [429, 502, 503, 504] {
            sink.reset();
            sink.answer_next([http(status)]);
            assert_eq!(ask_one(&engine, Way::Grpc).await, (0, false), "{status}");
            assert_eq!((sink.snapshot().requests, sink.snapshot().taken), (2, 1), "{status}");
        }
        // Waited for as long as it said.
        sink.reset();
        sink.answer_next([Answer::Http(503, vec![("retry-after".into(), "1".into())])]);
        let since = tokio::time::Instant::now();
        assert_eq!(ask_one(&engine, Way::Grpc).await, (0, false));
        assert!(since.elapsed() >= Duration::from_secs(1));
        // Never sent again.
        for (status, code) in [
            (400, Code::INVALID_ARGUMENT),
            (401, Code::UNAUTHENTICATED),
            (403, Code::PERMISSION_DENIED),
            (404, Code::UNIMPLEMENTED),
            (405, Code::UNIMPLEMENTED),
            (413, Code::RESOURCE_EXHAUSTED),
            (500, Code::UNKNOWN),
            (501, Code::UNKNOWN),
            (302, Code::UNKNOWN),
        ] {
            sink.reset();
            sink.answer_next([http(status)]);
            assert_eq!(ask_one(&engine, Way::Grpc).await, (code.0, false), "{status}");
            assert_eq!(sink.snapshot().requests, 1, "{status}");
        }
        // A connection that breaks off is tried anew.
        sink.reset();
        sink.answer_next([Answer::Close, Answer::AckThenClose, Answer::Ok]);
        assert_eq!(ask_one(&engine, Way::Grpc).await, (0, false));
        assert_eq!(ask_one(&engine, Way::Grpc).await, (0, false));
        // Partial success is counted once and never sent again.
        sink.reset();
        sink.answer_next([Answer::Partial(1, "a bad one".into())]);
        assert_eq!(ask_one(&engine, Way::Grpc).await, (0, false));
        assert_eq!(sink.snapshot().requests, 1);
        let failed = engine.metrics().total("otelcol_exporter_send_failed_spans");
        assert_eq!(failed, 9 + 1, "nine that were rejected, and one of the partial success");
        // Too large together, not too large in parts.
        sink.reset();
        sink.answer_by(|arrival| if arrival.items > 10 { Answer::Http(413, Vec::new()) } else { Answer::Ok });
        let many = TraceTemplate::new(7, 33).message(0);
        assert_eq!(
            call(&engine, &Head::new(Signal::Traces, None, None), requests::frame(&many)).await,
            (0, false)
        );
        assert_eq!((sink.snapshot().spans, sink.snapshot().runs[&7].extra), (33, 0));
        drained(&engine).await;
    }
}

/// The same of the gRPC exporter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_grpc_exporter_obeys_each_answer() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let engine = start(&collector(sink.addr(), "", "", "", "")).await;
    let status = |code: Code| Answer::Status(code, "not with me".into());
    for code in [
        Code::CANCELLED,
        Code::DEADLINE_EXCEEDED,
        Code::ABORTED,
        Code::OUT_OF_RANGE,
        Code::UNAVAILABLE,
        Code::DATA_LOSS,
    ] {
        sink.reset();
        sink.answer_next([status(code)]);
        assert_eq!(ask_one(&engine, Way::Protobuf).await, (200, false), "{code}");
        assert_eq!((sink.snapshot().requests, sink.snapshot().taken), (2, 1), "{code}");
    }
    let never = [
        Code::UNKNOWN,
        Code::INVALID_ARGUMENT,
        Code::NOT_FOUND,
        Code::ALREADY_EXISTS,
        Code::PERMISSION_DENIED,
        Code::RESOURCE_EXHAUSTED,
        Code::FAILED_PRECONDITION,
        Code::UNIMPLEMENTED,
        Code::INTERNAL,
        Code::UNAUTHENTICATED,
    ];
    for code in never {
        sink.reset();
        sink.answer_next([status(code)]);
        let (_, again) = ask_one(&engine, Way::Protobuf).await;
        assert_eq!((again, sink.snapshot().requests), (false, 1), "{code}");
    }
    // Waited for as long as it said.
    sink.reset();
    sink.answer_next([Answer::Unavailable { retry_delay: Some(Duration::from_secs(1)) }]);
    let since = tokio::time::Instant::now();
    assert_eq!(ask_one(&engine, Way::Protobuf).await, (200, false));
    assert!(since.elapsed() >= Duration::from_secs(1));
    // Partial success is counted once and never sent again.
    sink.reset();
    sink.answer_next([Answer::Partial(1, "a bad one".into())]);
    assert_eq!(ask_one(&engine, Way::Protobuf).await, (200, false));
    assert_eq!(sink.snapshot().requests, 1);
    assert_eq!(engine.metrics().total("otelcol_exporter_send_failed_spans"), never.len() as u64 + 1);
    // Too large together, not too large in parts.
    sink.reset();
    let too_large = status(Code::RESOURCE_EXHAUSTED);
    sink.answer_by(move |arrival| if arrival.items > 10 { too_large.clone() } else { Answer::Ok });
    let many = TraceTemplate::new(7, 33).message(0);
    assert_eq!(post(&engine, Way::Protobuf, &[], &many).await, (200, false));
    assert_eq!((sink.snapshot().spans, sink.snapshot().runs[&7].extra), (33, 0));
    drained(&engine).await;
}
