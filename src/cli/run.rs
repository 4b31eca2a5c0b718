//! `run`: a topology from its start to its drain.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::config::Plan;
use crate::engine::{Ended, Engine};
use tokio::runtime::Builder;

use super::inspect::refuse;
use super::reload::{Reloader, Seen};
use super::signals::{Hangups, Signals};
use super::source::Choice;
use super::{Exit, LogArgs, logs, notify};
use crate::admin::{Admin, Watched};
use crate::stage::Registry;

/// What the engine may take beyond its own deadline before it is given up.
const GRACE: Duration = Duration::from_secs(5);

/// Loads, starts, waits, drains.
pub(crate) fn run(choice: &Choice, watch: bool, args: &LogArgs, kinds: &Registry) -> Exit {
    // Before it is read: what is written from now on is another one.
    let watched = watch.then(|| Seen::now(choice));
    let plan = match choice.load(kinds) {
        Ok(plan) => plan,
        Err(errors) => return refuse(&errors),
    };
    let level = logs::level(args.log_level.as_deref(), &plan.service.log_level);
    let format = args.log_format.unwrap_or(plan.service.log_encoding.into());
    if let Err(error) = logs::install(&level, format, false) {
        return refuse(&error);
    }
    for warning in &plan.warnings {
        let place = warning.place.as_ref().map(ToString::to_string);
        tracing::warn!(place, help = warning.help, "{}", warning.message);
    }
    // This thread only waits for signals and for the end; the engine and the endpoints have their own.
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(plan, choice, watched, kinds)),
        Err(error) => {
            tracing::error!(%error, "could not start");
            Exit::Start
        }
    }
}

async fn serve(plan: Plan, choice: &Choice, watched_files: Option<Seen>, kinds: &Registry) -> Exit {
    let (mut signals, hangups) = match Signals::catch().and_then(|signals| Ok((signals, Hangups::catch()?))) {
        Ok(caught) => caught,
        Err(error) => return could_not_start(&error),
    };
    notify::status("starting");
    // Before the engine, so that a probe is answered "not yet" instead of not at all.
    let watched = Arc::new(Watched::default());
    let service = &plan.service;
    let _admin = match Admin::start(service.metrics.as_deref(), service.health.as_deref(), &watched) {
        Ok(admin) => admin,
        Err(error) => return could_not_start(&error),
    };
    let started = tokio::select! {
        started = Engine::start(plan.clone()) => started,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before it had started");
            return Exit::Drained;
        }
    };
    let engine = match started {
        Ok(engine) => Arc::new(engine),
        Err(error) => return could_not_start(&error),
    };
    for (role, route) in plan.routes(&engine.addresses()) {
        tracing::info!(role = &*role, "{route}");
    }
    let reloader = Arc::new(Reloader::new(choice.clone(), kinds.clone(), engine.clone(), &plan));
    watched.reload_by(reloader.clone());
    watched.serve(engine.clone());
    notify::ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");

    let until_ended = async {
        tokio::select! {
            ended = engine.ended() => ended,
            signal = signals.next() => {
                let timeout = reloader.drain_within();
                tracing::info!(signal, ?timeout, "draining; a second signal exits at once");
                notify::stopping(timeout.saturating_add(GRACE));
                drain(&engine, timeout, &mut signals).await
            }
            () = reloader.run(hangups, watched_files) => engine.ended().await,
        }
    };
    let ended = tokio::select! {
        ended = until_ended => ended,
        never = notify::keep_alive(&watched) => match never {},
    };
    report(&ended)
}

async fn drain(engine: &Engine, timeout: Duration, signals: &mut Signals) -> Ended {
    tokio::select! {
        ended = tokio::time::timeout(timeout.saturating_add(GRACE), engine.drain(timeout)) => {
            // The engine keeps its deadline itself; this is for the case that a thread of it hangs.
            ended.unwrap_or_else(|_| Ended::Incomplete { unfinished: vec!["the engine's own thread".into()], lost: 0 })
        }
        signal = signals.next() => {
            tracing::error!(signal, "second signal: exiting with the drain unfinished");
            Exit::Interrupted.now()
        }
    }
}

fn report(ended: &Ended) -> Exit {
    match ended {
        Ended::Drained => tracing::info!("drained: everything accepted has been sent on, or is on disk"),
        Ended::Incomplete { .. } => {
            tracing::error!("something was not sent on; raise service.shutdown_timeout if this repeats");
        }
        Ended::Critical { name, message } => {
            tracing::error!(actor = &**name, "a critical component kept failing: {message}");
        }
    }
    Exit::from(ended)
}

fn could_not_start(error: &dyn std::fmt::Display) -> Exit {
    tracing::error!("could not start: {error}");
    Exit::Start
}
