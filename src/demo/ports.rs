//! The default ports, or free ones where something else has them.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// The ports of the default topology's agent: gRPC and HTTP.
const AGENT: [u16; 2] = [4317, 4318];

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
    let taken: Vec<String> = AGENT
        .into_iter()
        .chain([GATEWAY])
        .filter(|port| hold(*port).is_err())
        .map(|port| port.to_string())
        .collect();
    if taken.is_empty() {
        return Ok(None);
    }
    // Held at once, so that they differ.
    let held = [hold(0)?, hold(0)?, hold(0)?];
    let mut ports = [0; 3];
    for (port, held) in ports.iter_mut().zip(&held) {
        *port = held.local_addr()?.port();
    }
    let reason = format!(
        "port {} in use: using {} instead",
        taken.join(" and "),
        ports.map(|port| port.to_string()).join(", ")
    );
    Ok(Some(Free { reason, overrides: overrides(ports) }))
}

fn hold(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

fn overrides([grpc, http, gateway]: [u16; 3]) -> String {
    format!(
        "agent.receivers.otlp.protocols.grpc.endpoint = \"127.0.0.1:{grpc}\"\n\
         agent.receivers.otlp.protocols.http.endpoint = \"127.0.0.1:{http}\"\n\
         agent.exporters.otlp.endpoint = \"http://127.0.0.1:{gateway}\"\n\
         gateway.receivers.otlp.protocols.grpc.endpoint = \"127.0.0.1:{gateway}\"\n"
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
        sources.inline.push(("ports".into(), overrides([1, 2, 3])));
        let plan = config::load(&sources, &crate::kinds()).unwrap();
        assert_eq!(plan.warnings, []);
    }
}
