//! Watershed: an actor-based stream-processing engine for OpenTelemetry.
//!
//! The `watershed` program is this crate with a command line, logs and endpoints around it. The engine itself
//! runs inside any other program as well: it makes its own threads, and installs nothing global (no
//! subscriber, no panic hook, no signal handler).
//!
//! ```no_run
//! use watershed::engine::Engine;
//! use watershed::engine::config::{self, Sources};
//!
//! # async fn embed() -> Result<(), Box<dyn std::error::Error>> {
//! let mut sources = Sources::default();
//! sources.files.push("pipelines.toml".into());
//! // Kinds of your own are added here: `watershed::kinds().processor::<Mine>("mine", &[])`.
//! let plan = config::load(&sources, &watershed::kinds())?;
//! let drain_within = plan.service.shutdown_timeout;
//! let engine = Engine::start(plan).await?;
//! println!("{}", engine.metrics().render());
//! engine.drain(drain_within).await;
//! # Ok(())
//! # }
//! ```
//!
//! With `default-features = false` nothing of the program (command line, web server, SDK) is compiled.

#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "demo")]
mod demo;
#[cfg(all(test, feature = "cli"))]
mod docs;

#[cfg(feature = "cli")]
pub use cli::{Exit, program};
pub use watershed_engine as engine;
pub use watershed_stage as stage;

use watershed_stage::Registry;

/// The topology that runs where no other is configured: an agent and a gateway in one process.
pub const DEFAULT_TOPOLOGY: &str = include_str!("../pipelines.toml");

/// Every kind of receiver, processor, exporter and extension that Watershed brings.
#[must_use]
pub fn kinds() -> Registry {
    let families: &[fn(Registry) -> Registry] = &[
        watershed_otlp::register,
        watershed_prometheus::register,
        watershed_zipkin::register,
        watershed_jaeger::register,
        watershed_routing::register,
        watershed_shaping::register,
        watershed_sampling::register,
        watershed_debug::register,
        watershed_elasticsearch::register,
        watershed_file::register,
        watershed_durable::register,
        watershed_auth::register,
        #[cfg(feature = "self-telemetry")]
        watershed_self_telemetry::register,
    ];
    families.iter().fold(Registry::new(), |registry, register| register(registry))
}

#[cfg(test)]
mod tests {
    use watershed_engine::config::{self, Sources};

    use super::*;

    /// The text of a file that stands, indented, in another one.
    fn block<'t>(text: &'t str, begin: &str, end: &str) -> Vec<&'t str> {
        let after = text.split_once(begin).unwrap().1;
        after
            .split_once(end)
            .map_or(after, |(block, _)| block)
            .lines()
            .map(|line| line.trim_start())
            .collect()
    }

    /// As `docs/high-availability.md` has it: or all agents' backlogs come to the gateways at once.
    #[test]
    fn agents_that_are_shipped_take_their_time_after_a_partition() {
        let kubernetes = include_str!("../deploy/kubernetes/config.yaml");
        let text = block(kubernetes, "pipelines.toml: |\n", "\0").join("\n");
        let shipped: toml::Table = text.parse().unwrap();
        let queue = &shipped["agent"]["exporters"]["otlp"]["sending_queue"];
        assert!(queue["items_per_second"].as_integer().unwrap() > 0);
    }

    #[test]
    fn every_configuration_that_is_shipped_is_valid() {
        let kubernetes = include_str!("../deploy/kubernetes/config.yaml");
        let shipped = [
            ("pipelines.toml", DEFAULT_TOPOLOGY.to_owned()),
            ("docker", include_str!("../deploy/docker/pipelines.toml").to_owned()),
            ("kubernetes", block(kubernetes, "pipelines.toml: |\n", "\0").join("\n")),
            ("mission", include_str!("../examples/mission/pipelines.toml").to_owned()),
            ("volume", include_str!("../examples/volume/pipelines.toml").to_owned()),
            ("README", block(include_str!("../README.md"), "```toml\n", "```").join("\n")),
        ];
        for (name, text) in shipped {
            let sources = Sources { inline: vec![(name.into(), text)], ..Sources::default() };
            match config::load(&sources, &kinds()) {
                // Inside a container or a cluster, who may listen is for the network to say.
                Ok(mut plan) => {
                    plan.warnings.retain(|warning| !warning.message.contains("other machines"));
                    assert_eq!(plan.warnings, [], "{name}");
                }
                Err(errors) => panic!("{name}:\n{errors}"),
            }
        }
    }
}
