//! `demo`: the default topology, a shop's checkouts sent to it with the OpenTelemetry SDK, and a count of what
//! arrived.
//!
//! What is counted is counted at the two ends: what the SDK was told "ok" for, and what the gateway's last
//! exporter handed over, after a drain. So the sum says that nothing was lost in between.

mod count;
mod ports;
mod progress;
mod services;
mod story;
mod summary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::config::{self, Sources};
use crate::engine::{Ended, Engine};
use clap::Args;
use tokio::runtime::Builder;
use tokio::time::Instant;

use self::count::Counts;
use self::progress::Progress;
use self::services::Shop;
use self::summary::Summary;
use crate::cli::out::{complain, print};
use crate::cli::{Exit, logs};

/// How long each checkout is waited for, so that there is something to see.
const PACE: Duration = Duration::from_millis(15);

/// Checkouts between two flushes of the SDK. Its queues hold 2048 items a service, far more than these make.
const CHUNK: usize = 20;

/// Checkouts of a `--quick` demo that does not say how many.
const QUICK: usize = 60;

/// Checkouts of a demo that does not say how many.
const STORIES: usize = 200;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many checkouts are told [default: 200, or 60 with --quick].
    #[arg(long, value_name = "N")]
    stories: Option<usize>,
    /// Without pauses.
    #[arg(long)]
    quick: bool,
}

/// Why a demo came to no summary.
type Trouble = (Exit, String);

/// Runs the demo.
pub(crate) fn main(args: &DemoArgs) -> Exit {
    let done = logs::install(&logs::level(None, "info"), logs::Format::Text, Progress::is_live())
        .map_err(|error| (Exit::Config, error))
        .and_then(|()| {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| (Exit::Start, format!("could not start: {error}")))
        })
        .and_then(|runtime| runtime.block_on(demo(args)));
    match done {
        Ok(summary) => {
            print(format_args!("\n{summary}"));
            if summary.complete() { Exit::Drained } else { Exit::Incomplete }
        }
        Err((exit, message)) => {
            complain(format_args!("watershed demo: {message}"));
            exit
        }
    }
}

async fn demo(args: &DemoArgs) -> Result<Summary, Trouble> {
    let stories = args.stories.unwrap_or(if args.quick { QUICK } else { STORIES });
    let mut sources = Sources::default();
    sources.inline.push(("built-in pipelines.toml".into(), crate::DEFAULT_TOPOLOGY.into()));
    if let Some(free) = ports::instead().map_err(|error| (Exit::Start, format!("no free port: {error}")))? {
        print(&free.reason);
        sources.inline.push(("free ports".into(), free.overrides));
    }
    let plan =
        config::load(&sources, &crate::kinds()).map_err(|errors| (Exit::Config, errors.to_string()))?;
    let timeout = plan.service.shutdown_timeout;
    let engine =
        Engine::start(plan).await.map_err(|error| (Exit::Start, format!("could not start: {error}")))?;
    let agent = address(&engine, "agent")?;
    let gateway = address(&engine, "gateway")?;
    print(format_args!("shop (OpenTelemetry SDK) -> agent {agent} -> gateway {gateway} -> debug"));
    print(format_args!(
        "telling {stories} checkouts; the log lines below are the gateway's debug exporter\n"
    ));

    let began = Instant::now();
    let counts = Arc::new(Counts::default());
    let shop = Shop::open(agent, &counts).map_err(|error| (Exit::Start, error))?;
    let pace = if args.quick { Duration::ZERO } else { PACE };
    let telling = {
        let counts = counts.clone();
        // The SDK blocks while it flushes, and what it waits for runs on this thread.
        tokio::task::spawn_blocking(move || tell(shop, &counts, stories, pace))
    };
    let problems =
        telling.await.map_err(|error| (Exit::Incomplete, format!("the shop broke down: {error}")))?;
    let ended = engine.drain(timeout).await;
    let elapsed = began.elapsed();
    let mut summary = Summary::new(stories, &counts, &engine.metrics().render(), elapsed);
    summary.problems.extend(problems);
    match ended {
        Ended::Drained => {}
        Ended::Incomplete { unfinished, lost } => {
            summary.problems.push(format!("not drained in time: {unfinished:?}, {lost} items lost"))
        }
        Ended::Critical { name, message } => {
            return Err((Exit::Critical, format!("{name} kept failing: {message}")));
        }
    }
    Ok(summary)
}

fn address(engine: &Engine, role: &str) -> Result<SocketAddr, Trouble> {
    let missing =
        || (Exit::Start, format!("the {role} listens nowhere: this is a bug in the default topology"));
    engine.address(Some(role), "otlp").ok_or_else(missing)
}

/// Tells the stories and sees to it that the SDK has sent everything. What went wrong in it, in words.
fn tell(shop: Shop, counts: &Counts, stories: usize, pace: Duration) -> Vec<String> {
    let mut progress = Progress::new(stories);
    let mut problems = Vec::new();
    #[allow(clippy::disallowed_methods, reason = "the date of the first checkout")]
    let now = std::time::SystemTime::now();
    for index in 0..stories {
        story::Story::number(index, stories, now).tell(&shop);
        #[allow(clippy::disallowed_methods, reason = "this thread is the shop's own, and blocks anyway")]
        std::thread::sleep(pace);
        if (index + 1) % CHUNK == 0 {
            problems.extend(shop.flush());
            progress.show(index + 1, counts);
        }
    }
    problems.extend(shop.close());
    progress.end(counts);
    problems.dedup();
    problems
}
