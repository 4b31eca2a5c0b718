//! Probes of a server that speaks HTTP/1.1, and only as well as it is told.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use watershed_net::HttpClientOptions;
use watershed_stage::delivery::Budget;
use watershed_stage::{
    ExporterParts, ExporterSpec, Extensions, Failure, Message, Metrics, Placement, QueueSettings, Reference,
    RetrySettings, Sending, Shelf, Signal, Tracing,
};
use watershed_supervise::Launch;

use super::*;
use crate::plan::{Backends, Plan, Policy};
use crate::resolver::ResolverSettings;
use crate::ring;

/// What is spoken to the backends: HTTP, and nothing but probes.
struct Http;

impl Backends for Http {
    fn sending(&self) -> Sending {
        Sending { timeout: None, retry: RetrySettings::default(), queue: QueueSettings::default() }
    }

    fn endpoint(&self, name: &str) -> Result<String, String> {
        Ok(name.to_owned())
    }

    fn exporter(&self, _: &str, _: bool) -> Arc<dyn ExporterSpec> {
        Arc::new(Self)
    }

    fn caller(&self, endpoint: &str, _: &Env) -> Result<Caller, Failure> {
        let client = HttpClient::new(HttpClientOptions::default()).unwrap();
        Ok(Caller::Http(client, endpoint.parse().unwrap()))
    }

    fn check(&self, _: &Env) -> Result<(), Failure> {
        Ok(())
    }
}

impl ExporterSpec for Http {
    fn signals(&self) -> &'static [Signal] {
        &Signal::ALL
    }

    fn placement(&self) -> Placement {
        Placement::Lane
    }

    fn sending(&self) -> Sending {
        Backends::sending(self)
    }

    fn references(&self) -> Vec<Reference> {
        Vec::new()
    }

    fn launch(&self, _: ExporterParts) -> Launch<Message> {
        unreachable!("nothing is sent")
    }
}

/// A server that answers every request with 404, and says how many connections and answers there were.
struct Server {
    listener: RefCell<Option<TcpListener>>,
    address: SocketAddr,
    accepted: Cell<usize>,
    answered: Cell<usize>,
    /// So many connections, the first ones, are taken and not answered any more.
    silent: Cell<usize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let zero = || Cell::new(0);
        let (accepted, answered, silent) = (zero(), zero(), zero());
        Self { listener: RefCell::new(Some(listener)), address, accepted, answered, silent }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until it is dropped, and everything is closed.
    async fn serve(&self) {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(self.address).await.unwrap(),
        };
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    self.accepted.set(self.accepted.get() + 1);
                    connections.push(self.connection(stream, self.accepted.get()));
                }
                Some(()) = connections.next(), if !connections.is_empty() => {}
            }
        }
    }

    async fn connection(&self, stream: TcpStream, number: usize) {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while let Ok(1..) = stream.read_line(&mut line).await {
            if std::mem::take(&mut line) != "\r\n" {
                continue;
            }
            if number <= self.silent.get() {
                return std::future::pending().await;
            }
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
            self.answered.set(self.answered.get() + 1);
        }
    }

    async fn answers(&self, more: usize) {
        let before = self.answered.get();
        until("it is probed", || self.answered.get() >= before + more).await;
    }
}

async fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// A pool of that server and of another that nobody looks at, and so always works.
fn pool(server: &Server, interval: u64) -> (Arc<Pool>, Env) {
    let names = vec![server.url(), "http://other:4318".to_owned()];
    let pool = Pool::new(Plan {
        backends: Box::new(Http),
        resolvers: vec![ResolverSettings::fixed(names.clone())],
        policy: Policy::RoundRobin,
        ring: ring::Kind::default(),
        routing_key: None,
        routing_attributes: Vec::new(),
        health: HealthSettings {
            interval: watershed_stage::Interval::millis(interval),
            ..HealthSettings::default()
        },
        references: Vec::new(),
    });
    let env = Env {
        id: "otlphttp".into(),
        pipeline: None,
        lane: 0,
        copies: 1,
        ends: Arc::default(),
        budget: Budget::new(1 << 20),
        metrics: Metrics::default(),
        tracing: Tracing::default(),
        extensions: Extensions::default(),
        shelf: Shelf::default(),
        notes: None,
    };
    pool.meters(&env);
    pool.resolved(0, Ok(names));
    (Arc::new(pool), env)
}

/// How often the server was left out.
fn ejections(env: &Env) -> u64 {
    let text = env.metrics.render();
    let lines = text.lines().filter(|line| line.starts_with("watershed_loadbalancer_ejections{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Runs a test while the server is probed.
async fn probed(server: &Server, interval: u64, test: impl AsyncFnOnce(&Backend, &Env)) {
    let (pool, env) = pool(server, interval);
    let backend = pool.all().into_iter().find(|backend| *backend.name == server.url()).unwrap();
    tokio::select! {
        () = watch(pool.clone(), backend.clone(), env.clone()) => {}
        () = test(&backend, &env) => {}
    }
}

#[tokio::test]
async fn over_http_probes_follow_each_other_on_one_connection() {
    let server = Server::start().await;
    probed(&server, 5, async |_, env| {
        tokio::select! { () = server.serve() => {} () = server.answers(10) => {} }
        assert_eq!((server.accepted.get(), ejections(env)), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn over_http_one_that_was_killed_is_used_again_with_its_first_answer() {
    let server = Server::start().await;
    probed(&server, 400, async |backend, env| {
        tokio::select! { () = server.serve() => {} () = server.answers(1) => {} }
        assert!(backend.is_used());
        backend.suspected.notify_one();
        until("it is left out", || !backend.is_used()).await;
        // As often as it likes: nobody is there.
        backend.suspected.notify_one();
        let back = async {
            let began = Instant::now();
            until("it is used again", || backend.is_used()).await;
            began.elapsed()
        };
        let took = tokio::select! { () = server.serve() => return, took = back => took };
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!((server.answered.get(), ejections(env)), (2, 1));
    })
    .await;
}

/// What stands between has forgotten a connection, and drops what comes on it: the next one gets through.
#[tokio::test]
async fn a_kept_connection_that_is_dead_costs_one_timeout_and_not_the_backend() {
    let server = Server::start().await;
    probed(&server, 5, async |backend, env| {
        let test = async {
            server.answers(3).await;
            server.silent.set(server.accepted.get());
            server.answers(3).await;
        };
        tokio::select! { () = server.serve() => {} () = test => {} }
        assert_eq!((server.accepted.get(), ejections(env)), (2, 0));
        assert!(backend.is_used());
    })
    .await;
}
