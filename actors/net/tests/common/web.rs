//! An HTTP server, and a client that writes bytes and reads answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use watershed_delivery::{Budget, Exhausted, Permit};
use watershed_net::{
    ConnectionLimit, ConnectionRefused, HttpRefusal, HttpRequest, HttpResponse, HttpServerOptions,
    HttpService, Sockets, StopSignal, serve_http,
};

pub const BINARY: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// `/echo` answers the body, `/hold` when the test releases it; `/panic`, `/panic-in-admit` and `/panic-in-refuse` are
/// broken; `/refuse` refuses on the head. What is refused is said as `refused: ...`.
pub struct Web {
    pub budget: Arc<Budget>,
    pub release: Semaphore,
    pub begun: AtomicUsize,
    /// Lengths as announced to `admit`.
    pub admitted: Mutex<Vec<Option<u64>>>,
    pub refusals: Mutex<Vec<HttpRefusal>>,
    pub panics: Mutex<Vec<String>>,
    pub connections_refused: Mutex<Vec<ConnectionRefused>>,
    pub last: Mutex<Option<HttpRequest>>,
    /// What the permit of the last call covered.
    pub covered: AtomicUsize,
    /// Who is in `/hold` now.
    pub holding: AtomicUsize,
}

impl Web {
    fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            release: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            admitted: Mutex::default(),
            refusals: Mutex::default(),
            panics: Mutex::default(),
            connections_refused: Mutex::default(),
            last: Mutex::default(),
            covered: AtomicUsize::new(0),
            holding: AtomicUsize::new(0),
        }
    }
}

struct Holding<'a>(&'a AtomicUsize);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl HttpService for Web {
    fn admit(&self, request: &HttpRequest, length: Option<u64>) -> Result<Permit, HttpResponse> {
        match request.uri.path() {
            "/echo" | "/hold" | "/panic" | "/panic-in-refuse" => {}
            "/panic-in-admit" => panic!("admit is broken"),
            "/refuse" => return Err(HttpResponse::text(StatusCode::SERVICE_UNAVAILABLE, "no room")),
            path => return Err(HttpResponse::text(StatusCode::NOT_FOUND, format!("no {path}"))),
        }
        if request.method != Method::POST && request.method != Method::HEAD {
            return Err(HttpResponse::new(StatusCode::METHOD_NOT_ALLOWED));
        }
        self.admitted.lock().push(length);
        self.budget.try_take(length.unwrap_or(0)).map_err(|exhausted| match exhausted {
            Exhausted::ForNow => HttpResponse::text(StatusCode::SERVICE_UNAVAILABLE, "no room"),
            Exhausted::ForEver => HttpResponse::text(StatusCode::PAYLOAD_TOO_LARGE, "never"),
        })
    }

    async fn call(&self, request: HttpRequest, body: Bytes, permit: Permit) -> HttpResponse {
        self.covered.store(permit.bytes() as usize, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        if request.uri.path() == "/hold" {
            self.holding.fetch_add(1, Ordering::SeqCst);
            let _holding = Holding(&self.holding);
            self.release.acquire().await.unwrap().forget();
        }
        if request.uri.path().starts_with("/panic") {
            panic!("{} is broken", "call");
        }
        *self.last.lock() = Some(request);
        HttpResponse::with_body(StatusCode::OK, BINARY, body)
    }

    fn refuse(&self, request: &HttpRequest, refusal: HttpRefusal) -> HttpResponse {
        if request.uri.path() == "/panic-in-refuse" {
            panic!("refuse is broken");
        }
        let response = HttpResponse::text(refusal.status, format!("refused: {}", refusal.reason));
        self.refusals.lock().push(refusal);
        response
    }

    fn panicked(&self, message: &str) {
        self.panics.lock().push(message.to_owned());
    }

    fn connection_refused(&self, reason: ConnectionRefused) {
        self.connections_refused.lock().push(reason);
    }
}

/// A server on a thread of its own, as on a lane.
pub struct WebServer {
    pub web: Arc<Web>,
    pub addr: SocketAddr,
    pub limit: ConnectionLimit,
    slots: usize,
    pub stop: StopSignal,
    serving: JoinHandle<()>,
}

impl WebServer {
    pub fn start() -> Self {
        Self::with(Budget::new(1 << 30), |_| {})
    }

    pub fn with(budget: Arc<Budget>, change: impl FnOnce(&mut HttpServerOptions)) -> Self {
        let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr();
        let mut options = HttpServerOptions::new(budget.clone());
        change(&mut options);
        let limit = options.connections.clone();
        let slots = limit.free();
        let web = Arc::new(Web::new(budget));
        let (stop, stopped) = StopSignal::new();
        let service = web.clone();
        let serving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (lane, connections) = mpsc::channel(16);
            let serving = async {
                tokio::join!(
                    socket.deal(vec![lane], stopped.clone()),
                    serve_http(service, connections, options, stopped.clone())
                )
            };
            tokio::task::LocalSet::new().block_on(&runtime, serving);
        });
        Self { web, addr, limit, slots, stop, serving }
    }

    pub async fn connect(&self) -> Wire<TcpStream> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Wire::new(stream)
    }

    pub fn begun(&self) -> usize {
        self.web.begun.load(Ordering::SeqCst)
    }

    pub fn used(&self) -> u64 {
        self.web.budget.used()
    }

    pub fn holding(&self) -> usize {
        self.web.holding.load(Ordering::SeqCst)
    }

    /// Stops, and sees that every byte came back.
    pub async fn end(self) {
        self.stop.stop();
        super::until(|| self.serving.is_finished()).await;
        self.serving.join().unwrap();
        assert_eq!(self.web.budget.used(), 0, "bytes that never came back");
        assert_eq!(self.limit.free(), self.slots, "connections that never ended");
    }
}

/// The client's end of a connection, with what was read and not used.
pub struct Wire<T> {
    pub stream: T,
    read: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answered {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(is, _)| is == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire<T> {
    pub fn new(stream: T) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// A whole request, and its answer.
    pub async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answered {
        self.send(request(path, headers, body)).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Answered {
        self.answer_to("POST").await
    }

    pub async fn answer_to(&mut self, method: &str) -> Answered {
        let answer = tokio::time::timeout(Duration::from_secs(10), self.read_answer(method));
        answer.await.expect("no answer").expect("closed instead of an answer")
    }

    /// The answer to these bytes, or `None` where they are not taken.
    pub async fn read_answer_to(&mut self, request: Vec<u8>) -> Option<Answered> {
        self.stream.write_all(&request).await.ok()?;
        self.read_answer("POST").await
    }

    /// `None` at the end of the connection, however that comes.
    pub async fn read_answer(&mut self, method: &str) -> Option<Answered> {
        let end = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap();
        let status = status.strip_prefix("HTTP/1.").expect(status)[2..5].parse().unwrap();
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").expect(line))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answered = Answered { status, headers, body: Vec::new() };
        let length = answered.header("content-length").map_or(0, |length| length.parse::<usize>().unwrap());
        if method != "HEAD" {
            while self.read.len() < length {
                self.more().await?;
            }
            answered.body = self.read.drain(..length).collect();
        }
        Some(answered)
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(1..) => Some(()),
            _ => None,
        }
    }

    /// Ready when the server has closed, having said nothing more.
    pub async fn closed(&mut self) {
        let rest = tokio::time::timeout(Duration::from_secs(10), self.stream.read_to_end(&mut self.read));
        let _ = rest.await.expect("still open");
        assert!(self.read.is_empty(), "{}", String::from_utf8_lossy(&self.read));
    }
}

/// The bytes of a request with a body of known length.
pub fn request(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    [request.as_bytes(), b"\r\n", body].concat()
}

/// The bytes of a request whose body comes in chunks.
pub fn chunked(path: &str, headers: &[(&str, &str)], chunks: &[&[u8]]) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    let mut bytes = [request.as_bytes(), b"\r\n"].concat();
    for chunk in chunks {
        bytes.extend_from_slice(&[format!("{:x}\r\n", chunk.len()).as_bytes(), *chunk, b"\r\n"].concat());
    }
    [&bytes[..], b"0\r\n\r\n"].concat()
}
