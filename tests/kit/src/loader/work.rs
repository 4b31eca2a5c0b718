//! One worker: take the next ticket, send it, account for the answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{LoadReport, Loader};
use crate::Coding;
use crate::call::{CallError, Client, Head, Reply};
use crate::requests::Template;
use crate::web::WebClient;

const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub head: Head,
    pub template: Template,
    pub coding: Option<Coding>,
    pub report: Mutex<LoadReport>,
    pub started: Instant,
    pub until: Instant,
    pub grace: Duration,
    pub first: u64,
    /// Its place among loaders that take turns, and how many they are.
    pub turn: (u64, u64),
    pub requests: u64,
    /// Seconds between the starts of two requests, if the loop is open.
    pub interval: Option<f64>,
    pub retry: bool,
    pub next: AtomicU64,
    pub stopped: watch::Receiver<bool>,
}

/// What a request is sent by.
#[derive(Clone)]
pub(super) enum Way {
    Grpc(Client),
    /// One request after the other.
    Http(Arc<tokio::sync::Mutex<WebClient>>),
}

impl Way {
    async fn call(&mut self, head: &Head, framed: Bytes) -> Result<Reply, CallError> {
        match self {
            Way::Grpc(client) => client.call(head, framed).await,
            Way::Http(client) => client.lock().await.call(head, &framed).await,
        }
    }
}

/// A connection that several workers share and whoever finds it broken replaces.
pub(super) struct Link {
    loader: Loader,
    /// The live client and its generation; a worker that fails on an older generation changes nothing.
    live: tokio::sync::Mutex<(u64, Option<Way>)>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.loader.target).finish()
    }
}

impl Link {
    pub fn new(loader: &Loader) -> Link {
        Link { loader: loader.clone(), live: (0, None).into() }
    }

    /// A client that is not of generation `broken`.
    async fn client(&self, broken: Option<u64>) -> std::io::Result<(u64, Way)> {
        let mut live = self.live.lock().await;
        match &*live {
            (generation, Some(client)) if broken != Some(*generation) => Ok((*generation, client.clone())),
            _ => {
                live.1 = None;
                let Loader { target, tls, frame, http, .. } = &self.loader;
                let client = if *http {
                    Way::Http(Arc::new(WebClient::dial(*target, tls.as_ref()).await?.into()))
                } else {
                    Way::Grpc(Client::dial(*target, tls.as_ref()).await?.frame(*frame))
                };
                *live = (live.0 + 1, Some(client.clone()));
                Ok((live.0, client))
            }
        }
    }
}

/// A worker's own hold on its link.
struct Hold {
    link: Arc<Link>,
    client: Option<(u64, Way)>,
    broken: Option<u64>,
}

impl Hold {
    fn break_off(&mut self) {
        self.broken = self.client.take().map(|(generation, _)| generation);
    }
}

impl Shared {
    pub fn with_report<T>(&self, with: impl FnOnce(&mut LoadReport) -> T) -> T {
        with(&mut self.report.lock())
    }

    pub fn report(&self) -> LoadReport {
        self.with_report(|report| report.clone())
    }

    fn over(&self) -> bool {
        *self.stopped.borrow() || Instant::now() >= self.until
    }

    /// Takes tickets until there are none, the time is over or the load is stopped.
    pub async fn work(self: Arc<Self>, link: Arc<Link>) {
        let mut hold = Hold { link, client: None, broken: None };
        let mut packer = self.coding.map(Coding::packer);
        let mut buffer = Bytes::new();
        loop {
            // A ticket taken is a request begun: so the connection comes first.
            if self.over() || !self.connect(&mut hold, false).await {
                return;
            }
            let ticket = self.next.fetch_add(1, Ordering::Relaxed);
            if ticket >= self.requests || !self.due(ticket).await {
                return;
            }
            let (place, of) = self.turn;
            let first = self.first + (ticket * of + place) * self.template.items();
            buffer = self.template.reuse(buffer, first);
            let framed = packer.as_mut().map_or_else(|| buffer.clone(), |packer| packer.pack(&buffer));
            self.deliver(&mut hold, first, framed).await;
        }
    }

    /// Waits for the ticket's turn on an open loop's schedule; false if the load ends before.
    async fn due(&self, ticket: u64) -> bool {
        if let Some(interval) = self.interval {
            let due = self.started + Duration::from_secs_f64(ticket as f64 * interval);
            let mut stopped = self.stopped.clone();
            tokio::select! {
                () = tokio::time::sleep_until(due.min(self.until)) => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        }
        !self.over()
    }

    /// Makes sure of a connection; false if the load ends before there is one, unless `past_end`: then the
    /// end of the grace breaks it off.
    async fn connect(&self, hold: &mut Hold, past_end: bool) -> bool {
        let mut backoff = FIRST_BACKOFF;
        while hold.client.is_none() {
            match hold.link.client(hold.broken).await {
                Ok(client) => hold.client = Some(client),
                Err(error) => {
                    self.with_report(|report| {
                        report.connect_errors += 1;
                        report.last_error = error.to_string();
                    });
                    if self.over() && !past_end {
                        return false;
                    }
                    tokio::time::sleep(backoff).await;
                    backoff = (2 * backoff).min(LAST_BACKOFF);
                }
            }
        }
        true
    }

    /// Sends one request, with retries if they are on, to its final answer.
    async fn deliver(&self, hold: &mut Hold, first: u64, framed: Bytes) {
        let items = self.template.items();
        self.with_report(|report| {
            report.requests += 1;
            // Until it ends otherwise: a worker may be broken off at any await.
            report.unresolved += 1;
        });
        let mut backoff = FIRST_BACKOFF;
        loop {
            let Some((_, client)) = &mut hold.client else {
                // Past the end, retries still have the grace.
                if !self.connect(hold, self.retry).await {
                    return;
                }
                continue;
            };
            let sent = Instant::now();
            let result = client.call(&self.head, framed.clone()).await;
            let after = sent.elapsed();
            let broken = match &result {
                Err(CallError::NotSent(_) | CallError::Broken(_)) => true,
                // Over HTTP/1.1 a late answer would be taken for that of the next request.
                Err(CallError::TimedOut) => hold.link.loader.http,
                _ => false,
            };
            let not_sent = matches!(result, Err(CallError::NotSent(_)));
            let wait = self.with_report(|report| {
                report.sent_requests += u64::from(!not_sent);
                report.sent_spans += if not_sent { 0 } else { items };
                account(report, first..first + items, result, after)
            });
            if broken {
                hold.break_off();
            }
            match wait {
                None => break,
                // What never left is no answer: it is sent again even without retries.
                Some(_) if !self.retry && !not_sent => break,
                Some(Some(delay)) => tokio::time::sleep(delay).await,
                Some(None) => {
                    tokio::time::sleep(backoff).await;
                    backoff = (2 * backoff).min(LAST_BACKOFF);
                }
            }
        }
        self.with_report(|report| report.unresolved -= 1);
    }
}

/// Books one attempt. `None`: the answer is final. `Some`: it may be tried again, after the delay it names.
fn account(
    report: &mut LoadReport,
    sequence: std::ops::Range<u64>,
    result: Result<Reply, CallError>,
    after: Duration,
) -> Option<Option<Duration>> {
    match result {
        // Nothing rejected is a full success with a warning.
        Ok(Reply::Accepted | Reply::Partial(0, _)) => {
            report.latency.record(after.as_nanos() as u64);
            report.acknowledged.insert_range(sequence);
            None
        }
        Ok(Reply::Partial(rejected, _)) => {
            report.partial += 1;
            report.partial_rejected += rejected;
            None
        }
        Ok(Reply::Refused(status)) => {
            let again = status.retryable().then_some(status.retry_delay);
            report.refuse(status, after);
            again
        }
        Err(CallError::TimedOut) => {
            report.timeouts += 1;
            Some(None)
        }
        Err(error) => {
            report.last_error = error.to_string();
            report.transport_errors += u64::from(!matches!(error, CallError::NotSent(_)));
            Some(None)
        }
    }
}
