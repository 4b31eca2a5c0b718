//! The `otlp` exporter: OTLP over gRPC.

use std::sync::Arc;

use watershed_balance::{Backends, Caller, HealthSettings, endpoint};
use watershed_net::{Client, Code};
use watershed_stage::{
    Batch, CompressionSetting, Credentials, Dependence, Env, ExportError, Exporter, ExporterSpec, Failure,
    GrpcClientSettings, Interval, KeyError, Partial, QueueSettings, Reference, RetrySettings, Sending,
    configured, grpc_client_settings,
};

use crate::answer;
use crate::several::{ANY, EndpointPolicy, Several};

/// Sends batches to an OTLP destination, over one connection a lane.
pub struct OtlpGrpc {
    client: Client,
    credentials: Credentials,
}

grpc_client_settings! {
    /// Settings of the `otlp` exporter, under otelcol's keys and with its defaults.
    pub struct Settings {
        /// Several destinations that stand for each other, in the place of `endpoint`: each as `host` or `host:port`.
        endpoints: Vec<String> = Vec::new(),
        /// How one of several `endpoints` is chosen; `round_robin` unless told.
        policy: Option<EndpointPolicy> = None,
        /// How those of several `endpoints` are found out that do not work.
        health_check: Option<HealthSettings> = None,
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
        let single: &[&str] = if self.endpoint.is_empty() { &[] } else { &["endpoint"] };
        let mut errors = self.several().check(single, |name| endpoint(name).err());
        let several = !self.several().are_none();
        errors.extend(if several { self.to(ANY).shared().check() } else { self.shared().check() });
        errors.extend(self.sending().errors());
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

    fn several(&self) -> Several<'_> {
        let Self { endpoints, policy, health_check, .. } = self;
        Several { endpoints, policy: *policy, health: health_check.as_ref() }
    }

    fn sending(&self) -> Sending {
        Sending::of(self.timeout, &self.retry_on_failure, &self.sending_queue)
    }

    /// The same for a single endpoint.
    fn to(&self, endpoint: &str) -> Self {
        let (endpoint, endpoints) = (endpoint.to_owned(), Vec::new());
        Self { endpoint, endpoints, policy: None, health_check: None, ..self.clone() }
    }
}

impl Backends for Settings {
    fn sending(&self) -> Sending {
        OtlpGrpc::sending(self)
    }

    fn endpoint(&self, name: &str) -> Result<String, String> {
        endpoint(name)
    }

    fn exporter(&self, endpoint: &str, judged: bool) -> Arc<dyn ExporterSpec> {
        let mut settings = self.to(endpoint);
        settings.retry_on_failure.circuit_breaker.enabled &= !judged;
        configured::<OtlpGrpc>(settings)
    }

    fn caller(&self, endpoint: &str, env: &Env) -> Result<Caller, Failure> {
        let compression = CompressionSetting::None;
        let settings = Self { compression, keepalive: None, wait_for_ready: false, ..self.to(endpoint) };
        Ok(Caller::Grpc(settings.shared().open(env)?.0))
    }

    fn check(&self, env: &Env) -> Result<(), Failure> {
        OtlpGrpc::build(&Arc::new(self.to(ANY)), env).map(drop)
    }
}

impl From<Settings> for Arc<dyn ExporterSpec> {
    fn from(settings: Settings) -> Self {
        if settings.several().are_none() {
            return configured::<OtlpGrpc>(settings);
        }
        let references = configured::<OtlpGrpc>(settings.to(ANY)).references();
        settings.several().balancer(Box::new(settings.clone()), references)
    }
}

// === impl OtlpGrpc ===

impl Exporter for OtlpGrpc {
    type Settings = Settings;

    fn sending(settings: &Settings) -> Sending {
        settings.sending()
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
