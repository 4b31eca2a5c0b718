//! What sending costs the sender in CPU: our HTTP client, hyper's own pooled one, and our gRPC client.
//!
//! `cargo run --release -p watershed-net --example post_cost -- [bytes] [requests] [at once] [client]`
//!
//! The server has a thread of its own and its CPU is not counted: a figure is the client and its side of the kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use watershed_delivery::{Budget, Permit};
use watershed_net::{
    Call, Client, ClientOptions, Compression, HttpClient, HttpClientOptions, ServerOptions, Sockets, Status,
    StopSignal, Unary, serve,
};

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

struct Nothing(Arc<Budget>);

impl Unary for Nothing {
    fn admit(&self, _: &Call, length: u64) -> Result<Permit, Status> {
        self.0.try_take(length).map_err(|_| Status::new(tonic::Code::Unavailable, "full"))
    }

    async fn call(&self, _: Call, _message: Bytes, _: Permit) -> Result<Bytes, Status> {
        Ok(Bytes::new())
    }

    fn panicked(&self, message: &str) {
        panic!("{message}");
    }
}

/// Runs on the server's thread for as long as the process does.
fn server(grpc: bool) -> SocketAddr {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            if grpc {
                let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
                tell.send(socket.local_addr()).unwrap();
                let budget = Budget::new(1 << 30);
                let (lane, connections) = mpsc::channel(8);
                let (_signal, stop) = StopSignal::new();
                tokio::join!(
                    socket.deal(vec![lane], stop.clone()),
                    serve(Arc::new(Nothing(budget.clone())), connections, ServerOptions::new(budget), stop)
                );
            }
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream));
            }
        });
    });
    told.recv().unwrap()
}

/// Reads heads for their length alone.
async fn answer(mut stream: tokio::net::TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut buffer = vec![0; 256 << 10];
    let mut held = 0;
    loop {
        let head = buffer[..held].windows(4).position(|end| end == b"\r\n\r\n");
        let Some(head) = head else {
            held += stream.read(&mut buffer[held..]).await.ok().filter(|read| *read > 0)?;
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
        let length: usize = text.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
        let mut rest = (head + 4 + length).saturating_sub(held);
        while rest > 0 {
            let end = buffer.len().min(rest);
            rest -= stream.read(&mut buffer[..end]).await.ok().filter(|read| *read > 0)?;
        }
        held = 0;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok()?;
    }
}

/// One piece.
struct One(Option<Bytes>);

impl Body for One {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |piece| piece.len() as u64))
    }
}

async fn cost(kind: &str, message: &Bytes, calls: usize, at_once: usize) -> f64 {
    let none = HeaderMap::new();
    let pieces = std::slice::from_ref(message);
    let addr = server(kind == "grpc");
    let url: http::Uri = format!("http://{addr}/v1/traces").parse().unwrap();
    match kind {
        "grpc" => {
            let client = Client::new(ClientOptions::new(addr.to_string())).unwrap();
            let call = || async { drop(client.unary(METHOD, &none, pieces, None).await.unwrap()) };
            repeated(calls, at_once, call).await
        }
        "legacy" => {
            let client = legacy::Client::builder(TokioExecutor::new()).build_http::<One>();
            let call = || async {
                let request = http::Request::post(url.clone()).header("content-type", PROTOBUF);
                let response =
                    client.request(request.body(One(Some(message.clone()))).unwrap()).await.unwrap();
                let mut body = response.into_body();
                while std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some() {}
            };
            repeated(calls, at_once, call).await
        }
        _ => {
            let compression = match kind {
                "gzip" => Compression::Gzip(1),
                "zstd" => Compression::Zstd(1),
                "snappy" => Compression::Snappy,
                _ => Compression::None,
            };
            let client = HttpClient::new(HttpClientOptions { compression, ..Default::default() }).unwrap();
            let call = || async { drop(client.post(&url, PROTOBUF, &none, pieces, None).await.unwrap()) };
            repeated(calls, at_once, call).await
        }
    }
}

/// Microseconds of this thread's CPU for each call.
async fn repeated<F: Future<Output = ()>>(calls: usize, at_once: usize, call: impl Fn() -> F) -> f64 {
    let run = async |calls: usize| {
        let left = Cell::new(calls);
        let workers = (0..at_once).map(|_| async {
            while left.get() > 0 {
                left.set(left.get() - 1);
                call().await;
            }
        });
        // As on a lane, each is woken for itself alone: in one task each would be polled for all.
        let workers: futures_util::stream::FuturesUnordered<_> = workers.collect();
        futures_util::StreamExt::collect::<()>(workers).await;
    };
    run(calls / 10).await;
    let before = cpu();
    run(calls).await;
    (cpu() - before) / calls as f64
}

/// Microseconds this thread has run.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1000.0
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| args.get(at).map_or(default, |arg| arg.parse().expect("a number"));
    let (bytes, calls, at_once) = (number(0, 40_000), number(1, 30_000), number(2, 8));
    let message: Bytes = (0..bytes).map(|at| b"http.method=GET;"[at % 16] ^ (at / 97) as u8).collect();
    println!("{bytes} bytes, {calls} requests, {at_once} at once");
    for kind in ["http", "legacy", "grpc", "gzip", "zstd", "snappy"] {
        if args.get(3).is_some_and(|only| only != kind) {
            continue;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cost = runtime.block_on(cost(kind, &message, calls, at_once));
        println!("{kind:8} {cost:6.1} us");
    }
}
