//! The `otlphttp` exporter: OTLP over HTTP, in binary or in JSON.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_balance::{Backends, Caller, HealthSettings};
use watershed_net::{Code, HttpAnswer, HttpClient, HttpError, HttpErrorKind, Status};
use watershed_stage::delivery::{Budget, Permit};
use watershed_stage::{
    Batch, Credentials, Dependence, Env, ExportError, Exporter, ExporterSpec, Failure, Interval, KeyError,
    Partial, Payload, QueueSettings, Reference, RetrySettings, Sending, Signal, configured,
    http_client_settings,
};
use watershed_telemetry::json;

use crate::answer;
use crate::http::{JSON, PROTOBUF};
use crate::several::{ANY, EndpointPolicy, Several};

/// Posts batches to an OTLP destination.
pub struct OtlpHttp {
    client: HttpClient,
    credentials: Credentials,
    encoding: Encoding,
    budget: Arc<Budget>,
    /// In the order of [`Signal::ALL`].
    urls: [Option<Uri>; 3],
}

http_client_settings! {
    /// Settings of the `otlphttp` exporter, under otelcol's keys and with its defaults.
    pub struct Settings {
        /// The destination, to which `/v1/traces`, `/v1/metrics` and `/v1/logs` are appended. It or an endpoint of a
        /// single signal is required.
        endpoint: Option<String> = None,
        /// Several destinations that stand for each other, in the place of all other endpoints: each as `endpoint` is.
        endpoints: Vec<String> = Vec::new(),
        /// How one of several `endpoints` is chosen; `round_robin` unless told.
        policy: Option<EndpointPolicy> = None,
        /// How those of several `endpoints` are found out that do not work.
        health_check: Option<HealthSettings> = None,
        /// Where traces are posted to, as it is.
        traces_endpoint: Option<String> = None,
        /// Where metrics are posted to, as it is.
        metrics_endpoint: Option<String> = None,
        /// Where logs are posted to, as it is.
        logs_endpoint: Option<String> = None,
        /// How requests are encoded.
        encoding: Encoding = Encoding::default(),
        /// The longest one attempt may take; `0s` is as long as the sender waits.
        timeout: Interval = Interval::secs(30),
        /// What happens after a failed attempt.
        retry_on_failure: RetrySettings = RetrySettings::default(),
        /// What waits before an attempt.
        sending_queue: QueueSettings = QueueSettings::default(),
    }
}

/// How requests are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Binary.
    #[default]
    Proto,
    /// JSON, at several times the cost.
    Json,
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.shared().check();
        let common = ("endpoint", self.endpoint.clone());
        let single: Vec<_> = std::iter::once(common).chain(self.keys()).collect();
        let single: Vec<_> = single.iter().filter_map(|(key, url)| Some((*key, url.as_deref()?))).collect();
        let keys: Vec<_> = single.iter().map(|(key, _)| *key).collect();
        errors.extend(self.several().check(&keys, |url| wrong(url).err()));
        if single.is_empty() && self.several().are_none() {
            errors.push(KeyError::new("endpoint", "at least one endpoint must be specified"));
        }
        let single = single.into_iter();
        errors.extend(single.filter_map(|(key, url)| Some(KeyError::new(key, wrong(url).err()?))));
        errors.extend(self.sending().errors());
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

/// What is wrong with an endpoint.
fn wrong(url: &str) -> Result<(), String> {
    let url: Uri =
        url.parse().map_err(|_| format!("{url:?} is no URL: write it like \"https://host:4318\""))?;
    HttpClient::check(&url).map_err(|error| error.to_string())
}

impl Settings {
    fn several(&self) -> Several<'_> {
        let Self { endpoints, policy, health_check, .. } = self;
        Several { endpoints, policy: *policy, health: health_check.as_ref() }
    }

    /// The same for a single endpoint.
    fn to(&self, endpoint: &str) -> Self {
        let (endpoint, endpoints) = (Some(endpoint.to_owned()), Vec::new());
        Self { endpoint, endpoints, policy: None, health_check: None, ..self.clone() }
    }

    /// The endpoints of single signals, in the order of [`Signal::ALL`].
    fn keys(&self) -> [(&'static str, Option<String>); 3] {
        [
            ("traces_endpoint", self.traces_endpoint.clone()),
            ("metrics_endpoint", self.metrics_endpoint.clone()),
            ("logs_endpoint", self.logs_endpoint.clone()),
        ]
    }

    fn urls(&self) -> [Option<Uri>; 3] {
        let [traces, metrics, logs] = self.keys().map(|(_, url)| url);
        let common = |path: &str| {
            let endpoint = self.endpoint.as_deref()?;
            Some(format!("{}{path}", endpoint.trim_end_matches('/')))
        };
        let urls = [
            traces.or_else(|| common("/v1/traces")),
            metrics.or_else(|| common("/v1/metrics")),
            logs.or_else(|| common("/v1/logs")),
        ];
        urls.map(|url| url?.parse().ok())
    }

    fn sending(&self) -> Sending {
        Sending::of(self.timeout, &self.retry_on_failure, &self.sending_queue)
    }
}

impl Backends for Settings {
    fn sending(&self) -> Sending {
        OtlpHttp::sending(self)
    }

    fn endpoint(&self, name: &str) -> Result<String, String> {
        wrong(name).map(|()| name.to_owned())
    }

    fn exporter(&self, endpoint: &str, judged: bool) -> Arc<dyn ExporterSpec> {
        let mut settings = self.to(endpoint);
        settings.retry_on_failure.circuit_breaker.enabled &= !judged;
        configured::<OtlpHttp>(settings)
    }

    fn caller(&self, endpoint: &str, env: &Env) -> Result<Caller, Failure> {
        let url = endpoint.parse().map_err(|error: http::uri::InvalidUri| Failure::from_error(&error))?;
        Ok(Caller::Http(self.shared().open(env)?.0, url))
    }

    fn check(&self, env: &Env) -> Result<(), Failure> {
        OtlpHttp::build(&Arc::new(self.to(ANY)), env).map(drop)
    }
}

impl From<Settings> for Arc<dyn ExporterSpec> {
    fn from(settings: Settings) -> Self {
        if settings.several().are_none() {
            return configured::<OtlpHttp>(settings);
        }
        let references = configured::<OtlpHttp>(settings.to(ANY)).references();
        settings.several().balancer(Box::new(settings.clone()), references)
    }
}

// === impl OtlpHttp ===

impl Exporter for OtlpHttp {
    type Settings = Settings;

    fn sending(settings: &Settings) -> Sending {
        settings.sending()
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let (client, credentials) = settings.shared().open(env)?;
        Ok(Self {
            client,
            credentials,
            encoding: settings.encoding,
            budget: env.budget.clone(),
            urls: settings.urls(),
        })
    }

    fn depends(&self) -> Dependence {
        self.credentials.depends()
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let Some(url) = self.url(batch.payload.signal()) else {
            let reason = format!("there is no endpoint for {}", batch.payload.signal());
            return Err(ExportError::Permanent { code: Code::Unimplemented as i32, reason: reason.into() });
        };
        let headers = self.credentials.headers(batch).await?;
        let (content_type, json) = match self.encoding {
            Encoding::Proto => (PROTOBUF, None),
            Encoding::Json => (JSON, Some(self.encode(&batch.payload))),
        };
        let pieces = json.as_ref().map_or(batch.payload.requests(), |(json, _)| std::slice::from_ref(json));
        let content_type = HeaderValue::from_static(content_type);
        match self.client.post(url, content_type, &headers, pieces, batch.timeout).await {
            Ok(answer) => self.read(&headers, answer),
            Err(error) => failure(error),
        }
    }
}

impl OtlpHttp {
    /// A payload in JSON, and the memory it takes: what was accepted is sent, whether there is room for it or not.
    fn encode(&self, payload: &Payload) -> (Bytes, Permit) {
        let capacity = 2 * payload.bytes();
        let permit = self.budget.overdraw(capacity as u64);
        let mut out = Vec::with_capacity(capacity);
        json::encode_payload(payload, &mut out);
        permit.cover(out.capacity() as u64);
        (out.into(), permit)
    }

    fn url(&self, signal: Signal) -> Option<&Uri> {
        let [traces, metrics, logs] = &self.urls;
        match signal {
            Signal::Traces => traces.as_ref(),
            Signal::Metrics => metrics.as_ref(),
            Signal::Logs => logs.as_ref(),
        }
    }

    /// What an answer means ("OTLP/HTTP Response"): only four statuses ask for the same again.
    fn read(&self, sent: &HeaderMap, answer: HttpAnswer) -> Result<Partial, ExportError> {
        let is_json = answer.headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
            value.to_str().is_ok_and(|value| value.trim_start().to_ascii_lowercase().starts_with(JSON))
        });
        if answer.status.is_success() {
            // What cannot be read of an answer is no reason to send again what was taken.
            return Ok(if is_json { partial_json(&answer.body) } else { answer::partial(&answer.body) });
        }
        let code = answer::grpc_code(answer.status);
        let said = if is_json {
            message_json(&answer.body)
        } else {
            Status::from_bytes(&answer.body).message.into()
        };
        let reason = match said.trim() {
            "" => format!("HTTP {}", answer.status),
            said => format!("HTTP {}: {said}", answer.status),
        };
        match answer.status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Err(ExportError::Retryable { reason: reason.into(), retry_after: answer.retry_after })
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                Err(ExportError::TooLarge { code: code as i32, reason: reason.into() })
            }
            StatusCode::UNAUTHORIZED if self.credentials.rejected(sent) => {
                Err(ExportError::Retryable { reason: reason.into(), retry_after: None })
            }
            _ => Err(ExportError::Permanent { code: code as i32, reason: reason.into() }),
        }
    }
}

/// What it means that there is no answer.
fn failure(error: HttpError) -> Result<Partial, ExportError> {
    let reason = error.to_string().into();
    match error.kind {
        // Only a good answer can be: it cannot be read, but what was sent has been taken.
        HttpErrorKind::TooLarge => Ok(Partial::default()),
        kind if kind.is_retryable() => Err(ExportError::Retryable { reason, retry_after: None }),
        _ => Err(ExportError::Permanent { code: Code::Unknown as i32, reason }),
    }
}

/// `partialSuccess` of a response in JSON, whichever signal's.
fn partial_json(body: &[u8]) -> Partial {
    let response: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let success = &response["partialSuccess"];
    let counts =
        ["rejectedSpans", "rejectedDataPoints", "rejectedLogRecords"].iter().map(|key| &success[key]);
    // 64-bit numbers are strings in proto3's JSON, and may be numbers.
    let rejected = counts.filter_map(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok())).sum();
    let message = success["errorMessage"].as_str().unwrap_or_default().to_owned();
    Partial { rejected, message, which: None }
}

/// The message of a `google.rpc.Status` in JSON.
fn message_json(body: &[u8]) -> String {
    let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    status["message"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_too_large_to_be_read_says_that_the_request_was_taken() {
        let failure = |kind| failure(HttpError { kind, message: "no".into() });
        assert_eq!(failure(HttpErrorKind::TooLarge).ok(), Some(Partial::default()));
        assert!(matches!(failure(HttpErrorKind::Lost), Err(ExportError::Retryable { .. })));
        assert!(matches!(failure(HttpErrorKind::Unsendable), Err(ExportError::Permanent { .. })));
    }
}
