//! Extensions: who may send, and by what headers an exporter gets in elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use watershed::engine::Engine;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::{Code, Signal};
use watershed_testkit::requests::TraceTemplate;
use watershed_testkit::{Answer, Sink, reserve, wait_until, web};

use crate::harness::process::{Finished, file, finish};
use crate::harness::tls::Files;
use crate::harness::{
    PATIENCE, addresses, arrivals, beside_others, both_protocols, call, drained, header, metric, post, start,
};

/// A pipeline for traces between receiver `otlp` and `exporter`.
const PIPELINE: &str = r#"
[pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp"]
ack = "delivered"
"#;

/// A collector that lets in whom `extension` lets in.
fn guarded(sink: &Sink, name: &str, extension: &str) -> String {
    format!(
        "[extensions.{name}]\n{extension}\n{}\n[exporters.otlp]\nendpoint = \"http://{}\"\n{PIPELINE}",
        both_protocols(&format!("auth = {{ authenticator = {name:?} }}")),
        sink.addr()
    )
}

fn spans(count: usize) -> Bytes {
    TraceTemplate::new(1, count).message(0)
}

/// Sends with these headers over gRPC and over HTTP: `None` is let in by both, or the challenge of who was not.
async fn knock(engine: &Engine, headers: &[(&str, &str)]) -> Option<String> {
    let [grpc, http] = addresses(engine);
    // Where passwords are costly to check, who comes right after a wrong one is asked to wait.
    let later = |delay: &str| std::time::Duration::from_secs(delay.parse().unwrap_or(0));
    let reply = loop {
        let reply = post(http, Signal::Traces, headers, &spans(1)).await;
        if reply.status != 503 {
            break reply;
        }
        tokio::time::sleep(later(reply.header("retry-after"))).await;
    };
    let called = loop {
        match call(grpc, Signal::Traces, headers, &spans(1)).await {
            Reply::Refused(status) if status.code == Code::UNAVAILABLE => {
                tokio::time::sleep(status.retry_delay.unwrap_or_default()).await;
            }
            called => break called,
        }
    };
    match called {
        Reply::Accepted => {
            assert_eq!(reply.status, 200, "{reply:?}");
            None
        }
        Reply::Refused(status) => {
            assert_eq!((status.code, reply.status), (Code::UNAUTHENTICATED, 401), "{status}");
            assert_eq!(status.retry_delay, None);
            Some(reply.header("www-authenticate").to_owned())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bearer_tokens_let_in_and_change_with_their_file() {
    let _turn = beside_others().await;
    let files = Files::new();
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let filename = files.write("tokens", "first\nsecond\n");
    let engine = start(&guarded(&sink, "bearertokenauth", &format!("filename = {filename}"))).await;
    for token in ["Bearer first", "bearer second"] {
        assert_eq!(knock(&engine, &[("authorization", token)]).await, None);
    }
    for wrong in [&[][..], &[("authorization", "Bearer third")], &[("authorization", "first")]] {
        assert!(knock(&engine, wrong).await.unwrap().starts_with("Bearer"), "{wrong:?}");
    }
    let metrics = engine.metrics().render();
    let unauthenticated = "watershed_receiver_refused_requests{receiver=\"otlp\",reason=\"unauthenticated\"}";
    assert_eq!(metric(&metrics, unauthenticated), 6.0);

    files.write("tokens", "third\n");
    let [grpc, _] = addresses(&engine);
    let third = [("authorization", "Bearer third")];
    let known =
        wait_until(async || call(grpc, Signal::Traces, &third, &spans(1)).await == Reply::Accepted, PATIENCE);
    assert!(known.await, "the new token is never known");
    assert!(knock(&engine, &[("authorization", "Bearer first")]).await.is_some());
    // A file that is gone changes nothing.
    std::fs::remove_file(files.path("tokens")).unwrap();
    assert_eq!(knock(&engine, &third).await, None);
    drained(&engine).await;
    assert_eq!(sink.snapshot().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_api_keys_let_in() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    // `ann:secret` by bcrypt at its lowest cost, `bob:plain` as it is.
    let users = "ann:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\nbob:plain\n";
    let engine = start(
        &guarded(&sink, "basicauth", &format!("htpasswd = {{ inline = {users:?} }}"))
            // A dollar sign begins a reference.
            .replace('$', "$$"),
    )
    .await;
    for user in ["Basic YW5uOnNlY3JldA==", "basic Ym9iOnBsYWlu"] {
        assert_eq!(knock(&engine, &[("authorization", user)]).await, None, "{user}");
    }
    // ann:plain, nobody, no base64, no user.
    for wrong in ["Basic YW5uOnBsYWlu", "Basic bm9ib2R5OnBsYWlu", "Basic ???", "Bearer YW5uOnNlY3JldA=="] {
        assert!(knock(&engine, &[("authorization", wrong)]).await.unwrap().starts_with("Basic"), "{wrong}");
    }
    drained(&engine).await;

    let key = "header = \"X-API-Key\"\nscheme = \"\"\ntokens = [\"one\", \"two\"]";
    let engine = start(&guarded(&sink, "bearertokenauth", key)).await;
    assert_eq!(knock(&engine, &[("x-api-key", "two")]).await, None);
    for wrong in [("x-api-key", "three"), ("authorization", "one"), ("authorization", "Bearer one")] {
        // 401 has to name a scheme, though there is none for a key.
        assert!(!knock(&engine, &[wrong]).await.unwrap().is_empty(), "{wrong:?}");
    }
    drained(&engine).await;
}

/// Agent and gateway share a secret; each role has extensions of its own under the same name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_gets_in_at_a_gateway() {
    let _turn = beside_others().await;
    let users = r#"htpasswd = { inline = "agent:secret" }"#;
    let user = |password: &str| format!("client_auth = {{ username = \"agent\", password = {password:?} }}");
    for (extension, server, good, bad) in [
        (
            "bearertokenauth",
            "token = \"s3cret\"",
            "token = \"s3cret\"".to_owned(),
            "token = \"x\"".to_owned(),
        ),
        ("basicauth", users, user("secret"), user("wrong")),
    ] {
        for (kind, client) in [("otlp", &good), ("otlphttp", &good), ("otlp", &bad), ("otlphttp", &bad)] {
            let sink = Sink::start("127.0.0.1:0").await.unwrap();
            let (grpc, http) = (reserve(), reserve());
            let destination = if kind == "otlp" { grpc } else { http };
            let text = format!(
                r#"
[agent.extensions.{extension}]
{client}
[agent.receivers.otlp.protocols.grpc]
endpoint = "127.0.0.1:0"
[agent.exporters.{kind}]
endpoint = "http://{destination}"
auth = {{ authenticator = "{extension}" }}
[agent.pipelines.traces]
receivers = ["otlp"]
exporters = ["{kind}"]
ack = "delivered"
[gateway.extensions.{extension}]
{server}
[gateway.receivers.otlp.protocols.grpc]
endpoint = "{grpc}"
auth = {{ authenticator = "{extension}" }}
[gateway.receivers.otlp.protocols.http]
endpoint = "{http}"
auth = {{ authenticator = "{extension}" }}
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
            let reply = call(agent, Signal::Traces, &[], &spans(3)).await;
            if client == &good {
                assert_eq!((&reply, sink.arrived()), (&Reply::Accepted, 3), "{extension}, {kind}");
            } else {
                let Reply::Refused(status) = reply else { panic!("{reply:?}") };
                assert_eq!((status.code, sink.arrived()), (Code::UNAUTHENTICATED, 0), "{extension}, {kind}");
            }
            drained(&engine).await;
        }
    }
}

/// Messages of two tenants wait together, and leave apart: each with the header of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_are_never_merged() {
    let _turn = beside_others().await;
    for kind in ["otlp", "otlphttp"] {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let arrived = arrivals(&sink);
        let text = format!(
            r#"
[extensions.headers_setter]
headers = [
    {{ key = "X-Scope-OrgID", from_context = "x-tenant", default_value = "nobody" }},
    {{ key = "X-User", from_attribute = "username" }},
]
[extensions.basicauth]
htpasswd = {{ inline = "ann:a\nbob:b" }}
{}
[processors.batch]
timeout = "300ms"
[exporters.{kind}]
endpoint = "http://{}"
auth = {{ authenticator = "headers_setter" }}
[pipelines.traces]
receivers = ["otlp"]
processors = ["batch"]
exporters = ["{kind}"]
ack = "accepted"
"#,
            both_protocols("include_metadata = true\nauth = { authenticator = \"basicauth\" }"),
            sink.addr()
        );
        let engine = start(&format!("service.lanes = 1\n{text}")).await;
        let [grpc, http] = addresses(&engine);
        // ann:a and bob:b. Sizes by which no sum of one sender's is another's.
        let (ann, bob) = (("authorization", "Basic YW5uOmE="), ("authorization", "Basic Ym9iOmI="));
        let senders = [
            (vec![ann, ("x-tenant", "red")], ["red", "ann"], 1),
            (vec![ann, ("x-tenant", "blue")], ["blue", "ann"], 100),
            (vec![bob, ("x-tenant", "red")], ["red", "bob"], 1_000),
            (vec![ann], ["nobody", "ann"], 7),
        ];
        for round in 0..10 {
            for (headers, _, size) in &senders {
                if round % 2 == 0 {
                    let reply = call(grpc, Signal::Traces, headers, &spans(*size)).await;
                    assert_eq!(reply, Reply::Accepted);
                } else {
                    let reply = post(http, Signal::Traces, headers, &spans(*size)).await;
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
            }
        }
        drained(&engine).await;
        let arrived = arrived.lock();
        for (_, [tenant, user], size) in &senders {
            let own = |arrival: &&watershed_testkit::Arrival| {
                [header(arrival, "x-scope-orgid"), header(arrival, "x-user")] == [*tenant, *user]
            };
            let batches: Vec<u64> = arrived.iter().filter(own).map(|arrival| arrival.items).collect();
            assert_eq!(
                batches.iter().sum::<u64>(),
                10 * *size as u64,
                "{kind}, {tenant} of {user}: {batches:?}"
            );
            assert!(batches.len() < 10, "{kind}, {tenant} of {user}: nothing was merged: {batches:?}");
        }
        assert!(arrived.iter().all(|arrival| arrival.headers.get("authorization").is_none()));
    }
}

/// An authorisation server: every request gets a token of its own, `token-1` first. Keeps what it was asked.
struct Tokens {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<web::Message>>>,
    _task: JoinSet<()>,
}

impl Tokens {
    async fn start() -> Tokens {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<web::Message>>>::default();
        let seen = asked.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let mut io = BufReader::new(listener.accept().await.unwrap().0);
                let Ok(Some(request)) = web::read(&mut io).await else { continue };
                let number = {
                    let mut seen = seen.lock();
                    seen.push(request);
                    seen.len()
                };
                let body =
                    format!(r#"{{"access_token":"token-{number}","token_type":"bearer","expires_in":3600}}"#);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = io.get_mut().write_all(answer.as_bytes()).await;
            }
        });
        Tokens { address, asked, _task: task }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_got_once_and_anew_when_it_is_refused() {
    let _turn = beside_others().await;
    for kind in ["otlp", "otlphttp"] {
        let tokens = Tokens::start().await;
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        // Which token is good.
        let good = Arc::new(AtomicUsize::new(1));
        let accepted = good.clone();
        sink.answer_by(move |arrival| {
            let expected = format!("Bearer token-{}", accepted.load(Ordering::SeqCst));
            match (header(arrival, "authorization") == expected, kind) {
                (true, _) => Answer::Ok,
                (false, "otlp") => Answer::Status(Code::UNAUTHENTICATED, "expired".into()),
                (false, _) => Answer::Http(401, Vec::new()),
            }
        });
        let text = format!(
            r#"
[extensions.oauth2client]
client_id = "shop"
client_secret = "s3cret"
token_url = "http://{}/token"
scopes = ["write", "telemetry"]
endpoint_params = {{ audience = "sink" }}
{}
[exporters.{kind}]
endpoint = "http://{}"
auth = {{ authenticator = "oauth2client" }}
[pipelines.traces]
receivers = ["otlp"]
exporters = ["{kind}"]
ack = "delivered"
"#,
            tokens.address,
            both_protocols(""),
            sink.addr()
        );
        let engine = start(&text).await;
        let [grpc, _] = addresses(&engine);
        // All at once: one asks for the token, the others wait for it.
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            calls.spawn(async move { call(grpc, Signal::Traces, &[], &spans(1)).await });
        }
        assert_eq!(calls.join_all().await, [const { Reply::Accepted }; 8], "{kind}");
        good.store(2, Ordering::SeqCst);
        let replies = wait_until(
            async || call(grpc, Signal::Traces, &[], &spans(1)).await == Reply::Accepted,
            PATIENCE,
        );
        assert!(replies.await, "{kind}: no new token");
        drained(&engine).await;

        let asked = tokens.asked.lock();
        assert_eq!(asked.len(), 2, "{kind}: {asked:?}");
        for request in &*asked {
            assert_eq!(request.start, "POST /token HTTP/1.1");
            // shop:s3cret
            assert_eq!(request.headers["authorization"], "Basic c2hvcDpzM2NyZXQ=");
            let form = String::from_utf8(request.body.clone()).unwrap();
            let mut pairs: Vec<&str> = form.split('&').collect();
            pairs.sort_unstable();
            assert_eq!(pairs, ["audience=sink", "grant_type=client_credentials", "scope=write+telemetry"]);
        }
    }
}

const MISTAKES: &str = r#"
[gateway.extensions.bearertokenauth]
token = "x"
tokens = ["y"]

[gateway.extensions."basicauth/spare"]
htpasswd = { inline = "a:b" }

[gateway.extensions.headers_setter]
headers = [{ key = "x", value = "y" }]

[gateway.receivers.otlp.protocols.grpc]
auth = { authenticator = "headers_setter" }

[gateway.receivers.otlp.protocols.http]
auth = { authenticator = "baererAuth" }

[gateway.exporters.otlp]
endpoint = "http://localhost:1"
auth = { authenticator = "basicauth/spar" }

[gateway.pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_extension_is_told_by_its_place() {
    let _turn = beside_others().await;
    let (_directory, path) = file("extensions.toml", MISTAKES);
    let path = path.display().to_string();
    let Finished { code, stderr, .. } = finish(&["validate", "--config", &path]).await;
    assert_eq!(code, Some(1), "{stderr}");
    for (at, what) in [
        ("4:10", "either tokens or token"),
        ("13:26", "extension `headers_setter` can not authenticate senders"),
        ("16:26", "no extension type `baererAuth`"),
        ("20:26", "did you mean `basicauth/spare`?"),
    ] {
        let blocks: Vec<&str> =
            stderr.split("\n\n").filter(|block| block.contains(&format!("{path}:{at}"))).collect();
        assert!(blocks.iter().any(|block| block.contains(what)), "{at}, {what}:\n{stderr}");
    }
    // What nothing names is no mistake, but said.
    let right = MISTAKES
        .replace("tokens = [\"y\"]\n", "")
        .replace("\"headers_setter\" }", "\"bearertokenauth\" }")
        .replace("baererAuth", "bearertokenauth")
        .replace("basicauth/spar\"", "headers_setter\"");
    let (_directory, path) = file("extensions.toml", &right);
    let Finished { code, stdout, stderr } =
        finish(&["validate", "--config", &path.display().to_string()]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let told = format!("{stdout}{stderr}");
    assert!(told.contains("extension `basicauth/spare` is configured, but nothing names it"), "{told}");
}
