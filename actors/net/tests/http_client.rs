//! The HTTP client against servers that answer well, badly, late or not at all.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;
mod doubles;

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::{telemetry, until};
use doubles::h1::{H1, Then, answer, ok};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Uri};
use tokio::sync::Semaphore;
use watershed_delivery::Budget;
use watershed_net::{
    Compression, EndpointError, HttpAnswer, HttpClient, HttpClientOptions, HttpError, HttpErrorKind,
};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

fn client(change: impl FnOnce(&mut HttpClientOptions)) -> HttpClient {
    let mut options = HttpClientOptions::default();
    change(&mut options);
    HttpClient::new(options).unwrap()
}

async fn post(client: &HttpClient, url: &Uri, body: &Bytes) -> Result<HttpAnswer, HttpError> {
    let patience = Some(Duration::from_secs(10));
    client.post(url, PROTOBUF, &HeaderMap::new(), std::slice::from_ref(body), patience).await
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test]
async fn what_goes_along_arrives() {
    let server = H1::start(|_| ok()).await;
    let client = client(|options| {
        options.headers = vec![("X-Tenant".into(), "blue".into()), ("X-Team".into(), "a".into())];
        options.user_agent = "unit/1".to_owned();
    });
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", HeaderValue::from_static("green"));
    headers.insert("authorization", HeaderValue::from_static("Bearer t"));
    headers.insert("content-length", HeaderValue::from_static("1"));
    let body = telemetry(300_000);
    let pieces = [body.slice(..7), Bytes::new(), body.slice(7..100_000), body.slice(100_000..), Bytes::new()];
    let url = server.url("/v1/traces?a=b");
    let answer = is_send(client.post(&url, PROTOBUF, &headers, &pieces, None)).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..], answer.cut), (200, &b"ok"[..], false));
    let request = server.requests.lock().pop().unwrap();
    assert_eq!(request.line, "POST /v1/traces?a=b HTTP/1.1");
    assert!(request.body == body);
    for (name, value) in [
        ("host", server.addr.to_string().as_str()),
        ("content-type", "application/x-protobuf"),
        ("content-length", "300000"),
        ("user-agent", "unit/1"),
        ("x-tenant", "green"),
        ("x-team", "a"),
        ("authorization", "Bearer t"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(request.headers.len(), 7, "{:?}", request.headers);
    // A body of nothing has a length too.
    client.post(&url, PROTOBUF, &HeaderMap::new(), &[], None).await.unwrap();
    assert_eq!(server.requests.lock().pop().unwrap().header("content-length"), Some("0"));
}

#[tokio::test]
async fn one_connection_does_while_requests_come_one_by_one() {
    let server = H1::start(|request| match request.at.1 % 3 {
        0 => ok(),
        1 => (answer("503 Busy", "", &"x".repeat(30_000)), Then::Keep),
        _ => (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n".to_vec(),
            Then::Keep,
        ),
    })
    .await;
    let client = client(|_| {});
    for turn in 0..30 {
        let answer = post(&client, &server.url("/"), &telemetry(40_000)).await.unwrap();
        let (status, length) = [(200, 2), (503, 30_000), (200, 3)][turn % 3];
        assert_eq!((answer.status.as_u16(), answer.body.len(), answer.cut), (status, length, false));
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(server.requests.lock().len(), 30);
}

#[tokio::test]
async fn connections_are_kept_within_bounds() {
    let server = H1::start(|_| ok()).await;
    let url = server.url("/");
    let several = async |client: &HttpClient| {
        let body = telemetry(1000);
        for answer in join_all((0..8).map(|_| post(client, &url, &body))).await {
            assert_eq!(answer.unwrap().status, 200);
        }
    };
    let generous = client(|options| options.idle_conn_timeout = Duration::MAX);
    several(&generous).await;
    assert_eq!((server.accepted(), server.open()), (8, 8), "one for each");
    several(&generous).await;
    assert_eq!(server.accepted(), 8, "and again");
    drop(generous);
    until(|| server.open() == 0).await;

    let sparing = client(|options| options.max_idle_conns_per_host = 2);
    several(&sparing).await;
    until(|| server.open() == 2).await;
    drop(sparing);
    until(|| server.open() == 0).await;

    let before = server.accepted();
    let narrow = client(|options| options.max_conns_per_host = 3);
    several(&narrow).await;
    several(&narrow).await;
    assert_eq!(server.accepted() - before, 3);
    drop(narrow);

    let before = server.accepted();
    let single_use = client(|options| options.disable_keep_alives = true);
    several(&single_use).await;
    several(&single_use).await;
    assert_eq!(server.accepted() - before, 16);
    assert_eq!(server.requests.lock().last().unwrap().header("connection"), Some("close"));
    until(|| server.open() == 0).await;
}

#[tokio::test]
async fn whoever_waits_for_a_turn_times_out_too() {
    let server = H1::start(|_| (Vec::new(), Then::Stall)).await;
    let client = client(|options| options.max_conns_per_host = 1);
    let url = server.url("/");
    let call = || client.post(&url, PROTOBUF, &NONE, &[], Some(Duration::from_millis(50)));
    let (one, two) = tokio::join!(call(), call());
    assert_eq!(
        (one.unwrap_err().kind, two.unwrap_err().kind),
        (HttpErrorKind::TimedOut, HttpErrorKind::TimedOut)
    );
    assert_eq!(server.requests.lock().len(), 1);
    until(|| server.open() == 0).await;
}

static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);

#[tokio::test]
async fn unused_connections_are_closed_after_a_while() {
    let server = H1::start(|_| ok()).await;
    let client = client(|options| options.idle_conn_timeout = Duration::from_millis(30));
    for accepted in 1..3 {
        post(&client, &server.url("/"), &telemetry(100)).await.unwrap();
        assert_eq!(server.accepted(), accepted);
        // Nobody asks for anything meanwhile.
        until(|| server.open() == 0).await;
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_costs_nobody_an_error() {
    // Closed with the answer, and closed when the next request comes, which is when the client cannot know yet.
    let server = H1::start(|request| match request.at {
        (0, _) => (answer("200 OK", "", "ok"), Then::Close),
        (1, 1) => (Vec::new(), Then::Close),
        (2, 1) => (Vec::new(), Then::Reset),
        _ => ok(),
    })
    .await;
    let client = client(|_| {});
    for _ in 0..6 {
        assert_eq!(post(&client, &server.url("/"), &telemetry(100_000)).await.unwrap().status, 200);
    }
    assert_eq!(server.accepted(), 4);
    assert_eq!(server.requests.lock().len(), 8, "two of them twice");
}

#[tokio::test]
async fn a_server_that_closes_every_time_is_not_asked_for_ever() {
    let server = H1::start(|request| match request.at {
        (0, 0) => ok(),
        _ => (Vec::new(), Then::Close),
    })
    .await;
    let client = client(|_| {});
    post(&client, &server.url("/"), &telemetry(100)).await.unwrap();
    let error = post(&client, &server.url("/"), &telemetry(100)).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Lost);
    assert!(error.message.contains(&server.addr.to_string()), "{error}");
    assert_eq!(server.requests.lock().len(), 3);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_lost() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    let cases = [
        (head.clone(), Then::Close),
        (head, Then::Reset),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf".to_vec(), Then::Close),
        (b"HTTP/1.1 200 OK\r\nContent-".to_vec(), Then::Close),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), Then::Close),
        (Vec::new(), Then::Reset),
    ];
    for (bytes, then) in cases {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let server = H1::start(move |_| (bytes.clone(), then)).await;
        let error = post(&client(|_| {}), &server.url("/"), &telemetry(100)).await.unwrap_err();
        assert_eq!(error.kind, HttpErrorKind::Lost, "{text}: {error}");
        assert!(error.kind.is_retryable());
        assert_eq!(server.requests.lock().len(), 1, "{text}");
    }
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let server = H1::start(|_| ok()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://{addr}/").parse().unwrap();
    let error = post(&client(|_| {}), &url, &Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind, HttpErrorKind::Connect);
    assert!(error.message.contains(&format!("cannot connect to {addr}: Connection refused")), "{error}");
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn a_timeout_ends_a_request_and_its_connection() {
    let partial = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec();
    for bytes in [Vec::new(), partial] {
        let server = H1::start(move |_| (bytes.clone(), Then::Stall)).await;
        let timeout = Some(Duration::from_millis(50));
        let client = client(|_| {});
        let error = client.post(&server.url("/"), PROTOBUF, &NONE, &[], timeout).await.unwrap_err();
        assert_eq!(error.kind, HttpErrorKind::TimedOut);
        assert_eq!(error.message, "no answer within 50ms");
        until(|| server.open() == 0).await;
    }
}

#[tokio::test]
async fn a_response_is_read_up_to_its_limit() {
    let server = H1::start(|request| {
        let (status, length) = request.line.split(' ').nth(1).unwrap()[1..].split_once('/').unwrap();
        let body = "x".repeat(length.parse().unwrap());
        let chunked = format!(
            "HTTP/1.1 {status} S\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        match request.header("x-form") {
            Some(_) => (chunked.into_bytes(), Then::Keep),
            None => (answer(&format!("{status} S"), "", &body), Then::Keep),
        }
    })
    .await;
    for form in [None, Some(("x-form".to_owned(), "chunked".to_owned()))] {
        let client = client(|options| {
            options.max_response_size = 100_000;
            options.headers.extend(form.clone());
        });
        let fits = post(&client, &server.url("/200/100000"), &Bytes::new()).await.unwrap();
        assert_eq!((fits.body.len(), fits.cut), (100_000, false));
        let error = post(&client, &server.url("/200/100001"), &Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind, HttpErrorKind::TooLarge, "{error}");
        assert!(!error.kind.is_retryable());
        assert!(error.message.ends_with("is larger than 100000 bytes"), "{error}");
        // What matters about it is the status, and that it can be retried.
        let complaint = post(&client, &server.url("/503/5000000"), &Bytes::new()).await.unwrap();
        assert_eq!((complaint.status.as_u16(), complaint.body.len(), complaint.cut), (503, 64 << 10, true));
    }
}

#[tokio::test]
async fn statuses_and_delays_are_handed_on() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    let server = H1::start(move |request| match request.line.split(' ').nth(1).unwrap() {
        "/seconds" => (answer("429 Too Many", "Retry-After: 7\r\n", "slow down"), Then::Keep),
        "/date" => (answer("503 Busy", &format!("Retry-After: {date}\r\n"), ""), Then::Keep),
        "/odd" => (answer("503 Busy", "Retry-After: soon\r\n", ""), Then::Keep),
        "/moved" => (answer("307 Moved", "Location: http://elsewhere.example/\r\n", ""), Then::Keep),
        "/nothing" => (b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), Then::Keep),
        _ => (answer("400 Bad", "", "no"), Then::Keep),
    })
    .await;
    let client = client(|_| {});
    let get = async |path: &str| post(&client, &server.url(path), &Bytes::new()).await.unwrap();
    let seconds = get("/seconds").await;
    assert_eq!((seconds.status.as_u16(), seconds.retry_after), (429, Some(Duration::from_secs(7))));
    assert_eq!(seconds.body, "slow down");
    let date = get("/date").await.retry_after.unwrap();
    assert!((Duration::from_secs(80)..=Duration::from_secs(100)).contains(&date), "{date:?}");
    assert_eq!(get("/odd").await.retry_after, None);
    let moved = get("/moved").await;
    assert_eq!(
        (moved.status.as_u16(), &moved.headers["location"]),
        (307, &HeaderValue::from_static("http://elsewhere.example/"))
    );
    assert_eq!(get("/nothing").await.status, 204);
    assert_eq!(get("/bad").await.status, 400);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_server_that_answers_before_it_has_the_body_is_heard() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let gone = Arc::new(Semaphore::new(0));
    let hold = gone.clone();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(&answer("413 Too Large", "", "no")).await.unwrap();
        drop(hold.acquire().await);
        // The rest of the body is not sent after its answer: the connection is closed.
        stream.read_to_end(&mut Vec::new()).await
    });
    let client = client(|_| {});
    let answer = post(&client, &url, &Bytes::from(vec![0; 64 << 20])).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (413, &b"no"[..]));
    gone.add_permits(1);
    let _ = server.await.unwrap();
}

#[tokio::test]
async fn bodies_are_compressed_inside_the_budget() {
    type Inflate = fn(&[u8]) -> Vec<u8>;
    fn all(mut reader: impl Read) -> Vec<u8> {
        let mut inflated = Vec::new();
        reader.read_to_end(&mut inflated).unwrap();
        inflated
    }
    let cases: [(Compression, &str, Inflate); 4] = [
        (Compression::Gzip(1), "gzip", |body| all(flate2::read::GzDecoder::new(body))),
        (Compression::Zstd(3), "zstd", |body| zstd::stream::decode_all(body).unwrap()),
        (Compression::Deflate(6), "deflate", |body| all(flate2::read::ZlibDecoder::new(body))),
        (Compression::Snappy, "snappy", |body| all(snap::read::FrameDecoder::new(body))),
    ];
    for (compression, name, inflate) in cases {
        let budget = Budget::new(1 << 20);
        let seen = budget.clone();
        let server = H1::start(move |request| {
            assert_eq!(seen.used(), request.body.len() as u64, "charged while it is sent");
            ok()
        })
        .await;
        let client = client(|options| {
            options.compression = compression;
            options.budget = Some(budget.clone());
        });
        for length in [0, 10, 40_000, 300_000] {
            let body = telemetry(length);
            let pieces = [body.slice(..length / 3), Bytes::new(), body.slice(length / 3..)];
            client.post(&server.url("/"), PROTOBUF, &NONE, &pieces, None).await.unwrap();
            assert_eq!(budget.used(), 0);
            let request = server.requests.lock().pop().unwrap();
            assert_eq!(request.header("content-encoding"), Some(name));
            assert!(inflate(&request.body) == body, "{name} {length}");
            assert!(length < 1000 || request.body.len() < length / 2, "{name} {length}");
        }
    }
}

#[test]
fn what_cannot_be_sent_is_said_beforehand() {
    for name in ["Content-Length", "connection", "user-agent", "content-type", "a b"] {
        let headers = vec![(name.to_owned(), "x".to_owned())];
        let error =
            HttpClient::new(HttpClientOptions { headers, ..HttpClientOptions::default() }).unwrap_err();
        assert_eq!(error, EndpointError::Header(name.to_owned()));
    }
    for url in ["ftp://a/", "/v1/traces", "a:1", "http://me:secret@a/"] {
        let error = HttpClient::check(&url.parse().unwrap()).unwrap_err();
        assert!(matches!(error, EndpointError::Url(_)), "{url}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert!(HttpClient::check(&"https://[::1]/a".parse().unwrap()).is_ok());
}

#[tokio::test]
async fn a_lane_task_that_cannot_move_can_post() {
    let server = H1::start(|_| ok()).await;
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let client = std::rc::Rc::new(client(|_| {}));
            let url = server.url("/");
            let task = tokio::task::spawn_local(async move { post(&client, &url, &Bytes::new()).await });
            assert_eq!(task.await.unwrap().unwrap().status, 200);
        })
        .await;
    until(|| server.open() == 0).await;
}

/// A watch says something now and then, and nobody waits for its end.
#[tokio::test]
async fn a_response_that_does_not_end_is_read_as_it_comes() {
    let server = H1::start(|_| {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n";
        (text.as_bytes().to_vec(), Then::Stall)
    })
    .await;
    let client = client(|options| options.compression = Compression::Gzip(1));
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer t"));
    let mut stream = is_send(client.stream(&server.url("/watch?a=b"), &headers)).await.unwrap();
    assert_eq!(stream.status, 200);
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "first\n");
    let request = server.requests.lock().pop().unwrap();
    assert_eq!(request.line, "GET /watch?a=b HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer t"));
    assert_eq!((request.header("content-encoding"), request.body.len()), (None, 0));
    drop(stream);
    until(|| server.open() == 0).await;
}

/// Who only reads never hears that the other end has vanished, unless the system asks for it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_says_nothing_for_long_is_asked_whether_it_is_there() {
    let server =
        H1::start(|_| (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), Then::Stall)).await;
    let _stream = client(|_| ()).stream(&server.url("/watch"), &HeaderMap::new()).await.unwrap();
    // `rem_address` and `tr tm->when`: timer 2 is that of keepalive, in hundredths of a second.
    let port = format!(":{:04X}", server.addr.port());
    let due = || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let timer = rows.filter(|row| row[2].ends_with(&port)).find_map(|row| row[5].strip_prefix("02:"))?;
        u64::from_str_radix(timer, 16).ok()
    };
    until(|| due().is_some_and(|hundredths| hundredths <= 1_500)).await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error_and_one_that_ends_is_none() {
    let server = H1::start(|request| match request.line.contains("/broken") {
        true => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfir".to_vec(), Then::Close),
        false => (answer("404 Not Found", "", "nothing"), Then::Close),
    })
    .await;
    let client = client(|_| ());
    let mut stream = client.stream(&server.url("/broken"), &HeaderMap::new()).await.unwrap();
    while let Some(chunk) = stream.chunk().await {
        if let Err(error) = chunk {
            assert_eq!(error.kind, HttpErrorKind::Lost);
            break;
        }
    }
    let mut stream = client.stream(&server.url("/"), &HeaderMap::new()).await.unwrap();
    assert_eq!(stream.status, 404);
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "nothing");
    assert!(stream.chunk().await.is_none());
}
