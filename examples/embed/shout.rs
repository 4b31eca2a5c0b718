//! A processor: it marks what passes as loud.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed::stage::telemetry::edit::{Action, AttributeEdits, Target};
use watershed::stage::{Context, Env, Error, Failure, Outlet, Payload, Processor};

/// Adds `volume = 11` to every item.
pub struct Shout(AttributeEdits);

/// `shout` has no settings.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

impl watershed::stage::Settings for Settings {}

impl Processor for Shout {
    type Settings = Settings;

    fn build(_: &Arc<Settings>, _env: &Env) -> Result<Self, Failure> {
        let louder = Action::Upsert { key: "volume".into(), value: 11.into() };
        Ok(Self(AttributeEdits::new(Target::Item, vec![louder])))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(self.0.apply(&payload));
        Ok(())
    }
}
