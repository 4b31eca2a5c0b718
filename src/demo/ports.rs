//! The default ports, or free ones where something else has them.

use std::any::Any;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// Who listens in the default topology, whether to datagrams, and at which port.
const PORTS: [(&str, bool, u16); 8] = [
    ("agent.receivers.otlp.protocols.grpc", false, 4317),
    ("agent.receivers.otlp.protocols.http", false, 4318),
    ("agent.receivers.jaeger.protocols.grpc", false, 14250),
    ("agent.receivers.jaeger.protocols.thrift_http", false, 14268),
    ("agent.receivers.jaeger.protocols.thrift_compact", true, 6831),
    ("agent.receivers.jaeger.protocols.thrift_binary", true, 6832),
    ("agent.receivers.zipkin", false, 9411),
    (GATEWAY, false, 4319),
];

/// The one that the agent sends to.
const GATEWAY: &str = "gateway.receivers.otlp.protocols.grpc";

/// Ports to use instead of the default ones that are taken.
pub(super) struct Free {
    /// What the user is told.
    pub(super) reason: String,
    /// The layer of configuration that says so.
    pub(super) overrides: String,
}

/// Nothing if the default ports are free.
pub(super) fn instead() -> io::Result<Option<Free>> {
    let taken = PORTS.iter().filter(|(_, datagrams, port)| hold(*datagrams, *port).is_err());
    // Held at once, so that they differ.
    let held = taken.map(|port| Ok((port, hold(port.1, 0)?))).collect::<io::Result<Vec<_>>>()?;
    if held.is_empty() {
        return Ok(None);
    }
    let taken: Vec<_> = held.iter().map(|((.., port), _)| port.to_string()).collect();
    let free: Vec<_> = held.iter().map(|(_, (port, _))| port.to_string()).collect();
    let reason = format!("port {} in use: using {} instead", taken.join(" and "), free.join(" and "));
    let overrides = overrides(held.iter().map(|((key, ..), (port, _))| (*key, *port)));
    Ok(Some(Free { reason, overrides }))
}

/// Takes a port, any if it is 0, until what is returned beside its number is dropped.
fn hold(datagrams: bool, port: u16) -> io::Result<(u16, Box<dyn Any>)> {
    let address = (Ipv4Addr::LOCALHOST, port);
    if datagrams {
        let socket = UdpSocket::bind(address)?;
        return Ok((socket.local_addr()?.port(), Box::new(socket)));
    }
    let listener = TcpListener::bind(address)?;
    Ok((listener.local_addr()?.port(), Box::new(listener)))
}

fn overrides<'k>(ports: impl Iterator<Item = (&'k str, u16)>) -> String {
    let mut text = String::new();
    for (key, port) in ports {
        // A text takes everything.
        let _ = writeln!(text, "{key}.endpoint = \"127.0.0.1:{port}\"");
        if key == GATEWAY {
            let _ = writeln!(text, "agent.exporters.otlp.endpoint = \"http://127.0.0.1:{port}\"");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{self, Sources};

    #[test]
    fn the_default_topology_takes_other_ports() {
        let mut sources = Sources::default();
        sources.inline.push(("default".into(), crate::DEFAULT_TOPOLOGY.into()));
        let others = PORTS.iter().zip(1..).map(|((key, ..), port)| (*key, port));
        sources.inline.push(("ports".into(), overrides(others)));
        let plan = config::load(&sources, &crate::kinds()).unwrap();
        assert_eq!(plan.warnings, []);
    }

    #[test]
    fn every_port_of_the_default_topology_is_among_them() {
        let said =
            crate::DEFAULT_TOPOLOGY.lines().filter_map(|line| line.split_once("endpoint = \"localhost:"));
        let mut said: Vec<u16> = said.map(|(_, port)| port.trim_end_matches('"').parse().unwrap()).collect();
        let mut known = PORTS.map(|(.., port)| port).to_vec();
        said.sort_unstable();
        known.sort_unstable();
        assert_eq!(said, known);
    }
}
