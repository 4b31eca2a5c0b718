//! The engine's life: its own thread and lanes inside any host, a plan started on them, other plans in its place, and
//! its drain.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle, System};
use futures_util::future::{join_all, pending};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use watershed_net::{Sockets, Stop, StopSignal};
use watershed_stage::{LOST_ITEMS, Metrics};
use watershed_supervise::{Event, Health, Observation, Policy, Supervisor, Watchdog};

use crate::backstop;
use crate::config::{Diff, Plan};
use crate::reload::{self, Reload, ReloadError, Retiring};
use crate::topology::{Draft, Retired, Role, Site, StartError};

/// No drain takes longer, whatever is asked for: a century is as good as for ever, and can be added to a clock.
pub(crate) const LONGEST_DRAIN: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What answers may take to leave once everything has been decided.
const FAREWELL: Duration = Duration::from_millis(500);

/// A running topology.
///
/// It lives on threads of its own and installs nothing global, so it runs in any host, beside any runtime, and
/// more than once in a process. Dropping it drains it; [`Engine::drain`] also waits.
pub struct Engine {
    metrics: Metrics,
    supervisor: Supervisor,
    addresses: Addresses,
    commands: mpsc::Sender<Command>,
    reloads: mpsc::Sender<Reload>,
    draining: Arc<AtomicBool>,
    ended: watch::Receiver<Option<Ended>>,
}

/// What is listened on at this moment.
type Addresses = Arc<Mutex<Vec<Address>>>;

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The role it belongs to.
    pub role: Arc<str>,
    /// What listens: `receiver` or `exporter`.
    pub class: &'static str,
    /// Its id.
    pub component: Arc<str>,
    /// Its key that names the address: `protocols.grpc.endpoint`.
    pub key: &'static str,
    /// The address, with the port the system chose where the configuration says 0.
    pub address: SocketAddr,
}

/// How an engine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Drained: everything it held has been sent on, or is on disk for the next start.
    Drained,
    /// Something was left: not finished by the deadline, or not taken by its destination. It is counted.
    Incomplete {
        /// The actors that had not finished.
        unfinished: Vec<Arc<str>>,
        /// Items lost although their sender had its "ok".
        lost: u64,
    },
    /// An actor without which the engine is of no use kept failing. The rest was drained.
    Critical {
        /// The actor.
        name: Arc<str>,
        /// Its last words.
        message: String,
    },
}

struct Command {
    timeout: Duration,
}

/// What the engine's thread tells its starter.
struct Started {
    supervisor: Supervisor,
    addresses: Addresses,
}

/// What the engine's thread hears from its handle.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    reloads: mpsc::Receiver<Reload>,
}

// === impl Engine ===

impl Engine {
    /// Starts a plan. Returns once every receiver listens, or with the reason why one does not.
    pub async fn start(plan: Plan) -> Result<Self, StartError> {
        let metrics = Metrics::default();
        let (commands, asked) = mpsc::channel(1);
        let (reloads, plans) = mpsc::channel(1);
        let inbox = Inbox { commands: asked, reloads: plans };
        let (started, starting) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let draining = Arc::new(AtomicBool::new(false));
        let thread = {
            let (metrics, draining) = (metrics.clone(), draining.clone());
            move || System::new().block_on(root(plan, metrics, started, inbox, draining, end))
        };
        #[allow(
            clippy::disallowed_methods,
            reason = "the engine's own thread: a host may have no actix System"
        )]
        std::thread::Builder::new()
            .name("watershed".into())
            .spawn(thread)
            .map_err(|error| StartError::Thread(error.to_string()))?;
        let died = || StartError::Thread("it ended before it was ready".into());
        let Started { supervisor, addresses } = starting.await.map_err(|_| died())??;
        Ok(Self { metrics, supervisor, addresses, commands, reloads, draining, ended })
    }

    /// The counters and gauges of everything in it.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether everything in it is served.
    pub fn health(&self) -> Health {
        self.supervisor.health()
    }

    /// Whether it no longer takes anything, because it was told to end or something critical has failed.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Every actor as it is now.
    pub fn observe(&self) -> Vec<Observation> {
        self.supervisor.observe()
    }

    /// Restarts, open circuits and escalations as they happen.
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<Event> {
        self.supervisor.events()
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> Vec<Address> {
        self.addresses.lock().clone()
    }

    /// The address of a receiver or an exporter that listens, by its id and, where two roles have one of that id, its
    /// role.
    pub fn address(&self, role: Option<&str>, id: &str) -> Option<SocketAddr> {
        let addresses = self.addresses.lock();
        let found = addresses
            .iter()
            .find(|address| &*address.component == id && role.is_none_or(|role| &*address.role == role));
        found.map(|address| address.address)
    }

    /// Puts another plan in force, while everything runs: what both have is kept, with its queues, its state and its
    /// sockets; what is new is started first, and ends again if any of it does not start. Then ways are exchanged between
    /// two messages, and what is gone sends on what it holds and ends, within `service.shutdown_timeout` of the plan. That
    /// is not waited for here, but by the next reload.
    ///
    /// What was done. An error means that nothing has changed.
    pub async fn reload(&self, plan: Plan) -> Result<Diff, ReloadError> {
        let (reply, answer) = oneshot::channel();
        // Without an answer the engine has ended meanwhile, or is about to.
        let _ = self.reloads.send(Reload { plan: Box::new(plan), reply }).await;
        answer.await.unwrap_or(Err(ReloadError::Draining))
    }

    /// Waits until the engine has ended, by a drain or because something critical kept failing.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ended::Drained),
            Err(_) => Ended::Critical { name: "engine".into(), message: "its thread is gone".into() },
        }
    }

    /// Stops the receivers, sends on what is held and ends, within `timeout`.
    pub async fn drain(&self, timeout: Duration) -> Ended {
        // A full inbox means that a drain is under way already.
        let _ = self.commands.try_send(Command { timeout });
        self.ended().await
    }
}

/// The engine's thread from its first step to its last.
async fn root(
    plan: Plan,
    metrics: Metrics,
    started: oneshot::Sender<Result<Started, StartError>>,
    inbox: Inbox,
    draining: Arc<AtomicBool>,
    end: watch::Sender<Option<Ended>>,
) {
    let lanes =
        plan.service.lanes.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let arbiters: Vec<Arbiter> = (0..lanes.max(1)).map(|_| Arbiter::new()).collect();
    let handles: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
    let supervisor = Supervisor::start(Policy::default());
    let mut events = supervisor.events();
    let _watchdog = match watchdog(&supervisor, &handles) {
        Ok(watchdog) => watchdog,
        Err(error) => {
            let _ = started.send(Err(StartError::Thread(error.to_string())));
            return stop(arbiters);
        }
    };
    let site = Site {
        lanes: handles,
        supervisor: supervisor.clone(),
        sockets: Sockets::new(),
        metrics: metrics.clone(),
        claims: RefCell::default(),
    };
    let built = site.build(&plan, &[], None, pending()).await;
    let begin = |drafts: Vec<Draft<'_>>| drafts.into_iter().map(|draft| draft.commit().0).collect::<Vec<_>>();
    let roles = match built.map(begin) {
        Ok(roles) => roles,
        Err(error) => {
            // Whoever tries again at once must find threads and sockets gone.
            drop(site);
            stop(arbiters);
            let _ = started.send(Err(error));
            return;
        }
    };
    let budgets = plan.roles.iter().map(|role| role.budget.clone());
    let budgets = budgets.zip(roles.iter().map(|role| role.budget.clone()));
    let backstop = actix_rt::spawn(backstop::watch(budgets.collect()));
    let addresses = Addresses::default();
    show(&addresses, &roles);
    let _ = started.send(Ok(Started { supervisor: supervisor.clone(), addresses: addresses.clone() }));

    let mut running = Running { plan, roles, retiring: None };
    let Inbox { mut commands, mut reloads } = inbox;
    let (critical, timeout) = loop {
        let timeout = running.plan.service.shutdown_timeout;
        // Asked for, not only listened to: of many events at once some are dropped.
        if let Some(escalated) = supervisor.escalated() {
            break (Some(escalated), timeout);
        }
        tokio::select! {
            // `None`: the handle was dropped, and nobody is left who could ask for a drain.
            command = commands.recv() => break (None, command.map_or(timeout, |command| command.timeout)),
            event = events.recv() => if event == Err(RecvError::Closed) { break (None, timeout) },
            Some(Reload { plan, reply }) = reloads.recv(), if running.takes_plan() => {
                // Whoever asked may have stopped waiting while the one before ended.
                if !reply.is_closed() {
                    // Who is to end must not wait for what is slow to start.
                    let mut told = None;
                    let end = async { told = Some(commands.recv().await) };
                    let outcome = reload::reload(&site, &mut running, *plan, end).await;
                    show(&addresses, &running.roles);
                    let _ = reply.send(outcome);
                    if let Some(command) = told {
                        break (None, command.map_or(timeout, |command| command.timeout));
                    }
                }
            }
            () = reload::retired(&mut running.retiring) => {}
        }
    };
    draining.store(true, Ordering::Relaxed);
    drop(reloads);
    let deadline = Instant::now() + timeout.min(LONGEST_DRAIN);
    let lost_before = metrics.total(LOST_ITEMS);
    let Running { roles, retiring, .. } = running;
    // What a plan before has left still sends to what runs.
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let mut unfinished = reload::hurry(retiring, &supervisor, half).await;
    unfinished.extend(drain_all(roles, &site, deadline).await);
    backstop.abort();
    let lost = metrics.total(LOST_ITEMS).saturating_sub(lost_before);
    if !unfinished.is_empty() || lost > 0 {
        tracing::error!(?unfinished, lost, "the drain ended with something unsent");
    }
    let ended = match critical {
        Some((name, message)) => Ended::Critical { name, message: message.to_string() },
        None if unfinished.is_empty() && lost == 0 => Ended::Drained,
        None => Ended::Incomplete { unfinished, lost },
    };
    // A lane that is stuck can not be joined; whoever waits for the end is not to wait for that.
    drop(site);
    end.send_replace(Some(ended));
    stop(arbiters);
}

/// What runs, and what a plan before has left that still ends.
pub(crate) struct Running {
    pub(crate) plan: Plan,
    pub(crate) roles: Vec<Role>,
    pub(crate) retiring: Option<Retiring>,
}

impl Running {
    /// Whether another plan may come: not while the one before still ends, unless that may take for ever.
    fn takes_plan(&self) -> bool {
        self.retiring.as_ref().is_none_or(Retiring::is_late)
    }
}

fn show(addresses: &Addresses, roles: &[Role]) {
    *addresses.lock() = roles.iter().flat_map(Role::addresses).collect();
}

/// Drains all roles, one after another; the actors that had not finished.
async fn drain_all(roles: Vec<Role>, site: &Site, deadline: Instant) -> Vec<Arc<str>> {
    let (now, mut unfinished) = (StopSignal::new(), Vec::new());
    now.0.stop();
    for (after, role) in (0..roles.len() as u32).rev().zip(roles) {
        // None may use up the time of those after it.
        let share = deadline.saturating_duration_since(Instant::now()) / (after + 1);
        unfinished.extend(drain(&role, site, Instant::now() + share, &now.1).await);
    }
    unfinished
}

/// Drains one role along the stream. What its journals keep is there after the next start.
async fn drain(role: &Role, site: &Site, deadline: Instant, now: &Stop) -> Vec<Arc<str>> {
    tracing::info!(role = %role.plan.name, "draining");
    let all = Retired::of(role, None);
    all.stop(&site.sockets, &[]);
    let unfinished = all.end(&site.supervisor, deadline, now).await;
    // Whoever waited has its answer by now; it should leave before the sockets do.
    let _ = tokio::time::timeout(FAREWELL, join_all(all.served.iter().map(|served| served.ended()))).await;
    unfinished
}

/// Watches the lanes, and the thread of the supervisor, from a thread of its own: one that is stuck can not say so.
fn watchdog(supervisor: &Supervisor, lanes: &[ArbiterHandle]) -> std::io::Result<Watchdog> {
    let watchdog = Watchdog::start(supervisor, Watchdog::LIMIT)?;
    // The thread that restarts and drains the others is nobody's child.
    watchdog.watch("supervisor", &Arbiter::current());
    for (number, lane) in lanes.iter().enumerate() {
        watchdog.watch(format!("lane {number}"), lane);
    }
    Ok(watchdog)
}

fn stop(arbiters: Vec<Arbiter>) {
    for arbiter in &arbiters {
        arbiter.stop();
    }
    for arbiter in arbiters {
        let _ = arbiter.join();
    }
}
