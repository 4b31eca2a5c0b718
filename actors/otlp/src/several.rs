//! Several endpoints of one exporter: destinations that stand for each other.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_balance::{Backends, Balancer, HealthSettings, Plan, Policy, ResolverSettings, RingKind};
use watershed_stage::{ExporterSpec, KeyError, Reference, Settings as _};

/// What stands for the endpoint where only the rest is looked at.
pub(crate) const ANY: &str = "http://backend:4317";

/// How one of several endpoints is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndpointPolicy {
    /// Each message to the next.
    #[default]
    RoundRobin,
    /// Each message to whoever has the fewest that are not yet sent.
    LeastLoaded,
    /// All to the first that works, in the order of the list.
    Failover,
}

/// What a table says of several endpoints.
pub(crate) struct Several<'a> {
    pub(crate) endpoints: &'a [String],
    pub(crate) policy: Option<EndpointPolicy>,
    pub(crate) health: Option<&'a HealthSettings>,
}

impl Several<'_> {
    /// Whether there is nothing to choose from.
    pub(crate) fn are_none(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// What is wrong with them; `single` are the keys of other endpoints that are set, `wrong` says what is wrong with an
    /// endpoint.
    pub(crate) fn check(&self, single: &[&str], wrong: impl Fn(&str) -> Option<String>) -> Vec<KeyError> {
        if self.are_none() {
            let told = [("policy", self.policy.is_some()), ("health_check", self.health.is_some())];
            let message = "is for several `endpoints`, and there are none";
            return told.iter().filter(|(_, is)| *is).map(|(key, _)| KeyError::new(*key, message)).collect();
        }
        let message = "there are `endpoints`: keep one of the two";
        let mut errors: Vec<KeyError> = single.iter().map(|key| KeyError::new(*key, message)).collect();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let key = format!("endpoints.{index}");
            if self.endpoints.iter().take(index).any(|other| other == endpoint) {
                errors.push(KeyError::new(key, format!("{endpoint:?} is listed already")));
            } else if let Some(error) = wrong(endpoint) {
                errors.push(KeyError::new(key, error));
            }
        }
        let health = self.health.into_iter().flat_map(|health| health.check());
        errors.extend(health.map(|error| error.under("health_check")));
        errors
    }

    /// The exporter to all of them.
    pub(crate) fn balancer(
        &self,
        backends: Box<dyn Backends>,
        references: Vec<Reference>,
    ) -> Arc<dyn ExporterSpec> {
        let policy = self.policy.unwrap_or_default();
        let fixed = |endpoints: &[String]| ResolverSettings::fixed(endpoints.to_vec());
        let groups = match policy {
            EndpointPolicy::Failover => self.endpoints.chunks(1).map(fixed).collect(),
            _ => vec![fixed(self.endpoints)],
        };
        Arc::new(Balancer::new(Plan {
            backends,
            resolvers: groups,
            policy: match policy {
                EndpointPolicy::LeastLoaded => Policy::LeastLoaded,
                _ => Policy::RoundRobin,
            },
            ring: RingKind::default(),
            routing_key: None,
            routing_attributes: Vec::new(),
            health: self.health.cloned().unwrap_or_default(),
            references,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use watershed_stage::Settings;

    use crate::{exporter, http_exporter};

    /// The keys that are wrong.
    fn wrong<S: Settings>(toml: &str) -> Vec<String> {
        let settings: S = toml::from_str(toml).unwrap();
        settings.check().into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn several_endpoints_stand_alone_and_are_all_looked_at() {
        for (toml, keys) in [
            ("endpoints = ['a:1', 'b']\npolicy = 'failover'\nhealth_check.kind = 'tcp'", &[][..]),
            ("endpoints = ['a:1']\nendpoint = 'b:1'", &["endpoint"]),
            ("endpoints = ['a:1', 'a:1', 'b:c']", &["endpoints.1", "endpoints.2"]),
            ("endpoints = ['a:1']\nhealth_check.timeout = '0s'", &["health_check.timeout"]),
            ("endpoint = 'a:1'\npolicy = 'failover'\nhealth_check = {}", &["policy", "health_check"]),
            ("", &["endpoint"]),
            ("endpoints = ['a:1']\nheaders = { te = 'x' }", &["headers"]),
        ] {
            assert_eq!(wrong::<exporter::Settings>(toml), keys, "{toml}");
        }
        for (toml, keys) in [
            ("endpoints = ['http://a:1', 'https://b/otlp']", &[][..]),
            ("endpoints = ['http://a:1']\nlogs_endpoint = 'http://b:1'", &["logs_endpoint"]),
            ("endpoints = ['a:1']", &["endpoints.0"]),
            ("", &["endpoint"]),
        ] {
            assert_eq!(wrong::<http_exporter::Settings>(toml), keys, "{toml}");
        }
    }
}
