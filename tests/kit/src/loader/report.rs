//! The loader's account.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::grpc::{Code, Status};
use crate::{Histogram, SeqSet};

/// Everything the loader was answered.
///
/// A *request* is one set of sequence numbers; with retries it may be sent several times, and every attempt
/// is counted where its answer belongs. "Spans" are the items of whichever signal was sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The run the spans belong to.
    pub run: u64,
    /// Spans in each request.
    pub spans_per_request: u64,
    /// Different requests that were begun.
    pub requests: u64,
    /// Requests that never came to a final answer: broken off at the end of the grace.
    pub unresolved: u64,
    /// Attempts put on the wire.
    pub sent_requests: u64,
    /// Spans put on the wire, every attempt counted.
    pub sent_spans: u64,
    /// The spans whose request was answered "ok" in full.
    pub acknowledged: SeqSet,
    /// Attempts answered with a partial success that rejected something. Which spans, OTLP does not say, so
    /// none of them counts as acknowledged.
    pub partial: u64,
    /// Spans rejected by partial successes.
    pub partial_rejected: u64,
    /// Refused attempts by code and retryability.
    pub refused: Vec<Refusal>,
    /// Refused attempts that carried a `RetryInfo`.
    pub with_retry_info: u64,
    /// Attempts that the loader gave up at its own timeout.
    pub timeouts: u64,
    /// Attempts whose connection or stream broke before an answer.
    pub transport_errors: u64,
    /// Failed attempts to connect.
    pub connect_errors: u64,
    /// The last transport or connect error, in words.
    pub last_error: String,
    /// Attempt to "ok", nanoseconds.
    pub latency: Histogram,
    /// Attempt to refusal, nanoseconds.
    pub refusal_latency: Histogram,
    /// From the start until the last answer or the end of the grace.
    pub elapsed: Duration,
}

/// Refused attempts of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// Whether OTLP lets the client send again.
    pub retryable: bool,
    /// Attempts refused so.
    pub requests: u64,
    /// The first message of this kind.
    pub message: String,
}

impl LoadReport {
    pub(super) fn new(run: u64, spans_per_request: u64) -> LoadReport {
        LoadReport { run, spans_per_request, ..LoadReport::default() }
    }

    /// Adds the account of another loader of the same run, beside which this one ran.
    pub fn join(&mut self, other: &LoadReport) {
        self.requests += other.requests;
        self.unresolved += other.unresolved;
        self.sent_requests += other.sent_requests;
        self.sent_spans += other.sent_spans;
        self.acknowledged.insert_all(&other.acknowledged);
        self.partial += other.partial;
        self.partial_rejected += other.partial_rejected;
        for refusal in &other.refused {
            match self.refused.iter_mut().find(|kind| kind.is_like(refusal.code, refusal.retryable)) {
                Some(kind) => kind.requests += refusal.requests,
                None => self.refused.push(refusal.clone()),
            }
        }
        self.with_retry_info += other.with_retry_info;
        self.timeouts += other.timeouts;
        self.transport_errors += other.transport_errors;
        self.connect_errors += other.connect_errors;
        if !other.last_error.is_empty() {
            self.last_error.clone_from(&other.last_error);
        }
        self.latency.merge(&other.latency);
        self.refusal_latency.merge(&other.refusal_latency);
        self.elapsed = self.elapsed.max(other.elapsed);
    }

    pub(super) fn refuse(&mut self, status: Status, after: Duration) {
        self.refusal_latency.record(after.as_nanos() as u64);
        self.with_retry_info += u64::from(status.retry_delay.is_some());
        let (code, retryable) = (status.code, status.retryable());
        match self.refused.iter_mut().find(|kind| kind.is_like(code, retryable)) {
            Some(kind) => kind.requests += 1,
            None => self.refused.push(Refusal { code, retryable, requests: 1, message: status.message }),
        }
    }

    /// Refused attempts in total.
    pub fn refusals(&self) -> u64 {
        self.refused.iter().map(|kind| kind.requests).sum()
    }

    /// Attempts refused with `code`.
    pub fn refused_with(&self, code: Code) -> u64 {
        self.refused.iter().filter(|kind| kind.code == code).map(|kind| kind.requests).sum()
    }

    /// Attempts refused for good: what a conforming client drops.
    pub fn refused_for_good(&self) -> u64 {
        self.refused.iter().filter(|kind| !kind.retryable).map(|kind| kind.requests).sum()
    }
}

impl Refusal {
    fn is_like(&self, code: Code, retryable: bool) -> bool {
        (self.code, self.retryable) == (code, retryable)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |histogram: &Histogram, q| histogram.quantile(q) as f64 / 1e6;
        write!(
            f,
            "{} requests in {:.1} s, {} attempts: {} items acknowledged (p50 {:.2} ms, p99 {:.2} ms)",
            self.requests,
            self.elapsed.as_secs_f64(),
            self.sent_requests,
            self.acknowledged.len(),
            millis(&self.latency, 0.5),
            millis(&self.latency, 0.99),
        )?;
        for Refusal { code, retryable, requests, message } in &self.refused {
            let retryable = if *retryable { "retryable" } else { "for good" };
            write!(f, "; {requests} refused {code} ({retryable}: {message})")?;
        }
        for (count, what) in [
            (self.with_retry_info, "with RetryInfo"),
            (self.partial, "partial"),
            (self.timeouts, "timed out"),
            (self.transport_errors, "broken off"),
            (self.connect_errors, "not connected"),
            (self.unresolved, "unresolved"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        if self.last_error.is_empty() { Ok(()) } else { write!(f, "; last error: {}", self.last_error) }
    }
}
