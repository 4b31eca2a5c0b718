//! What a unary call costs in CPU: our two ends against each other, and each against tonic's, on one thread.
//!
//! `cargo run --release -p watershed-net --example relay_cost -- [bytes] [calls] [at once] [server:client]`
//!
//! `http` is a POST of the same body over HTTP/1.1, from a client that does no more than write
//! the bytes and read the answer's.
//!
//! Both ends of a call run on the one thread, so a figure is the cost of a whole call, kernel included; what an
//! end costs more or less than another shows in the differences.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::UnaryService;
use watershed_delivery::{Budget, Permit};
use watershed_net::{
    Call, Client, ClientOptions, Compression, HttpRefusal, HttpRequest, HttpResponse, HttpServerOptions,
    HttpService, ServerOptions, Sockets, Status, StopSignal, Unary, serve, serve_http,
};

const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

struct Ours(Arc<Budget>);

impl Unary for Ours {
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

const BINARY: http::HeaderValue = http::HeaderValue::from_static("application/x-protobuf");

impl HttpService for Ours {
    fn admit(&self, _: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        let full = |_| HttpResponse::new(http::StatusCode::SERVICE_UNAVAILABLE);
        self.0.try_take(length.unwrap_or(0)).map_err(full)
    }

    async fn call(&self, _: HttpRequest, _body: Bytes, _: Permit) -> HttpResponse {
        HttpResponse::with_body(http::StatusCode::OK, BINARY, Bytes::new())
    }

    fn refuse(&self, _: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        panic!("{}", refusal.reason);
    }

    fn panicked(&self, message: &str) {
        panic!("{message}");
    }
}

#[derive(Clone)]
struct Tonics;

impl UnaryService<Bytes> for Tonics {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<Bytes>) -> Self::Future {
        ready(Ok(tonic::Response::new(Bytes::new())))
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Tonics {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).unary(Self, request).await) })
    }
}

struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(64 << 10, 64 << 10)
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Serves for as long as the runtime lives.
async fn server(kind: &str) -> SocketAddr {
    let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr();
    let (lane, connections) = mpsc::channel(8);
    if kind == "http" {
        let budget = Budget::new(1 << 30);
        let options = HttpServerOptions::new(budget.clone());
        let (signal, stop) = StopSignal::new();
        tokio::task::spawn_local(async move {
            tokio::join!(
                socket.deal(vec![lane], stop.clone()),
                serve_http(Arc::new(Ours(budget)), connections, options, stop)
            );
            drop(signal);
        });
    } else if kind == "ours" {
        let budget = Budget::new(1 << 30);
        let options = ServerOptions::new(budget.clone());
        let (signal, stop) = StopSignal::new();
        tokio::spawn(async move {
            tokio::join!(
                socket.deal(vec![lane], stop.clone()),
                serve(Arc::new(Ours(budget)), connections, options, stop)
            );
            drop(signal);
        });
    } else {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        // The windows of ours, so that only the code differs; its frames are 16 KiB unless told.
        let server = tonic::transport::Server::builder()
            .initial_connection_window_size(256 << 10)
            .initial_stream_window_size(256 << 10)
            .max_frame_size(kind.strip_prefix("tonic/").map(|frame| frame.parse::<u32>().unwrap()));
        tokio::spawn(server.serve_with_incoming_shutdown(Tonics, incoming, std::future::pending()));
        return addr;
    }
    addr
}

async fn cost(kind: &str, addr: SocketAddr, message: &Bytes, calls: usize, at_once: usize) -> f64 {
    let endpoint = format!("http://{addr}");
    match kind {
        "tonic" => {
            let channel = tonic::transport::Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
            let call = || {
                let mut client = tonic::client::Grpc::new(channel.clone());
                async move {
                    client.ready().await.unwrap();
                    let path = http::uri::PathAndQuery::from_static(METHOD);
                    client.unary(tonic::Request::new(message.clone()), path, Plain).await.unwrap();
                }
            };
            repeated(calls, at_once, call).await
        }
        "http" => {
            let head = format!(
                "POST /v1/traces HTTP/1.1\r\nhost: {addr}\r\nuser-agent: relay-cost/1\r\n\
                 accept-encoding: gzip\r\ncontent-type: application/x-protobuf\r\ncontent-length: {}\r\n\r\n",
                message.len()
            );
            let idle = RefCell::new(Vec::new());
            for _ in 0..at_once {
                let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
                stream.set_nodelay(true).unwrap();
                idle.borrow_mut().push(stream);
            }
            let call = || async {
                let mut stream = idle.borrow_mut().pop().unwrap();
                stream.write_all_buf(&mut Buf::chain(head.as_bytes(), &message[..])).await.unwrap();
                let mut answer = [0; 1024];
                let length = stream.read(&mut answer).await.unwrap();
                assert!(
                    answer[..length].starts_with(b"HTTP/1.1 200") && answer[..length].ends_with(b"\r\n\r\n")
                );
                idle.borrow_mut().push(stream);
            };
            repeated(calls, at_once, call).await
        }
        _ => {
            let compression = match kind {
                "gzip" => Compression::Gzip(1),
                "zstd" => Compression::Zstd(1),
                _ => Compression::None,
            };
            let options = ClientOptions { compression, ..ClientOptions::new(endpoint) };
            let client = Client::new(options).unwrap();
            let call = || async {
                client
                    .unary(METHOD, &http::HeaderMap::new(), std::slice::from_ref(message), None)
                    .await
                    .unwrap();
            };
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
        futures_util::future::join_all(workers).await;
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
    println!("{bytes} bytes, {calls} calls, {at_once} at once");
    for (serving, calling) in PAIRS {
        if args.get(3).is_some_and(|only| *only != format!("{serving}:{calling}")) {
            continue;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let costing = async {
            let addr = server(serving).await;
            cost(calling, addr, &message, calls, at_once).await
        };
        let cost = tokio::task::LocalSet::new().block_on(&runtime, costing);
        println!("server {serving:12} client {calling:6} {cost:6.1} us");
    }
}

const PAIRS: [(&str, &str); 9] = [
    ("ours", "ours"),
    ("ours", "tonic"),
    ("tonic", "ours"),
    ("tonic", "tonic"),
    ("tonic/65536", "ours"),
    ("tonic/65536", "tonic"),
    ("ours", "gzip"),
    ("ours", "zstd"),
    ("http", "http"),
];
