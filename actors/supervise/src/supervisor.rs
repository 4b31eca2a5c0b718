//! The supervisor as the rest of the process knows it: a handle, its events, and what it can be asked.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use crate::root::{Adopt, Disown, DrainAll, Kept, Root, Ward};
use crate::{Cell, Exit, Failure, Launch, Mail, Observation, Policy, Restart, State};

/// How many events a slow subscriber may be behind before it misses some.
const EVENTS: usize = 256;

/// The handle to a supervisor. Clones are the same supervisor.
#[derive(Clone)]
pub struct Supervisor {
    root: Addr<Root>,
    shared: Arc<Shared>,
}

/// What can be read without asking the actor.
pub(crate) struct Shared {
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) register: Mutex<Vec<Registered>>,
    pub(crate) stuck: Mutex<Vec<Arc<str>>>,
    /// The first critical child that was given up, and what it said: an event may be missed, this may not.
    escalated: OnceLock<(Arc<str>, Arc<str>)>,
}

#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) child: ChildId,
    pub(crate) group: Option<Arc<str>>,
    pub(crate) ward: Arc<dyn Ward>,
}

/// A child of a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub(crate) u64);

/// How a child is supervised.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// When it is started again.
    pub restart: Restart,
    /// Whether the process can not do without it: [`Event::Escalated`] asks the root to drain and exit.
    pub critical: bool,
    /// The pipeline it belongs to: what is restarted together when a circuit opens, and fails as one.
    pub group: Option<Arc<str>>,
    /// The Arbiter it runs on.
    pub lane: ArbiterHandle,
    /// How long it may be [`busy`](crate::Lease::busy) with one thing.
    pub stall_timeout: Duration,
}

/// What a drain came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// How many children ended in order.
    pub drained: usize,
    /// The names of those that did not by the deadline, or that still held mail: it was refused.
    pub aborted: Vec<Arc<str>>,
}

/// What a supervisor has done, or can not do by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A child ended, and another incarnation follows.
    Restarted {
        /// The child.
        name: Arc<str>,
        /// The incarnation that ended.
        generation: u64,
        /// How it ended.
        reason: Exit,
        /// What it said.
        message: Arc<str>,
        /// When the next follows.
        after: Duration,
    },
    /// A child ended that is not meant to be started again.
    Ended {
        /// The child.
        name: Arc<str>,
        /// How it ended.
        reason: Exit,
        /// What it said.
        message: Arc<str>,
    },
    /// A child was restarted too often without progress: it refuses mail until its group is restarted.
    CircuitOpened {
        /// The child.
        name: Arc<str>,
        /// What it said last.
        message: Arc<str>,
    },
    /// After a circuit had opened, the group was restarted.
    GroupRestarted {
        /// The group, or the child if it has none.
        group: Arc<str>,
    },
    /// A group was given up. Its cells refuse mail; the others run on.
    GroupFailed {
        /// The group, or the child if it has none.
        group: Arc<str>,
        /// The child that was to blame.
        name: Arc<str>,
        /// What it said last.
        message: Arc<str>,
    },
    /// A critical child was given up: the root must drain and exit.
    Escalated {
        /// The child.
        name: Arc<str>,
        /// What it said last.
        message: Arc<str>,
    },
    /// A child was busy with one thing for too long, or did not start in time, and is being aborted.
    Stalled {
        /// The child.
        name: Arc<str>,
        /// The incarnation.
        generation: u64,
    },
    /// An Arbiter no longer turns.
    LaneStuck {
        /// Its name.
        lane: Arc<str>,
    },
    /// An Arbiter turns again.
    LaneRecovered {
        /// Its name.
        lane: Arc<str>,
    },
}

/// Whether all is well, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Nothing failed, open or stuck.
    pub ok: bool,
    /// Groups that were given up; children without a group by their own names.
    pub failed: Vec<Arc<str>>,
    /// Children whose circuit is open.
    pub open: Vec<Arc<str>>,
    /// Arbiters that do not turn.
    pub stuck: Vec<Arc<str>>,
}

// === impl Supervisor ===

impl Supervisor {
    /// Starts a supervisor on the current Arbiter.
    pub fn start(policy: Policy) -> Self {
        let shared = Arc::new(Shared {
            events: broadcast::Sender::new(EVENTS),
            register: Mutex::default(),
            stuck: Mutex::default(),
            escalated: OnceLock::new(),
        });
        let root = Root::new(policy, shared.clone()).start();
        Self { root, shared }
    }

    /// Starts a child, and keeps it running from then on.
    ///
    /// Resolves when its first incarnation has [started](crate::Lease::started). A first start that fails is
    /// returned and not tried again: it is for the caller to judge.
    pub async fn supervise<M: Mail>(
        &self,
        cell: Cell<M>,
        spec: ChildSpec,
        launch: Launch<M>,
    ) -> Result<ChildId, Failure> {
        let (reply, started) = oneshot::channel();
        self.root.do_send(Adopt { ward: Arc::new(Kept { cell, launch }), spec, reply });
        started.await.unwrap_or_else(|_| Err(Failure::new("the supervisor is gone")))
    }

    /// Lets children finish what they hold and end; those that have not by the deadline are dropped and their
    /// cells closed. Either way they are forgotten afterwards.
    pub async fn drain(&self, children: &[ChildId], deadline: Instant) -> DrainReport {
        let names = self.names(children);
        let (reply, drained) = oneshot::channel();
        self.root.do_send(DrainAll { children: children.to_vec(), deadline, reply });
        // Without an answer none of them is known to have ended in order.
        drained.await.unwrap_or(DrainReport { drained: 0, aborted: names })
    }

    /// Leaves children to themselves, since others have taken their places under the same names: none of them is critical
    /// any more, and none is restarted or given up with its group, or its group with it.
    pub fn disown(&self, children: &[ChildId]) {
        let mut register = self.shared.register.lock();
        let disowned = register.iter_mut().filter(|registered| children.contains(&registered.child));
        disowned.for_each(|registered| registered.group = None);
        drop(register);
        self.root.do_send(Disown(children.to_vec()));
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// The name of the first critical child that was given up, and what it said last: what
    /// [`Event::Escalated`] tells, for those who may have missed it.
    pub fn escalated(&self) -> Option<(Arc<str>, Arc<str>)> {
        self.shared.escalated.get().cloned()
    }

    /// All children at this moment.
    pub fn observe(&self) -> Vec<Observation> {
        let register = self.shared.register.lock().clone();
        register.iter().map(|child| child.ward.observe()).collect()
    }

    /// Whether all is well.
    pub fn health(&self) -> Health {
        let register = self.shared.register.lock().clone();
        let mut health = Health { stuck: self.shared.stuck.lock().clone(), ..Health::default() };
        for Registered { group, ward, .. } in &register {
            match ward.state() {
                State::Failed => health.failed.push(group.as_ref().unwrap_or(ward.name()).clone()),
                State::Open => health.open.push(ward.name().clone()),
                _ => {}
            }
        }
        health.failed.sort();
        health.failed.dedup();
        health.ok = health.failed.is_empty() && health.open.is_empty() && health.stuck.is_empty();
        health
    }

    fn names(&self, children: &[ChildId]) -> Vec<Arc<str>> {
        let register = self.shared.register.lock();
        let asked = register.iter().filter(|registered| children.contains(&registered.child));
        asked.map(|registered| registered.ward.name().clone()).collect()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("children", &self.shared.register.lock().len()).finish()
    }
}

// === impl ChildSpec ===

impl ChildSpec {
    /// A permanent child of no group that the process can do without.
    pub fn new(lane: ArbiterHandle) -> Self {
        Self {
            restart: Restart::Permanent,
            critical: false,
            group: None,
            lane,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn emit(&self, event: Event) {
        if let Event::Escalated { name, message } = &event {
            let _ = self.escalated.set((name.clone(), message.clone()));
        }
        // Nobody has to listen.
        let _ = self.events.send(event);
    }
}
