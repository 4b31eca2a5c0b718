//! A plan made real: cells and stages on their lanes, from the exporters back to the receivers.
//!
//! Everything a message may reach exists before anything that could send it one, and no connection is served before
//! all roles stand. So a start that fails has taken nothing from anybody, and neither has a reload: beside a plan that
//! runs only what it does not have is built, and then all ways are exchanged, without a wait between the first and the
//! last.

mod build;
mod parts;
mod retire;
mod sockets;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::ArbiterHandle;
use tokio::time::Instant;
use watershed_delivery::Budget;
use watershed_net::{BindError, Sockets, StopSignal};
use watershed_stage::{Env, Extensions, Message, Metrics, Placement, Shelf, Tracing};
use watershed_supervise::{Cell, ChildSpec, Failure, Launch, Mail, Restart, Supervisor};

use self::parts::Child;
pub(crate) use self::parts::Role;
use self::retire::InUse;
pub(crate) use self::retire::Retired;
use self::sockets::Bound;
use crate::config::{Class, Diff, Plan, RoleDiff, RolePlan};
use crate::gauges;

/// How long what was started for a plan that could not be built may take to end.
const ABANDONED: Duration = Duration::from_secs(2);

/// How long a stage may be busy with one message before it is taken for stuck.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a topology did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be had.
    #[error("{class} {component} ({key}): {source}")]
    Bind {
        /// What wants it: `receiver` or `exporter`.
        class: &'static str,
        /// Its id.
        component: Arc<str>,
        /// The key that names it.
        key: &'static str,
        /// What stood in the way.
        source: BindError,
    },
    /// Two components want one socket.
    #[error("{first} and {second} both listen on {address}: give one of them another address")]
    Twice {
        /// The one that has it.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
        /// What both listen on.
        address: SocketAddr,
    },
    /// A stage did not start.
    #[error("{name} did not start: {source}")]
    Stage {
        /// The stage.
        name: Arc<str>,
        /// What it said.
        source: Failure,
    },
    /// The engine's own thread could not be started.
    #[error("the engine's thread did not start: {0}")]
    Thread(String),
    /// It was told to end meanwhile.
    #[error("it was told to end before everything had started")]
    Ended,
}

/// What topologies are built with, and on.
pub(crate) struct Site {
    pub(crate) lanes: Vec<ArbiterHandle>,
    pub(crate) supervisor: Supervisor,
    pub(crate) sockets: Sockets,
    pub(crate) metrics: Metrics,
    /// Who has what address in the plan that is being built; datagrams have addresses of their own.
    pub(crate) claims: RefCell<HashMap<(bool, SocketAddr), Arc<str>>>,
}

/// A role in the making: what the one that runs has and the plan keeps, and what is started beside it.
pub(crate) struct Draft<'a> {
    site: &'a Site,
    old: Option<&'a Role>,
    diff: Option<&'a RoleDiff>,
    next: Role,
    extensions: Extensions,
    bound: Vec<Bound>,
    /// The addresses whose sockets it has asked for.
    asked: Vec<String>,
    /// Actors of a part that is not whole yet.
    loose: Vec<Child>,
    /// What is done once everything stands.
    exchanges: Vec<Exchange>,
}

/// An exchange of what is in force.
type Exchange = Box<dyn FnOnce() -> InUse>;

// === impl Site ===

impl Site {
    /// Builds all roles of a plan, beside those that run. Of what runs nothing has changed when this returns, and nothing
    /// is served; what was started for a plan that could not be built, or before `end` was ready, has ended.
    pub(crate) async fn build<'a>(
        &'a self,
        plan: &Plan,
        running: &'a [Role],
        diff: Option<&'a Diff>,
        end: impl Future<Output = ()>,
    ) -> Result<Vec<Draft<'a>>, StartError> {
        self.claims.borrow_mut().clear();
        let mut drafts = Vec::new();
        for role in &plan.roles {
            let old = running.iter().find(|old| old.plan.name == role.name);
            let diff = diff.and_then(|diff| diff.roles.iter().find(|diff| diff.name == role.name));
            drafts.push(Draft::new(self, plan.roles.len() > 1, role, old, diff));
        }
        let built = tokio::select! {
            biased;
            built = build(&mut drafts) => built,
            () = end => Err(StartError::Ended),
        };
        match built {
            Ok(()) => Ok(drafts),
            Err(error) => {
                for draft in drafts {
                    draft.abandon(running).await;
                }
                Err(error)
            }
        }
    }
}

async fn build(drafts: &mut [Draft<'_>]) -> Result<(), StartError> {
    for draft in &mut *drafts {
        draft.extend()?;
    }
    // Sockets first: an address in use is the most frequent mistake, and cheap to find out.
    for draft in &mut *drafts {
        draft.bind()?;
    }
    for draft in drafts {
        draft.build().await?;
    }
    Ok(())
}

// === impl Draft ===

impl<'a> Draft<'a> {
    fn new(
        site: &'a Site,
        among_others: bool,
        plan: &RolePlan,
        old: Option<&'a Role>,
        diff: Option<&'a RoleDiff>,
    ) -> Self {
        let metrics =
            if among_others { site.metrics.scoped("role", &plan.name) } else { site.metrics.clone() };
        let mut plan = plan.clone();
        if let (Some(old), Some(diff)) = (old, diff) {
            adopt(&mut plan, &old.plan, diff);
        }
        let next = Role {
            metrics: metrics.pending(),
            tracing: old.map_or_else(Tracing::default, |old| old.tracing.clone()),
            budget: old.map_or_else(|| Budget::new(plan.budget.admission), |old| old.budget.clone()),
            plan: Arc::new(plan),
            extensions: HashMap::new(),
            receivers: HashMap::new(),
            stages: HashMap::new(),
            exporters: HashMap::new(),
            posts: HashMap::new(),
            served: Vec::new(),
        };
        Self {
            site,
            old,
            diff,
            next,
            extensions: Extensions::default(),
            bound: Vec::new(),
            asked: Vec::new(),
            loose: Vec::new(),
            exchanges: Vec::new(),
        }
    }

    /// Whether a component of what runs is the one that the plan asks for.
    fn keeps(&self, class: &str, id: &str) -> bool {
        let class = match class {
            "receiver" => Class::Receiver,
            "exporter" => Class::Exporter,
            _ => Class::Extension,
        };
        self.diff.is_some_and(|diff| diff.keeps(class, id))
    }

    /// Builds the extensions.
    fn extend(&mut self) -> Result<(), StartError> {
        let plan = self.next.plan.clone();
        for extension in &plan.extensions {
            let kept = self.old.filter(|_| self.keeps("extension", &extension.id));
            let built = match kept.and_then(|old| old.extensions.get(&extension.id)) {
                Some(provided) => provided.clone(),
                None => extension.spec.build(&self.env(&extension.id, None, 0, 1)).map_err(|source| {
                    let name = format!("{}/extensions/{}", plan.name, extension.id).into();
                    StartError::Stage { name, source }
                })?,
            };
            self.next.extensions.insert(extension.id.clone(), built);
        }
        self.extensions = Extensions::new(self.next.extensions.clone());
        Ok(())
    }

    async fn build(&mut self) -> Result<(), StartError> {
        let plan = self.next.plan.clone();
        if self.old.is_none() {
            gauges::budget(&self.next.metrics, &self.next.budget);
        }
        for exporter in &plan.exporters {
            self.exporter(exporter).await?;
        }
        let mut heads = Vec::new();
        for pipeline in &plan.pipelines {
            heads.push(self.pipeline(pipeline).await?);
        }
        for index in 0..plan.receivers.len() {
            self.receiver(index, &heads).await?;
        }
        Ok(())
    }

    /// Puts the draft in force: serves what it has opened, and exchanges all ways. What it replaces ends beside it.
    pub(crate) fn commit(mut self) -> (Role, Retired) {
        self.next.metrics.show();
        let in_use = self.exchanges.drain(..).map(|exchange| exchange()).collect();
        self.serve();
        let Some(old) = self.old else { return (self.next, Retired::default()) };
        for (id, part) in &old.exporters {
            if let Some(next) = self.next.exporters.get(id).filter(|next| !Arc::ptr_eq(next, part)) {
                part.leave_to(next);
            }
        }
        let mut retired = Retired::of(old, Some(&self.next));
        retired.in_use = in_use;
        (self.next, retired)
    }

    /// What would end if the draft were put in force.
    pub(crate) fn replaces(&self) -> Retired {
        self.old.map_or_else(Retired::default, |old| Retired::of(old, Some(&self.next)))
    }

    /// Ends what was started for it.
    pub(crate) async fn abandon(self, running: &[Role]) {
        let served = |address: &str| {
            running.iter().any(|role| role.served.iter().any(|served| served.address == address))
        };
        for address in self.asked.iter().filter(|address| !served(address)) {
            self.site.sockets.close(address);
        }
        let Some(old) = self.old else { return };
        let loose: Vec<_> = self.loose.iter().map(|child| child.id).collect();
        let now = Instant::now();
        self.site.supervisor.drain(&loose, now).await;
        let (hurried, hurry) = StopSignal::new();
        hurried.stop();
        Retired::of(&self.next, Some(old)).end(&self.site.supervisor, now + ABANDONED, &hurry).await;
    }

    async fn start<M: Mail>(
        &mut self,
        cell: &Cell<M>,
        group: &str,
        critical: bool,
        lane: usize,
        launch: Launch<M>,
    ) -> Result<Child, StartError> {
        let (spec, name) = (self.child(group, critical, lane), cell.name().clone());
        let started = self.site.supervisor.supervise(cell.clone(), spec, launch).await;
        let id = started.map_err(|source| StartError::Stage { name: name.clone(), source })?;
        let child = Child { id, name };
        self.loose.push(child.clone());
        gauges::actor(&self.next.metrics, cell);
        Ok(child)
    }

    fn child(&self, group: &str, critical: bool, lane: usize) -> ChildSpec {
        ChildSpec {
            restart: Restart::Permanent,
            critical,
            group: Some(group.into()),
            lane: self.site.lanes[lane].clone(),
            stall_timeout: STALL_TIMEOUT,
        }
    }

    fn env(&self, id: &Arc<str>, pipeline: Option<&Arc<str>>, lane: usize, copies: usize) -> Env {
        Env {
            id: id.clone(),
            pipeline: pipeline.cloned(),
            lane,
            copies,
            budget: self.next.budget.clone(),
            metrics: self.next.metrics.clone(),
            tracing: self.next.tracing.clone(),
            extensions: self.extensions.clone(),
            shelf: Shelf::default(),
            notes: None,
            ends: Arc::default(),
        }
    }

    fn copies(&self, placement: Placement) -> usize {
        match placement {
            Placement::Lane | Placement::Keyed => self.site.lanes.len(),
            Placement::Single => 1,
        }
    }

    /// The cell each lane sends to.
    fn every_lane(&self, cells: &[Cell<Message>]) -> Vec<Cell<Message>> {
        (0..self.site.lanes.len())
            .filter_map(|lane| cells.get(lane).or_else(|| cells.first()).cloned())
            .collect()
    }
}

/// Puts what runs and is kept in the place of what was read anew: it may have a state.
fn adopt(plan: &mut RolePlan, old: &RolePlan, diff: &RoleDiff) {
    for receiver in plan.receivers.iter_mut().filter(|part| diff.keeps(Class::Receiver, &part.id)) {
        let kept = old.receivers.iter().find(|kept| kept.id == receiver.id);
        receiver.spec = kept.map_or(&receiver.spec, |kept| &kept.spec).clone();
    }
    for exporter in plan.exporters.iter_mut().filter(|part| diff.keeps(Class::Exporter, &part.id)) {
        let kept = old.exporters.iter().find(|kept| kept.id == exporter.id);
        exporter.spec = kept.map_or(&exporter.spec, |kept| &kept.spec).clone();
    }
    for pipeline in &mut plan.pipelines {
        let Some(before) = old.pipelines.iter().find(|before| before.id == pipeline.id) else { continue };
        let kept = |id: &Arc<str>| diff.keeps_processor(&pipeline.id, id);
        for processor in pipeline.processors.iter_mut().filter(|part| kept(&part.id)) {
            let kept = before.processors.iter().find(|kept| kept.id == processor.id);
            processor.spec = kept.map_or(&processor.spec, |kept| &kept.spec).clone();
        }
    }
}
