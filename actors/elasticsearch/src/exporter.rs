//! The `elasticsearch` exporter: posts the documents of a batch, and sends again only those that were not taken.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::Mutex;
use tokio::time::Instant;
use watershed_net::{Code, HttpAnswer, HttpClient, HttpErrorKind};
use watershed_stage::{
    Batch, Credentials, Dependence, Env, ExportError, Exporter, Failure, Partial, Sending,
};

use crate::answer::{self, Verdict};
use crate::counters::{Counters, Ended};
use crate::course::Course;
use crate::document::{Bulk, Mode, Plan, Scribe};
use crate::ledger::Ledger;
use crate::nodes::{Nodes, Target};
use crate::probe::Probe;
use crate::settings::Settings;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// What OpenSearch does not understand of a request.
const OURS: [&str; 2] = ["[require_data_stream]", "[dynamic_templates]"];

/// The metadata by which a request chooses its mode.
const MODE: &str = "x-elastic-mapping-mode";

/// The largest answer that is read. One that says nothing but "created" takes 27 bytes a document.
const LARGEST_ANSWER: u64 = 32 << 20;

/// The longest wait between two requests of which the first was taken in part.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How long a node may take to answer, at least.
const FAIR: Duration = Duration::from_secs(1);

/// Posts batches to Elasticsearch, or OpenSearch.
pub struct Elasticsearch {
    pub(crate) settings: Arc<Settings>,
    plan: Plan,
    pub(crate) env: Env,
    pub(crate) client: HttpClient,
    credentials: Credentials,
    pub(crate) nodes: Nodes,
    pub(crate) ledger: Ledger,
    pub(crate) counters: Counters,
    /// When the cluster is asked for its nodes.
    pub(crate) asks_at: Cell<Option<Instant>>,
    /// When a rejected document was last logged.
    logged_at: RefCell<Option<Instant>>,
    /// A node that is being asked whether it answers.
    pub(crate) probe: Mutex<Option<Probe>>,
}

/// What keeps a batch from being through.
enum Stop {
    /// Something is to be sent again: what stood in the way, and how long the destination asks to be left alone.
    Later(String, Option<Duration>),
    /// None of it will ever be taken, whatever is in it.
    Never(StatusCode, String),
}

/// What a request that was answered came to.
enum Reply {
    /// There is a verdict for each document.
    Verdicts(Bytes),
    /// It is to be cut.
    TooLarge(String),
    /// There are more verdicts than are read, and so it is to be cut, too.
    Endless(String),
}

// === impl Elasticsearch ===

impl Exporter for Elasticsearch {
    type Settings = Settings;

    fn sending(settings: &Settings) -> Sending {
        Sending {
            timeout: settings.timeout.positive(),
            retry: settings.retry.shared(),
            queue: settings.queue(),
        }
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let (client, credentials) = settings.open(env, LARGEST_ANSWER)?;
        let urls = settings.urls().map_err(Failure::new)?;
        let asks = settings.discover.on_start.then(Instant::now);
        let first = || Some(Instant::now() + settings.discover.interval.positive()?);
        Ok(Self {
            plan: settings.plan(),
            client,
            credentials,
            nodes: Nodes::new(&urls, settings.query()),
            ledger: Ledger::default(),
            counters: Counters::new(env),
            asks_at: Cell::new(asks.or_else(first)),
            logged_at: RefCell::default(),
            probe: Mutex::default(),
            settings: settings.clone(),
            env: env.clone(),
        })
    }

    fn depends(&self) -> Dependence {
        let mut depends = self.credentials.depends();
        depends.metadata_keys.push(MODE.to_owned());
        depends.metadata_keys.extend(self.settings.metadata_keys.iter().cloned());
        depends
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let headers = self.credentials.headers(batch).await?;
        let call = Call { headers, until: batch.timeout.map(|timeout| Instant::now() + timeout) };
        self.discover(&call).await;
        let mode = self.mode(batch)?;
        let scribe = Scribe {
            plan: &self.plan,
            mode,
            date_suffix: self.settings.suffix(batch.context.arrived),
            max_bytes: self.settings.flush.bytes,
        };
        let retry = &self.settings.retry;
        let mut course = Course::begin(self, batch, &self.env.budget);
        if course.attempts() > retry.most() {
            // The time of its last attempt was up.
            return Err(course.exhausted(&scribe, "no answer in time".to_owned(), None));
        }
        loop {
            let (reason, retry_after) = match self.probing(&call, self.run(&call, &scribe, &mut course)).await
            {
                Ok(()) => return Ok(course.end()),
                Err(Stop::Never(status, reason)) => {
                    if batch.merged {
                        course.forget()
                    } else {
                        drop(course.end())
                    }
                    return Err(ExportError::Permanent { code: code(status), reason: reason.into() });
                }
                Err(Stop::Later(reason, retry_after)) => (reason, retry_after),
            };
            let attempts = course.failed();
            if attempts > retry.most() {
                return Err(course.exhausted(&scribe, reason, retry_after));
            }
            // A destination that takes some of it is there: it is slowed down for, but not left alone.
            if !course.advances() {
                return Err(ExportError::Retryable { reason: reason.into(), retry_after });
            }
            tokio::time::sleep(retry.shared().interval(attempts, 0.5).min(LONGEST_REST)).await;
        }
    }
}

/// What the requests of one batch have in common.
pub(crate) struct Call {
    pub(crate) headers: HeaderMap,
    until: Option<Instant>,
}

impl Elasticsearch {
    /// The mode of a batch.
    fn mode(&self, batch: &Batch) -> Result<Mode, ExportError> {
        let Some(name) = batch.context.origin.metadata.get(MODE).next() else { return Ok(self.plan.mode) };
        let mode = Mode::named(name.trim()).filter(|mode| self.plan.allowed.contains(mode));
        mode.ok_or_else(|| {
            let reason = format!("the request asks for the mapping mode {name:?}, which is not allowed");
            ExportError::Permanent { code: Code::InvalidArgument as i32, reason: reason.into() }
        })
    }

    /// Sends what is not through, one body after the other.
    async fn run(&self, call: &Call, scribe: &Scribe<'_>, course: &mut Course<'_>) -> Result<(), Stop> {
        let mut refused = None;
        while let Some(bulk) = course.next(scribe) {
            let permit = self.env.budget.overdraw(bulk.size());
            let sent = self.send(call, course, bulk).await;
            drop(permit);
            match sent {
                // The next body may fare better: it may go where this exporter may write.
                Err(Stop::Never(status, reason)) => refused = Some((status, reason)),
                sent => sent?,
            }
        }
        match (course.again(), refused) {
            (Some(reason), _) => Err(Stop::Later(reason, None)),
            (None, Some((status, reason))) if !course.has_taken() => Err(Stop::Never(status, reason)),
            (None, _) => Ok(()),
        }
    }

    /// Posts a body, in halves where it is too large, until each of its documents has its verdict.
    async fn send(&self, call: &Call, course: &mut Course<'_>, mut bulk: Bulk) -> Result<(), Stop> {
        let body = Bytes::from(std::mem::take(&mut bulk.body));
        let mut ranges: Vec<_> = std::iter::once(0..bulk.documents.len()).collect();
        while let Some(range) = ranges.pop() {
            let ends = |index: usize| {
                index.checked_sub(1).and_then(|last| bulk.documents.get(last)).map_or(0, |d| d.end)
            };
            let piece = body.slice(ends(range.start)..ends(range.end));
            if piece.is_empty() {
                continue;
            }
            let written = bulk.documents.get(range.clone()).unwrap_or_default();
            let written = written.iter().filter(|document| document.flaw.is_none()).count();
            match self.post(call, course, &piece).await {
                Err(Stop::Never(status, reason)) => {
                    course.reject(&bulk, range, "request", &format!("HTTP {status}: {reason}"));
                    if ranges.is_empty() {
                        return Err(Stop::Never(status, reason));
                    }
                }
                Err(stop) => return Err(stop),
                Ok(Reply::TooLarge(reason)) if written < 2 => {
                    course.reject(&bulk, range, "too_large", &reason);
                }
                Ok(Reply::Endless(reason)) if written < 2 => return Err(Stop::Later(reason, None)),
                Ok(reply @ (Reply::TooLarge(_) | Reply::Endless(_))) => {
                    if matches!(reply, Reply::Endless(_)) {
                        course.doubt();
                    }
                    self.counters.split.add(1);
                    let middle = range.start + range.len() / 2;
                    ranges.extend([middle..range.end, range.start..middle]);
                }
                Ok(Reply::Verdicts(answer)) => self.judge(course, &bulk, range, &body, &answer)?,
            }
        }
        Ok(())
    }

    /// Posts to one node, and to the others as long as they can not be reached.
    async fn post(&self, call: &Call, course: &mut Course<'_>, body: &Bytes) -> Result<Reply, Stop> {
        if self.settings.telemetry.log_request_body {
            tracing::debug!(exporter = %self.env.id, body = %String::from_utf8_lossy(body), "request");
        }
        let mut unreachable = None;
        for _ in 0..self.nodes.count() {
            let Some(node) = self.nodes.pick() else { break };
            let began = Instant::now();
            let remaining = call.until.map(|until| until.saturating_duration_since(began));
            self.counters.bytes.add(body.len() as u64);
            let pieces = std::slice::from_ref(body);
            let patient = Patience { exporter: self, node: &node, began, until: call.until };
            course.uncertain(true);
            let answer = self.client.post(&node.bulk, NDJSON, &call.headers, pieces, remaining).await;
            std::mem::forget(patient);
            self.counters.latency.record(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            match answer {
                Ok(answer) => {
                    // A proxy says so, too, when it has lost an answer.
                    course.uncertain(answer.status.is_server_error());
                    return self.read(call, &node, answer);
                }
                Err(error) => {
                    let reason = format!("{}: {error}", node.base);
                    self.counters.ended(Ended::Unanswered);
                    match error.kind {
                        HttpErrorKind::Unsendable => {
                            course.uncertain(false);
                            return Err(Stop::Never(StatusCode::BAD_REQUEST, reason));
                        }
                        HttpErrorKind::Connect | HttpErrorKind::Tls => {
                            course.uncertain(false);
                            self.failed(&node, &reason);
                            unreachable = Some(reason);
                        }
                        // Only a good answer can be too large; what it says of the documents is lost with it.
                        HttpErrorKind::TooLarge => return Ok(Reply::Endless(reason)),
                        HttpErrorKind::Lost | HttpErrorKind::TimedOut => {
                            if error.kind == HttpErrorKind::Lost || self.is_fair(began) {
                                self.failed(&node, &reason);
                            }
                            return Err(Stop::Later(reason, None));
                        }
                    }
                }
            }
        }
        Err(Stop::Later(unreachable.unwrap_or_else(|| "there is no node".to_owned()), None))
    }

    /// What a request came to as a whole.
    fn read(&self, call: &Call, node: &Target, answer: HttpAnswer) -> Result<Reply, Stop> {
        let HttpAnswer { status, body, retry_after, .. } = answer;
        if self.settings.telemetry.log_response_body {
            tracing::debug!(exporter = %self.env.id, %status, body = %String::from_utf8_lossy(&body), "response");
        }
        if status.is_success() {
            self.answered(node);
            self.counters.ended(Ended::Taken);
            return Ok(Reply::Verdicts(body));
        }
        let said = answer::complaint(&body);
        let reason = format!("{}: HTTP {status}: {said}", node.base);
        let busy = status == StatusCode::TOO_MANY_REQUESTS;
        self.counters.ended(if busy { Ended::Busy } else { Ended::Failed });
        match status {
            // The node is there, but what it stands for is not.
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                self.failed(node, &reason);
                return Err(Stop::Later(reason, retry_after));
            }
            _ => self.answered(node),
        }
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Reply::TooLarge(reason)),
            StatusCode::UNAUTHORIZED if self.credentials.rejected(&call.headers) => {
                Err(Stop::Later(reason, None))
            }
            _ if busy || status.is_server_error() || self.is_retried(status.as_u16()) => {
                Err(Stop::Later(reason, retry_after))
            }
            _ => {
                let is_other = OURS.iter().any(|ours| said.contains(ours)) && !self.settings.opensearch;
                let hint = if is_other {
                    ". Of OpenSearch this can not be asked: set `opensearch = true`"
                } else {
                    ""
                };
                Err(Stop::Never(status, said + hint))
            }
        }
    }

    /// Settles the documents of an answered request by their verdicts. Those that are to be sent again do not hold up other
    /// bodies, which may go elsewhere.
    fn judge(
        &self,
        course: &mut Course<'_>,
        bulk: &Bulk,
        range: std::ops::Range<usize>,
        body: &Bytes,
        answer: &[u8],
    ) -> Result<(), Stop> {
        let documents = bulk.documents.get(range.clone()).unwrap_or_default();
        let mut written = (range.start..).zip(documents).filter(|(_, document)| document.flaw.is_none());
        let (mut again, mut first) = (0, None);
        let read = answer::read(answer, &mut |Verdict { status, kind, reason }| {
            let Some((index, document)) = written.next() else { return };
            match status {
                200..300 => {
                    self.counters.created.add(1);
                    course.take(bulk, index);
                }
                // A copy of it is there: what else has its id?
                409 if document.has_id || course.was_uncertain(bulk, index) => {
                    self.counters.known.add(1);
                    course.take(bulk, index);
                }
                status if self.is_retried(status) => {
                    again += 1;
                    first.get_or_insert_with(|| format!("{status} {kind}: {reason}"));
                }
                status => {
                    self.log(bulk, index, body, &kind, &reason);
                    course.reject(bulk, index..index + 1, &kind, &format!("{status} {kind}: {reason}"));
                }
            }
        });
        let silent = written.count();
        self.counters.retried.add((again + silent) as u64);
        if read.is_err() || silent > 0 {
            course.doubt();
        }
        read.map_err(|error| Stop::Later(format!("the answer can not be read: {error}"), None))?;
        if again + silent > 0 {
            let first = first.unwrap_or_else(|| "no verdict".to_owned());
            let count = again + silent;
            course.postpone(format!("{count} of {} documents are not taken: {first}", documents.len()));
        }
        Ok(())
    }

    fn is_retried(&self, status: u16) -> bool {
        self.settings.retry.retry_on_status.contains(&status)
    }

    /// Whether a node that does not answer has had the time to. One that was given less by a sender has not failed.
    fn is_fair(&self, began: Instant) -> bool {
        let timeout = self.settings.timeout.positive();
        began.elapsed() >= timeout.map_or(FAIR, |timeout| timeout.min(FAIR))
    }

    pub(crate) fn failed(&self, node: &Target, reason: &str) {
        if self.nodes.failed(&node.base, Instant::now()) {
            self.counters.ejected.add(1);
            tracing::warn!(exporter = %self.env.id, node = %node.base, error = %reason,
                "A node fails. It is left out until it answers again.");
        }
    }

    pub(crate) fn answered(&self, node: &Target) {
        if self.nodes.succeeded(&node.base) {
            self.counters.returned.add(1);
            tracing::info!(exporter = %self.env.id, node = %node.base, "The node answers again.");
        }
    }

    /// Logs a rejected document, if that is asked for.
    fn log(&self, bulk: &Bulk, index: usize, body: &Bytes, kind: &str, reason: &str) {
        let telemetry = &self.settings.telemetry;
        let (mut last, now) = (self.logged_at.borrow_mut(), Instant::now());
        let rest = telemetry.log_failed_docs_input_rate_limit.0;
        if !telemetry.log_failed_docs_input || last.is_some_and(|last| now.duration_since(last) < rest) {
            return;
        }
        *last = Some(now);
        let start = index.checked_sub(1).and_then(|before| bulk.documents.get(before)).map_or(0, |d| d.end);
        let end = bulk.documents.get(index).map_or(start, |document| document.end);
        let document = String::from_utf8_lossy(body.get(start..end).unwrap_or_default());
        tracing::debug!(exporter = %self.env.id, %kind, %reason, %document, "document rejected");
    }
}

/// The gRPC code that says the same.
fn code(status: StatusCode) -> i32 {
    let code = match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        _ => Code::InvalidArgument,
    };
    code as i32
}

/// While a node is waited for. Dropped with the attempt when its time is up, and then the node has failed.
struct Patience<'e> {
    exporter: &'e Elasticsearch,
    node: &'e Target,
    began: Instant,
    until: Option<Instant>,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if self.until.is_some_and(|until| Instant::now() >= until) && self.exporter.is_fair(self.began) {
            self.exporter.failed(self.node, "no answer in time");
        }
    }
}

#[cfg(test)]
#[path = "exporter_tests.rs"]
mod tests;
