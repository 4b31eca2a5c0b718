//! A server to call, and a client that can misbehave.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

pub mod codings;
pub mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use watershed_delivery::{Budget, Exhausted, Permit};
use watershed_net::{
    Call, Client, ClientOptions, Code, ConnectionLimit, ConnectionRefused, ServerOptions, Socket, Sockets,
    Status, Stop, StopSignal, Unary, serve,
};

pub const ECHO: &str = "/test.Service/Echo";
/// Answers when the test releases it.
pub const HOLD: &str = "/test.Service/Hold";
pub const PANIC: &str = "/test.Service/Panic";
pub const PANIC_IN_ADMIT: &str = "/test.Service/PanicInAdmit";
/// Refused on its header, with a delay.
pub const REFUSE: &str = "/test.Service/Refuse";

pub const RETRY_AFTER: Duration = Duration::from_millis(1500);

pub struct Service {
    pub budget: Arc<Budget>,
    pub release: Semaphore,
    /// Calls that have begun.
    pub begun: AtomicUsize,
    /// Calls that were refused on their header.
    pub refused: AtomicUsize,
    /// What net itself refused.
    pub refused_by_net: Mutex<Vec<Code>>,
    pub panics: Mutex<Vec<String>>,
    pub connections_refused: Mutex<Vec<ConnectionRefused>>,
    pub last: Mutex<Option<Call>>,
    /// What the permit of the last call covered.
    pub covered: AtomicUsize,
}

impl Unary for Service {
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        match call.path() {
            ECHO | HOLD | PANIC => {}
            PANIC_IN_ADMIT => panic!("admit is broken"),
            REFUSE => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return Err(Status::try_again("no room", RETRY_AFTER));
            }
            other => return Err(Status::new(Code::Unimplemented, format!("no method {other}"))),
        }
        self.budget.try_take(length).map_err(|exhausted| match exhausted {
            Exhausted::ForNow => Status::try_again("no room", RETRY_AFTER),
            Exhausted::ForEver => Status::new(Code::ResourceExhausted, "too large for the budget"),
        })
    }

    async fn call(&self, call: Call, message: Bytes, permit: Permit) -> Result<Bytes, Status> {
        self.covered.store(permit.bytes() as usize, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        match call.path() {
            HOLD => self.release.acquire().await.unwrap().forget(),
            PANIC => panic!("{} is broken", "call"),
            _ => {}
        }
        *self.last.lock() = Some(call);
        Ok(message)
    }

    fn refused(&self, status: &Status) {
        self.refused_by_net.lock().push(status.code);
    }

    fn panicked(&self, message: &str) {
        self.panics.lock().push(message.to_owned());
    }

    fn connection_refused(&self, reason: ConnectionRefused) {
        self.connections_refused.lock().push(reason);
    }
}

pub struct Server {
    pub service: Arc<Service>,
    pub socket: Arc<Socket>,
    pub addr: SocketAddr,
    pub limit: ConnectionLimit,
    pub stop: StopSignal,
    pub serving: JoinHandle<()>,
}

impl Server {
    /// Serves with a budget so large that it does not matter.
    pub fn start() -> Self {
        Self::with(Budget::new(1 << 30), |_| {})
    }

    pub fn with(budget: Arc<Budget>, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let socket = Sockets::new().bind("127.0.0.1:0").unwrap();
        Self::on(socket, budget, change)
    }

    pub fn on(socket: Arc<Socket>, budget: Arc<Budget>, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let mut options = ServerOptions::new(budget.clone());
        change(&mut options);
        let service = Arc::new(Service {
            budget,
            release: Semaphore::new(0),
            begun: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            refused_by_net: Mutex::default(),
            panics: Mutex::default(),
            connections_refused: Mutex::default(),
            last: Mutex::default(),
            covered: AtomicUsize::new(0),
        });
        let limit = options.connections.clone();
        let (stop, stopped) = StopSignal::new();
        let serving = tokio::spawn(run(service.clone(), socket.clone(), options, stopped));
        Self { service, addr: socket.local_addr(), socket, limit, stop, serving }
    }

    pub fn client(&self) -> Client {
        self.client_with(|_| {})
    }

    pub fn client_with(&self, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let mut options = ClientOptions::new(self.addr.to_string());
        change(&mut options);
        Client::new(options).unwrap()
    }

    pub fn begun(&self) -> usize {
        self.service.begun.load(Ordering::SeqCst)
    }

    /// Stops, and sees that every byte came back.
    pub async fn end(self) {
        self.stop.stop();
        self.serving.await.unwrap();
        assert_eq!(self.service.budget.used(), 0, "bytes that never came back");
    }
}

async fn run(service: Arc<Service>, socket: Arc<Socket>, options: ServerOptions, stop: Stop) {
    let (lane, connections) = mpsc::channel(16);
    let dealing = tokio::spawn(socket.deal(vec![lane], stop.clone()));
    serve(service, connections, options, stop).await;
    dealing.await.unwrap();
}

/// Ready when `condition` holds; panics when it does not for ten seconds.
pub async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await; // sleep-ok: between two looks at the condition
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it never happened");
}

/// A client that does exactly what it is told.
pub struct Raw {
    pub sender: SendRequest<Bytes>,
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

impl Raw {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await.unwrap()
    }

    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, h2::Error> {
        let builder = h2::client::Builder::new().initial_max_send_streams(10_000).to_owned();
        let (sender, connection) = builder.handshake(stream).await?;
        Ok(Self { sender, driver: tokio::spawn(connection) })
    }

    /// Opens a call, if the connection lets it.
    pub async fn try_open(&self, path: &str) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = Request::post(format!("http://test{path}")).header("content-type", "application/grpc");
        self.sender.clone().ready().await?.send_request(request.body(()).unwrap(), false)
    }

    /// Opens a call; the body is up to the test.
    pub async fn open(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://test{path}")).header("te", "trailers");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone().ready().await.unwrap();
        sender.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// A call with `body` as its whole body, as it is.
    pub async fn call(&self, path: &str, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> Answer {
        let (response, mut stream) = self.open(path, headers).await;
        stream.send_data(body.into(), true).unwrap();
        answer(response).await
    }
}

#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub headers: HeaderMap,
    /// The body, framing included.
    pub body: Bytes,
    /// Of the trailers, or of the headers where those are the whole response.
    pub code: Option<Code>,
    pub message: String,
    pub retry: bool,
}

pub async fn answer(response: ResponseFuture) -> Answer {
    let (parts, mut stream) = tokio::time::timeout(Duration::from_secs(10), response)
        .await
        .expect("no answer")
        .unwrap()
        .into_parts();
    let body = drain(&mut stream).await;
    let trailers = stream.trailers().await.unwrap();
    let last = trailers.as_ref().unwrap_or(&parts.headers);
    Answer {
        http: parts.status.as_u16(),
        code: last.get("grpc-status").map(|code| Code::from_bytes(code.as_bytes())),
        message: last.get("grpc-message").map_or(String::new(), |text| text.to_str().unwrap().to_owned()),
        retry: last.contains_key("grpc-status-details-bin"),
        headers: parts.headers,
        body,
    }
}

async fn drain(stream: &mut RecvStream) -> Bytes {
    let mut body = BytesMut::new();
    while let Some(frame) = stream.data().await {
        let frame = frame.unwrap();
        stream.flow_control().release_capacity(frame.len()).unwrap();
        body.extend_from_slice(&frame);
    }
    body.freeze()
}

/// A message with its header.
pub fn framed(flag: u8, message: &[u8]) -> Bytes {
    let mut framed = vec![flag];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// Bytes that compress about as well as telemetry does.
pub fn telemetry(length: usize) -> Bytes {
    let mut state = 1u64;
    let bytes = (0..length).map(|at| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if at % 8 == 0 { (state >> 56) as u8 } else { b"http.method=GET;"[at % 16] }
    });
    bytes.collect::<Vec<u8>>().into()
}
