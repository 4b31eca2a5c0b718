//! Kinds to configure. None of them is ever built.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{
    Batch, BatchSettings, BudgetLimit, BudgetSettings, Context, Env, Error, ExportError, Exporter, Failure,
    Interval, KeyError, Listener, Outlet, Partial, Payload, Processor, QueueSettings, Receiver, Registry,
    RetrySettings, Sending, Settings, Signal, Sizer,
};

pub(crate) fn registry() -> Registry {
    Registry::new()
        .receiver::<Otlp>("otlp", &["otlp_grpc"])
        .receiver::<Zipkin>("zipkin", &[])
        .processor::<Attributes>("attributes", &[])
        .processor::<Tail>("tail_sampling", &[])
        .batching::<BatchProcessor>("batch")
        .budget::<MemoryLimiter>("memory_limiter")
        .exporter::<OtlpExporter>("otlp", &["otlp_grpc"])
        .exporter::<Debug>("debug", &[])
}

struct Otlp;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OtlpSettings {
    protocols: Protocols,
    timeout: Option<Interval>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Protocols {
    grpc: Option<Server>,
    http: Option<Server>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Server {
    endpoint: String,
    #[serde(default)]
    max_recv_msg_size_mib: Option<u32>,
}

impl Settings for OtlpSettings {}

impl Receiver for Otlp {
    type Settings = OtlpSettings;

    fn listeners(settings: &Arc<OtlpSettings>) -> Vec<Listener> {
        let _ = settings.timeout;
        let server = |server: &Option<Server>, key| {
            let server = server.as_ref()?;
            let _ = server.max_recv_msg_size_mib;
            Some(Listener {
                address: server.endpoint.clone(),
                key,
                transport: if key.contains("grpc") { "grpc" } else { "http" },
                security: watershed_stage::Security::default(),
                open: Arc::new(|_| Ok(Arc::new(|_, _, _| Box::pin(async {})))),
            })
        };
        let protocols = &settings.protocols;
        let both = [
            server(&protocols.grpc, "protocols.grpc.endpoint"),
            server(&protocols.http, "protocols.http.endpoint"),
        ];
        both.into_iter().flatten().collect()
    }

    fn build(_: &Arc<OtlpSettings>, _: &Env) -> Result<Self, Failure> {
        Err(Failure::new("not built"))
    }
}

struct Zipkin;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoSettings {}

impl Settings for NoSettings {}

impl Receiver for Zipkin {
    type Settings = NoSettings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn build(_: &Arc<NoSettings>, _: &Env) -> Result<Self, Failure> {
        Err(Failure::new("not built"))
    }
}

struct Attributes;

impl Processor for Attributes {
    type Settings = NoSettings;

    fn build(_: &Arc<NoSettings>, _: &Env) -> Result<Self, Failure> {
        Err(Failure::new("not built"))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(payload);
        Ok(())
    }
}

struct Tail;

impl Processor for Tail {
    type Settings = NoSettings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn holds(_: &NoSettings) -> bool {
        true
    }

    fn build(_: &Arc<NoSettings>, _: &Env) -> Result<Self, Failure> {
        Err(Failure::new("not built"))
    }

    async fn handle(&mut self, _: Payload, _: &Arc<Context>, _: &mut Outlet) -> Result<(), Error> {
        Ok(())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BatchProcessor {
    send_batch_size: usize,
    timeout: Interval,
}

impl Default for BatchProcessor {
    fn default() -> Self {
        Self { send_batch_size: 8192, timeout: Interval::millis(200) }
    }
}

impl Settings for BatchProcessor {}

impl From<BatchProcessor> for BatchSettings {
    fn from(settings: BatchProcessor) -> Self {
        Self {
            flush_timeout: settings.timeout,
            min_size: settings.send_batch_size,
            max_size: 0,
            sizer: Sizer::Items,
            ..Self::default()
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryLimiter {
    check_interval: Interval,
    limit_mib: Option<u64>,
    limit_percentage: Option<u32>,
}

impl Settings for MemoryLimiter {
    fn check(&self) -> Vec<KeyError> {
        match (self.limit_mib, self.limit_percentage) {
            (None, None) => vec![KeyError::new("", "`limit_mib` or `limit_percentage` must be set")],
            (_, Some(101..)) => vec![KeyError::new("limit_percentage", "must be at most 100")],
            _ => Vec::new(),
        }
    }
}

impl From<MemoryLimiter> for BudgetSettings {
    fn from(settings: MemoryLimiter) -> Self {
        let percent = settings.limit_percentage.map(BudgetLimit::Percent);
        let limit = settings.limit_mib.map(|mib| BudgetLimit::Bytes(mib << 20)).or(percent);
        Self {
            check_interval: settings.check_interval.0,
            limit: limit.unwrap_or(BudgetLimit::Percent(50)),
            spike: None,
        }
    }
}

struct OtlpExporter;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtlpExporterSettings {
    endpoint: String,
    #[serde(default)]
    timeout: Option<Interval>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    compression: Option<Compression>,
    #[serde(default)]
    sending_queue: QueueSettings,
    #[serde(default)]
    retry_on_failure: RetrySettings,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Settings for OtlpExporterSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if !self.endpoint.contains("://") {
            errors.push(KeyError::new(
                "endpoint",
                format!("{:?} has no scheme: write it like \"http://…\"", self.endpoint),
            ));
        }
        if let Some(Compression::None) = self.compression
            && !self.headers.is_empty()
        {
            errors.push(KeyError::new("compression", format!("not with headers for {}", self.endpoint)));
        }
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors.extend(self.retry_on_failure.check().into_iter().map(|error| error.under("retry_on_failure")));
        errors
    }
}

impl Exporter for OtlpExporter {
    type Settings = OtlpExporterSettings;

    fn sending(settings: &OtlpExporterSettings) -> Sending {
        Sending {
            timeout: settings.timeout.map(|timeout| timeout.0),
            retry: settings.retry_on_failure.clone(),
            queue: settings.sending_queue.clone(),
        }
    }

    fn build(_: &Arc<OtlpExporterSettings>, _: &Env) -> Result<Self, Failure> {
        Err(Failure::new("not built"))
    }

    async fn export(&self, _: &Batch) -> Result<Partial, ExportError> {
        Ok(Partial::default())
    }
}

struct Debug;

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DebugSettings {
    verbosity: Option<Verbosity>,
    sending_queue: QueueSettings,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verbosity {
    Basic,
    Detailed,
}

impl Settings for DebugSettings {}

impl Exporter for Debug {
    type Settings = DebugSettings;

    fn sending(settings: &DebugSettings) -> Sending {
        let _ = settings
            .verbosity
            .as_ref()
            .map(|verbosity| matches!(verbosity, Verbosity::Basic | Verbosity::Detailed));
        Sending { timeout: None, retry: RetrySettings::default(), queue: settings.sending_queue.clone() }
    }

    fn build(_: &Arc<DebugSettings>, _: &Env) -> Result<Self, Failure> {
        Err(Failure::new("not built"))
    }

    async fn export(&self, _: &Batch) -> Result<Partial, ExportError> {
        Ok(Partial::default())
    }
}
