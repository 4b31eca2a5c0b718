//! Settings of `load_balancing`: otelcol's keys, and what it has none for.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_balance::{Balancer, HealthSettings, Plan, Policy, ResolverSettings, RingKind, RoutingKey};
use watershed_otlp::OtlpGrpcSettings;
use watershed_stage::{ExporterSpec, KeyError, Reference, Role};

/// What the endpoint is called while there is none.
const ANY: &str = "backend:4317";

/// Settings of `load_balancing`. They hold tokens: never printed.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What items are routed by. Unless told, `traceID` for traces and logs and `service` for metrics.
    routing_key: Option<RoutingKey>,
    /// With `routing_key = "attributes"`, the attributes: looked for in the resource, then in the scope, then in the
    /// item. `span.name`, `span.kind`, `log.severity` and `log.body` stand for fields.
    routing_attributes: Vec<String>,
    /// How a backend is chosen.
    policy: Policy,
    /// With `policy = "by_key"`, how keys are shared between backends.
    ring: RingKind,
    /// What is spoken to the backends.
    protocol: Protocol,
    /// Who knows the backends.
    resolver: ResolverSettings,
    /// Groups of backends to go to, in this order, while none of those before works.
    failover: Vec<Group>,
    /// How backends are found out that do not work.
    health_check: HealthSettings,
}

/// What is spoken to the backends.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Protocol {
    /// Settings of the exporter `otlp` for each backend. It has no `endpoint`, and the queue's size is that of all
    /// backends' together: what waits for one that fails goes to another.
    otlp: OtlpGrpcSettings,
}

/// Backends that stand for those before them.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Group {
    /// Who knows them.
    resolver: ResolverSettings,
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if !self.protocol.otlp.endpoint.is_empty() {
            let message = "the backends have their endpoints from `resolver`: take it out";
            errors.push(KeyError::new("protocol.otlp.endpoint", message));
        }
        if !self.protocol.otlp.endpoints.is_empty() {
            let message = "the backends have their endpoints from `resolver`: take it out";
            errors.push(KeyError::new("protocol.otlp.endpoints", message));
        }
        let (endpoint, endpoints) = (ANY.to_owned(), Vec::new());
        let otlp = OtlpGrpcSettings { endpoint, endpoints, ..self.protocol.otlp.clone() };
        errors.extend(otlp.check().into_iter().map(|error| error.under("protocol.otlp")));
        errors.extend(self.resolver.check().into_iter().map(|error| error.under("resolver")));
        for (index, group) in self.failover.iter().enumerate() {
            let under = format!("failover.{index}.resolver");
            errors.extend(group.resolver.check().into_iter().map(|error| error.under(&under)));
        }
        errors.extend(self.health_check.check().into_iter().map(|error| error.under("health_check")));
        if self.policy != Policy::ByKey && self.routing_key.is_some() {
            let message = "is for `policy = \"by_key\"`: keep one of the two";
            errors.push(KeyError::new("routing_key", message));
        }
        let by_attributes = self.routing_key == Some(RoutingKey::Attributes);
        if by_attributes && self.routing_attributes.is_empty() {
            let message = "names the attributes to route by: `routing_key = \"attributes\"` needs it";
            errors.push(KeyError::new("routing_attributes", message));
        }
        if !by_attributes && !self.routing_attributes.is_empty() {
            let message = "is for `routing_key = \"attributes\"`";
            errors.push(KeyError::new("routing_attributes", message));
        }
        errors
    }

    fn references(&self) -> Vec<Reference> {
        let otlp = &self.protocol.otlp;
        let key = "sending_queue.storage".to_owned();
        let storage = otlp.sending_queue.storage.clone().map(|id| Reference { key, id, role: Role::Storage });
        let all = otlp.references().into_iter().chain(storage);
        all.map(|reference| Reference { key: format!("protocol.otlp.{}", reference.key), ..reference })
            .collect()
    }
}

impl From<Settings> for Arc<dyn ExporterSpec> {
    fn from(settings: Settings) -> Self {
        let references = watershed_stage::Settings::references(&settings);
        let resolvers = std::iter::once(settings.resolver);
        Arc::new(Balancer::new(Plan {
            backends: Box::new(settings.protocol.otlp),
            resolvers: resolvers.chain(settings.failover.into_iter().map(|group| group.resolver)).collect(),
            policy: settings.policy,
            ring: settings.ring,
            routing_key: settings.routing_key,
            routing_attributes: settings.routing_attributes,
            health: settings.health_check,
            references,
        }))
    }
}

#[cfg(test)]
mod tests {
    use watershed_stage::{Settings as _, Signal};

    use super::*;

    const STATIC: &str = "resolver.static.hostnames = ['a', 'b:1']\n";

    /// The keys that are wrong.
    fn wrong(toml: &str) -> Vec<String> {
        let settings: Settings = toml::from_str(toml).unwrap();
        settings.check().into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn exactly_one_resolver_is_asked_for_in_each_group() {
        assert_eq!(wrong(STATIC), [""; 0]);
        assert_eq!(wrong(""), ["resolver"]);
        assert_eq!(wrong(&format!("{STATIC}resolver.dns.hostname = 'c'")), ["resolver"]);
        assert_eq!(wrong(&format!("{STATIC}[[failover]]")), ["failover.0.resolver"]);
        assert_eq!(wrong("resolver.dns = {}"), ["resolver.dns.hostname"]);
        assert_eq!(wrong("resolver.file = {}"), ["resolver.file.path"]);
        assert_eq!(wrong("resolver.k8s = {}"), ["resolver.k8s.service"]);
        assert_eq!(wrong("resolver.static.hostnames = ['a', 'b:c']"), ["resolver.static.hostnames.1"]);
    }

    #[test]
    fn keys_that_contradict_each_other_are_errors() {
        for (toml, key) in [
            ("policy = 'round_robin'\nrouting_key = 'service'", "routing_key"),
            ("routing_key = 'attributes'", "routing_attributes"),
            ("routing_key = 'service'\nrouting_attributes = ['a']", "routing_attributes"),
            ("protocol.otlp.endpoint = 'c:4317'", "protocol.otlp.endpoint"),
            ("protocol.otlp.sending_queue.queue_size = 0", "protocol.otlp.sending_queue.queue_size"),
            ("health_check.interval = '0s'", "health_check.interval"),
            ("health_check = { service = 'x', kind = 'tcp' }", "health_check.service"),
            ("protocol.otlp.endpoints = ['c:4317']", "protocol.otlp.endpoints"),
            ("protocol.otlp.policy = 'failover'", "protocol.otlp.policy"),
        ] {
            assert_eq!(wrong(&format!("{STATIC}{toml}")), [key], "{toml}");
        }
    }

    #[test]
    fn a_key_says_which_signals_it_is_for() {
        let signals = |toml: &str| {
            let exporter: Arc<dyn ExporterSpec> = toml::from_str::<Settings>(toml).unwrap().into();
            exporter.signals().to_vec()
        };
        assert_eq!(signals("routing_key = 'traceID'"), [Signal::Traces, Signal::Logs]);
        assert_eq!(signals("routing_key = 'streamID'"), [Signal::Metrics]);
        assert_eq!(signals(""), Signal::ALL);
    }
}
