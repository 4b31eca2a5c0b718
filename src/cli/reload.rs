//! The configuration read again while it runs: on SIGHUP, when a file has changed, or when somebody asks for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::notify;
use super::signals::Hangups;
use super::source::Choice;
use crate::engine::config::{Diff, Plan};
use crate::engine::{Engine, ReloadError};
use crate::stage::{Counter, Held, Level, Registry};

/// How often files are looked at. What is found twice alike is taken, so that a file is not read half written.
const LOOK: Duration = Duration::from_millis(500);

/// When a file that has changed is tried again, where the reload before had not ended.
const AGAIN: Duration = Duration::from_secs(10);

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
    /// The same, because the reload before has not ended.
    Busy(String),
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
            Reloaded::Refused(why) | Reloaded::Busy(why) => {
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
            Err(error @ ReloadError::Busy(_)) => Reloaded::Busy(error.to_string()),
            Err(error) => Reloaded::Refused(error.to_string()),
        }
    }

    /// Reloads on every SIGHUP, and when files change if they are to be watched. Never ends.
    pub(crate) async fn run(&self, mut hangups: Hangups, watched: Option<Seen>) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watches = watched.is_some();
        let mut watch = Watch::of(watched.unwrap_or_default());
        loop {
            let because = tokio::select! {
                () = hangups.next() => {
                    watch = Watch::of(Seen::now(&self.choice));
                    "SIGHUP"
                }
                _ = ticks.tick(), if watches => {
                    if !watch.finds(Seen::now(&self.choice), Instant::now()) {
                        continue;
                    }
                    "a file has changed"
                }
            };
            if let Reloaded::Busy(_) = self.reload(because).await {
                watch.again = Some(Instant::now() + AGAIN);
            }
        }
    }
}

/// Files that are looked at now and then.
struct Watch {
    /// What they said when they were read.
    read: Seen,
    /// What they said at the last look.
    last: Seen,
    /// They are read again then, whether they have changed or not.
    again: Option<Instant>,
}

/// What the files of a configuration say, those that its `${file:…}` name included; `None` for one that is not there.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Seen(Vec<(PathBuf, Option<Vec<u8>>)>);

// === impl Watch ===

impl Watch {
    fn of(read: Seen) -> Self {
        Self { last: read.clone(), read, again: None }
    }

    /// Whether the files are to be read.
    fn finds(&mut self, now: Seen, at: Instant) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        let is_due = self.again.is_some_and(|again| at >= again);
        let finds = self.last == last && (self.last != self.read || is_due);
        if finds {
            *self = Self::of(last);
        }
        finds
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn now(choice: &Choice) -> Self {
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
    fn what_has_changed_is_read_once_and_again_where_it_could_not_be_put_in_force() {
        let (seen, now) = (|text: &str| Seen(vec![("f".into(), Some(text.into()))]), Instant::now());
        let mut watch = Watch::of(seen("as it was read"));
        let found = |watch: &mut Watch, text: &str, after: u64| {
            watch.finds(seen(text), now + Duration::from_secs(after))
        };
        assert!(!found(&mut watch, "as it was read", 0));
        assert!(!found(&mut watch, "ha", 1), "it may be half written");
        assert_eq!([2, 3, 4].map(|after| found(&mut watch, "half", after)), [false, true, false]);
        watch.again = Some(now + Duration::from_secs(6));
        assert_eq!([5, 6, 7].map(|after| found(&mut watch, "half", after)), [false, true, false]);
    }

    #[test]
    fn the_files_that_a_text_names_are_found() {
        let text =
            "a = \"${file:one.txt}\"\nb = \"x${file:/etc/two:-none}y ${env:THREE}\"\nc = \"${file:four\"";
        assert_eq!(named(text).collect::<Vec<_>>(), ["one.txt", "/etc/two"]);
    }
}
