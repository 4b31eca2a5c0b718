//! The sink: an OTLP destination that counts exactly and answers as it is told, over gRPC and over HTTP.

mod answer;
mod count;
mod serve;
mod web;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::net::{H2, HTTP1};
use crate::web::Io;
use crate::{LoadReport, Verdict, verdict};
pub use answer::{Answer, Arrival};
use answer::{Plan, Rule};
pub use count::{Arrivals, SinkSnapshot};

/// A counting OTLP server for all three signals, on the runtime that started it. gRPC and HTTP share its port.
///
/// A batch counts as arrived when the sink takes it over: right before the "ok", after whatever delay the
/// [`Answer`] asks for, and not at all if the caller has gone away by then.
pub struct Sink {
    shared: Arc<Shared>,
    addr: SocketAddr,
    listening: tokio::sync::Mutex<Option<Listening>>,
}

struct Listening {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    tls: Option<TlsAcceptor>,
}

struct State {
    plan: Plan,
    counts: SinkSnapshot,
    /// When a rate-limited sink is done with what it has taken on.
    busy_until: Instant,
}

impl Sink {
    /// Listens on `addr` (port 0 for any) and answers "ok" to everything.
    pub async fn start(addr: impl ToSocketAddrs) -> io::Result<Sink> {
        Sink::open(addr, None).await
    }

    /// As [`Sink::start`], over TLS. The protocols to agree on are the sink's to fill in.
    pub async fn start_tls(addr: impl ToSocketAddrs, config: Arc<ServerConfig>) -> io::Result<Sink> {
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        Sink::open(addr, Some(Arc::new(config).into())).await
    }

    async fn open(addr: impl ToSocketAddrs, tls: Option<TlsAcceptor>) -> io::Result<Sink> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let state =
            State { plan: Plan::default(), counts: SinkSnapshot::default(), busy_until: Instant::now() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new(), tls });
        let listening = Some(listen(listener, shared.clone())).into();
        Ok(Sink { shared, addr, listening })
    }

    /// Where the sink listens; the same after a restart.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops listening and breaks off all connections. Returns when none is left: nothing is counted or
    /// answered any more. Counts and answers are kept.
    pub async fn stop(&self) {
        if let Some(Listening { stop, task }) = self.listening.lock().await.take() {
            let _ = stop.send(());
            let _ = task.await;
        }
    }

    /// Listens again on the same address after [`Sink::stop`] (which it does first if need be).
    pub async fn restart(&self) -> io::Result<()> {
        self.stop().await;
        let listener = TcpListener::bind(self.addr).await?;
        *self.listening.lock().await = Some(listen(listener, self.shared.clone()));
        Ok(())
    }

    /// Answers every request so from now on; forgets what was queued or scripted. Requests that already
    /// wait in an earlier answer (`Hang`, `Slow`) stay in it, but for [`Answer::Withheld`].
    pub fn answer(&self, answer: Answer) {
        self.shared.plan(Rule::Always(answer));
    }

    /// Answers the next requests with these, one each, before anything else.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.with(|state| state.plan.queue.extend(answers));
    }

    /// Asks `script` how to answer each request from now on. It runs under the sink's lock: no waiting in it.
    pub fn answer_by(&self, script: impl FnMut(&Arrival) -> Answer + Send + 'static) {
        self.shared.plan(Rule::By(Box::new(script)));
    }

    /// Items that have arrived, copies of numbered ones not counted: see [`SinkSnapshot::arrived`].
    pub fn arrived(&self) -> u64 {
        self.with(|state| state.counts.arrived())
    }

    /// All counts at this moment.
    pub fn snapshot(&self) -> SinkSnapshot {
        self.with(|state| state.counts.clone())
    }

    /// Sets all counts to zero, connections excepted.
    pub fn reset(&self) {
        self.with(|state| {
            let connections = state.counts.connections;
            state.counts = SinkSnapshot { connections, ..SinkSnapshot::default() };
        });
    }

    /// Waits until at least `items` have [arrived](Sink::arrived); false if `timeout` passes first.
    #[must_use = "false means that they did not arrive"]
    pub async fn wait_for(&self, items: u64, timeout: Duration) -> bool {
        self.wait_until(|counts| counts.arrived() >= items, timeout).await
    }

    /// Waits until `condition` holds, tried at every change of the counts; false if `timeout` passes first.
    #[must_use = "false means that the condition did not come true"]
    pub async fn wait_until(&self, condition: impl Fn(&SinkSnapshot) -> bool, timeout: Duration) -> bool {
        let wait = self.shared.until(|state| condition(&state.counts));
        tokio::time::timeout(timeout, wait).await.is_ok() || self.with(|state| condition(&state.counts))
    }

    /// Waits until all that `load` was promised has arrived, at most `timeout`, and gives the verdict.
    pub async fn settle(&self, load: &LoadReport, timeout: Duration) -> Verdict {
        // The set and not the count: what was never acknowledged arrives as well.
        let _ = self.wait_until(|counts| verdict(load, counts).lost == 0, timeout).await;
        self.with(|state| verdict(load, &state.counts))
    }

    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        self.shared.with(with)
    }
}

impl Shared {
    fn with<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock())
    }

    /// Answers by `rule` from now on, and by nothing else.
    fn plan(&self, rule: Rule) {
        self.with(|state| state.plan = Plan { queue: Default::default(), rule });
        self.changed.notify_waiters();
    }

    /// Waits until `condition` holds, tried at every change.
    async fn until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if self.with(|state| condition(state)) {
                return;
            }
            changed.await;
        }
    }

    /// Waits as long as `answer` to a request of `items` has to.
    async fn hold(&self, answer: &Answer, items: u64) {
        match answer {
            Answer::Slow(delay) => tokio::time::sleep(*delay).await,
            Answer::Withheld => {
                self.until(|state| !matches!(state.plan.rule, Rule::Always(Answer::Withheld))).await;
            }
            Answer::RateLimited { spans_per_sec } => {
                tokio::time::sleep_until(self.turn(items, *spans_per_sec)).await;
            }
            _ => {}
        }
    }

    /// When a sink that takes `per_second` items is done with `items` more.
    fn turn(&self, items: u64, per_second: u64) -> Instant {
        let takes = Duration::from_secs_f64(items as f64 / per_second.max(1) as f64);
        self.with(|state| {
            state.busy_until = state.busy_until.max(Instant::now()) + takes;
            state.busy_until
        })
    }

    /// Counts a request that was read in full, and says how to answer it.
    fn next(&self, arrival: &Arrival) -> Answer {
        let answer = self.with(|state| {
            let arrival = Arrival { index: state.counts.requests, ..arrival.clone() };
            state.counts.requests += 1;
            state.plan.next(&arrival)
        });
        self.changed.notify_waiters();
        answer
    }

    /// [`Shared::with`] for changes of the counts: wakes who waits for them.
    fn count<T>(&self, with: impl FnOnce(&mut SinkSnapshot) -> T) -> T {
        let result = self.with(|state| with(&mut state.counts));
        self.changed.notify_waiters();
        result
    }
}

/// Serves what the first bytes ask for, or what was agreed on.
async fn connection(shared: Arc<Shared>, tcp: TcpStream) {
    let _ = tcp.set_nodelay(true);
    let (http2, io): (bool, Box<dyn Io>) = match &shared.tls {
        None => {
            let mut start = [0; 3];
            let read = tcp.peek(&mut start).await;
            // HTTP/2's preface; whatever else begins a request is HTTP/1.1, a probe's `GET` as well as a `POST`.
            (read.is_err() || start == *b"PRI", Box::new(tcp))
        }
        Some(acceptor) => {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            (tls.get_ref().1.alpn_protocol() == Some(H2), Box::new(tls))
        }
    };
    if http2 { serve::connection(shared, io).await } else { web::connection(shared, io).await }
}

fn listen(listener: TcpListener, shared: Arc<Shared>) -> Listening {
    let (stop, stopped) = oneshot::channel();
    let accepting = async move {
        let mut connections = JoinSet::new();
        let accept = async {
            loop {
                // Out of descriptors or a peer that left early: neither ends the sink.
                let Ok((tcp, _)) = listener.accept().await else { continue };
                connections.spawn(connection(shared.clone(), tcp));
                while connections.try_join_next().is_some() {}
            }
        };
        // A dropped sink stops as well.
        tokio::select! { () = accept => {} _ = stopped => {} }
        drop(listener);
        connections.shutdown().await;
    };
    Listening { stop, task: tokio::spawn(accepting) }
}
