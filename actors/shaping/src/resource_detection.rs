//! `resource_detection`: says of telemetry where it was collected.
//!
//! Keys and defaults are otelcol's. Everything is read once, when the stage is built, from the environment and small
//! local files; nothing is asked over a network.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{Context, Env, Error, Failure, Interval, KeyError, Outlet, Payload, Processor};
use watershed_telemetry::edit::{Action, AttributeEdits, Target};

use crate::resource_detection_host::{Host, Part};

/// Writes detected attributes into resources.
pub(crate) struct ResourceDetection(AttributeEdits);

/// Settings of `resource_detection`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What to look at, in this order. Of an attribute that several find, the first one's value holds.
    detectors: Vec<Detector>,
    /// Whether a detected value replaces one that the telemetry came with.
    #[serde(rename = "override")]
    replace: bool,
    /// otelcol's bound on asking a cloud for metadata. Nothing is asked here, so nothing waits.
    timeout: Interval,
    /// The `system` detector.
    system: System,
    /// The `container` detector.
    container: Attributes,
    /// The `k8s` detector.
    k8s: Attributes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Detector {
    /// `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
    Env,
    /// The machine and its operating system.
    System,
    /// The id of the container that this runs in.
    Container,
    /// What the downward API of Kubernetes tells by environment variables and files.
    #[serde(alias = "k8snode")]
    K8s,
}

/// The `system` detector.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct System {
    /// Where `host.name` comes from: `os` is the only source.
    hostname_sources: Vec<HostnameSource>,
    /// Attributes to switch on and off by name.
    resource_attributes: BTreeMap<String, Toggle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum HostnameSource {
    /// The name the kernel knows.
    Os,
}

/// A detector of which only the attributes can be chosen.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    /// Attributes to switch on and off by name.
    resource_attributes: BTreeMap<String, Toggle>,
}

/// Whether an attribute is written.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Toggle {
    /// Whether it is.
    enabled: bool,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            detectors: vec![Detector::Env],
            replace: true,
            timeout: Interval::secs(5),
            system: System::default(),
            container: Attributes::default(),
            k8s: Attributes::default(),
        }
    }
}

impl Default for System {
    fn default() -> Self {
        Self { hostname_sources: vec![HostnameSource::Os], resource_attributes: BTreeMap::new() }
    }
}

impl Settings {
    /// Which attributes of a part are wanted, by name, beside its defaults.
    fn toggles(&self, part: Part) -> &BTreeMap<String, Toggle> {
        match part {
            Part::System => &self.system.resource_attributes,
            Part::Container => &self.container.resource_attributes,
            Part::K8s => &self.k8s.resource_attributes,
        }
    }

    fn part(detector: Detector) -> Option<Part> {
        match detector {
            Detector::Env => None,
            Detector::System => Some(Part::System),
            Detector::Container => Some(Part::Container),
            Detector::K8s => Some(Part::K8s),
        }
    }

    /// What is found on `host`, each attribute once.
    fn detect(&self, host: &Host) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for detector in &self.detectors {
            let detected = match Self::part(*detector) {
                None => host.environment(),
                Some(part) => {
                    let toggles = self.toggles(part);
                    let mut detected = host.detect(part);
                    detected.retain(|(name, _)| match toggles.get(name) {
                        Some(toggle) => toggle.enabled,
                        None => part.is_default(name),
                    });
                    detected
                }
            };
            for (name, value) in detected.into_iter().filter(|(_, value)| !value.is_empty()) {
                found.entry(name).or_insert(value);
            }
        }
        found
    }

    fn edits(&self, host: &Host) -> AttributeEdits {
        let action = |(key, value): (String, String)| {
            let value = value.into();
            if self.replace { Action::Upsert { key, value } } else { Action::Insert { key, value } }
        };
        AttributeEdits::new(Target::Resource, self.detect(host).into_iter().map(action).collect())
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.detectors.is_empty() {
            let message = "without a detector nothing is found: known are env, system, container, k8s";
            errors.push(KeyError::new("detectors", message));
        }
        if self.system.hostname_sources.is_empty() {
            let message = "host.name has to come from somewhere: write [\"os\"]";
            errors.push(KeyError::new("system.hostname_sources", message));
        }
        for part in Part::ALL {
            let unknown = self.toggles(part).keys().filter(|name| !part.knows(name));
            errors.extend(unknown.map(|name| {
                let known: Vec<&str> = part.attributes().iter().map(|(name, _)| *name).collect();
                let message = format!("no attribute \"{name}\": known are {}", known.join(", "));
                KeyError::new(format!("{}.resource_attributes", part.name()), message)
            }));
        }
        errors
    }
}

// === impl ResourceDetection ===

impl Processor for ResourceDetection {
    type Settings = Settings;

    fn build(settings: &Arc<Self::Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self(settings.edits(&Host::here())))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(self.0.apply(&payload));
        Ok(())
    }
}

#[cfg(test)]
#[path = "resource_detection_tests.rs"]
mod tests;
