//! What `prometheus_remote_write` may be told, under otelcol's keys.

use std::collections::BTreeMap;

use http::Uri;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use watershed_net::HttpClient;
use watershed_stage::{
    AuthSettings, ByteSize, CompressionSetting, HttpClientSettings, Interval, KeyError, QueueSettings,
    Reference, RetrySettings, Sending, TlsClientSettings,
};

use super::request::Version;
use crate::export::settings::{Switch, contradiction, labels, namespace, naming};
use crate::naming::Strategy;
use crate::translate::Translation;

/// Settings of the `prometheus_remote_write` exporter, under otelcol's keys and with its defaults.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where requests are posted to, as it is: `http://prometheus:9090/api/v1/write`.
    #[schemars(extend("x-required" = true))]
    pub(super) endpoint: String,
    /// What is sent: version 1.0 or 2.0 of the protocol. A destination that does not know 2.0 gets 1.0.
    protobuf_message: Message,
    /// Stands before every metric's name.
    namespace: String,
    /// Labels that everything has.
    external_labels: BTreeMap<String, String>,
    /// Append unit and type to names. Prefer `translation_strategy`.
    add_metric_suffixes: bool,
    /// What becomes of names; unless told, what `add_metric_suffixes` says.
    translation_strategy: Option<Strategy>,
    /// Send descriptions, types and units under 1.0. Under 2.0 they are sent in any case.
    pub(super) send_metadata: bool,
    /// Whether resources become `target_info`.
    target_info: Switch,
    /// Whether a resource's attributes are labels of all its points.
    resource_to_telemetry_conversion: Switch,
    /// Leave out which scope points are of.
    disable_scope_info: bool,
    /// Whether sums, histograms and summaries have a `_created` beside them, which says since when they count.
    pub(super) export_created_metric: Switch,
    /// The largest request, before compression.
    pub(super) max_batch_size_bytes: ByteSize,
    /// Requests of one batch in flight at once; `remote_write_queue.num_consumers` unless told.
    max_batch_request_parallelism: Option<usize>,
    /// otelcol's keys for the queue.
    remote_write_queue: RemoteWriteQueue,
    /// Known, so that it can be said what there is in its place.
    #[schemars(skip)]
    wal: Option<IgnoredAny>,
    /// The longest one attempt may take; `0s` is as long as the sender waits.
    timeout: Interval,
    /// What happens after a failed attempt.
    retry_on_failure: RetrySettings,
    /// What waits before an attempt. Batches are sent one after another, whatever `num_consumers` says: each is cut into
    /// requests by series, which are sent at once.
    sending_queue: QueueSettings,
    /// How TLS is spoken to `https://`.
    tls: TlsClientSettings,
    /// What is done to requests before they are sent: the protocol knows nothing else.
    compression: Snappy,
    /// Sent with every request.
    headers: BTreeMap<String, String>,
    /// How the exporter gets in.
    auth: Option<AuthSettings>,
    /// The proxy to go through (`http://host:port`); that of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` unless told, none
    /// if empty.
    proxy_url: Option<String>,
    /// Who calls; `watershed/<version>` unless told.
    user_agent: Option<String>,
    /// Connections kept while nobody uses them.
    max_idle_conns_per_host: usize,
    /// Connections at once; `0` is any number.
    max_conns_per_host: usize,
    /// How long an unused connection is kept; `0s` is for ever.
    idle_conn_timeout: Interval,
    /// Use each connection once.
    disable_keep_alives: bool,
}

/// `remote_write_queue`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RemoteWriteQueue {
    /// Whether there is a queue; `sending_queue.enabled` may say no as well.
    enabled: bool,
    /// What `sending_queue.queue_size` says, which is used unless this is told.
    queue_size: Option<usize>,
    /// Requests of one batch in flight at once. A series is always in the same one, so that its samples keep their
    /// order.
    num_consumers: usize,
}

/// What is sent, by its name in protobuf.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
enum Message {
    /// Version 1.0.
    #[default]
    #[serde(rename = "prometheus.WriteRequest")]
    V1,
    /// Version 2.0.
    #[serde(rename = "io.prometheus.write.v2.Request")]
    V2,
}

/// The one compression that there is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Snappy {
    /// In blocks.
    #[default]
    Snappy,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        let client = HttpClientSettings::default();
        Self {
            endpoint: String::new(),
            protobuf_message: Message::default(),
            namespace: String::new(),
            external_labels: BTreeMap::new(),
            add_metric_suffixes: true,
            translation_strategy: None,
            send_metadata: false,
            target_info: Switch { enabled: true },
            resource_to_telemetry_conversion: Switch { enabled: false },
            disable_scope_info: false,
            export_created_metric: Switch { enabled: false },
            max_batch_size_bytes: ByteSize(3_000_000),
            max_batch_request_parallelism: None,
            remote_write_queue: RemoteWriteQueue::default(),
            wal: None,
            timeout: Interval::secs(5),
            retry_on_failure: RetrySettings {
                initial_interval: Interval::millis(50),
                ..RetrySettings::default()
            },
            sending_queue: QueueSettings::default(),
            tls: client.tls,
            compression: Snappy::default(),
            headers: client.headers,
            auth: client.auth,
            proxy_url: client.proxy_url,
            user_agent: client.user_agent,
            max_idle_conns_per_host: client.max_idle_conns_per_host,
            max_conns_per_host: client.max_conns_per_host,
            idle_conn_timeout: client.idle_conn_timeout,
            disable_keep_alives: client.disable_keep_alives,
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.client().check();
        let mut error = |key: &str, message: &str| errors.push(KeyError::new(key, message));
        if self.endpoint.is_empty() {
            error("endpoint", "requires a URL, such as \"http://prometheus:9090/api/v1/write\"");
        } else if let Err(wrong) = self.url() {
            error("endpoint", &wrong);
        }
        if self.max_batch_size_bytes.0 == 0 {
            error("max_batch_size_bytes", "must be positive");
        }
        if self.max_batch_request_parallelism == Some(0) {
            error("max_batch_request_parallelism", "must be positive");
        }
        if self.remote_write_queue.num_consumers == 0 {
            error("remote_write_queue.num_consumers", "must be positive");
        }
        if self.remote_write_queue.queue_size == Some(0) {
            error("remote_write_queue.queue_size", "must be positive");
        }
        if self.wal.is_some() {
            let message = "there is none: name a `file_storage` extension in `sending_queue.storage`, and what waits \
                           survives restarts";
            error("wal", message);
        }
        errors.extend(labels(&self.external_labels, "external_labels"));
        errors.extend(namespace(&self.namespace));
        errors.extend(contradiction(self.add_metric_suffixes, self.translation_strategy));
        errors.extend(self.retry_on_failure.check().into_iter().map(|error| error.under("retry_on_failure")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.client().references()
    }
}

impl Settings {
    pub(super) fn url(&self) -> Result<Uri, String> {
        let url = self.endpoint.parse::<Uri>();
        let url = url.map_err(|_| {
            let endpoint = &self.endpoint;
            format!("{endpoint:?} is no URL: write it like \"http://prometheus:9090/api/v1/write\"")
        })?;
        HttpClient::check(&url).map_err(|error| error.to_string())?;
        Ok(url)
    }

    pub(super) fn client(&self) -> HttpClientSettings {
        HttpClientSettings {
            tls: self.tls.clone(),
            compression: CompressionSetting::None,
            headers: self.headers.clone(),
            auth: self.auth.clone(),
            proxy_url: self.proxy_url.clone(),
            user_agent: self.user_agent.clone(),
            max_idle_conns_per_host: self.max_idle_conns_per_host,
            max_conns_per_host: self.max_conns_per_host,
            idle_conn_timeout: self.idle_conn_timeout,
            disable_keep_alives: self.disable_keep_alives,
        }
    }

    /// One batch after another: the next may hold later samples of the same series.
    pub(super) fn sending(&self) -> Sending {
        let told = self.remote_write_queue;
        let mut queue = self.sending_queue.clone();
        queue.enabled &= told.enabled;
        queue.queue_size = told.queue_size.unwrap_or(queue.queue_size);
        queue.num_consumers = 1;
        Sending { timeout: self.timeout.positive(), retry: self.retry_on_failure.clone(), queue }
    }

    pub(super) fn shards(&self) -> usize {
        self.max_batch_request_parallelism.unwrap_or(self.remote_write_queue.num_consumers).max(1)
    }

    pub(super) fn version(&self) -> Version {
        match self.protobuf_message {
            Message::V1 => Version::V1,
            Message::V2 => Version::V2,
        }
    }

    pub(super) fn translation(&self) -> Translation {
        Translation {
            naming: naming(self.add_metric_suffixes, self.translation_strategy, &self.namespace),
            promote: self.resource_to_telemetry_conversion.enabled,
            scopes: !self.disable_scope_info,
            targets: self.target_info.enabled,
            fixed: self.external_labels.clone().into_iter().collect(),
        }
    }
}

impl Default for RemoteWriteQueue {
    fn default() -> Self {
        Self { enabled: true, queue_size: None, num_consumers: 5 }
    }
}
