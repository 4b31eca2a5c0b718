//! The `otlp` exporter: OTLP over gRPC.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_net::{Client, ClientKeepalive, ClientOptions, Compression};
use watershed_stage::{
    Batch, Env, ExportError, Exporter, Failure, Interval, KeyError, Partial, QueueSettings, RetrySettings,
    Sending,
};

use crate::answer;

/// Sends batches to an OTLP destination, over one connection a lane.
pub(crate) struct OtlpGrpc {
    client: Client,
}

/// Settings of the `otlp` exporter, under otelcol's keys and with its defaults. Headers hold tokens: never printed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// `http://host:port` or `host:port`.
    endpoint: String,
    #[serde(default)]
    tls: Tls,
    /// What is done to requests before they are sent.
    #[serde(default)]
    compression: Compress,
    /// Sent with every request.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The name to call the destination by, where it is not the endpoint's.
    #[serde(default)]
    authority: Option<String>,
    /// While there is no connection, wait for one rather than fail.
    #[serde(default)]
    wait_for_ready: bool,
    #[serde(default)]
    keepalive: Option<Keepalive>,
    /// The longest one attempt may take; `0s` is as long as the sender waits.
    #[serde(default = "timeout")]
    timeout: Interval,
    #[serde(default)]
    retry_on_failure: RetrySettings,
    #[serde(default)]
    sending_queue: QueueSettings,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    /// Speak plain text.
    insecure: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Compress {
    None,
    #[default]
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Keepalive {
    time: Interval,
    timeout: Interval,
    permit_without_stream: bool,
}

fn timeout() -> Interval {
    Interval::secs(5)
}

// === impl Settings ===

impl Default for Keepalive {
    fn default() -> Self {
        Self { time: Interval::secs(10), timeout: Interval::secs(10), permit_without_stream: false }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.endpoint.starts_with("https://")
            || !(self.tls.insecure || self.endpoint.starts_with("http://"))
        {
            let message =
                "this version sends plain text only: write \"http://...\", or set `tls.insecure = true`";
            errors.push(KeyError::new("endpoint", message));
        } else if let Err(error) = Client::new(self.options()) {
            errors.push(KeyError::new("endpoint", error.to_string()));
        }
        errors.extend(self.retry_on_failure.check().into_iter().map(|error| error.under("retry_on_failure")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }
}

impl Settings {
    fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new(self.endpoint.clone());
        options.compression = match self.compression {
            Compress::None => Compression::None,
            // The fastest levels: beyond them, an hour of CPU saves little of the wire.
            Compress::Gzip => Compression::Gzip(1),
            Compress::Zstd => Compression::Zstd(1),
        };
        options.headers = self.headers.clone().into_iter().collect();
        options.authority = self.authority.clone();
        options.wait_for_ready = self.wait_for_ready;
        options.keepalive = self.keepalive.map(|keepalive| ClientKeepalive {
            time: keepalive.time.0,
            timeout: keepalive.timeout.0,
            permit_without_stream: keepalive.permit_without_stream,
        });
        options
    }
}

// === impl OtlpGrpc ===

impl Exporter for OtlpGrpc {
    type Settings = Settings;

    fn sending(settings: &Settings) -> Sending {
        Sending {
            timeout: (settings.timeout > Interval::secs(0)).then_some(settings.timeout.0),
            retry: settings.retry_on_failure.clone(),
            queue: settings.sending_queue.clone(),
        }
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let mut options = settings.options();
        options.budget = Some(env.budget.clone());
        let client = Client::new(options).map_err(|error| Failure::from_error(&error))?;
        Ok(Self { client })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        let path = answer::path(batch.payload.signal());
        match self.client.unary(path, batch.payload.requests(), batch.timeout).await {
            Ok(response) => Ok(answer::partial(&response)),
            Err(error) => Err(answer::failure(error)),
        }
    }
}
