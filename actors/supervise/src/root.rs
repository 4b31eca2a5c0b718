//! The supervisor's actor: who its children are, what state each is in, and what to do when one ends.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_rt::ArbiterHandle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use watershed_delivery::{Cause, Refusal};

use crate::incarnation::{self, Running, Stop};
use crate::recovery::Recovery;
use crate::restart::{Decision, Ending, Ledger};
use crate::supervisor::{Registered, Shared};
use crate::{
    Cell, ChildId, ChildSpec, DrainReport, Event, Exit, Failure, Launch, Mail, Observation, Policy, State,
};

/// How often the supervisor looks for stalls, and for mail that nobody waits for.
const SAMPLE: Duration = Duration::from_secs(1);

pub(crate) struct Root {
    policy: Policy,
    shared: Arc<Shared>,
    children: BTreeMap<ChildId, Child>,
    drains: Vec<Drain>,
    adopted: u64,
    /// When it last looked for stalls.
    sampled: Instant,
}

/// A cell and how to serve it, whatever it carries.
pub(crate) trait Ward: Send + Sync {
    fn name(&self) -> &Arc<str>;
    fn state(&self) -> State;
    fn observe(&self) -> Observation;
    fn is_idle(&self) -> bool;
    fn oldest_busy(&self) -> Option<u64>;
    fn count_restart(&self, exit: Exit);
    fn drain(&self, deadline: Instant);
    fn sweep(&self);
    fn shut(&self, state: State, refusal: Refusal) -> usize;
    fn start(&self, lane: &ArbiterHandle, root: Addr<Root>, child: ChildId) -> Running;
}

pub(crate) struct Kept<M> {
    pub(crate) cell: Cell<M>,
    pub(crate) launch: Launch<M>,
}

struct Child {
    ward: Arc<dyn Ward>,
    spec: ChildSpec,
    ledger: Ledger,
    phase: Phase,
    /// Whoever waits for the first start.
    reply: Option<oneshot::Sender<Result<ChildId, Failure>>>,
    drain: Option<Instant>,
    /// What it said when it last ended.
    message: Arc<str>,
}

enum Phase {
    Served {
        running: Running,
        since: Instant,
        started: bool,
        /// It was told to stop.
        stopping: bool,
        /// The oldest open scope, and since when it is known.
        busy: Option<(u64, Instant)>,
    },
    /// Another incarnation follows.
    Waiting(SpawnHandle),
    /// The circuit is open; the restart of the group follows.
    Open(SpawnHandle),
    /// Given up.
    Failed,
}

/// A drain that somebody waits for.
struct Drain {
    waiting: HashSet<ChildId>,
    report: DrainReport,
    reply: oneshot::Sender<DrainReport>,
}

pub(crate) struct Adopt {
    pub(crate) ward: Arc<dyn Ward>,
    pub(crate) spec: ChildSpec,
    pub(crate) reply: oneshot::Sender<Result<ChildId, Failure>>,
}

pub(crate) struct Started {
    pub(crate) child: ChildId,
    pub(crate) generation: u64,
}

pub(crate) struct Exited {
    pub(crate) child: ChildId,
    pub(crate) generation: u64,
    pub(crate) failure: Failure,
    pub(crate) recovery: Recovery,
}

pub(crate) struct DrainAll {
    pub(crate) children: Vec<ChildId>,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<DrainReport>,
}

/// Children whose places others have taken.
pub(crate) struct Disown(pub(crate) Vec<ChildId>);

macro_rules! tell {
    ($($message:ty),*) => { $(impl Message for $message { type Result = (); })* };
}
tell!(Adopt, Started, Exited, DrainAll, Disown);

// === impl Root ===

impl Root {
    pub(crate) fn new(policy: Policy, shared: Arc<Shared>) -> Self {
        let sampled = Instant::now();
        Self { policy, shared, children: BTreeMap::new(), drains: Vec::new(), adopted: 0, sampled }
    }

    fn launch(&mut self, id: ChildId, ctx: &Context<Self>) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let running = child.ward.start(&child.spec.lane, ctx.address(), id);
        child.phase =
            Phase::Served { running, since: Instant::now(), started: false, stopping: false, busy: None };
    }

    /// Ends a child for good and forgets it.
    fn finish(&mut self, id: ChildId, aborted: bool, ctx: &mut Context<Self>) {
        let Some(mut child) = self.children.remove(&id) else { return };
        child.stop(Exit::Aborted);
        child.phase.cancel(ctx);
        // What nobody waits for is not lost with it.
        child.ward.sweep();
        let reason = format!("{} has stopped", child.ward.name());
        let refused = child.ward.shut(State::Stopped, refusal(Cause::Shutdown, reason));
        self.shared.register.lock().retain(|registered| registered.child != id);
        for drain in &mut self.drains {
            if drain.waiting.remove(&id) {
                if aborted || refused > 0 {
                    drain.report.aborted.push(child.ward.name().clone());
                } else {
                    drain.report.drained += 1;
                }
            }
        }
        self.answer_drains();
    }

    fn answer_drains(&mut self) {
        for drain in self.drains.extract_if(.., |drain| drain.waiting.is_empty()) {
            // Whoever asked may have gone; the children are drained nevertheless.
            let _ = drain.reply.send(drain.report);
        }
    }

    fn exited(&mut self, exited: Exited, ctx: &mut Context<Self>) {
        let Exited { child: id, generation, failure, recovery } = exited;
        let Some(child) = self.children.get_mut(&id) else { return };
        let Phase::Served { running, since, started, .. } = &child.phase else { return };
        if running.generation != generation {
            return;
        }
        let patience = if *started { child.spec.stall_timeout } else { self.policy.start_timeout };
        let lasted = since.elapsed();
        let Failure { message, exit } = failure;
        child.message = message.as_str().into();
        if let Some(reply) = child.reply.take() {
            let message = match exit {
                Exit::Failed | Exit::Panicked => message,
                Exit::Stalled => "did not start in time".into(),
                Exit::Ended | Exit::Aborted => format!("{exit} before it had started"),
            };
            let _ = reply.send(Err(Failure { message, exit }));
            return self.finish(id, false, ctx);
        }
        let stalled = if exit == Exit::Stalled { lasted.min(patience) } else { Duration::ZERO };
        let Recovery { progressed, excused } = recovery;
        let ending = Ending { exit, ran: lasted - stalled, stalled, progressed, excused };
        let now = Instant::now();
        if let Some(deadline) = child.drain {
            let mut again = exit != Exit::Ended && now < deadline && !child.ward.is_idle();
            if again && exit != Exit::Aborted {
                again = matches!(child.ledger.on_exit(now, ending), Decision::Restart { .. });
            }
            return if again {
                self.restart(id, generation, exit, Duration::ZERO, ctx);
            } else {
                self.finish(id, exit != Exit::Ended, ctx);
            };
        }
        if child.ward.state().is_final() {
            // Somebody else tore the cell down: there is nothing left to serve.
            return self.finish(id, false, ctx);
        }
        if exit == Exit::Aborted {
            // Its group is restarted, which is not its own doing.
            return self.restart(id, generation, exit, Duration::ZERO, ctx);
        }
        match child.ledger.on_exit(now, ending) {
            Decision::Restart { after } => self.restart(id, generation, exit, after, ctx),
            Decision::Open => self.open(id, ctx),
            Decision::Escalate => self.escalate(id, ctx),
            Decision::Stop => {
                let (name, message) = (child.ward.name().clone(), child.message.clone());
                tracing::warn!(stage = %name, generation, reason = %exit, %message, "a stage ended, and stays so");
                self.shared.emit(Event::Ended { name, reason: exit, message });
                self.finish(id, false, ctx);
            }
        }
    }

    fn restart(
        &mut self,
        id: ChildId,
        generation: u64,
        exit: Exit,
        after: Duration,
        ctx: &mut Context<Self>,
    ) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let (name, message) = (child.ward.name().clone(), child.message.clone());
        tracing::warn!(stage = %name, generation, reason = %exit, %message, ?after, "restarting a stage");
        child.ward.count_restart(exit);
        self.shared.emit(Event::Restarted { name, generation, reason: exit, message, after });
        if after.is_zero() {
            self.launch(id, ctx);
        } else {
            child.phase = Phase::Waiting(ctx.run_later(after, move |root, ctx| root.launch(id, ctx)));
        }
    }

    fn open(&mut self, id: ChildId, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let (name, message) = (child.ward.name().clone(), child.message.clone());
        tracing::error!(stage = %name, %message, "a stage made no progress over several restarts: circuit open");
        let mut refusal = refusal(Cause::Failure, format!("{name} is failing: {message}"));
        refusal.retry_after = Some(self.policy.cool_down);
        child.ward.shut(State::Open, refusal);
        let later = ctx.run_later(self.policy.cool_down, move |root, ctx| root.restart_group(id, ctx));
        child.phase = Phase::Open(later);
        self.shared.emit(Event::CircuitOpened { name, message });
    }

    /// Gives a child whose circuit is open its last chance, with all of its group new.
    fn restart_group(&mut self, id: ChildId, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get(&id) else { return };
        let (label, group) = (child.label(), child.spec.group.clone());
        tracing::warn!(group = %label, "restarting a group");
        for other in self.children.values_mut() {
            // One that has not started yet is new already; one that is draining will not be needed again.
            let settled = other.reply.is_some() || other.drain.is_some();
            if group.is_some() && other.spec.group == group && !settled {
                other.stop(Exit::Aborted);
            }
        }
        self.shared.emit(Event::GroupRestarted { group: label });
        self.launch(id, ctx);
    }

    fn escalate(&mut self, id: ChildId, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get(&id) else { return };
        let (name, message, label) = (child.ward.name().clone(), child.message.clone(), child.label());
        let critical = child.spec.critical;
        let group = child.spec.group.clone().filter(|_| !critical);
        let refusal = refusal(Cause::Shutdown, format!("{name} has failed: {message}"));
        for (other, child) in &mut self.children {
            let concerned = group.is_some() && child.spec.group == group && child.drain.is_none();
            if *other != id && !concerned {
                continue;
            }
            child.stop(Exit::Aborted);
            std::mem::replace(&mut child.phase, Phase::Failed).cancel(ctx);
            child.ward.shut(State::Failed, refusal.clone());
            if let Some(reply) = child.reply.take() {
                let _ = reply.send(Err(Failure::new(refusal.reason.clone())));
            }
        }
        if critical {
            tracing::error!(stage = %name, %message, "a critical stage has failed");
            self.shared.emit(Event::Escalated { name, message });
        } else {
            tracing::error!(stage = %name, group = %label, %message, "a group has failed");
            self.shared.emit(Event::GroupFailed { group: label, name, message });
        }
    }

    fn sample(&mut self) {
        let now = Instant::now();
        // Where the whole process was stopped nobody has stalled.
        let late = now.duration_since(self.sampled).saturating_sub(SAMPLE);
        let absent = if late > SAMPLE { late } else { Duration::ZERO };
        self.sampled = now;
        for child in self.children.values_mut() {
            // Withdrawal wakes nobody, and what is withdrawn holds room that others wait for elsewhere.
            child.ward.sweep();
            let Phase::Served { running, since, started, stopping, busy } = &mut child.phase else {
                continue;
            };
            *since += absent;
            if let Some((_, since)) = busy {
                *since += absent;
            }
            let oldest = child.ward.oldest_busy();
            if busy.map(|(beat, _)| beat) != oldest {
                *busy = oldest.map(|beat| (beat, now));
            }
            let stuck = busy.is_some_and(|(_, since)| now - since >= child.spec.stall_timeout);
            let late = !*started && now - *since >= self.policy.start_timeout;
            if (stuck || late) && !*stopping {
                let (name, generation) = (child.ward.name().clone(), running.generation);
                tracing::warn!(stage = %name, generation, "a stage has stalled");
                self.shared.emit(Event::Stalled { name, generation });
                child.stop(Exit::Stalled);
            }
        }
    }

    /// A drain's deadline: whoever still runs is dropped.
    fn abort(&mut self, ids: &[ChildId], ctx: &mut Context<Self>) {
        for id in ids {
            if let Some(child) = self.children.get_mut(id) {
                child.stop(Exit::Aborted);
            }
        }
        let ids = ids.to_vec();
        ctx.run_later(self.policy.abort_grace, move |root, ctx| {
            for id in ids {
                root.finish(id, true, ctx);
            }
        });
    }
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SAMPLE, |root, _| root.sample());
    }
}

impl Handler<Adopt> for Root {
    type Result = ();

    fn handle(&mut self, Adopt { ward, spec, reply }: Adopt, ctx: &mut Self::Context) {
        self.adopted += 1;
        let id = ChildId(self.adopted);
        let ledger = Ledger::new(spec.restart, self.policy, id.0);
        let running = ward.start(&spec.lane, ctx.address(), id);
        self.shared.register.lock().push(Registered {
            child: id,
            group: spec.group.clone(),
            ward: ward.clone(),
        });
        let phase =
            Phase::Served { running, since: Instant::now(), started: false, stopping: false, busy: None };
        let message = Arc::from("");
        self.children
            .insert(id, Child { ward, spec, ledger, phase, reply: Some(reply), drain: None, message });
    }
}

impl Handler<Started> for Root {
    type Result = ();

    fn handle(&mut self, message: Started, ctx: &mut Self::Context) {
        let Some(child) = self.children.get_mut(&message.child) else { return };
        if let Phase::Served { running, started, .. } = &mut child.phase
            && running.generation == message.generation
        {
            *started = true;
            let unclaimed = child.reply.take().is_some_and(|reply| reply.send(Ok(message.child)).is_err());
            if unclaimed {
                // Whoever asked for it has given up waiting, and nobody else could ever end it.
                self.finish(message.child, true, ctx);
            }
        }
    }
}

impl Handler<Exited> for Root {
    type Result = ();

    fn handle(&mut self, exited: Exited, ctx: &mut Self::Context) {
        self.exited(exited, ctx);
    }
}

impl Handler<DrainAll> for Root {
    type Result = ();

    fn handle(&mut self, DrainAll { children, deadline, reply }: DrainAll, ctx: &mut Self::Context) {
        let waiting: HashSet<ChildId> =
            children.into_iter().filter(|id| self.children.contains_key(id)).collect();
        let ids: Vec<ChildId> = waiting.iter().copied().collect();
        self.drains.push(Drain { waiting, report: DrainReport::default(), reply });
        for id in &ids {
            let Some(child) = self.children.get_mut(id) else { continue };
            child.drain = Some(deadline);
            match &child.phase {
                Phase::Served { .. } => child.ward.drain(deadline),
                Phase::Waiting(_) if !child.ward.is_idle() => {
                    std::mem::replace(&mut child.phase, Phase::Failed).cancel(ctx);
                    child.ward.drain(deadline);
                    self.launch(*id, ctx);
                }
                Phase::Waiting(_) | Phase::Open(_) | Phase::Failed => self.finish(*id, false, ctx),
            }
        }
        self.answer_drains();
        ctx.run_later(deadline.saturating_duration_since(Instant::now()), move |root, ctx| {
            root.abort(&ids, ctx);
        });
    }
}

impl Handler<Disown> for Root {
    type Result = ();

    fn handle(&mut self, Disown(children): Disown, _: &mut Self::Context) {
        for id in children {
            if let Some(child) = self.children.get_mut(&id) {
                (child.spec.group, child.spec.critical) = (None, false);
            }
        }
    }
}

// === impl Child ===

impl Child {
    /// The name of what is restarted with it, and fails with it.
    fn label(&self) -> Arc<str> {
        self.spec.group.as_ref().unwrap_or(self.ward.name()).clone()
    }

    /// Drops its incarnation, if it has one.
    fn stop(&mut self, exit: Exit) {
        if let Phase::Served { running, stopping, .. } = &mut self.phase {
            *stopping = true;
            running.stop.do_send(Stop(exit));
        }
    }
}

// === impl Phase ===

impl Phase {
    fn cancel(self, ctx: &mut Context<Root>) {
        if let Self::Waiting(timer) | Self::Open(timer) = self {
            ctx.cancel_future(timer);
        }
    }
}

// === impl Kept ===

impl<M: Mail> Ward for Kept<M> {
    fn name(&self) -> &Arc<str> {
        self.cell.name()
    }

    fn state(&self) -> State {
        self.cell.state()
    }

    fn observe(&self) -> Observation {
        self.cell.observe()
    }

    fn is_idle(&self) -> bool {
        self.cell.is_idle()
    }

    fn oldest_busy(&self) -> Option<u64> {
        self.cell.pulse().oldest()
    }

    fn count_restart(&self, exit: Exit) {
        self.cell.lane().lock().restarts.count(exit);
    }

    fn drain(&self, deadline: Instant) {
        self.cell.drain(deadline);
    }

    fn sweep(&self) {
        self.cell.sweep();
    }

    fn shut(&self, state: State, refusal: Refusal) -> usize {
        self.cell.shut(state, refusal)
    }

    fn start(&self, lane: &ArbiterHandle, root: Addr<Root>, child: ChildId) -> Running {
        incarnation::start(&self.cell, &self.launch, lane, root, child)
    }
}

fn refusal(cause: Cause, reason: String) -> Refusal {
    Refusal { cause, reason: reason.into(), retry_after: None }
}
