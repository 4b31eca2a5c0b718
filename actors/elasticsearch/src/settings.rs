//! The keys of the exporter.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_net::{Compression, HttpClient};
use watershed_stage::{
    BatchSettings, CompressionSetting, Credentials, Env, Failure, Interval, KeyError, QueueSettings,
    Reference, RetrySettings, Sizer, http_client_settings,
};

use crate::document::{Mode, Plan};

/// Where endpoints are taken from if the settings have none.
const ENDPOINTS: &str = "ELASTICSEARCH_URL";

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

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.shared().check();
        self.check_endpoints(&mut errors);
        let both = [
            ("user", self.user.is_some()),
            ("api_key", self.api_key.is_some()),
            ("auth", self.auth.is_some()),
        ];
        let given: Vec<&str> = both.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        if let [first, second, ..] = given[..] {
            errors.push(KeyError::new(second, format!("stands beside `{first}`: keep one of the two")));
        }
        if self.user.is_some() != self.password.is_some() {
            errors.push(KeyError::new("password", "`user` and `password` go together"));
        }
        if self.compression == CompressionSetting::Zstd {
            errors.push(KeyError::new("compression", "Elasticsearch reads `gzip` and `none`"));
        }
        if !(1..=9).contains(&self.compression_params.level) {
            errors.push(KeyError::new("compression_params.level", "must lie between 1 and 9"));
        }
        if self.flush.bytes == 0 {
            errors.push(KeyError::new("flush.bytes", "must be positive"));
        }
        if self.num_workers == Some(0) {
            errors.push(KeyError::new("num_workers", "must be positive"));
        }
        let mapping = &self.mapping;
        if !mapping.allowed_modes.contains(&mapping.mode) {
            errors.push(KeyError::new("mapping.allowed_modes", "does not contain `mapping.mode`"));
        }
        for (key, index) in [
            ("logs_index", &self.logs_index),
            ("metrics_index", &self.metrics_index),
            ("traces_index", &self.traces_index),
        ] {
            let upper = index.chars().any(char::is_uppercase);
            let wrong = index.starts_with(['-', '_', '+'])
                || index.contains([' ', ',', '#', ':', '/', '\\', '*', '?', '"', '<', '>', '|']);
            if upper || wrong {
                let text = format!(
                    "{index:?} is no name of an index: lower case, without any of ` ,#:/\\*?\"<>|`, not beginning with one of `-_+`"
                );
                errors.push(KeyError::new(key, text));
            }
        }
        if date(&self.logstash_format.date_format, 0).is_none() {
            errors.push(KeyError::new("logstash_format.date_format", "may have %Y, %y, %m, %d and %H"));
        }
        for (index, status) in self.retry.retry_on_status.iter().enumerate() {
            if !(400..600).contains(status) {
                let key = format!("retry.retry_on_status.{index}");
                errors.push(KeyError::new(key, format!("{status} is no status of a failure")));
            }
        }
        errors.extend(self.retry.shared().check().into_iter().map(|error| error.under("retry")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

impl Settings {
    fn check_endpoints(&self, errors: &mut Vec<KeyError>) {
        let given = [
            ("endpoint", self.endpoint.is_some()),
            ("endpoints", !self.endpoints.is_empty()),
            ("cloudid", self.cloudid.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        let key = match given[..] {
            [] => "endpoint",
            [key] => key,
            [_, second, ..] => {
                let text = "exactly one of `endpoint`, `endpoints` and `cloudid` must be specified";
                return errors.push(KeyError::new(second, text));
            }
        };
        let urls = match self.urls() {
            Ok(urls) => urls,
            Err(text) => return errors.push(KeyError::new(key, text)),
        };
        if urls.is_empty() {
            let text = "exactly one of `endpoint`, `endpoints` and `cloudid` must be specified, such as \"http://localhost:9200\"";
            errors.push(KeyError::new("endpoint", text));
        }
        for (index, url) in urls.iter().enumerate() {
            let key = if key == "endpoints" { format!("endpoints.{index}") } else { key.to_owned() };
            let checked = url
                .parse::<Uri>()
                .map_err(|_| format!("{url:?} is no URL: write it like \"http://host:9200\""));
            let checked = checked.and_then(|url| HttpClient::check(&url).map_err(|error| error.to_string()));
            errors.extend(checked.err().map(|error| KeyError::new(key, error)));
        }
    }

    /// A client for one lane, which reads answers up to a size in bytes, and the headers of its requests.
    pub(crate) fn open(&self, env: &Env, largest: u64) -> Result<(HttpClient, Credentials), Failure> {
        self.shared().open_with(env, |options| {
            if self.compression == CompressionSetting::Gzip {
                options.compression = Compression::Gzip(self.compression_params.level);
            }
            options.max_response_size = largest;
            options.headers.extend(self.authorization().map(|value| ("authorization".to_owned(), value)));
        })
    }

    /// The URLs of all nodes that are known without asking.
    pub(crate) fn urls(&self) -> Result<Vec<String>, String> {
        if let Some(id) = &self.cloudid {
            return cloud(id).map(|url| vec![url]);
        }
        if let Some(url) = &self.endpoint {
            return Ok(vec![url.clone()]);
        }
        if !self.endpoints.is_empty() {
            return Ok(self.endpoints.clone());
        }
        let from_environment = std::env::var(ENDPOINTS).unwrap_or_default();
        let urls = from_environment.split(',').map(str::trim).filter(|url| !url.is_empty());
        Ok(urls.map(str::to_owned).collect())
    }

    /// `Authorization`, if the settings say it.
    fn authorization(&self) -> Option<String> {
        if let Some(key) = &self.api_key {
            return Some(format!("ApiKey {key}"));
        }
        let (user, password) = (self.user.as_ref()?, self.password.as_ref()?);
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

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

    /// What the names of indices end with, of what came at a time in nanoseconds since 1970.
    pub(crate) fn suffix(&self, arrived: u64) -> String {
        let LogstashSettings { enabled, prefix_separator, date_format } = &self.logstash_format;
        let date = date(date_format, arrived).filter(|_| *enabled);
        date.map_or_else(String::new, |date| format!("{prefix_separator}{date}"))
    }

    /// What follows the path of a `_bulk` request. Only what is read of an answer is asked for.
    pub(crate) fn query(&self) -> String {
        let mut query = "filter_path=items.*.status,items.*.error.type,items.*.error.reason".to_owned();
        if !self.pipeline.is_empty() {
            query.push_str("&pipeline=");
            for byte in self.pipeline.bytes() {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                    query.push(byte.into());
                } else {
                    query.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        if let Some(include) = self.include_source_on_error {
            query.push_str(&format!("&include_source_on_error={include}"));
        }
        query
    }
}

/// The URL in the id of a deployment: `name:` and the base64 of `host$elasticsearch$kibana`.
fn cloud(id: &str) -> Result<String, String> {
    let wrong = || format!("{id:?} is no id of a deployment: copy it from Elastic's console");
    let (_, encoded) = id.split_once(':').ok_or_else(wrong)?;
    let decoded = STANDARD.decode(encoded).map_err(|_| wrong())?;
    let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
    match decoded.split('$').collect::<Vec<_>>()[..] {
        [host, elasticsearch, ..] if !host.is_empty() && !elasticsearch.is_empty() => {
            Ok(format!("https://{elasticsearch}.{host}"))
        }
        _ => Err(wrong()),
    }
}

/// A date in a format of a few letters; `None` if it has others.
fn date(format: &str, nanos: u64) -> Option<String> {
    let (year, month, day) = crate::document::date(nanos);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => text.push_str(&match rest.next()? {
                'Y' => format!("{year:04}"),
                'y' => format!("{:02}", year % 100),
                'm' => format!("{month:02}"),
                'd' => format!("{day:02}"),
                'H' => format!("{:02}", nanos / 3_600_000_000_000 % 24),
                '%' => "%".to_owned(),
                _ => return None,
            }),
            c => text.push(c),
        }
    }
    Some(text)
}

impl DocumentRetrySettings {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use watershed_stage::Settings as _;

    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.check().into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn what_contradicts_itself_is_an_error_at_its_key() {
        let endpoint = "endpoint = \"http://localhost:9200\"\n";
        assert!(keys(endpoint).is_empty());
        for (text, key) in [
            ("endpoints = [\"http://a:9200\"]", "endpoints"),
            ("user = \"u\"\npassword = \"p\"\napi_key = \"k\"", "api_key"),
            ("user = \"u\"", "password"),
            ("compression = \"zstd\"", "compression"),
            ("compression_params = { level = 12 }", "compression_params.level"),
            ("logs_index = \"Logs\"", "logs_index"),
            ("traces_index = \"a b\"", "traces_index"),
            ("logstash_format = { date_format = \"%q\" }", "logstash_format.date_format"),
            ("retry = { retry_on_status = [429, 200] }", "retry.retry_on_status.1"),
            ("mapping = { allowed_modes = [\"ecs\"] }", "mapping.allowed_modes"),
            ("flush = { bytes = 0 }", "flush.bytes"),
            ("num_workers = 0", "num_workers"),
        ] {
            assert_eq!(keys(&format!("{endpoint}{text}")), [key], "{text}");
        }
        assert_eq!(keys("endpoints = [\"http://a:9200\", \"a:9200\"]"), ["endpoints.1"]);
        assert_eq!(keys("cloudid = \"nonsense\""), ["cloudid"]);
    }

    #[test]
    fn the_id_of_a_deployment_is_its_url() {
        let id = format!("mine:{}", STANDARD.encode("eu.cloud.es.io:443$abc$def"));
        assert_eq!(cloud(&id).as_deref(), Ok("https://abc.eu.cloud.es.io:443"));
    }

    #[test]
    fn dates_and_queries_are_made_of_the_settings() {
        let settings: Settings = toml::from_str(
            "pipeline = \"a b\"\ninclude_source_on_error = false\nlogstash_format = { enabled = true, date_format = \"%y.%m-%H\" }",
        )
        .unwrap();
        assert_eq!(settings.suffix(1_721_314_113_467_654_123), "-24.07-14");
        assert!(settings.query().ends_with("&pipeline=a%20b&include_source_on_error=false"));
        assert_eq!(Settings::default().suffix(1), "");
    }
}
