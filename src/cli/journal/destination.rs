//! Where records are sent: what the exporters `otlp` and `otlphttp` are, without their queues.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use watershed_otlp::{OtlpGrpc, OtlpHttp};

use super::Failed;
use crate::stage::delivery::Budget;
use crate::stage::{
    Batch, Context, Env, ExportError, Exporter, Extensions, Interval, KeyError, Metrics, Partial, Payload,
    Settings, Shelf, Tracing,
};

/// The memory that answers may take, in bytes.
const MEMORY: u64 = 256 << 20;

/// Where to send, and how.
#[derive(Debug, Args)]
pub(crate) struct To {
    /// The OTLP endpoint: `http://host:4317` in plain text, `https://host:4317` by TLS.
    #[arg(long, value_name = "URL")]
    to: String,
    /// How OTLP is spoken: over gRPC, as exporter `otlp`, or over HTTP, as `otlphttp`.
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value = "grpc")]
    protocol: Protocol,
    /// Sets a key of that exporter: `headers.authorization=Bearer …`, `tls.ca_file=ca.pem`. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How long to go on while the destination takes nothing.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Port 4317.
    Grpc,
    /// Port 4318.
    Http,
}

/// An exporter, and how long it may take.
pub(crate) struct Ready<E> {
    exporter: E,
    timeout: Option<Duration>,
}

/// Whoever is sent to.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum Destination {
    Grpc(Ready<OtlpGrpc>),
    Http(Ready<OtlpHttp>),
}

// === impl To ===

impl To {
    /// The client. To be built where it is used.
    pub(crate) fn open(&self) -> Result<Destination, Failed> {
        match self.protocol {
            Protocol::Grpc => Ready::new(self).map(Destination::Grpc),
            Protocol::Http => Ready::new(self).map(Destination::Http),
        }
    }

    /// The table of keys that the arguments stand for.
    fn table(&self) -> Result<Value, Failed> {
        let mut table = Value::Object(Map::new());
        table["endpoint"] = self.to.clone().into();
        for set in &self.set {
            let wrong =
                || Failed::argument(format_args!("--set {set}: write it like `--set compression=zstd`"));
            let (path, value) = set.split_once('=').ok_or_else(wrong)?;
            let mut at = &mut table;
            for part in path.split('.') {
                let below = at.as_object_mut().filter(|_| !part.is_empty()).ok_or_else(wrong)?;
                at = below.entry(part).or_insert_with(|| Value::Object(Map::new()));
            }
            // Only what is no text has to be told from one.
            let plain =
                serde_json::from_str(value).ok().filter(|it: &Value| it.is_boolean() || it.is_number());
            *at = plain.unwrap_or_else(|| value.into());
        }
        Ok(table)
    }
}

// === impl Ready ===

impl<E: Exporter> Ready<E> {
    fn new(to: &To) -> Result<Self, Failed> {
        let settings: E::Settings = serde_json::from_value(to.table()?)
            .map_err(|error| Failed::argument(format_args!("--set: {error}")))?;
        if let Some(KeyError { key, message }) = settings.check().into_iter().next() {
            let argument = if key == "endpoint" { format!("--to {}", to.to) } else { format!("--set {key}") };
            return Err(Failed::argument(format_args!("{argument}: {message}")));
        }
        let timeout = E::sending(&settings).timeout;
        let exporter = E::build(&Arc::new(settings), &env()).map_err(Failed::start)?;
        Ok(Self { exporter, timeout })
    }

    async fn send(&self, payload: Payload, context: Arc<Context>) -> Result<Partial, ExportError> {
        let trace = context.origin.trace.clone();
        let batch = Batch { payload, context, trace, timeout: self.timeout, merged: false };
        let export = self.exporter.export(&batch);
        match self.timeout {
            None => export.await,
            Some(timeout) => tokio::time::timeout(timeout, export).await.unwrap_or_else(|_| {
                Err(ExportError::Retryable { reason: "no answer in time".into(), retry_after: None })
            }),
        }
    }
}

// === impl Destination ===

impl Destination {
    /// Sends a message once, in as many requests as it has to be.
    pub(crate) async fn send(&self, payload: Payload, context: Arc<Context>) -> Result<Partial, ExportError> {
        let (mut parts, mut whole) = (VecDeque::from([payload]), Partial::default());
        while let Some(part) = parts.pop_front() {
            let sent = match self {
                Self::Grpc(ready) => ready.send(part.clone(), context.clone()).await,
                Self::Http(ready) => ready.send(part.clone(), context.clone()).await,
            };
            match sent {
                Ok(Partial { rejected, message, .. }) => {
                    whole.rejected += rejected;
                    whole.message = message;
                }
                Err(ExportError::TooLarge { .. }) if part.items() > 1 => {
                    let half = part.items().div_ceil(2);
                    part.split_by_items(half).into_iter().rev().for_each(|half| parts.push_front(half));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(whole)
    }
}

/// What an exporter is built with that stands in no pipeline.
fn env() -> Env {
    Env {
        id: "drain".into(),
        pipeline: None,
        lane: 0,
        copies: 1,
        ends: Arc::default(),
        budget: Budget::new(MEMORY),
        metrics: Metrics::default(),
        tracing: Tracing::default(),
        extensions: Extensions::default(),
        shelf: Shelf::default(),
        notes: None,
    }
}

/// A duration as settings write it.
fn duration(text: &str) -> Result<Duration, String> {
    let interval: Interval = serde_json::from_value(text.into()).map_err(|error| error.to_string())?;
    Ok(interval.0)
}
