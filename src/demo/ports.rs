//! The default ports, or free ones where something else has them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// The port of the default topology's agent.
const AGENT: u16 = 4317;

/// The port of the default topology's gateway.
const GATEWAY: u16 = 4319;

/// Ports to use instead of the default ones.
pub(super) struct Free {
    /// What the user is told.
    pub(super) reason: String,
    /// The layer of configuration that says so.
    pub(super) overrides: String,
}

/// Nothing if the default ports are free.
pub(super) fn instead() -> io::Result<Option<Free>> {
    let taken: Vec<String> = [AGENT, GATEWAY]
        .into_iter()
        .filter(|port| hold(*port).is_err())
        .map(|port| port.to_string())
        .collect();
    if taken.is_empty() {
        return Ok(None);
    }
    // Held at once, so that they differ.
    let (agent, gateway) = (hold(0)?, hold(0)?);
    let (agent, gateway) = (agent.local_addr()?, gateway.local_addr()?);
    let reason =
        format!("port {} in use: using {} and {} instead", taken.join(" and "), agent.port(), gateway.port());
    Ok(Some(Free { reason, overrides: overrides(&agent.to_string(), &gateway.to_string()) }))
}

fn hold(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

fn overrides(agent: &str, gateway: &str) -> String {
    format!(
        "agent.receivers.otlp.protocols.grpc.endpoint = \"{agent}\"\n\
         agent.exporters.otlp.endpoint = \"http://{gateway}\"\n\
         gateway.receivers.otlp.protocols.grpc.endpoint = \"{gateway}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{self, Sources};

    #[test]
    fn the_default_topology_takes_other_ports() {
        let mut sources = Sources::default();
        sources.inline.push(("default".into(), crate::DEFAULT_TOPOLOGY.into()));
        sources.inline.push(("ports".into(), overrides("127.0.0.1:1", "127.0.0.1:2")));
        let plan = config::load(&sources, &crate::kinds()).unwrap();
        assert_eq!(plan.warnings, []);
    }
}
