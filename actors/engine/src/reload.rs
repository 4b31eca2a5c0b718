//! Another plan in the place of the one in force.
//!
//! What is new is built beside what runs; only when all of it stands is anything exchanged, so a plan that can not be
//! started has changed nothing. What the plan before had alone then ends, in the order of a drain, while the new one
//! runs. There is one such rest at a time: the next reload waits for it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use watershed_net::StopSignal;
use watershed_stage::wall_clock;
use watershed_supervise::{ChildId, Supervisor};

use crate::config::{Diff, Plan};
use crate::engine::{LONGEST_DRAIN, Running};
use crate::topology::{Draft, Retired, Site, StartError};

/// What has been on disk for longer than that will not be gone soon either: a journal with it can not be given up.
const STALE: Duration = Duration::from_secs(10);

/// Why another plan was not put in force. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Something can not change, or be given up, while it runs.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// Something new did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What the plan before has left is still needed.
    #[error("the reload before has not ended: {0}")]
    Busy(String),
    /// The engine drains, or has ended.
    #[error("the engine is draining")]
    Draining,
}

/// Another plan, and whoever waits for what comes of it.
pub(crate) struct Reload {
    pub(crate) plan: Box<Plan>,
    pub(crate) reply: oneshot::Sender<Result<Diff, ReloadError>>,
}

/// What a plan before has left, on its way out.
pub(crate) struct Retiring {
    end: LocalBoxFuture<'static, Vec<Arc<str>>>,
    children: Vec<ChildId>,
    hurry: StopSignal,
    deadline: Instant,
    /// Whose messages are waited for without a deadline.
    owed: Option<String>,
}

/// Puts `plan` in force, or says why not. `end` is ready when everything is to end, and nothing new is wanted any more.
pub(crate) async fn reload(
    site: &Site,
    running: &mut Running,
    plan: Plan,
    end: impl Future<Output = ()>,
) -> Result<Diff, ReloadError> {
    if let Some(retiring) = &running.retiring {
        let owed = retiring.owed.clone().unwrap_or_else(|| "its actors are still draining".to_owned());
        return Err(ReloadError::Busy(owed));
    }
    let diff = running.plan.diff(&plan);
    if !diff.obstacles.is_empty() {
        return Err(ReloadError::Refused(diff.obstacles));
    }
    if diff.is_empty() {
        return Ok(diff);
    }
    let drafts = match site.build(&plan, &running.roles, Some(&diff), end).await {
        Err(StartError::Ended) => return Err(ReloadError::Draining),
        built => built?,
    };
    let stale: Vec<String> = drafts.iter().filter_map(stale).collect();
    if !stale.is_empty() {
        for draft in drafts {
            draft.abandon(&running.roles).await;
        }
        return Err(ReloadError::Refused(stale));
    }
    let (roles, retired): (Vec<_>, Vec<_>) = drafts.into_iter().map(Draft::commit).unzip();
    running.roles = roles;
    running.plan.roles = running.roles.iter().map(|role| (*role.plan).clone()).collect();
    running.plan.service.shutdown_timeout = plan.service.shutdown_timeout;
    let deadline = Instant::now() + plan.service.shutdown_timeout.min(LONGEST_DRAIN);
    retired.iter().for_each(|retired| retired.stop(&site.sockets, &running.roles));
    running.retiring = Some(Retiring::begin(site, running, retired, deadline));
    Ok(diff)
}

/// A journal that would be given up with what nobody has taken for long.
fn stale(draft: &Draft<'_>) -> Option<String> {
    let (oldest, whose) = draft.replaces().owed()?;
    let age = Duration::from_nanos(wall_clock().saturating_sub(oldest));
    (age > STALE).then(|| {
        format!(
            "{whose} holds what its exporters have not taken for {} s, and would be given up: put it back, or wait \
             until it is empty",
            age.as_secs()
        )
    })
}

/// Ready when what the plan before has left has ended; never, where nothing is left.
pub(crate) async fn retired(retiring: &mut Option<Retiring>) {
    let Some(Retiring { end, deadline, .. }) = retiring else { return std::future::pending().await };
    // When it is late whoever waits for it is told so.
    if Instant::now() < *deadline {
        match timeout_at(*deadline, &mut *end).await {
            Ok(unfinished) => told(&unfinished),
            Err(_) => return,
        }
    } else {
        told(&end.await);
    }
    *retiring = None;
}

fn told(unfinished: &[Arc<str>]) {
    match unfinished {
        [] => tracing::info!("what the configuration before had alone has ended"),
        _ => tracing::error!(?unfinished, "what the configuration before had alone did not finish in time"),
    }
}

/// Ends with the process what a plan before has left: those of it that had not finished.
pub(crate) async fn hurry(
    retiring: Option<Retiring>,
    supervisor: &Supervisor,
    deadline: Instant,
) -> Vec<Arc<str>> {
    let Some(Retiring { mut end, children, hurry, owed, .. }) = retiring else { return Vec::new() };
    if owed.is_some() {
        // No later start reads what is left of it, so half of the time is for that.
        let now = Instant::now();
        let patience = now + deadline.saturating_duration_since(now) / 2;
        if let Ok(unfinished) = timeout_at(patience, &mut end).await {
            return unfinished;
        }
    }
    hurry.stop();
    match timeout_at(deadline, end).await {
        Ok(unfinished) => unfinished,
        Err(_) => {
            let mut unfinished = supervisor.drain(&children, deadline).await.aborted;
            unfinished.extend(owed.map(Arc::from));
            unfinished
        }
    }
}

// === impl Retiring ===

impl Retiring {
    fn begin(site: &Site, running: &Running, retired: Vec<Retired>, deadline: Instant) -> Self {
        let (hurry, hurried) = StopSignal::new();
        let supervisor = site.supervisor.clone();
        let children: Vec<_> = retired.iter().flat_map(Retired::children).collect();
        // A reload is how one gets rid of what keeps failing: that must not take its successor along.
        supervisor.disown(&children);
        let owed = retired.iter().filter_map(Retired::owed).min().map(|(_, whose)| whose);
        let scopes: Vec<_> = running.roles.iter().map(|role| role.metrics.clone()).collect();
        let end = async move {
            let mut unfinished = Vec::new();
            for (retired, metrics) in retired.iter().zip(&scopes) {
                unfinished.extend(retired.end(&supervisor, deadline, &hurried).await);
                retired.forget(metrics);
            }
            unfinished
        };
        Self { end: end.boxed_local(), children, hurry, deadline, owed }
    }

    /// Whether it takes longer than it was given: only messages on disk are waited for so long.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }
}
