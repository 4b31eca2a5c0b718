//! A receiver that fetches rather than listens: it makes a log record every so often.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use schemars::JsonSchema;
use serde::Deserialize;
use watershed::stage::{Env, Failure, Intake, Interval, Origin, Placement, Receiver, Signal};

/// Makes a log record every so often.
pub struct Ticker(Arc<Settings>);

/// Settings of `ticker`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    every: Interval,
    text: String,
}

impl watershed::stage::Settings for Settings {}

impl Receiver for Ticker {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Logs]
    }

    // One ticker, not one a core.
    fn placement(_: &Settings) -> Placement {
        Placement::Single
    }

    fn build(settings: &Arc<Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self(settings.clone()))
    }

    async fn run(&self, intake: Intake) -> Result<(), Failure> {
        let mut ticks = tokio::time::interval(self.0.every.0);
        loop {
            ticks.tick().await;
            let body = self.request();
            // Memory first: while there is none, this source has to wait like any other.
            let Ok(permit) = intake.admit(body.len() as u64) else { continue };
            let outcome =
                intake.submit(Signal::Logs, body, Origin::default(), permit, Duration::from_secs(5)).await;
            if !outcome.is_ok() {
                eprintln!("a tick was not delivered: {outcome:?}");
            }
        }
    }
}

impl Ticker {
    fn request(&self) -> Vec<u8> {
        let body = Some(AnyValue { value: Some(Value::StringValue(self.0.text.clone())) });
        let record = LogRecord { severity_text: "INFO".into(), body, ..LogRecord::default() };
        let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
        let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
        ExportLogsServiceRequest { resource_logs: vec![resource] }.encode_to_vec()
    }
}
