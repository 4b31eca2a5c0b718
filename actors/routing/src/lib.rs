//! Exporters that choose between destinations.
//!
//! `load_balancing` has one exporter for each of its backends, and gives each of them what belongs to it: by a key, so
//! that a trace stays whole, or in turn. Which backends there are is for a resolver to say, and which of them work for
//! health checks.

mod balance;
mod health;
mod key;
mod meters;
mod pool;
mod probe;
mod resolver;
mod ring;
mod settings;

use watershed_stage::Registry;

/// Adds the kinds of this family to a registry.
#[must_use]
pub fn register(registry: Registry) -> Registry {
    registry.balancer::<settings::Settings>("load_balancing", &["loadbalancing"])
}
