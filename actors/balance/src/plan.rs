//! What a balancer is told: who the backends are, what speaks to them, and how one is chosen.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{Env, ExporterSpec, Failure, Reference, Sending, Signal};

use crate::health::HealthSettings;
use crate::key::{Keys, RoutingKey};
use crate::probe::Caller;
use crate::resolver::ResolverSettings;
use crate::ring;

/// What a balancer is told.
pub struct Plan {
    /// What speaks to the backends.
    pub backends: Box<dyn Backends>,
    /// Who knows them: groups of backends to go to, in this order, while none of those before works. At least one.
    pub resolvers: Vec<ResolverSettings>,
    /// How a backend is chosen.
    pub policy: Policy,
    /// Under [`Policy::ByKey`], how keys are shared between backends.
    pub ring: ring::Kind,
    /// What items are routed by then; as is usual for each signal unless told.
    pub routing_key: Option<RoutingKey>,
    /// The attributes, where they are routed by those.
    pub routing_attributes: Vec<String>,
    /// How backends are found out that do not work.
    pub health: HealthSettings,
    /// The extensions that are named.
    pub references: Vec<Reference>,
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// By the item's routing key, so that all with one key go to one backend.
    #[default]
    ByKey,
    /// Each message to the next.
    RoundRobin,
    /// Each message to whoever has the fewest that are not yet sent.
    LeastLoaded,
}

/// What speaks to backends, one protocol or another.
pub trait Backends: Send + Sync + 'static {
    /// Queue, batching, retries and timeout. The queue is that of all backends together.
    fn sending(&self) -> Sending;

    /// What is connected to for a backend of this name. An error says what is wrong with the name.
    fn endpoint(&self, name: &str) -> Result<String, String>;

    /// The exporter that sends to an endpoint. If it is `judged`, whether it works is for others to find out.
    fn exporter(&self, endpoint: &str, judged: bool) -> Arc<dyn ExporterSpec>;

    /// What probes an endpoint.
    fn caller(&self, endpoint: &str, env: &Env) -> Result<Caller, Failure>;

    /// What is wrong with every exporter, whichever endpoint it sends to.
    fn check(&self, env: &Env) -> Result<(), Failure>;
}

// === impl Plan ===

impl Plan {
    pub(crate) fn signals(&self) -> &'static [Signal] {
        self.routing_key.map_or(&Signal::ALL, RoutingKey::signals)
    }

    /// What reads the keys of each signal, in the order of [`Signal::ALL`].
    pub(crate) fn keys(&self) -> [Keys; 3] {
        Signal::ALL.map(|signal| {
            Keys::new(self.routing_key.unwrap_or(RoutingKey::usual(signal)), &self.routing_attributes)
        })
    }
}
