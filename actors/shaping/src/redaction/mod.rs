//! `redaction`: what must not leave is deleted, masked or hashed.
//!
//! Keys, order and meaning are those of otelcol's redaction processor, to which named presets and a few places to
//! look into are added: see `docs/components/redaction.md`. What is looked for is here, where it may be found is in
//! [`watershed_telemetry::redact`].

mod preset;
mod rules;
mod settings;

use std::sync::Arc;

use watershed_stage::{Context, Env, Error, Failure, Outlet, Payload, Processor};
use watershed_telemetry::redact::redact;

pub use rules::Rules;
pub use settings::Settings;

/// Redacts what passes.
pub(crate) struct Redaction(Rules);

impl Processor for Redaction {
    type Settings = Settings;

    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure> {
        Rules::new(settings, &env.metrics, &env.id).map(Self).map_err(|error| Failure::new(error.to_string()))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(redact(&self.0, &payload));
        Ok(())
    }
}
