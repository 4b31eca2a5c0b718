//! The loader: numbered items over gRPC or HTTP, at a closed or an open loop, and an exact account of the
//! answers.

mod report;
mod work;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::Coding;
use crate::call::{Head, USUAL_FRAME};
use crate::grpc::Signal;
use crate::net::Tls;
use crate::requests::{FIRST_TIME, Foreign, Template};
use crate::web::{JSON, PROTOBUF};
pub use report::{LoadReport, Refusal};
use work::{Link, Shared};

/// A load to be put on a target. Start with [`Loader::new`], then set what differs from the defaults.
///
/// By default: spans over gRPC, neither compressed nor secured; one connection with one request in flight, 100
/// spans a request, no timeout, no retries, for 30 s. What is said of spans goes for the items of whichever
/// [`Signal`] it is.
#[derive(Clone, Debug)]
pub struct Loader {
    target: SocketAddr,
    signal: Signal,
    run: u64,
    first: u64,
    turn: (u64, u64),
    spans: usize,
    connections: usize,
    workers: usize,
    spans_per_second: Option<f64>,
    requests: u64,
    duration: Duration,
    grace: Duration,
    timeout: Option<Duration>,
    retry: bool,
    frame: usize,
    http: bool,
    json: bool,
    traces: bool,
    foreign: Option<Foreign>,
    coding: Option<Coding>,
    tls: Option<Tls>,
    links: Option<Vec<Arc<Link>>>,
}

impl Loader {
    /// A load on the OTLP/gRPC service at `target`.
    pub fn new(target: SocketAddr) -> Loader {
        Loader {
            target,
            signal: Signal::Traces,
            run: fresh_run(),
            first: 0,
            turn: (0, 1),
            spans: 100,
            connections: 1,
            workers: 1,
            spans_per_second: None,
            requests: u64::MAX,
            duration: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            timeout: None,
            retry: false,
            frame: USUAL_FRAME,
            http: false,
            json: false,
            traces: false,
            foreign: None,
            coding: None,
            tls: None,
            links: None,
        }
    }

    /// What is sent. Default spans.
    pub fn signal(mut self, signal: Signal) -> Self {
        self.signal = signal;
        self
    }

    /// The run that the spans belong to; by default one of its own for each loader.
    pub fn run_id(mut self, run: u64) -> Self {
        self.run = run;
        self
    }

    /// The sequence number of the first span, to continue an earlier run. Default 0.
    pub fn first_sequence(mut self, first: u64) -> Self {
        self.first = first;
        self
    }

    /// One of `of` loaders that number the requests of one run in turn, this one at `place`.
    pub fn in_turn(mut self, place: u64, of: u64) -> Self {
        self.turn = (place, of);
        self
    }

    /// Spans in each request.
    pub fn spans_per_request(mut self, spans: usize) -> Self {
        self.spans = spans;
        self
    }

    /// Closed loop: each of `connections` keeps `in_flight` requests going, a new one for each answer.
    pub fn closed(mut self, connections: usize, in_flight: usize) -> Self {
        (self.connections, self.workers, self.spans_per_second) =
            (connections, connections * in_flight, None);
        self
    }

    /// Open loop: requests start on a fixed schedule of `spans_per_second`, whatever the answers do, over
    /// `connections`, until `max_in_flight` in total are unanswered; then the schedule waits.
    pub fn open(mut self, connections: usize, max_in_flight: usize, spans_per_second: f64) -> Self {
        (self.connections, self.workers) = (connections, max_in_flight.max(connections));
        self.spans_per_second = Some(spans_per_second);
        self
    }

    /// Ends after this many different requests (or after the duration, if that is sooner).
    pub fn requests(mut self, requests: u64) -> Self {
        self.requests = requests;
        self
    }

    /// Starts no request after this time.
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// How long after the last start answers are awaited, and refusals retried. Default 10 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// `grpc-timeout` of each attempt; the loader keeps to it too.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the same spans again after a retryable refusal, a timeout or a broken connection, until they
    /// are acknowledged or the grace is over. Delays: the refusal's `RetryInfo`, else 10 ms doubling to 1 s.
    pub fn retry(mut self, retry: bool) -> Self {
        self.retry = retry;
        self
    }

    /// Bytes in a DATA frame at most, if the target takes as much. Default [`USUAL_FRAME`].
    pub fn frame(mut self, bytes: usize) -> Self {
        self.frame = bytes;
        self
    }

    /// Posts over HTTP/1.1 instead of calling over gRPC: each request in flight has a connection of its own.
    pub fn http(mut self) -> Self {
        self.http = true;
        self
    }

    /// Posts JSON, over HTTP/1.1 therefore.
    pub fn json(mut self) -> Self {
        self.json = true;
        self.http()
    }

    /// Sends spans of [traces](crate::traces) that are scattered over requests, in place of one a trace. There are so
    /// many hundred spans in a request.
    pub fn traces(mut self) -> Self {
        self.traces = true;
        self
    }

    /// Sends spans in the format and by the protocol of another tracer.
    pub fn foreign(mut self, format: Foreign) -> Self {
        self.foreign = Some(format);
        self.http = format != Foreign::Jaeger;
        self
    }

    /// Compresses each request afresh, as its numbers are its own.
    pub fn compression(mut self, coding: Option<Coding>) -> Self {
        self.coding = coding;
        self
    }

    /// Connects over TLS, to a server that proves to be `server_name` (a name or an address). The protocol to
    /// agree on is the loader's to fill in.
    pub fn tls(mut self, config: Arc<ClientConfig>, server_name: &str) -> Self {
        let name = ServerName::try_from(server_name.to_owned()).expect("a name or an address");
        self.tls = Some(Tls { config, name });
        self
    }

    /// From here on its clones send over the same connections, one after the other and on one runtime. To be said
    /// last.
    pub fn keep_connections(mut self) -> Self {
        self.links = Some(self.links());
        self
    }

    fn links(&self) -> Vec<Arc<Link>> {
        let links = if self.http { self.workers } else { self.connections }.max(1);
        (0..links).map(|_| Arc::new(Link::new(self))).collect()
    }

    /// Runs the load to its end.
    pub async fn run(self) -> LoadReport {
        self.start().finish().await
    }

    /// Starts the load on the current runtime.
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let started = Instant::now();
        let template = match (self.foreign, self.traces, self.json) {
            (Some(format), ..) => Template::foreign(format, self.run, self.spans),
            (_, true, _) => Template::traces(self.run, self.spans),
            (_, _, true) => Template::json(self.signal, self.run, self.spans),
            (_, _, false) => Template::of(self.signal, self.run, self.spans),
        };
        let shared = Arc::new(Shared {
            head: self.head(),
            report: Mutex::new(LoadReport::new(self.run, template.items())),
            template,
            coding: self.coding,
            started,
            // So that neither end overflows the clock.
            until: started + self.duration.min(Duration::from_secs(1 << 30)),
            grace: self.grace,
            first: self.first,
            turn: self.turn,
            requests: self.requests,
            interval: self.spans_per_second.map(|rate| self.spans as f64 / rate),
            retry: self.retry,
            next: 0.into(),
            stopped,
        });
        let links = self.links.clone().unwrap_or_else(|| self.links());
        let mut workers = JoinSet::new();
        for worker in 0..self.workers.max(1) {
            workers.spawn(Shared::work(shared.clone(), links[worker % links.len()].clone()));
        }
        Running { shared, stop, workers }
    }

    fn head(&self) -> Head {
        let encoding = self.coding.map(Coding::name);
        match self.foreign {
            Some(format) if self.http => Head::post(format.path(), format.media(), self.timeout, encoding),
            Some(format) => Head::grpc(format.path(), self.timeout, encoding),
            None if self.http => {
                let media = if self.json { JSON } else { PROTOBUF };
                Head::web(self.signal, media, self.timeout, encoding)
            }
            None => Head::new(self.signal, self.timeout, encoding),
        }
    }
}

/// Different in each process and for each loader, so that no two loads are taken for one. As nanoseconds,
/// earlier than any data point of a run: who checks that a point starts before it ends finds that it does.
fn fresh_run() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) % FIRST_TIME
}

/// A load under way. Dropped, it is broken off.
pub struct Running {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Running {
    /// What has been answered so far.
    pub fn progress(&self) -> LoadReport {
        self.shared.report()
    }

    /// Spans acknowledged so far: the cheap part of [`Running::progress`].
    pub fn acknowledged(&self) -> u64 {
        self.shared.with_report(|report| report.acknowledged.len())
    }

    /// Starts no further request; [`Running::finish`] then awaits what is in flight.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the load's end, at most duration and grace, and reports.
    pub async fn finish(mut self) -> LoadReport {
        let mut stopped = self.shared.stopped.clone();
        let all = async { while self.workers.join_next().await.is_some() {} };
        let late = async {
            // The channel cannot close: its sender is in `self`.
            let _ = tokio::time::timeout_at(self.shared.until, stopped.wait_for(|stop| *stop)).await;
            tokio::time::sleep(self.shared.grace).await;
        };
        tokio::select! { () = all => {} () = late => {} }
        self.workers.shutdown().await;
        let mut report = self.shared.report();
        report.elapsed = self.shared.started.elapsed();
        report
    }
}
