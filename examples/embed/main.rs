//! A custom gateway: the engine inside a program with a runtime of its own, with a receiver, a processor and an
//! exporter of its own, each in one file. Twice, to show that two engines in one process do not meet.
//!
//! `cargo run --example embed`

mod printer;
mod shout;
mod ticker;

use std::error::Error;
use std::time::Duration;

use watershed::engine::config::{Sources, load};
use watershed::engine::{Ended, Engine};

/// One collector; `NAME` stands for what tells the two apart.
const CONFIG: &str = r#"
[receivers.ticker]
every = "20ms"
text = "NAME ticks"

[exporters.printer]
prefix = "NAME> "

[pipelines.logs]
receivers = ["ticker"]
processors = ["shout", "batch"]
exporters = ["printer"]
ack = "delivered"
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let left = start("left").await?;
    let right = start("right").await?;

    for engine in [&left, &right] {
        while printer::printed(engine.metrics()) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    println!("both engines have printed; draining");
    for engine in [left, right] {
        let ended = engine.drain(Duration::from_secs(5)).await;
        if ended != Ended::Drained {
            return Err(format!("not drained: {ended:?}").into());
        }
    }
    Ok(())
}

async fn start(name: &str) -> Result<Engine, Box<dyn Error>> {
    // The bundled kinds and our own, side by side.
    let registry = watershed::kinds()
        .receiver::<ticker::Ticker>("ticker", &[])
        .processor::<shout::Shout>("shout", &[])
        .exporter::<printer::Printer>("printer", &[]);
    let text = ("embed.toml".to_owned(), CONFIG.replace("NAME", name));
    let plan = load(&Sources { inline: vec![text], ..Sources::default() }, &registry)?;
    Ok(Engine::start(plan).await?)
}
