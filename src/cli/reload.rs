//! The configuration read again while it runs: on SIGHUP, when a file has changed, or when somebody asks for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::notify;
use super::signals::Hangups;
use super::source::Choice;
use crate::engine::Engine;
use crate::engine::config::{Diff, Plan};
use crate::stage::{Counter, Held, Level, Registry};

/// How often files are looked at. What is found twice alike is taken, so that a file is not read half written.
const LOOK: Duration = Duration::from_millis(500);

/// Reads the configuration again, one request after another.
pub(crate) struct Reloader {
    choice: Choice,
    kinds: Registry,
    engine: Arc<Engine>,
    counts: Counts,
    /// Whether the last one worked.
    good: Mutex<Option<Held>>,
    is_good: Level,
    /// `service.shutdown_timeout`, as it is in force.
    drain_within: watch::Sender<Duration>,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) enum Reloaded {
    /// What was different is in force.
    Applied(Diff),
    /// Nothing was.
    Unchanged,
    /// The configuration is wrong; everything that is.
    Wrong(String),
    /// It is right, but can not be put in force now. Nothing has changed.
    Refused(String),
}

/// Reloads by outcome.
struct Counts {
    applied: Counter,
    unchanged: Counter,
    wrong: Counter,
    refused: Counter,
}

// === impl Reloader ===

impl Reloader {
    /// Reads what `choice` names, in the place of `plan`.
    pub(crate) fn new(choice: Choice, kinds: Registry, engine: Arc<Engine>, plan: &Plan) -> Self {
        let metrics = engine.metrics();
        let count = |outcome| {
            let help = "Times the configuration was read again, by what came of it.";
            metrics.counter("watershed_config_reloads", help, &[("outcome", outcome)])
        };
        let counts = Counts {
            applied: count("applied"),
            unchanged: count("unchanged"),
            wrong: count("wrong"),
            refused: count("refused"),
        };
        let help = "1 while the configuration that was read last is the one in force.";
        let is_good = metrics.level("watershed_config_last_reload_successful", help, &[]);
        let good = Mutex::new(Some(is_good.hold()));
        let drain_within = watch::Sender::new(plan.service.shutdown_timeout);
        Self { choice, kinds, engine, counts, good, is_good, drain_within }
    }

    /// How long a drain may take.
    pub(crate) fn drain_within(&self) -> Duration {
        *self.drain_within.borrow()
    }

    /// Reads the configuration and puts it in force, or leaves everything as it is; either is logged.
    pub(crate) async fn reload(&self, because: &'static str) -> Reloaded {
        let mut good = self.good.lock().await;
        notify::reloading();
        let reloaded = match self.choice.load(&self.kinds) {
            Ok(plan) => self.apply(plan).await,
            Err(errors) => Reloaded::Wrong(errors.replace(": nothing was started", ": nothing has changed")),
        };
        notify::ready();
        *good = matches!(reloaded, Reloaded::Applied(_) | Reloaded::Unchanged).then(|| self.is_good.hold());
        match &reloaded {
            Reloaded::Applied(diff) => {
                self.counts.applied.add(1);
                tracing::info!(because, "the configuration was reloaded: {}", diff.summary());
                for key in &diff.later {
                    tracing::warn!(key, "this takes effect at the next start");
                }
            }
            Reloaded::Unchanged => {
                self.counts.unchanged.add(1);
                tracing::info!(because, "the configuration was read again: nothing has changed in it");
            }
            Reloaded::Wrong(why) => {
                self.counts.wrong.add(1);
                tracing::error!(because, "the configuration was not reloaded:\n{why}");
            }
            Reloaded::Refused(why) => {
                self.counts.refused.add(1);
                tracing::error!(
                    because,
                    "the configuration was not reloaded, and nothing has changed: {why}"
                );
            }
        }
        reloaded
    }

    async fn apply(&self, plan: Plan) -> Reloaded {
        for warning in &plan.warnings {
            let place = warning.place.as_ref().map(ToString::to_string);
            tracing::warn!(place, help = warning.help, "{}", warning.message);
        }
        let drain_within = plan.service.shutdown_timeout;
        match self.engine.reload(plan.clone()).await {
            Ok(diff) if diff.is_empty() => Reloaded::Unchanged,
            Ok(diff) => {
                self.drain_within.send_replace(drain_within);
                for (role, route) in plan.routes(&self.engine.addresses()) {
                    tracing::info!(role = &*role, "{route}");
                }
                Reloaded::Applied(diff)
            }
            Err(error) => Reloaded::Refused(error.to_string()),
        }
    }

    /// Reloads on every SIGHUP, and when files change if they are to be watched. Never ends.
    pub(crate) async fn run(&self, mut hangups: Hangups, watch: bool) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen::now(&self.choice);
        let mut before = seen.clone();
        loop {
            tokio::select! {
                () = hangups.next() => {
                    seen = Seen::now(&self.choice);
                    self.reload("SIGHUP").await;
                }
                _ = ticks.tick(), if watch => {
                    let now = Seen::now(&self.choice);
                    if now != seen && now == before {
                        seen = now.clone();
                        self.reload("a file has changed").await;
                    }
                    before = now;
                }
            }
        }
    }
}

/// What the files of a configuration say, those that its `${file:…}` name included; `None` for one that is not there.
#[derive(Clone, PartialEq)]
struct Seen(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Seen {
    fn now(choice: &Choice) -> Self {
        let mut seen = Vec::new();
        for path in choice.files() {
            let content = std::fs::read(&path).ok();
            let text = String::from_utf8_lossy(content.as_deref().unwrap_or_default());
            let base = path.parent().unwrap_or(Path::new(""));
            let named: Vec<PathBuf> = named(&text).map(|file| base.join(file)).collect();
            seen.push((path, content));
            seen.extend(named.into_iter().map(|file| (file.clone(), std::fs::read(file).ok())));
        }
        Self(seen)
    }
}

/// The files that a text refers to by `${file:path}` or `${file:path:-default}`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("${file:").skip(1).filter_map(|rest| {
        let inside = rest.split_once('}')?.0;
        Some(inside.split_once(":-").map_or(inside, |(path, _)| path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_a_text_names_are_found() {
        let text =
            "a = \"${file:one.txt}\"\nb = \"x${file:/etc/two:-none}y ${env:THREE}\"\nc = \"${file:four\"";
        assert_eq!(named(text).collect::<Vec<_>>(), ["one.txt", "/etc/two"]);
    }
}
