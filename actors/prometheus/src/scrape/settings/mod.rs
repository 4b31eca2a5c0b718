//! The settings of the receiver, in the shape of Prometheus' own file.

mod access;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{ByteSize, Interval, KeyError};

pub(crate) use access::{Access, AuthorizationSettings, BasicAuthSettings, ScrapeTlsSettings};

use super::relabel::{self, RelabelSettings};
use super::target::Shared;

/// Settings of `prometheus`. They hold passwords: never printed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What Prometheus' own file says of scraping.
    pub(crate) config: ConfigSettings,
    /// The part of the targets that this replica scrapes.
    pub(crate) sharding: ShardingSettings,
    /// Scrapes at once; what is due beyond them waits for its turn.
    pub(crate) max_concurrent_scrapes: usize,
    /// Whether what does not say when its counting began is taken to have begun when it was first seen, or reset.
    pub(crate) adjust_start_time: bool,
    #[serde(skip)]
    pub(crate) shared: Shared,
}

/// `config`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigSettings {
    /// What all jobs have in common.
    pub(crate) global: GlobalSettings,
    /// The jobs.
    #[schemars(extend("x-required" = true))]
    pub(crate) scrape_configs: Vec<JobSettings>,
}

/// `config.global`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GlobalSettings {
    /// How often targets are scraped.
    pub(crate) scrape_interval: Interval,
    /// How long a scrape may take.
    pub(crate) scrape_timeout: Interval,
    /// The formats that targets are asked for, the best first.
    pub(crate) scrape_protocols: Option<Vec<Protocol>>,
}

/// `sharding`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShardingSettings {
    /// How many replicas share the targets.
    pub(crate) shards: u64,
    /// Which of them this is, from 0.
    pub(crate) shard: u64,
}

/// A format, by Prometheus' name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub(crate) enum Protocol {
    /// Protobuf, the only one with native histograms.
    PrometheusProto,
    /// Text.
    #[serde(rename = "PrometheusText0.0.4")]
    Text0,
    /// Text with names in quotes.
    #[serde(rename = "PrometheusText1.0.0")]
    Text1,
    /// OpenMetrics, its draft.
    #[serde(rename = "OpenMetricsText0.0.1")]
    OpenMetrics0,
    /// OpenMetrics.
    #[serde(rename = "OpenMetricsText1.0.0")]
    OpenMetrics1,
}

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scheme {
    /// Plain text.
    #[default]
    Http,
    /// TLS.
    Https,
}

/// One of `config.scrape_configs`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobSettings {
    /// The name of the job, which becomes the label `job`.
    #[schemars(extend("x-required" = true))]
    pub(crate) job_name: String,
    /// How often its targets are scraped, if not as often as all.
    pub(crate) scrape_interval: Option<Interval>,
    /// How long a scrape may take, if not as long as all.
    pub(crate) scrape_timeout: Option<Interval>,
    /// The formats that its targets are asked for, the best first: OpenMetrics and text unless told, after protobuf
    /// with `scrape_native_histograms`.
    pub(crate) scrape_protocols: Option<Vec<Protocol>>,
    /// The format of answers that do not say which they are in.
    pub(crate) fallback_scrape_protocol: Option<Protocol>,
    /// Ask for protobuf first, and take native histograms where there are any.
    pub(crate) scrape_native_histograms: bool,
    /// Not supported: must be false.
    pub(crate) convert_classic_histograms_to_nhcb: bool,
    /// The path that is scraped.
    pub(crate) metrics_path: String,
    /// How targets are spoken to.
    pub(crate) scheme: Scheme,
    /// Parameters of the URL.
    pub(crate) params: BTreeMap<String, Vec<String>>,
    /// Whether a scraped label has precedence over one of the target's of the same name, which is otherwise kept as
    /// `exported_<name>`.
    pub(crate) honor_labels: bool,
    /// Whether the times that samples come with are believed.
    pub(crate) honor_timestamps: bool,
    /// Whether series that come with times leave a marker when they go.
    pub(crate) track_timestamps_staleness: bool,
    /// Whether targets are asked for gzip.
    pub(crate) enable_compression: bool,
    /// Must be false, which it is: a redirect is a failed scrape.
    pub(crate) follow_redirects: bool,
    /// The largest body, inflated; 0 is as much as there is memory for.
    pub(crate) body_size_limit: ByteSize,
    /// The most samples after relabelling; more fail the scrape. 0 is any number, as of the limits below.
    pub(crate) sample_limit: u64,
    /// The most labels of a series.
    pub(crate) label_limit: usize,
    /// The longest name of a label, in bytes.
    pub(crate) label_name_length_limit: usize,
    /// The longest value of a label, in bytes.
    pub(crate) label_value_length_limit: usize,
    /// The most targets after relabelling; with more, none is scraped.
    pub(crate) target_limit: usize,
    /// Targets that are written here.
    pub(crate) static_configs: Vec<GroupSettings>,
    /// Targets that are read from files.
    pub(crate) file_sd_configs: Vec<FileSdSettings>,
    /// Targets that a server tells.
    pub(crate) http_sd_configs: Vec<HttpSdSettings>,
    /// What is done to the labels of targets, and which are dropped.
    pub(crate) relabel_configs: Vec<RelabelSettings>,
    /// What is done to the labels of series, and which are dropped.
    pub(crate) metric_relabel_configs: Vec<RelabelSettings>,
    /// User and password.
    pub(crate) basic_auth: Option<BasicAuthSettings>,
    /// The header `Authorization`.
    pub(crate) authorization: Option<AuthorizationSettings>,
    /// How TLS is spoken.
    pub(crate) tls_config: ScrapeTlsSettings,
    /// The proxy to go through (`http://host:port`); none unless told.
    pub(crate) proxy_url: Option<String>,
}

/// Targets with labels in common.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GroupSettings {
    /// Each is `host:port`.
    pub(crate) targets: Vec<String>,
    /// Labels of all of them.
    pub(crate) labels: BTreeMap<String, String>,
}

/// One of `file_sd_configs`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FileSdSettings {
    /// JSON files of `[{"targets": [...], "labels": {...}}]`; the last part of a path may have a `*`.
    #[schemars(extend("x-required" = true))]
    pub(crate) files: Vec<String>,
    /// How often they are read, whether they have changed or not. What has is seen within seconds.
    pub(crate) refresh_interval: Interval,
}

/// One of `http_sd_configs`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HttpSdSettings {
    /// What is asked.
    #[schemars(extend("x-required" = true))]
    pub(crate) url: String,
    /// How often.
    pub(crate) refresh_interval: Interval,
    /// User and password.
    pub(crate) basic_auth: Option<BasicAuthSettings>,
    /// The header `Authorization`.
    pub(crate) authorization: Option<AuthorizationSettings>,
    /// How TLS is spoken.
    pub(crate) tls_config: ScrapeTlsSettings,
    /// The proxy to go through (`http://host:port`); none unless told.
    pub(crate) proxy_url: Option<String>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: ConfigSettings::default(),
            sharding: ShardingSettings::default(),
            max_concurrent_scrapes: 64,
            adjust_start_time: true,
            shared: Shared::default(),
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let ShardingSettings { shards, shard } = self.sharding;
        if shards == 0 || shard >= shards {
            let message = format!("there is no shard {shard} of {shards}: they are numbered from 0");
            errors.push(KeyError::new("sharding.shard", message));
        }
        if self.max_concurrent_scrapes == 0 {
            errors.push(KeyError::new("max_concurrent_scrapes", "must be at least 1"));
        }
        let global = &self.config.global;
        if global.scrape_interval.0.is_zero() {
            errors.push(KeyError::new("config.global.scrape_interval", "must be more than 0s"));
        }
        let jobs = &self.config.scrape_configs;
        if jobs.is_empty() {
            errors.push(KeyError::new("config.scrape_configs", "there is nothing to scrape: name a job"));
        }
        let mut names = BTreeSet::new();
        for (index, job) in jobs.iter().enumerate() {
            let at = format!("config.scrape_configs.{index}");
            if !names.insert(&job.job_name) {
                let message = format!("there is a job {:?} already", job.job_name);
                errors.push(KeyError::new(format!("{at}.job_name"), message));
            }
            errors.extend(job.check(global).into_iter().map(|error| error.under(&at)));
        }
        errors
    }
}

impl Default for GlobalSettings {
    fn default() -> Self {
        Self {
            scrape_interval: Interval::secs(60),
            scrape_timeout: Interval::secs(10),
            scrape_protocols: None,
        }
    }
}

impl Default for ShardingSettings {
    fn default() -> Self {
        Self { shards: 1, shard: 0 }
    }
}

// === impl JobSettings ===

impl Default for JobSettings {
    fn default() -> Self {
        Self {
            job_name: String::new(),
            scrape_interval: None,
            scrape_timeout: None,
            scrape_protocols: None,
            fallback_scrape_protocol: None,
            scrape_native_histograms: false,
            convert_classic_histograms_to_nhcb: false,
            metrics_path: "/metrics".to_owned(),
            scheme: Scheme::Http,
            params: BTreeMap::new(),
            honor_labels: false,
            honor_timestamps: true,
            track_timestamps_staleness: false,
            enable_compression: true,
            follow_redirects: false,
            body_size_limit: ByteSize(64 << 20),
            sample_limit: 0,
            label_limit: 0,
            label_name_length_limit: 0,
            label_value_length_limit: 0,
            target_limit: 0,
            static_configs: Vec::new(),
            file_sd_configs: Vec::new(),
            http_sd_configs: Vec::new(),
            relabel_configs: Vec::new(),
            metric_relabel_configs: Vec::new(),
            basic_auth: None,
            authorization: None,
            tls_config: ScrapeTlsSettings::default(),
            proxy_url: None,
        }
    }
}

impl JobSettings {
    fn check(&self, global: &GlobalSettings) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, message: String| errors.push(KeyError::new(key, message));
        if self.job_name.is_empty() {
            wrong("job_name", "a job needs a name".into());
        }
        let (interval, timeout) = self.times(global);
        if interval.0.is_zero() {
            wrong("scrape_interval", "must be more than 0s".into());
        }
        if self.scrape_timeout.is_some() && timeout.0 > interval.0 {
            let message = format!("must not be longer than the interval, {:?}", interval.0);
            wrong("scrape_timeout", message);
        }
        if timeout.0.is_zero() {
            wrong("scrape_timeout", "must be more than 0s".into());
        }
        if self.follow_redirects {
            wrong("follow_redirects", "is not supported: name the address that is redirected to".into());
        }
        if self.convert_classic_histograms_to_nhcb {
            let message = "is not supported: classic histograms become OTLP histograms with explicit bounds";
            wrong("convert_classic_histograms_to_nhcb", message.into());
        }
        if self.scrape_protocols.as_ref().is_some_and(Vec::is_empty) {
            wrong("scrape_protocols", "name at least one, or leave it out".into());
        }
        let nothing = self.static_configs.is_empty() && self.file_sd_configs.is_empty();
        if nothing && self.http_sd_configs.is_empty() {
            let message = "name targets in static_configs, file_sd_configs or http_sd_configs";
            wrong("static_configs", message.into());
        }
        for (index, group) in self.static_configs.iter().enumerate() {
            for target in group.targets.iter().filter(|target| target.contains('/')) {
                let message = format!("{target:?} is no host:port; scheme and path have keys of their own");
                wrong(&format!("static_configs.{index}.targets"), message);
            }
        }
        for (index, files) in self.file_sd_configs.iter().enumerate() {
            let key = format!("file_sd_configs.{index}.files");
            if files.files.is_empty() {
                wrong(&key, "name at least one file".into());
            }
            for file in files.files.iter().filter(|file| !file.ends_with(".json")) {
                let message = format!("{file:?} is not read: only JSON is (.json), write YAML files as JSON");
                wrong(&key, message);
            }
            if files.refresh_interval.0.is_zero() {
                wrong(&format!("file_sd_configs.{index}.refresh_interval"), "must be more than 0s".into());
            }
        }
        for (index, server) in self.http_sd_configs.iter().enumerate() {
            let at = format!("http_sd_configs.{index}");
            if let Err(message) = server.uri() {
                wrong(&format!("{at}.url"), message);
            }
            if server.refresh_interval.0.is_zero() {
                wrong(&format!("{at}.refresh_interval"), "must be more than 0s".into());
            }
        }
        errors.extend(self.access().check());
        for (index, server) in self.http_sd_configs.iter().enumerate() {
            let at = format!("http_sd_configs.{index}");
            errors.extend(server.access().check().into_iter().map(|error| error.under(&at)));
        }
        for (key, rules) in [
            ("relabel_configs", &self.relabel_configs),
            ("metric_relabel_configs", &self.metric_relabel_configs),
        ] {
            errors.extend(relabel::compile(key, rules).err().into_iter().flatten());
        }
        errors
    }

    /// Interval and timeout. The timeout of all jobs is cut where this one's interval is shorter.
    pub(crate) fn times(&self, global: &GlobalSettings) -> (Interval, Interval) {
        let interval = self.scrape_interval.unwrap_or(global.scrape_interval);
        let timeout = self.scrape_timeout.unwrap_or(Interval(global.scrape_timeout.0.min(interval.0)));
        (interval, timeout)
    }

    /// The formats that targets are asked for.
    pub(crate) fn protocols(&self, global: &GlobalSettings) -> Vec<Protocol> {
        use Protocol::{OpenMetrics0, OpenMetrics1, PrometheusProto, Text0, Text1};
        let told = self.scrape_protocols.as_ref().or(global.scrape_protocols.as_ref());
        told.cloned().unwrap_or_else(|| match self.scrape_native_histograms {
            true => vec![PrometheusProto, OpenMetrics1, OpenMetrics0, Text1, Text0],
            false => vec![OpenMetrics1, OpenMetrics0, Text1, Text0],
        })
    }

    pub(crate) fn access(&self) -> Access<'_> {
        Access {
            basic_auth: self.basic_auth.as_ref(),
            authorization: self.authorization.as_ref(),
            tls_config: &self.tls_config,
            proxy_url: self.proxy_url.as_deref(),
        }
    }
}

impl Default for FileSdSettings {
    fn default() -> Self {
        Self { files: Vec::new(), refresh_interval: Interval::secs(300) }
    }
}

// === impl HttpSdSettings ===

impl Default for HttpSdSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            refresh_interval: Interval::secs(60),
            basic_auth: None,
            authorization: None,
            tls_config: ScrapeTlsSettings::default(),
            proxy_url: None,
        }
    }
}

impl HttpSdSettings {
    pub(crate) fn uri(&self) -> Result<http::Uri, String> {
        let url: http::Uri =
            self.url.parse().map_err(|error| format!("{:?} is no URL: {error}", self.url))?;
        watershed_net::HttpClient::check(&url).map_err(|error| error.to_string())?;
        Ok(url)
    }

    pub(crate) fn access(&self) -> Access<'_> {
        Access {
            basic_auth: self.basic_auth.as_ref(),
            authorization: self.authorization.as_ref(),
            tls_config: &self.tls_config,
            proxy_url: self.proxy_url.as_deref(),
        }
    }
}
