//! The exporter that routes between destinations: `load_balancing`, OTLP to whichever backend an item belongs to.

mod settings;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.balancer::<settings::Settings>("load_balancing", &["loadbalancing"])
}
