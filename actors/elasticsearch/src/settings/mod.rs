//! The keys of the exporter.

mod check;
mod request;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{BatchSettings, Interval, QueueSettings, RetrySettings, Sizer, http_client_settings};

use crate::document::{Mode, Plan};

http_client_settings! {
    /// Settings of the `elasticsearch` exporter, under otelcol's keys. They hold passwords: never printed.
    pub struct Settings {
        /// The URL of Elasticsearch. One of `endpoint`, `endpoints` and `cloudid` is required, or `ELASTICSEARCH_URL` in
        /// the environment.
        endpoint: Option<String> = None,
        /// The URLs of its nodes. Requests go to each in turn; one that fails is left out until it answers again.
        endpoints: Vec<String> = Vec::new(),
        /// The id of a deployment in Elastic's cloud.
        cloudid: Option<String> = None,
        /// The user of HTTP's basic authentication.
        user: Option<String> = None,
        /// The user's password.
        password: Option<String> = None,
        /// An API key, encoded as Elasticsearch returns it when it is made.
        api_key: Option<String> = None,
        /// How hard requests are compressed.
        compression_params: CompressionParams = CompressionParams::default(),
        /// The longest one attempt may take; `0s` is as long as the sender waits.
        timeout: Interval = Interval::secs(90),
        /// The index or data stream of all logs. Empty is routing by attributes.
        logs_index: String = String::new(),
        /// The same for metrics.
        metrics_index: String = String::new(),
        /// The same for spans.
        traces_index: String = String::new(),
        /// Take the ids of logs' documents from their attribute `elasticsearch.document_id`.
        logs_dynamic_id: Toggle = Toggle::default(),
        /// The same for spans.
        traces_dynamic_id: Toggle = Toggle::default(),
        /// Take the ingest pipelines of logs from their attribute `elasticsearch.ingest_pipeline`.
        logs_dynamic_pipeline: Toggle = Toggle::default(),
        /// The ingest pipeline of all documents; the index's own unless told.
        pipeline: String = String::new(),
        /// Who gives logs and spans their documents' ids, where no attribute does.
        document_ids: DocumentIds = DocumentIds::default(),
        /// What documents look like.
        mapping: MappingSettings = MappingSettings::default(),
        /// A date behind the names of indices (not of data streams).
        logstash_format: LogstashSettings = LogstashSettings::default(),
        /// What happens after a failed attempt, and to documents that Elasticsearch has no room for.
        retry: DocumentRetrySettings = DocumentRetrySettings::default(),
        /// How large requests are.
        flush: FlushSettings = FlushSettings::default(),
        /// What waits before an attempt. Unless told, messages are merged to 1 to 5 MB of OTLP, for 10 s at most.
        sending_queue: QueueSettings = QueueSettings { batch: Some(batch()), ..QueueSettings::default() },
        /// otelcol's older key for `sending_queue.num_consumers`.
        num_workers: Option<usize> = None,
        /// Metadata that keeps messages out of each other's requests.
        metadata_keys: Vec<String> = Vec::new(),
        /// Ask the cluster for its nodes.
        discover: DiscoverSettings = DiscoverSettings::default(),
        /// Documents may only go to data streams, so that a missing template is an error and no index with guessed
        /// mappings. Unless told, so it is in mode `otel`.
        require_data_stream: Option<bool> = None,
        /// Whether errors may quote documents (from Elasticsearch 8.18 on). Elasticsearch's default unless told.
        include_source_on_error: Option<bool> = None,
        /// The destination is OpenSearch: what it does not know is not sent.
        opensearch: bool = false,
        /// What is logged, for debugging.
        telemetry: TelemetrySettings = TelemetrySettings::default(),
    }
}

/// Something that is on or off.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Toggle {
    /// Whether it is on.
    pub enabled: bool,
}

/// How hard requests are compressed (`compression_params`).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionParams {
    /// 1 (fastest) to 9 (smallest).
    pub level: u32,
}

/// Who gives documents their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentIds {
    /// Elasticsearch, which is fastest. What is sent again after an answer was lost may then be there twice.
    #[default]
    Generated,
    /// The document's content: what is sent again is known by it, and two documents that do not differ are one.
    Content,
}

/// What documents look like (`mapping`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MappingSettings {
    /// What they look like where neither the scope (`elastic.mapping.mode`) nor the request (`X-Elastic-Mapping-Mode`)
    /// says.
    pub mode: Mode,
    /// What those may ask for.
    pub allowed_modes: Vec<Mode>,
}

/// A date behind the names of indices (`logstash_format`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogstashSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// What stands before it.
    pub prefix_separator: String,
    /// The date of arrival in UTC, of `%Y`, `%y`, `%m`, `%d` and `%H`.
    pub date_format: String,
}

/// How attempts are repeated (`retry`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentRetrySettings {
    /// Whether they are at all.
    pub enabled: bool,
    /// How often. Unless told, it is tried for 5 minutes, and for ever where it is kept on disk.
    pub max_retries: Option<u32>,
    /// The first wait.
    pub initial_interval: Interval,
    /// The longest wait.
    pub max_interval: Interval,
    /// The statuses of documents that are sent again, and of requests beside 429 and 5xx.
    pub retry_on_status: Vec<u16>,
}

/// How large requests are (`flush`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlushSettings {
    /// The largest body, in bytes before compression; only a single document may be larger.
    pub bytes: usize,
    /// otelcol's older key for `sending_queue.batch.flush_timeout`.
    pub interval: Option<Interval>,
}

/// Asking the cluster for its nodes (`discover`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscoverSettings {
    /// Before the first request.
    pub on_start: bool,
    /// And this often, while there is something to send; `0s` is never.
    pub interval: Interval,
}

/// What is logged (`telemetry`).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// Every request, at level debug. It holds your data.
    pub log_request_body: bool,
    /// Every response, at level debug.
    pub log_response_body: bool,
    /// Documents that were rejected, at level debug.
    pub log_failed_docs_input: bool,
    /// At most one of those in so much time.
    pub log_failed_docs_input_rate_limit: Interval,
}

/// How messages are merged, as otelcol has it for this exporter.
fn batch() -> BatchSettings {
    BatchSettings {
        flush_timeout: Interval::secs(10),
        min_size: 1_000_000,
        max_size: 5_000_000,
        sizer: Sizer::Bytes,
        ..BatchSettings::default()
    }
}

// === impl Settings ===

impl Settings {
    /// The shared queue, with what stands elsewhere.
    pub(crate) fn queue(&self) -> QueueSettings {
        let mut queue = self.sending_queue.clone();
        if let Some(workers) = self.num_workers {
            queue.num_consumers = workers;
        }
        // Without a queue there is nothing to merge.
        let batch = queue.batch.get_or_insert_with(batch);
        if let Some(interval) = self.flush.interval {
            batch.flush_timeout = interval;
        }
        queue
    }

    pub(crate) fn plan(&self) -> Plan {
        let index = |name: &String| Some(name.clone()).filter(|name| !name.is_empty());
        Plan {
            mode: self.mapping.mode,
            allowed: self.mapping.allowed_modes.clone(),
            indices: [index(&self.traces_index), index(&self.metrics_index), index(&self.logs_index)],
            logs_dynamic_id: self.logs_dynamic_id.enabled,
            traces_dynamic_id: self.traces_dynamic_id.enabled,
            dynamic_pipeline: self.logs_dynamic_pipeline.enabled,
            content_ids: self.document_ids == DocumentIds::Content,
            require_data_stream: self.require_data_stream,
            opensearch: self.opensearch,
        }
    }
}

// === impl DocumentRetrySettings ===

impl DocumentRetrySettings {
    /// How often it may be tried again.
    pub(crate) fn most(&self) -> u32 {
        if self.enabled { self.max_retries.unwrap_or(u32::MAX) } else { 0 }
    }

    /// The same for the shared retries.
    pub(crate) fn shared(&self) -> RetrySettings {
        RetrySettings {
            enabled: self.enabled,
            initial_interval: self.initial_interval,
            max_interval: self.max_interval,
            multiplier: 2.0,
            ..RetrySettings::default()
        }
    }
}

// === defaults ===

impl Default for CompressionParams {
    fn default() -> Self {
        Self { level: 1 }
    }
}

impl Default for MappingSettings {
    fn default() -> Self {
        let allowed_modes = vec![Mode::Bodymap, Mode::Ecs, Mode::None, Mode::Otel, Mode::Raw];
        Self { mode: Mode::Otel, allowed_modes }
    }
}

impl Default for LogstashSettings {
    fn default() -> Self {
        Self { enabled: false, prefix_separator: "-".to_owned(), date_format: "%Y.%m.%d".to_owned() }
    }
}

impl Default for DocumentRetrySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_retries: None,
            initial_interval: Interval::millis(100),
            max_interval: Interval::secs(60),
            retry_on_status: vec![429],
        }
    }
}

impl Default for FlushSettings {
    fn default() -> Self {
        Self { bytes: 5_000_000, interval: None }
    }
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            log_request_body: false,
            log_response_body: false,
            log_failed_docs_input: false,
            log_failed_docs_input_rate_limit: Interval::secs(1),
        }
    }
}
