//! One telling of the story: the parts are started, traces go through them, and what each part counted is read.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use watershed::engine::config::{Sources, load};
use watershed::engine::{Ended, Engine};

use crate::applications::{Applications, WHOLE};
use crate::backend::Backend;
use crate::figures::{Figures, Stage, Traces};
use crate::wire::Wire;

const PIPELINES: &str = include_str!("pipelines.toml");
const AGENTS: &str = include_str!("agents.toml");

/// The share of traces that head sampling keeps.
pub const SHARE: f64 = 0.01;

/// How long a drain may take: longer than tail sampling waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who samples before the whole trace is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The SDK in the applications.
    Sdk,
    /// The agents.
    Agents,
    /// Nobody.
    Nobody,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Head::Sdk => {
                "Applications sample 1 % (the SDK, by trace id; whoever is called does as its caller did)"
            }
            Head::Agents => "Agents sample 1 % (probabilistic_sampler, by trace id)",
            Head::Nobody => "Nobody samples before tail sampling",
        })
    }
}

/// Tells it once.
pub async fn tell(head: Head, rate: u64, seconds: Duration) -> Result<Figures, Box<dyn Error>> {
    let backend = Backend::start().await?;
    let (agent, gateway) = (free_port().await?, free_port().await?);
    let between = Wire::to(gateway).await?;
    let mut layers = vec![("pipelines.toml", PIPELINES.to_owned())];
    if head == Head::Agents {
        layers.push(("agents.toml", AGENTS.to_owned()));
    }
    let ports = format!(
        "agent.receivers.otlp.protocols.grpc.endpoint = \"{agent}\"\n\
         agent.exporters.otlp.endpoint = \"http://{}\"\n\
         gateway.receivers.otlp.protocols.grpc.endpoint = \"{gateway}\"\n\
         gateway.exporters.otlp.endpoint = \"http://{}\"\n",
        between.address, backend.address
    );
    layers.push(("ports", ports));
    let inline = layers.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    let plan = load(&Sources { inline, ..Sources::default() }, &watershed::kinds())?;
    let engine = Engine::start(plan).await?;

    let before = Wire::to(agent).await?;
    let applications = Applications::start(before.address, if head == Head::Sdk { SHARE } else { 1.0 })?;
    let (truth, took) = tokio::task::spawn_blocking(move || applications.run(rate, seconds)).await??;
    let ended = engine.drain(PATIENCE).await;
    if ended != Ended::Drained {
        return Err(format!("not drained: {ended:?}").into());
    }

    let text = engine.metrics().render();
    let counted = |name: &str, role: &str| sum(&text, name, &format!("role=\"{role}\""));
    let stage = |role| Stage {
        taken: counted("otelcol_receiver_accepted_spans", role),
        given: counted("otelcol_exporter_sent_spans", role),
    };
    let sampled = truth.values().filter(|made| made.is_sampled).count() * WHOLE;
    Ok(Figures {
        head,
        rate,
        took,
        applications: Stage { taken: (truth.len() * WHOLE) as u64, given: sampled as u64 },
        agent: stage("agent"),
        gateway: stage("gateway"),
        before: before.bytes(),
        between: between.bytes(),
        traces: Traces::of(&truth, &backend.arrived()),
    })
}

/// A port that nobody has now.
async fn free_port() -> std::io::Result<SocketAddr> {
    tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()
}

/// The sum over a metric's series with this label.
fn sum(text: &str, name: &str, label: &str) -> u64 {
    let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}
