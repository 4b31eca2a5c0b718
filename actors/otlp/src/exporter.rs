//! The `otlp` exporter: OTLP over gRPC.

use std::sync::Arc;

use watershed_net::{Client, Code};
use watershed_stage::{
    Batch, Credentials, Dependence, Env, ExportError, Exporter, Failure, GrpcClientSettings, Interval,
    KeyError, Partial, QueueSettings, Reference, RetrySettings, Sending, grpc_client_settings,
};

use crate::answer;

/// Sends batches to an OTLP destination, over one connection a lane.
pub struct OtlpGrpc {
    client: Client,
    credentials: Credentials,
}

grpc_client_settings! {
    /// Settings of the `otlp` exporter, under otelcol's keys and with its defaults.
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
        errors.extend(self.retry_on_failure.check().into_iter().map(|error| error.under("retry_on_failure")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

impl Settings {
    /// The part of it that is about the connection.
    pub fn client(&self) -> GrpcClientSettings {
        self.shared()
    }
}

// === impl OtlpGrpc ===

impl Exporter for OtlpGrpc {
    type Settings = Settings;

    fn sending(settings: &Settings) -> Sending {
        Sending {
            timeout: settings.timeout.positive(),
            retry: settings.retry_on_failure.clone(),
            queue: settings.sending_queue.clone(),
        }
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let (client, credentials) = settings.shared().open(env)?;
        Ok(Self { client, credentials })
    }

    fn depends(&self) -> Dependence {
        self.credentials.depends()
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let method = answer::method(batch.payload.signal());
        let headers = self.credentials.headers(batch).await?;
        match self.client.unary(method, &headers, batch.payload.requests(), batch.timeout).await {
            Ok(response) => Ok(answer::partial(&response)),
            Err(error) => {
                if error.status.code == Code::Unauthenticated && self.credentials.rejected(&headers) {
                    return Err(ExportError::Retryable { reason: error.status.message, retry_after: None });
                }
                Err(answer::failure(error.status))
            }
        }
    }
}
