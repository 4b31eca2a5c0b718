//! The `zipkin` exporter: spans to a Zipkin server, or to whoever speaks as one.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use watershed_net::{Code, HttpAnswer, HttpClient, HttpError, HttpErrorKind};
use watershed_stage::delivery::{Budget, Permit};
use watershed_stage::{
    Batch, Credentials, Dependence, Env, ExportError, Exporter, Failure, Interval, KeyError, Partial,
    Payload, QueueSettings, Reference, RetrySettings, Sending, Signal, http_client_settings,
};

use crate::Encoding;
use crate::encode::encode_within;

/// A batch may become so many times as large, and this large in any case, in bytes: each span repeats its resource.
const GROWTH: usize = 16;
const LARGE: usize = 64 << 20;

/// Posts batches to a Zipkin server.
pub(crate) struct Zipkin {
    client: HttpClient,
    credentials: Credentials,
    budget: Arc<Budget>,
    url: Uri,
    format: Encoding,
    default_service_name: String,
}

http_client_settings! {
    /// Settings of the `zipkin` exporter, under otelcol's keys and with its defaults.
    pub(crate) struct Settings {
        /// Where spans are posted to, as it is: `http://zipkin:9411/api/v2/spans`.
        #[schemars(extend("x-required" = true))]
        endpoint: String = String::new(),
        /// How requests are encoded.
        format: Encoding = Encoding::default(),
        /// The service of spans whose resource has no `service.name`.
        default_service_name: String = "<missing service name>".to_owned(),
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
        errors.extend(self.url().err().map(|error| KeyError::new("endpoint", error)));
        errors.extend(self.sending().errors());
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

impl Settings {
    fn url(&self) -> Result<Uri, String> {
        const EXAMPLE: &str = "\"http://zipkin:9411/api/v2/spans\"";
        if self.endpoint.is_empty() {
            return Err(format!("requires a non-empty \"endpoint\", such as {EXAMPLE}"));
        }
        let url: Uri = self
            .endpoint
            .parse()
            .map_err(|_| format!("{:?} is no URL: write it like {EXAMPLE}", self.endpoint))?;
        HttpClient::check(&url).map_err(|error| error.to_string())?;
        Ok(url)
    }

    fn sending(&self) -> Sending {
        Sending::of(self.timeout, &self.retry_on_failure, &self.sending_queue)
    }
}

// === impl Zipkin ===

impl Exporter for Zipkin {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn sending(settings: &Settings) -> Sending {
        settings.sending()
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let (client, credentials) = settings.shared().open(env)?;
        Ok(Self {
            client,
            credentials,
            budget: env.budget.clone(),
            url: settings.url().map_err(Failure::new)?,
            format: settings.format,
            default_service_name: settings.default_service_name.clone(),
        })
    }

    fn depends(&self) -> Dependence {
        self.credentials.depends()
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let headers = self.credentials.headers(batch).await?;
        let (body, left_out, _permit) = self.encode(&batch.payload)?;
        let partial = match left_out {
            0 => Partial::default(),
            rejected => {
                let message = "spans without ids, which Zipkin does not have".into();
                Partial { rejected, message, ..Partial::default() }
            }
        };
        let content_type = HeaderValue::from_static(match self.format {
            Encoding::Json => "application/json",
            Encoding::Proto => "application/x-protobuf",
        });
        match self.client.post(&self.url, content_type, &headers, &[body], batch.timeout).await {
            Ok(answer) => self.read(&headers, &answer).map(|()| partial),
            // Only a good answer can be: it cannot be read, but what was sent has been taken.
            Err(HttpError { kind: HttpErrorKind::TooLarge, .. }) => Ok(partial),
            Err(HttpError { kind, message }) if kind.is_retryable() => {
                Err(ExportError::Retryable { reason: message.into(), retry_after: None })
            }
            Err(error) => {
                Err(ExportError::Permanent { code: Code::Unknown as i32, reason: error.message.into() })
            }
        }
    }
}

impl Zipkin {
    /// The body, how many spans are not in it, and the memory that it takes: what was accepted is sent, whether there
    /// is room for it or not.
    fn encode(&self, payload: &Payload) -> Result<(Bytes, u64, Permit), ExportError> {
        let capacity = payload.bytes() + payload.bytes() / 2;
        let permit = self.budget.overdraw(capacity as u64);
        let mut out = Vec::with_capacity(capacity);
        let most = payload.bytes().saturating_mul(GROWTH).max(LARGE);
        let left_out = encode_within(payload, self.format, &self.default_service_name, most, &mut out);
        let left_out = left_out
            .ok_or(ExportError::TooMuch { reason: "its spans repeat too much of their resource".into() })?;
        permit.cover(out.capacity() as u64);
        Ok((out.into(), left_out, permit))
    }

    /// What an answer means. Zipkin says 500 where its storage fails, and has no other way to say "again".
    fn read(&self, sent: &HeaderMap, answer: &HttpAnswer) -> Result<(), ExportError> {
        if answer.status.is_success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&answer.body);
        let reason = match said.trim() {
            "" => format!("HTTP {}", answer.status),
            said => format!("HTTP {}: {said}", answer.status),
        };
        let is_passing = match answer.status {
            StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(ExportError::TooLarge {
                    code: Code::ResourceExhausted as i32,
                    reason: reason.into(),
                });
            }
            StatusCode::UNAUTHORIZED => self.credentials.rejected(sent),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
            status => status.is_server_error(),
        };
        if is_passing {
            return Err(ExportError::Retryable { reason: reason.into(), retry_after: answer.retry_after });
        }
        let code = match answer.status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Code::Unimplemented,
            StatusCode::BAD_REQUEST => Code::InvalidArgument,
            _ => Code::Unknown,
        };
        Err(ExportError::Permanent { code: code as i32, reason: reason.into() })
    }
}
