//! From TOML to a checked plan to a running, supervised topology, its reload, and its drain.
//!
//! [`config::load`] reads layers of configuration into a [`config::Plan`], with every error at once, before
//! anything starts. [`Engine::start`] makes a plan real, on threads of its own, inside any host.

mod backstop;
pub mod config;
mod engine;
mod gauges;
mod reload;
mod topology;

pub use engine::{Address, Ended, Engine};
pub use reload::ReloadError;
pub use topology::StartError;
pub use watershed_supervise::{Event, Health, Observation, State};
