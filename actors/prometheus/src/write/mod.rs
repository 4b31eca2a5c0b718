//! The `prometheus_remote_write` exporter.
//!
//! A series' samples have to arrive in the order of their times. So one batch is sent after another, each until it is
//! taken; within a batch, series are dealt to requests that are sent at once. What has been taken of a batch is not sent
//! again with the rest of it, also when some of its members have left: a series is sent as a whole, or not yet.

mod collect;
#[cfg(test)]
mod repeated;
mod request;
mod settings;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hashbrown::DefaultHashBuilder;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use watershed_net::{Code, Compression, HttpAnswer, HttpClient, HttpErrorKind};
use watershed_stage::delivery::Permit;
use watershed_stage::{
    Batch, Counter, Credentials, Dependence, Env, ExportError, Exporter, Failure, Partial, Payload,
    Placement, Sending, Signal,
};

use self::collect::Collected;
use self::request::{Counts, Request, Version, requests};
pub(crate) use self::settings::Settings;
use crate::translate::{DropCounters, Drops, Measure, Reason, Scratch, Translation};

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// What a destination says it has written, in the order of [`Written`].
const WRITTEN: [HeaderName; 3] = [
    HeaderName::from_static("x-prometheus-remote-write-samples-written"),
    HeaderName::from_static("x-prometheus-remote-write-histograms-written"),
    HeaderName::from_static("x-prometheus-remote-write-exemplars-written"),
];

/// Bytes below which no destination's complaint brings the largest request: none that works takes less.
const LEAST: usize = 16 << 10;

/// Characters of a destination's complaint that are passed on.
const COMPLAINT: usize = 512;

/// Writes batches to remote storage.
pub(crate) struct RemoteWrite {
    settings: Arc<Settings>,
    env: Env,
    url: Uri,
    client: HttpClient,
    credentials: Credentials,
    translation: Translation,
    scratch: RefCell<Scratch>,
    hasher: DefaultHashBuilder,
    /// What is spoken: a destination may turn out not to know what was configured.
    version: Cell<Version>,
    /// The largest request, in bytes: a destination may turn out to take less than was configured.
    most: Cell<usize>,
    /// The batch in hand, as far as it has not been taken; one that was given up, until the exporter rests.
    pending: RefCell<Option<Rc<Pending>>>,
    counters: Counters,
    drops: DropCounters,
}

/// A batch as requests.
struct Pending {
    /// What it was made of.
    of: Payload,
    version: Version,
    /// It is too much at once, and so there are no requests.
    is_too_large: bool,
    /// By shard, in order; a request leaves when its fate is known.
    shards: Vec<RefCell<VecDeque<Request>>>,
    tally: RefCell<Tally>,
    _permit: Permit,
}

/// What has become of a batch so far.
#[derive(Default)]
struct Tally {
    /// Points that could not be said.
    left_out: Drops,
    /// Requests that were taken, at least in part.
    taken: u64,
    rejected: u64,
    complaint: Option<(StatusCode, String)>,
    /// The series of the requests whose fate is known.
    done: Vec<u64>,
}

/// What a destination wrote of a request: samples, histograms, exemplars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written([u64; 3]);

struct Counters {
    failed_translations: Counter,
    series: Counter,
    batches: Counter,
    written: [Counter; 3],
    fallbacks: Counter,
    rejected: [Counter; REJECTED.len()],
}

/// Why a destination does not take points.
const REJECTED: [&str; 9] = [
    "out_of_order",
    "too_old",
    "duplicate",
    "bad_request",
    "unauthorized",
    "not_found",
    "too_large",
    "not_written",
    "other",
];

// === impl RemoteWrite ===

impl Exporter for RemoteWrite {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Metrics]
    }

    fn placement(_: &Settings) -> Placement {
        Placement::Single
    }

    fn sending(settings: &Settings) -> Sending {
        settings.sending()
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let (client, credentials) =
            settings.client().open_with(env, |options| options.compression = Compression::SnappyBlock)?;
        Ok(Self {
            url: settings.url().map_err(Failure::new)?,
            client,
            credentials,
            translation: settings.translation(),
            scratch: RefCell::default(),
            hasher: DefaultHashBuilder::default(),
            version: Cell::new(settings.version()),
            most: Cell::new(usize::try_from(settings.max_batch_size_bytes.0).unwrap_or(usize::MAX)),
            pending: RefCell::default(),
            counters: Counters::new(env),
            drops: DropCounters::new(env),
            settings: settings.clone(),
            env: env.clone(),
        })
    }

    fn depends(&self) -> Dependence {
        self.credentials.depends()
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let pending = self.pending(&batch.payload);
        if pending.is_too_large {
            self.pending.take();
            return Err(Measure::too_much());
        }
        let headers = self.credentials.headers(batch).await?;
        let headers = self.headers(headers, pending.version);
        let shards = pending.shards.iter();
        let sent = shards.map(|shard| self.send(&pending, shard, &headers, batch.timeout));
        let mut failure = None;
        for end in join_all(sent).await {
            failure = worse(failure, end.err());
        }
        match failure {
            Some(error) => Err(error),
            None => {
                self.pending.take();
                self.finish(&pending.tally.borrow(), &batch.payload)
            }
        }
    }

    fn rest(&self) {
        self.pending.take();
    }
}

impl RemoteWrite {
    /// The batch as requests: what is left of them where it has been tried before, in whole or with more members.
    fn pending(&self, payload: &Payload) -> Rc<Pending> {
        let version = self.version.get();
        let known = self.pending.borrow().clone().filter(|known| is_of(payload, &known.of));
        if let Some(known) = known
            .as_ref()
            .filter(|known| known.version == version && known.of.requests().len() == payload.requests().len())
        {
            return known.clone();
        }
        let before = known.as_ref().map(|known| known.tally.take());
        let done = before.iter().flat_map(|before| before.done.iter().copied()).collect();
        let made = self.make(payload, version, &done);
        let is_too_large = made.is_none();
        let (shards, left_out, permit) =
            made.unwrap_or_else(|| (Vec::new(), Drops::default(), self.env.budget.overdraw(0)));
        let tally = match before {
            // What it counts is counted.
            Some(before) => Tally { left_out, ..before },
            None => {
                self.drops.count(&left_out);
                self.counters.failed_translations.add(left_out.lost());
                self.counters
                    .series
                    .add(shards.iter().flatten().map(|request| request.series() as u64).sum());
                Tally { left_out, ..Tally::default() }
            }
        };
        let shards = shards.into_iter().map(RefCell::new).collect();
        let tally = RefCell::new(tally);
        let pending =
            Rc::new(Pending { of: payload.clone(), version, is_too_large, shards, tally, _permit: permit });
        self.pending.replace(Some(pending.clone()));
        pending
    }

    /// Makes requests of a batch, but for the series that are done; none where that is too much at once.
    fn make(
        &self,
        payload: &Payload,
        version: Version,
        done: &HashSet<u64>,
    ) -> Option<(Vec<VecDeque<Request>>, Drops, Permit)> {
        let Self { settings, translation, scratch, .. } = self;
        let created = settings.export_created_metric.enabled;
        let (collected, mut left_out) =
            Collected::new(payload, translation, created, &self.hasher, &mut scratch.borrow_mut());
        if collected.is_cut {
            return None;
        }
        let permit = self.env.budget.overdraw(collected.size() as u64);
        let (shards, superseded) =
            requests(&collected, version, settings.shards(), self.most.get(), settings.send_metadata, done);
        (0..superseded).for_each(|_| left_out.add(Reason::Old));
        let held: usize = shards.iter().flatten().map(|request| request.body.len()).sum();
        drop(collected);
        permit.cover(held as u64);
        permit.trim(held as u64);
        Some((shards, left_out, permit))
    }

    fn headers(&self, mut headers: HeaderMap, version: Version) -> HeaderMap {
        let version = match version {
            Version::V1 => "0.1.0",
            Version::V2 => "2.0.0",
        };
        headers.insert(VERSION, HeaderValue::from_static(version));
        headers
    }

    /// Sends the requests of a shard, one after another, until one has to be sent again.
    async fn send(
        &self,
        pending: &Pending,
        shard: &RefCell<VecDeque<Request>>,
        headers: &HeaderMap,
        timeout: Option<Duration>,
    ) -> Result<(), ExportError> {
        loop {
            let Some((body, counts)) = front(shard) else { return Ok(()) };
            let content_type = HeaderValue::from_static(match pending.version {
                Version::V1 => "application/x-protobuf",
                Version::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            });
            let pieces = std::slice::from_ref(&body);
            let answer = match self.client.post(&self.url, content_type, headers, pieces, timeout).await {
                Ok(answer) => answer,
                // It was taken, and what it says of that is too long.
                Err(error) if error.kind == HttpErrorKind::TooLarge => {
                    self.taken(pending, shard, counts, None);
                    continue;
                }
                Err(error) if error.kind.is_retryable() => {
                    return Err(retryable(error.to_string(), None));
                }
                Err(error) => {
                    let (code, reason) = (Code::Unknown as i32, error.to_string().into());
                    return Err(ExportError::Permanent { code, reason });
                }
            };
            self.counters.batches.add(1);
            self.read(pending, shard, counts, headers, &answer)?;
        }
    }

    /// What an answer means for the request at the front of its shard.
    fn read(
        &self,
        pending: &Pending,
        shard: &RefCell<VecDeque<Request>>,
        counts: Counts,
        headers: &HeaderMap,
        answer: &HttpAnswer,
    ) -> Result<(), ExportError> {
        let written = Written::read(&answer.headers);
        let is_v2 = pending.version == Version::V2;
        let status = answer.status;
        let complaint = || {
            let said = String::from_utf8_lossy(&answer.body);
            let said: String = said.trim().chars().take(COMPLAINT).collect();
            if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") }
        };
        match status {
            // A destination of 1.0 sees an empty request, and says "ok" to it.
            status
                if is_v2
                    && (status == StatusCode::UNSUPPORTED_MEDIA_TYPE
                        || (status.is_success() && written.is_none())) =>
            {
                self.version.set(Version::V1);
                self.counters.fallbacks.add(1);
                tracing::warn!(exporter = %self.env.id, %status,
                    "the destination does not know remote write 2.0: it gets 1.0 from now on");
                Err(retryable("the destination does not know remote write 2.0".to_owned(), None))
            }
            status if status.is_success() => {
                self.taken(pending, shard, counts, written.filter(|_| is_v2));
                Ok(())
            }
            StatusCode::TOO_MANY_REQUESTS => Err(retryable(complaint(), answer.retry_after)),
            status if status.is_server_error() => Err(retryable(complaint(), answer.retry_after)),
            StatusCode::UNAUTHORIZED if self.credentials.rejected(headers) => {
                Err(retryable(complaint(), None))
            }
            StatusCode::PAYLOAD_TOO_LARGE if halve(shard, &self.most) => Ok(()),
            status => {
                let missing = written.map_or(counts.points.into(), |written| written.missing(&counts));
                self.reject(pending, why(status, &answer.body), missing, Some((status, complaint())));
                if let Some(written) = written.filter(|written| written.any()) {
                    self.counters.wrote(written);
                    pending.tally.borrow_mut().taken += 1;
                }
                pending.done(shard);
                Ok(())
            }
        }
    }

    fn taken(
        &self,
        pending: &Pending,
        shard: &RefCell<VecDeque<Request>>,
        counts: Counts,
        written: Option<Written>,
    ) {
        let written =
            written.unwrap_or(Written([counts.samples, counts.histograms, counts.exemplars].map(u64::from)));
        self.counters.wrote(written);
        let missing = written.missing(&counts);
        if missing > 0 {
            let said = "the destination has written less than it was sent".to_owned();
            self.reject(pending, "not_written", missing, Some((StatusCode::OK, said)));
        }
        pending.tally.borrow_mut().taken += 1;
        pending.done(shard);
    }

    fn reject(
        &self,
        pending: &Pending,
        why: &'static str,
        points: u64,
        complaint: Option<(StatusCode, String)>,
    ) {
        let mut tally = pending.tally.borrow_mut();
        tally.rejected += points;
        tally.complaint = complaint.or(tally.complaint.take());
        let mut counters = REJECTED.iter().zip(&self.counters.rejected);
        if let Some((_, counter)) = counters.find(|(reason, _)| **reason == why) {
            counter.add(points);
        }
    }

    /// What has become of a batch whose requests all met their fate.
    fn finish(&self, tally: &Tally, payload: &Payload) -> Result<Partial, ExportError> {
        let left_out = tally.left_out.lost();
        let Some((status, complaint)) = &tally.complaint else {
            return Ok(Partial { rejected: left_out, message: tally.left_out.text(), ..Partial::default() });
        };
        // Of what was merged, nothing is sent alone: some may have been written, and would be out of order then.
        if tally.taken == 0 && payload.requests().len() == 1 {
            let code = match *status {
                StatusCode::UNAUTHORIZED => Code::Unauthenticated,
                StatusCode::FORBIDDEN => Code::PermissionDenied,
                StatusCode::NOT_FOUND => Code::Unimplemented,
                _ => Code::InvalidArgument,
            };
            return Err(ExportError::Permanent { code: code as i32, reason: complaint.clone().into() });
        }
        Ok(Partial { rejected: left_out + tally.rejected, message: complaint.clone(), ..Partial::default() })
    }
}

// === impl Pending ===

impl Pending {
    /// The fate of the request at the front of a shard is known.
    fn done(&self, shard: &RefCell<VecDeque<Request>>) {
        if let Some(request) = shard.borrow_mut().pop_front() {
            self.tally.borrow_mut().done.extend(request.keys());
        }
    }
}

/// Whether a payload has nothing but requests of another, in memory, in their order.
fn is_of(some: &Payload, all: &Payload) -> bool {
    let place = |request: &Bytes| (request.as_ptr(), request.len());
    let mut all = all.requests().iter().map(place);
    some.requests().iter().map(place).all(|one| all.any(|other| other == one))
}

fn front(shard: &RefCell<VecDeque<Request>>) -> Option<(Bytes, Counts)> {
    shard.borrow().front().map(|request| (request.body.clone(), request.counts()))
}

/// Cuts the request at the front in two, and whatever comes from now on; whether that could be.
fn halve(shard: &RefCell<VecDeque<Request>>, most: &Cell<usize>) -> bool {
    let mut shard = shard.borrow_mut();
    let Some(request) = shard.pop_front() else { return false };
    let half = request.body.len() / 2;
    match request.halves() {
        Ok([first, second]) => {
            // For good: so one odd answer must not make requests of single series of all that is to come.
            most.set(most.get().min(half.max(LEAST)));
            shard.push_front(second);
            shard.push_front(first);
            true
        }
        Err(request) => {
            shard.push_front(request);
            false
        }
    }
}

fn retryable(reason: String, retry_after: Option<Duration>) -> ExportError {
    ExportError::Retryable { reason: reason.into(), retry_after }
}

/// Of two failures, the one by which a batch is treated: what can not be sent at all can not be tried again.
fn worse(one: Option<ExportError>, other: Option<ExportError>) -> Option<ExportError> {
    match (one, other) {
        (
            Some(ExportError::Retryable { reason, retry_after: a }),
            Some(ExportError::Retryable { retry_after: b, .. }),
        ) => Some(ExportError::Retryable { reason, retry_after: a.max(b) }),
        (Some(ExportError::Retryable { .. }), Some(other)) => Some(other),
        (one, other) => one.or(other),
    }
}

/// The reason that is counted. Prometheus says in words what its status does not.
fn why(status: StatusCode, body: &[u8]) -> &'static str {
    let says =
        |words: &str| body.windows(words.len()).any(|window| window.eq_ignore_ascii_case(words.as_bytes()));
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT => {
            if says("out of order") || says("out-of-order") {
                "out_of_order"
            } else if says("too old") || says("too far") || says("out of bounds") {
                "too_old"
            } else if says("duplicate") {
                "duplicate"
            } else {
                "bad_request"
            }
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "unauthorized",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ => "other",
    }
}

// === impl Written ===

impl Written {
    /// `None` where nothing is said.
    fn read(headers: &HeaderMap) -> Option<Self> {
        let read = |name: &HeaderName| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let [samples, histograms, exemplars] = WRITTEN.each_ref().map(read);
        let said = samples.is_some() || histograms.is_some() || exemplars.is_some();
        said.then(|| Self([samples, histograms, exemplars].map(Option::unwrap_or_default)))
    }

    fn any(&self) -> bool {
        self.0.iter().any(|count| *count > 0)
    }

    /// Points that are not written, as far as samples tell: a point may have several.
    fn missing(&self, counts: &Counts) -> u64 {
        let Self([samples, histograms, _]) = self;
        let of = |sent: u32, written: u64| u64::from(sent).saturating_sub(written);
        let missing = of(counts.samples, *samples) + of(counts.histograms, *histograms);
        missing.min(counts.points.into())
    }
}

// === impl Counters ===

impl Counters {
    fn new(env: &Env) -> Self {
        let exporter = ("exporter", &*env.id);
        let counter = |name, help| env.metrics.counter(name, help, &[exporter]);
        Self {
            failed_translations: counter(
                "otelcol_exporter_prometheusremotewrite_failed_translations",
                "Points that could not be said in Prometheus' terms.",
            ),
            series: counter(
                "otelcol_exporter_prometheusremotewrite_translated_time_series",
                "Series in the requests that were made.",
            ),
            batches: counter(
                "otelcol_exporter_prometheusremotewrite_sent_batches",
                "Requests that were answered.",
            ),
            written: [
                counter(
                    "otelcol_exporter_prometheusremotewrite_written_samples",
                    "Samples that the destination has written.",
                ),
                counter(
                    "otelcol_exporter_prometheusremotewrite_written_histograms",
                    "Native histograms that the destination has written.",
                ),
                counter(
                    "otelcol_exporter_prometheusremotewrite_written_exemplars",
                    "Exemplars that the destination has written.",
                ),
            ],
            fallbacks: counter(
                "watershed_prometheusremotewrite_fallbacks",
                "How often it was found out that the destination does not know remote write 2.0.",
            ),
            rejected: REJECTED.map(|reason| {
                env.metrics.counter(
                    "watershed_prometheusremotewrite_rejected_points",
                    "Points that the destination did not take, by why.",
                    &[exporter, ("reason", reason)],
                )
            }),
        }
    }

    fn wrote(&self, Written(written): Written) {
        for (counter, count) in self.written.iter().zip(written) {
            counter.add(count);
        }
    }
}
