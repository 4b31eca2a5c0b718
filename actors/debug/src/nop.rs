//! The nop exporter: everything is delivered, to nowhere.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{
    Batch, Env, ExportError, Exporter, Failure, Partial, QueueSettings, RetrySettings, Sending,
};

/// Takes everything. For pipelines that are there for what their processors count, and for measuring.
pub(crate) struct Nop;

/// `nop` has no keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {}

// === impl Settings ===

impl watershed_stage::Settings for Settings {}

// === impl Nop ===

impl Exporter for Nop {
    type Settings = Settings;

    fn sending(_: &Settings) -> Sending {
        Sending { timeout: None, retry: RetrySettings::default(), queue: QueueSettings::default() }
    }

    fn build(_: &Arc<Settings>, _: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn export(&self, _: &Batch) -> Result<Partial, ExportError> {
        Ok(Partial::default())
    }
}
