//! The `jaeger` exporter: api_v2 over gRPC.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::HeaderMap;
use watershed_net::{Client, Code};
use watershed_stage::delivery::{Budget, Permit};
use watershed_stage::{
    Batch, Credentials, Dependence, Env, ExportError, Exporter, Failure, Interval, KeyError, Partial,
    Payload, QueueSettings, Reference, RetrySettings, Sending, Signal, answer, grpc_client_settings,
};
use watershed_telemetry::build::NoRoom;

use crate::encode::{Request, requests};
use crate::grpc::POST_SPANS;

/// Calls of one batch that are under way at once.
const CALLS: usize = 16;

/// A batch may become so many times as large, and this large in any case, in bytes.
const GROWTH: usize = 16;
const LARGE: usize = 64 << 20;

/// Sends batches to a collector of Jaeger's, over one connection a lane.
pub struct Jaeger {
    client: Client,
    credentials: Credentials,
    budget: Arc<Budget>,
}

/// What became of the calls of a batch so far.
#[derive(Default)]
struct Tally {
    /// Whether any was taken.
    has_taken: bool,
    /// The spans of those that failed, by their number in the batch.
    failed: Vec<Range<u32>>,
    worst: Option<ExportError>,
}

grpc_client_settings! {
    /// Settings of the `jaeger` exporter, under otelcol's keys and with its defaults.
    pub struct Settings {
        /// The longest one attempt may take; `0s` is as long as the sender waits.
        timeout: Interval = Interval::secs(5),
        /// What happens after a failed attempt.
        retry_on_failure: RetrySettings = RetrySettings::default(),
        /// What waits before an attempt.
        sending_queue: QueueSettings = QueueSettings::default(),
    }
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.shared().check();
        errors.extend(self.sending().errors());
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

impl Settings {
    fn sending(&self) -> Sending {
        Sending::of(self.timeout, &self.retry_on_failure, &self.sending_queue)
    }
}

// === impl Jaeger ===

impl Exporter for Jaeger {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn sending(settings: &Settings) -> Sending {
        settings.sending()
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let (client, credentials) = settings.shared().open(env)?;
        Ok(Self { client, credentials, budget: env.budget.clone() })
    }

    fn depends(&self) -> Dependence {
        self.credentials.depends()
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let headers = self.credentials.headers(batch).await?;
        let (requests, _permit) = self.encode(&batch.payload)?;
        let headers = &headers;
        let calls = requests
            .into_iter()
            .map(async |Request { body, spans }| (spans, self.call(headers, batch, body).await));
        // All are made, also after one has failed: what arrives now is not sent in vain, since Jaeger knows its spans.
        let mut ends = stream::iter(calls).buffer_unordered(CALLS);
        let mut tally = Tally::default();
        while let Some((spans, end)) = ends.next().await {
            tally.add(spans, end);
        }
        tally.verdict(batch.merged)
    }
}

impl Jaeger {
    /// A payload as Jaeger wants it, and the memory it takes: what was accepted is sent, whether there is room or not.
    /// Each span repeats its scope: what that makes of a batch has an end, beyond which it is sent in halves.
    fn encode(&self, payload: &Payload) -> Result<(Vec<Request>, Permit), ExportError> {
        let permit = self.budget.overdraw(0);
        let most = payload.bytes().saturating_mul(GROWTH).max(LARGE);
        let requests = requests(payload, &mut |total| {
            permit.cover(total as u64);
            total <= most
        });
        let requests = requests.map_err(|NoRoom| ExportError::TooMuch {
            reason: "its spans repeat too much of their scope".into(),
        })?;
        Ok((requests, permit))
    }

    async fn call(&self, headers: &HeaderMap, batch: &Batch, request: Vec<u8>) -> Result<(), ExportError> {
        let sent = self.client.unary(POST_SPANS, headers, &[Bytes::from(request)], batch.timeout).await;
        sent.map(drop).map_err(|error| {
            if error.status.code == Code::Unauthenticated && self.credentials.rejected(headers) {
                return ExportError::Retryable { reason: error.status.message, retry_after: None };
            }
            answer::failure(error.status)
        })
    }
}

// === impl Tally ===

impl Tally {
    /// What became of the call with these spans.
    fn add(&mut self, spans: Vec<Range<u32>>, end: Result<(), ExportError>) {
        match end {
            Ok(()) => self.has_taken = true,
            Err(error) => {
                self.failed.extend(spans);
                self.worst = worse(self.worst.take(), error);
            }
        }
    }

    /// What became of the batch. Of what was `merged` each message is sent alone, unless all of it was taken: one of them
    /// may be to blame for what the others have in the same call.
    fn verdict(mut self, merged: bool) -> Result<Partial, ExportError> {
        match self.worst {
            None => Ok(Partial::default()),
            Some(ExportError::Permanent { reason, .. }) if self.has_taken && !merged => {
                self.failed.sort_unstable_by_key(|spans| spans.start);
                let which: Vec<u32> = self.failed.into_iter().flatten().collect();
                Ok(Partial { rejected: which.len() as u64, which: Some(which), message: reason.into_owned() })
            }
            Some(error) => Err(error),
        }
    }
}

/// Of two failures, the one by which a batch is treated: what can be tried again before what can be in parts, and both
/// before what can not, since that will be found out again.
fn worse(one: Option<ExportError>, other: ExportError) -> Option<ExportError> {
    let rank = |error: &ExportError| match error {
        ExportError::Retryable { .. } => 2,
        ExportError::TooLarge { .. } => 1,
        _ => 0,
    };
    Some(match one {
        Some(one) if rank(&one) >= rank(&other) => one,
        _ => other,
    })
}

#[cfg(test)]
#[path = "exporter_tests.rs"]
mod tests;
